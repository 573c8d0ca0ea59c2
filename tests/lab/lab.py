"""The lab: all its parts in one namespace, driven from ordinary synchronous code.

The parts of our own (MX servers, policy hosts) run on an event loop in a thread that alone has joined the lab's
network; programs run in the namespace. So the process that uses the lab, pytest or the demo, stays where it was.
"""

import asyncio
import logging
import os
import shutil
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.lab import dns, tlsrpt_recorder
from tests.lab.additions import Additions
from tests.lab.certificates import Certificates
from tests.lab.dns import Dns
from tests.lab.journal import Journal
from tests.lab.mx_servers import MxServers
from tests.lab.namespace import LAB, Namespace
from tests.lab.policy_hosts import PolicyHosts
from tests.lab.postfix import Postfix
from tests.lab.tlsrpt_recorder import TlsrptRecorder

T = TypeVar("T")

START_LIMIT_SECONDS = 60.0
CALL_LIMIT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class PostfixPlan:
    """A Postfix for the lab; the fields are those of `Postfix`. With `tlsrpt` (3.10 and later) it reports its TLS
    sessions to a recorder; with `to_journal` it logs to the lab's journal."""

    name: str
    root: Path
    policy_map: str
    security_level: str = "may"
    settings: Mapping[str, str] = field(default_factory=dict)
    transports: Mapping[str, str] = field(default_factory=dict)
    transport_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tlsrpt: bool = False
    to_journal: bool = False
    services: str = ""
    additions: Additions | None = None


class Lab:
    """One lab, as a context manager. Its coroutines are called by `lab.call(lab.dns.publish())` and the like."""

    def __init__(self, plans: Sequence[PostfixPlan]) -> None:
        self._plans = plans
        self._namespace = Namespace()
        self._thread = threading.Thread(target=self._run, name="lab")
        self._ready: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None

    @property
    def namespace(self) -> Namespace:
        """Where its programs run."""
        return self._namespace

    def __enter__(self) -> "Lab":
        """Start all parts.

        Raises:
            LabFailed: a part does not start; the message holds what it said.
        """
        # asyncio warns of a detail of its own when a server starts TLS in the middle of a connection (Python 3.11).
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        self._namespace.__enter__()
        try:
            self._thread.start()
            self._ready.result(START_LIMIT_SECONDS)
        except BaseException:
            self._namespace.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop all parts and end the namespace."""
        assert self._loop is not None
        assert self._ending is not None
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        self._namespace.__exit__()

    def call(self, work: Coroutine[Any, Any, T], *, limit_seconds: float = CALL_LIMIT_SECONDS) -> T:
        """Run a coroutine of the lab's on the lab's loop and return its result."""
        return self.start_call(work).result(limit_seconds)

    def start_call(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin a coroutine on the lab's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def outside(self, inside: Path) -> Path:
        """The path by which this process reaches a file of the lab's."""
        return self._namespace.outside(inside)

    def _run(self) -> None:
        try:
            self._namespace.join_network()
            asyncio.run(self._live())
        except BaseException as exc:
            if self._ready.done():
                raise
            self._ready.set_exception(exc)  # the thread that waits for the start raises it

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self.certificates = Certificates(self.outside(LAB / "ca"))
        self.dns = Dns(self._namespace)
        self.mx = MxServers(self.certificates)
        self.policy_hosts = PolicyHosts(self.certificates)
        self.postfix = {
            plan.name: Postfix(
                self._namespace,
                plan.name,
                plan.root,
                address=f"127.0.1.{number}",
                policy_map=plan.policy_map,
                ca_file=self.ca_file,
                security_level=plan.security_level,
                settings={
                    **(tlsrpt_recorder.SETTINGS if plan.tlsrpt else {}),
                    **({"maillog_file": ""} if plan.to_journal else {}),
                    **plan.settings,
                },
                transports=plan.transports,
                transport_settings=plan.transport_settings,
                services=plan.services,
                additions=plan.additions,
            )
            for number, plan in enumerate(self._plans, 1)
        }
        self.tlsrpt = {plan.name: TlsrptRecorder() for plan in self._plans if plan.tlsrpt}
        journal = Journal(self._namespace) if any(plan.to_journal for plan in self._plans) else None
        try:
            if journal is not None:
                await journal.start()
            async with asyncio.TaskGroup() as starting:
                starting.create_task(self.dns.start())
                starting.create_task(self.policy_hosts.start())
                for instance in self.postfix.values():
                    starting.create_task(instance.start())
            for name, recorder in self.tlsrpt.items():
                await recorder.start(self.outside(self.postfix[name].queue / tlsrpt_recorder.SOCKET))
            for plan in self._plans:
                if plan.to_journal and journal is not None:
                    await journal.copy(LAB / plan.name / "maillog")
            self._ready.set_result(None)
            await self._ending.wait()
        finally:
            await self.mx.stop()
            await self.policy_hosts.stop()
            for instance in self.postfix.values():
                await instance.stop()
            for recorder in self.tlsrpt.values():
                recorder.stop()
            await self.dns.stop()
            if journal is not None:
                await journal.stop()

    @property
    def ca_file(self) -> Path:
        """The lab's CA certificate, inside the lab."""
        return LAB / "ca/trusted/ca.pem"


def what_is_missing(*programs: str) -> str:
    """Why no lab can be made on this machine, or one that needs `programs` as well; "" where it can."""
    if os.geteuid() != 0:
        return "the lab needs root"
    absent = [name for name in ("unshare", "nsenter", "ip", *dns.PROGRAMS, *programs) if shutil.which(name) is None]
    return f"the lab needs these programs: {', '.join(absent)}" if absent else ""
