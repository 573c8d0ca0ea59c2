"""Reports in the lab, in one line each: what ours say, what Postfix alone would have reported; and who hears what.

Such a line names policy-type, sessions and result-types of each policy, as in `sts: 1 ok` or
`tlsa: 1 failed, certificate-not-trusted`; `nothing` where there is no report.
"""

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stsguard.core.session import PolicyType, Seen
from stsguard.core.tlsrpt_event import parse_datagram
from stsguard.core.tlsrpt_report import parse_report
from tests.lab import tlsrpt_recorder
from tests.lab.daemon import Stsguard
from tests.lab.namespace import LAB, LabFailed
from tests.lab.runner import Version
from tests.lab.scenario_model import MAIN_DAEMON

NOTHING = "nothing"
OUR_SOCKET = "stsguard/ours.sock"  # below the queue directory, as the recorder's; of the main daemon
BUILD_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Heard:
    """A Postfix instance, and by what the daemons hear of its sessions. `version.tag` is its syslog_name; the transport
    to each daemon but the main one has a name and a socket of its own."""

    version: Version
    by_datagram: bool
    by_log: bool
    settings: Mapping[str, str] = field(default_factory=dict)  # more for main.cf
    from_journal: bool = False  # its log is in the journal

    def postfix_settings(self) -> dict[str, str]:
        """What its main.cf needs; where the daemon takes no datagrams a recorder does."""
        named = {"syslog_name": self.version.tag, **self.settings}
        if self.version.is_37:
            return named
        socket = {"smtp_tlsrpt_socket_name": OUR_SOCKET} if self.by_datagram else {}
        return {**named, **tlsrpt_recorder.SETTINGS, **socket, "smtp_tlsrpt_skip_reused_handshakes": "no"}

    def transport_settings(self, daemon: str) -> dict[str, str]:
        """What the transport to this daemon needs in master.cf."""
        socket = {"smtp_tlsrpt_socket_name": _socket(daemon)} if self.by_datagram else {}
        return {"syslog_name": self._syslog_name(daemon), **socket}

    def section(self, daemon: str = MAIN_DAEMON) -> dict[str, str]:
        """The `[[sessions]]` of a daemon."""
        directory = LAB / self.version.postfix
        return {
            "syslog_name": self._syslog_name(daemon),
            # A daemon that hears of an instance by its log alone has a socket all the same, to which nobody sends.
            "tlsrpt_socket": str(directory / "queue" / _socket(daemon)),
            **({"mail_log": "journal" if self.from_journal else str(directory / "maillog")} if self.by_log else {}),
        }

    def _syslog_name(self, daemon: str) -> str:
        return self.version.tag if daemon == MAIN_DAEMON else f"{self.version.tag}-{daemon}"


def _socket(daemon: str) -> str:
    return OUR_SOCKET if daemon == MAIN_DAEMON else f"stsguard/ours-{daemon}.sock"


async def built(daemon: Stsguard, outside: Callable[[Path], Path], days: Iterable[str]) -> dict[str, str]:
    """What the reports of these days say, by the domain that they are on, as `stsguard report build` writes them.

    Raises:
        LabFailed: the command failed.
    """
    found: dict[str, str] = {}
    for day in days:
        directory = Path(tempfile.mkdtemp(dir=outside(daemon.directory)))
        inside = daemon.directory / directory.name
        done = await daemon.command("report", "build", "--day", day, "--output", str(inside))
        if done.returncode != 0:
            raise LabFailed(f"stsguard report build: exit {done.returncode}: {done.stdout}{done.stderr}")
        for file in directory.iterdir():
            found[file.name.split("!")[1]] = told(file.read_bytes())
    return found


async def built_as_expected(
    daemon: Stsguard,
    outside: Callable[[Path], Path],
    agreeing: Mapping[str, Callable[[str], bool]],
    *,
    limit_seconds: float,
) -> dict[str, str]:
    """The reports of today, once what they say of each domain is `agreeing`, or as they are when the time is over.

    A run over midnight has two days; then the reports of the second are looked at where the first has none.
    """
    first_day = today()
    limit = time.monotonic() + limit_seconds
    while True:
        found = await built(daemon, outside, dict.fromkeys((first_day, today())))
        if all(agrees(found.get(domain, NOTHING)) for domain, agrees in agreeing.items()):
            return found
        if time.monotonic() > limit:
            return found
        await asyncio.sleep(BUILD_PAUSE_SECONDS)


def today() -> str:
    """The UTC day."""
    return datetime.now(UTC).date().isoformat()


def told(report_json: bytes) -> str:
    """What a report of ours says, in one line; our own parser has to take it."""
    report = parse_report(report_json)
    lines = []
    for result in report.policies:
        details: Counter[str] = Counter()
        for detail, count in result.details:
            details[detail.result_type] += count
        lines.append(_line(result.policy.policy_type, result.successes, result.failures, details))
    return "; ".join(sorted(lines)) or NOTHING


def postfix_alone(datagrams: Sequence[dict[str, Any]]) -> str:
    """What a report would say that is made of these datagrams, all of one domain, and nothing else."""
    successes: Counter[PolicyType] = Counter()
    failures: Counter[PolicyType] = Counter()
    details: dict[PolicyType, Counter[str]] = {}
    for datagram in datagrams:
        for session in parse_datagram(json.dumps(datagram).encode(), datetime.now(UTC), "postfix"):
            assert session.policy_type is not None
            (failures if session.seen is Seen.FAILURE else successes)[session.policy_type] += 1
            if session.result_type is not None:
                details.setdefault(session.policy_type, Counter())[session.result_type.value] += 1
    types = sorted({*successes, *failures})
    return "; ".join(_line(kind, successes[kind], failures[kind], details.get(kind, Counter())) for kind in types) or (
        NOTHING
    )


def _line(policy_type: PolicyType, successes: int, failures: int, details: Mapping[str, int]) -> str:
    parts = [f"{count} {word}" for count, word in ((successes, "ok"), (failures, "failed")) if count]
    parts += [name if count == 1 else f"{name} x{count}" for name, count in sorted(details.items())]
    return f"{policy_type.value}: {', '.join(parts)}"
