"""`stsguard inbound` in the lab, which empties a spool, and what `stsguard received` says of it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from tests.lab.daemon import EXECUTABLE, LOG_SHOWN, Settings, Value, toml
from tests.lab.lab import Lab
from tests.lab.namespace import LabFailed, Program


class Receiver:
    """One daemon with configuration and database in `directory`, and the `spool`, both paths inside the lab."""

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        spool: Path,
        *,
        intake: Mapping[str, Value],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._lab = lab
        self._directory = directory
        self._spool = spool
        self._intake = dict(intake)
        self._environment = dict(environment or {})
        self._program: Program | None = None

    async def start(self) -> None:
        """Start it."""
        outside = self._lab.outside(self._directory)
        outside.mkdir(exist_ok=True)
        configuration: Settings = {
            "store": {"url": f"sqlite:///{self._directory}/stsguard.db"},
            "dns": {"nameservers": ["127.0.0.1:53"]},
            "policy_host": {"listen": [], "http_listen": [f"unix:{self._directory}/http.sock"]},
            "intake": {**self._intake, "spool": str(self._spool)},
            "admin": {"inbound_listen": f"unix:{self._directory}/admin.sock"},
        }
        (outside / "stsguard.toml").write_text(toml(configuration))
        with (outside / "log").open("ab") as log:
            command = [str(EXECUTABLE), "inbound", "--config", str(self._directory / "stsguard.toml")]
            self._program = await asyncio.to_thread(
                lambda: self._lab.namespace.spawn(command, log, environment=self._environment)
            )

    async def stop(self) -> None:
        """End it in order."""
        if self._program is not None:
            await asyncio.to_thread(self._program.stop)

    async def received(self, *arguments: str) -> str:
        """What `stsguard received ARGUMENTS…` prints.

        Raises:
            LabFailed: it failed.
        """
        command = [str(EXECUTABLE), "--config", str(self._directory / "stsguard.toml"), "received", *arguments]
        done = await asyncio.to_thread(lambda: self._lab.namespace.run(command, check=False))
        if done.returncode:
            raise LabFailed(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}{self.log()}")
        return done.stdout

    def log(self) -> str:
        """The end of its log."""
        return self._lab.outside(self._directory / "log").read_text(errors="replace")[-LOG_SHOWN:]
