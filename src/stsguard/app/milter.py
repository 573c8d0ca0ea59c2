"""`stsguard milter`: the spool, the daemon that is told of domains, and the connections of Postfix, as one process."""

import asyncio
import grp
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NoVerdict
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from stsguard import __version__
from stsguard.adapters import systemd
from stsguard.adapters.clock import SystemClock
from stsguard.adapters.outbound_daemon import OutboundDaemon
from stsguard.app.latency import prefer_latency
from stsguard.app.serving import KEEP_PATH, address_text, end, feed_watchdog, open_listener, raise_file_limit
from stsguard.app.settings import tell_of_changes, tell_of_settings
from stsguard.config.intake_options import IntakeAction, RequireDkim
from stsguard.config.model import Config, MilterConfig
from stsguard.config.values import InetAddress, UnixAddress
from stsguard.core.dkim_verdict import DkimStatus, DkimVerdict
from stsguard.core.errors import ListenFailed, SpoolFailed
from stsguard.core.received_mail import MAX_MESSAGE_BYTES
from stsguard.core.recipients import folded
from stsguard.discovery.supervisor import supervised
from stsguard.inbound.spool import Spool
from stsguard.log import logger, outcome
from stsguard.milter.connection import Connections
from stsguard.milter.mail import Held, Intake
from stsguard.milter.warming import Warming
from stsguard.ports import ReportVerifier

log = logger(__name__)

KEEPING = 16  # mails that are kept at the same time: each waits for the disk
STOP_SECONDS = 10.0
VERIFY_SECONDS = 8.0  # for keys to be looked up; Postfix waits no longer than content_timeout
MAIL_OVERHEAD_BYTES = 262_144  # header and texts beside the report
FAULT = DkimVerdict(DkimStatus.TEMPORARY, None, "", "stsguard failed on it, see its log", False, None)
NO_VERDICT = DkimVerdict(DkimStatus.TEMPORARY, None, "", "the keys could not be looked up in time", False, None)


def run_milter(config: Config) -> None:
    """`stsguard milter`, until it is told to stop.

    Raises:
        ListenFailed: it can't start; the message says what to do.
    """
    import uvloop

    tell_of_settings(config)
    raise_file_limit()
    prefer_latency()  # an smtpd(8) waits for each answer
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))


async def _serve(config: Config) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    loop.add_signal_handler(signal.SIGHUP, partial(tell_of_changes, config))
    listener = _listen(config.milter)
    with ThreadPoolExecutor(KEEPING, "keeping") as executor, _warming(config) as warm:
        connections = Connections(_intake(config, warm), executor)
        if listener.family == socket.AF_UNIX:
            server = await loop.create_unix_server(connections, sock=listener, **KEEP_PATH)
        else:
            server = await loop.create_server(connections, sock=listener)
        where = address_text(config.milter.socket)
        addresses = ",".join(config.intake.addresses)
        outcome(log, logging.INFO, f"stsguard {__version__} is Postfix's milter", listen=where, addresses=addresses)
        systemd.notify("READY=1", f"STATUS=Answering Postfix at {where}")
        watching = asyncio.create_task(feed_watchdog())
        await stop.wait()
        outcome(log, logging.INFO, "stopping")
        systemd.notify("STOPPING=1")
        await end(watching)
        server.close()
        await connections.close(STOP_SECONDS)


def _intake(config: Config, warm: Callable[[str], None]) -> Intake:
    verify = _verifier(config) if config.intake.require_dkim is RequireDkim.REJECT else None
    return Intake(
        addresses=frozenset(map(folded, config.intake.addresses)),
        spool=_spool(config),
        clock=SystemClock(),
        held=Held(),
        # In base64 a report is a third longer.
        max_bytes=min(MAX_MESSAGE_BYTES, config.intake.max_compressed_bytes * 3 // 2 + MAIL_OVERHEAD_BYTES),
        discard=config.milter.intake_action is IntakeAction.DISCARD,
        verify=verify,
        warm=warm,
    )


@contextmanager
def _warming(config: Config) -> Iterator[Callable[[str], None]]:
    """What takes the next hops to be looked up; its thread ends with the context."""
    if not config.milter.warm:
        yield lambda _next_hop: None
        return
    warming = Warming(OutboundDaemon(_admin_address(config)), SystemClock(), config.milter.warm_rate)
    stop = threading.Event()
    thread = threading.Thread(target=warming.run, args=(stop,), name="warming")
    thread.start()
    try:
        yield warming.note
    finally:
        stop.set()
        thread.join()


def _listen(milter: MilterConfig) -> socket.socket:
    listener = open_listener(milter.socket, milter.socket_mode)
    if isinstance(milter.socket, UnixAddress):
        _give_to(milter.socket.path, milter)
    return listener


def _give_to(path: Path, milter: MilterConfig) -> None:
    """Let those connect who may."""
    try:
        if milter.socket_group:
            named = milter.socket_group
            os.chown(path, -1, int(named) if named.isdigit() else grp.getgrnam(named).gr_gid)
        path.chmod(milter.socket_mode)
    except (OSError, KeyError) as exc:
        raise ListenFailed(f"[milter] socket_group and socket_mode can't be given to {path}: {exc}") from exc


def _admin_address(config: Config) -> Path | tuple[str, int]:
    match config.admin.listen:
        case UnixAddress(path):
            return path
        case InetAddress(host, port):
            return host, port


def _spool(config: Config) -> Spool:
    spool = Spool(config.intake.spool)
    if not config.intake.addresses:
        outcome(log, logging.WARNING, "no report mail is taken in: [intake] addresses is empty")
        return spool
    try:
        spool.prepare()
    except SpoolFailed as exc:
        # Mail goes on. Reports wait at their senders' until it is put right.
        outcome(log, logging.ERROR, "reports can't be kept", reason=str(exc))
    return spool


def _verifier(config: Config) -> Callable[[bytes, datetime], DkimVerdict]:
    """Verifies signatures for the threads that keep mails; look-ups are made on the loop that runs now."""
    from stsguard.adapters.dkim_verifier import DkimVerifier
    from stsguard.adapters.public_suffix_file import load_public_suffixes
    from stsguard.app.parts import build_resolver

    return verdicts_of(DkimVerifier(build_resolver(config)[0], load_public_suffixes()))


def verdicts_of(verifier: ReportVerifier) -> Callable[[bytes, datetime], DkimVerdict]:
    """The verdicts of `verifier` for other threads, which wait while it works on the loop that runs now. Where it fails
    or takes too long there is none yet: the mail is kept, and verified again when it is stored."""
    loop = asyncio.get_running_loop()

    async def verified(message: bytes, received_at: datetime) -> DkimVerdict:
        found = [FAULT]

        async def work() -> None:
            found.append(await verifier.verify(message, received_at))

        await supervised("verifying a report mail", work())
        return found[-1]

    def verify(message: bytes, received_at: datetime) -> DkimVerdict:
        future = asyncio.run_coroutine_threadsafe(verified(message, received_at), loop)
        try:
            return future.result(VERIFY_SECONDS)
        except NoVerdict:
            future.cancel()
            return NO_VERDICT

    return verify
