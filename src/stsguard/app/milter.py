"""`stsguard milter`: the spool, the daemon that is told of domains, and libmilter's threads, as one process."""

import asyncio
import grp
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import TimeoutError as NoVerdict
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from threading import Event, Thread

from stsguard import __version__
from stsguard.adapters import systemd
from stsguard.adapters.clock import SystemClock
from stsguard.adapters.outbound_daemon import OutboundDaemon
from stsguard.app.serving import address_text, open_listener
from stsguard.app.settings import tell_of_settings
from stsguard.config.intake_options import IntakeAction, RequireDkim
from stsguard.config.model import Config, MilterConfig
from stsguard.config.values import InetAddress, UnixAddress
from stsguard.core.dkim_verdict import DkimStatus, DkimVerdict
from stsguard.core.errors import ListenFailed, OperatorError, SpoolFailed
from stsguard.core.received_mail import MAX_MESSAGE_BYTES
from stsguard.core.recipients import folded
from stsguard.inbound.spool import Spool
from stsguard.log import logger, outcome
from stsguard.milter.mail import Held, Intake
from stsguard.milter.warming import Warming

log = logger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # libmilter waits for these
VERIFY_SECONDS = 8.0  # for keys to be looked up; Postfix waits no longer than content_timeout
MAIL_OVERHEAD_BYTES = 262_144  # header and texts beside the report
NO_VERDICT = DkimVerdict(DkimStatus.TEMPORARY, None, "", "the keys could not be looked up in time", False, None)


def run_milter(config: Config) -> None:
    """`stsguard milter`, until it is told to stop.

    Raises:
        OperatorError, ListenFailed: it can't start; the message says what to do.
    """
    try:
        from stsguard.milter.connection import serve
    except ImportError as exc:
        raise OperatorError(
            f"pymilter is missing ({exc}): install Debian's python3-milter, or stsguard[milter] by pip"
        ) from exc
    tell_of_settings(config)
    # Before any thread is there: a signal that another one got would end the process in the middle of a mail.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    stop = Event()
    clock = SystemClock()
    warming = Warming(OutboundDaemon(_admin_address(config)), clock, config.milter.warm_rate)
    threads = [Thread(target=warming.run, args=(stop,), name="warming")] if config.milter.warm else []
    verifying = _Verifying(config) if config.intake.require_dkim is RequireDkim.REJECT else None
    intake = Intake(
        addresses=frozenset(map(folded, config.intake.addresses)),
        spool=_spool(config),
        clock=clock,
        held=Held(),
        # In base64 a report is a third longer.
        max_bytes=min(MAX_MESSAGE_BYTES, config.intake.max_compressed_bytes * 3 // 2 + MAIL_OVERHEAD_BYTES),
        discard=config.milter.intake_action is IntakeAction.DISCARD,
        verify=verifying.verify if verifying is not None else None,
        warm=warming.note if config.milter.warm else lambda _next_hop: None,
    )
    for thread in threads:
        thread.start()
    try:
        serve(_libmilter_socket(config.milter), intake, _opened(config))
    finally:
        systemd.notify("STOPPING=1")
        stop.set()
        for thread in threads:
            thread.join()
        if verifying is not None:
            verifying.close()


def _opened(config: Config) -> Callable[[], None]:
    def opened() -> None:
        where = address_text(config.milter.socket)
        if isinstance(config.milter.socket, UnixAddress):
            _give_to(config.milter.socket.path, config.milter)
        addresses = ",".join(config.intake.addresses)
        outcome(log, logging.INFO, f"stsguard {__version__} is Postfix's milter", listen=where, addresses=addresses)
        systemd.notify("READY=1", f"STATUS=Answering Postfix at {where}")

    return opened


def _give_to(path: Path, milter: MilterConfig) -> None:
    """Let those connect who may."""
    try:
        if milter.socket_group:
            named = milter.socket_group
            os.chown(path, -1, int(named) if named.isdigit() else grp.getgrnam(named).gr_gid)
        path.chmod(milter.socket_mode)
    except (OSError, KeyError) as exc:
        raise ListenFailed(f"[milter] socket_group and socket_mode can't be given to {path}: {exc}") from exc


def _libmilter_socket(milter: MilterConfig) -> str:
    """The socket as libmilter writes it. It is opened once by us, which tells better what is wrong."""
    address = milter.socket
    open_listener(address, 0o600).close()
    match address:
        case UnixAddress(path):
            with suppress(FileNotFoundError):
                path.unlink()
            return f"unix:{path}"
        case InetAddress(host, port):
            return f"inet6:{port}@{host}" if ":" in host else f"inet:{port}@{host}"


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


class _Verifying:
    """DKIM verification for libmilter's threads: an event loop in a thread of its own."""

    def __init__(self, config: Config) -> None:
        from stsguard.adapters.dkim_verifier import DkimVerifier
        from stsguard.adapters.public_suffix_file import load_public_suffixes
        from stsguard.app.parts import build_resolver

        self._loop = asyncio.new_event_loop()
        self._verifier = DkimVerifier(build_resolver(config)[0], load_public_suffixes())
        self._thread = Thread(target=self._loop.run_forever, name="verifying", daemon=True)
        self._thread.start()

    def verify(self, message: bytes, received_at: datetime) -> DkimVerdict:
        """The verdict, or that there is none in time."""
        future = asyncio.run_coroutine_threadsafe(self._verifier.verify(message, received_at), self._loop)
        try:
            return future.result(VERIFY_SECONDS)
        except NoVerdict:
            future.cancel()
            return NO_VERDICT

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
