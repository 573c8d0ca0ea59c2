"""What the short-lived commands need: the running daemon's admin socket, or the parts without a daemon."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stsguard.config.model import Config
from stsguard.config.values import InetAddress, UnixAddress
from stsguard.core.errors import LookupFailed, OurFault
from stsguard.core.postfix_facts import PostfixFacts, Validation
from stsguard.core.socketmap import NextHop
from stsguard.names import Domain

if TYPE_CHECKING:
    from stsguard.app.parts import Parts
    from stsguard.store.upgrade import Upgrade

T = TypeVar("T")
Plain = dict[str, object]

ANSWER_SECONDS = 120.0


class DaemonUnreachable(OurFault):
    """The running daemon can't be asked; the message says where it was sought and what to do. `absent`: nothing shows
    that one ought to run, since there is no socket."""

    def __init__(self, message: str, *, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


@dataclass(frozen=True, slots=True)
class DaemonAnswer:
    """What the daemon answered: the HTTP status and plain data."""

    status: int
    content: Plain


def ask_daemon(
    config: Config, method: str, path: str, query: Mapping[str, str] | None = None, *, daemon: str = "outbound"
) -> DaemonAnswer:
    """Ask the running daemon, "outbound" or "inbound".

    Raises:
        DaemonUnreachable: there is none at its address in [admin], or it did not answer.
    """
    import httpx

    match config.admin.listen if daemon == "outbound" else config.admin.inbound_listen:
        case UnixAddress(socket_path):
            transport, base, where = httpx.HTTPTransport(uds=str(socket_path)), "http://stsguard", f"unix:{socket_path}"
        case InetAddress(host, port):
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            transport, base = httpx.HTTPTransport(), f"http://{where}"
    try:
        with httpx.Client(transport=transport, base_url=base, timeout=ANSWER_SECONDS, trust_env=False) as client:
            response = client.request(method, path, params=dict(query or {}))
            content = response.json()
    except (httpx.HTTPError, ValueError) as exc:
        absent = isinstance(_os_error(exc), FileNotFoundError)
        raise DaemonUnreachable(why_unreachable(exc, where, daemon), absent=absent) from exc
    return DaemonAnswer(response.status_code, content)


def why_unreachable(exc: Exception, where: str, daemon: str = "outbound") -> str:
    """What keeps the daemon from answering at `where`, and for whom its socket is, from what httpx raised."""
    match _os_error(exc):
        case FileNotFoundError():
            return f"stsguard {daemon} does not run, or has its admin socket elsewhere: there is no {where}"
        case ConnectionRefusedError():
            return f"stsguard {daemon} does not run: nobody answers at {where}"
        case PermissionError():
            return f"no permission to use {where}: it is for root and the group of the socket"
    return f"no answer from stsguard {daemon} at {where}: {str(exc) or type(exc).__name__}"


def _os_error(exc: Exception) -> OSError | None:
    """What the operating system said, where that is the cause."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause


def lookup_standalone(config: Config, next_hop: NextHop, host: Domain) -> Plain:
    """Look a next hop up and decide without a daemon: no cached policy is known, nothing is stored, no MX is probed."""
    from stsguard.app.readiness import postfix_readiness, resolver_readiness
    from stsguard.config.options import LookupMode
    from stsguard.discovery.describe import plain_demand
    from stsguard.discovery.destination import Destination
    from stsguard.discovery.explain import Known, explain

    async def work(parts: "Parts") -> Plain:
        readiness = (resolver_readiness(config, parts), postfix_readiness(config, parts))
        await asyncio.gather(*(watched.look() for watched in readiness))
        _read_overrides(config, parts)
        known = Known(None, parts.demands.find_override(host), parts.demands.postfix_can_dane, lambda _hosts: {})
        demand, trace = await explain(
            host, next_hop.port, resolver=parts.resolver, fetcher=parts.fetcher, clock=parts.clock, known=known
        )
        observe = config.lookup.mode is LookupMode.OBSERVE
        described = plain_demand(
            Destination(host, next_hop.port),
            demand,
            lambda _name: (),
            observe=observe,
            expired_override=parts.demands.find_expired_override(host),
        )
        dane = {watched.name: watched.reason for watched in readiness if not watched.ready}
        return {**described, "standalone": True, "no_dane": dane, "steps": trace.steps}

    return _with_parts(config, work)


def verify_standalone(config: Config, next_hop: NextHop, host: Domain) -> Plain:
    """Probe the MX hosts of a next hop now, without a daemon."""
    from stsguard.app.readiness import resolver_readiness
    from stsguard.core.dane import MxEvidence
    from stsguard.discovery.describe import plain_verification
    from stsguard.discovery.mx import lookup_mx_evidence

    async def work(parts: "Parts") -> Plain:
        resolver = resolver_readiness(config, parts)
        await resolver.look()
        evidence = await lookup_mx_evidence(parts.resolver, host, next_hop.port)
        if not isinstance(evidence, MxEvidence):
            return {"domain": host, "failed": evidence.detail, "probes": []}
        state = await parts.cache.state(host, config.policy_fetch.timeout_seconds)
        probes = await parts.verifier.probe_now(evidence.hosts, next_hops=[host])
        dane = {} if resolver.ready else {resolver.name: resolver.reason}
        return {**plain_verification(host, state.state.policy, evidence, probes), "no_dane": dane}

    return _with_parts(config, work)


def _read_overrides(config: Config, parts: "Parts") -> None:
    from stsguard.adapters.overrides_file import read_overrides

    if config.lookup.overrides is not None:
        parts.demands.overrides = read_overrides(config.lookup.overrides)


def _with_parts(config: Config, work: Callable[["Parts"], Awaitable[T]]) -> T:
    from stsguard.app.parts import build_parts
    from stsguard.log import set_up
    from stsguard.store.nothing import NoStore

    set_up(level="error", form="text")  # what is found is printed; only a fault of ours is not

    async def run() -> T:
        parts = build_parts(config, NoStore())
        parts.cache.store_tried.set()
        saving = asyncio.create_task(parts.cache.saver.run())
        try:
            return await work(parts)
        finally:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
            await parts.cache.close()

    return asyncio.run(run())


def check_files(config: Config) -> tuple[str, ...]:
    """What is wrong with the files that the configuration names, the overrides' content included; a line each."""
    from stsguard.adapters.overrides_file import read_overrides
    from stsguard.adapters.policy_fetch.tls import tls_context
    from stsguard.config.load import missing_files
    from stsguard.core.errors import OperatorError, OverrideInvalid

    problems = missing_files(config)
    if config.lookup.overrides is not None and not problems:
        try:
            read_overrides(config.lookup.overrides)
        except OverrideInvalid as exc:
            problems = (str(exc),)
    if config.network.ca_file is not None and not any("ca_file" in problem for problem in problems):
        try:
            tls_context(config.network.ca_file)
        except OperatorError as exc:
            problems = (*problems, f"{config.path}: [network] ca_file: {exc}")
    return problems


def upgrade_database(config: Config) -> "Upgrade":
    """Bring the schema of the configured database to the newest revision.

    Raises:
        StoreUnavailable: it can't be used, or not be migrated; then it is as it was.
    """
    from stsguard.store import upgrade

    return upgrade.upgrade_database(config.store.url)


def read_postfix(directories: Sequence[Path], *, signed_name: str, timeout_seconds: float) -> list[PostfixFacts]:
    """The facts about each Postfix instance in `directories`, or about all that are installed here.

    Each name server that smtp(8) asks is asked for `signed_name`, to see whether it validates.

    Raises:
        PostfixUnreadable: there is none, or it can't be read.
    """
    from stsguard.adapters import postfix_conf
    from stsguard.adapters.resolver.validation import DNS_PORT, answers_with_ad

    def whether_validating(address: str) -> Validation:
        try:
            ad = asyncio.run(answers_with_ad((address, DNS_PORT), signed_name, timeout_seconds=timeout_seconds))
        except LookupFailed:
            return Validation.NO_ANSWER
        return Validation.YES if ad else Validation.NO

    return [
        postfix_conf.read_postfix(directory, whether_validating)
        for directory in directories or postfix_conf.find_instances()
    ]
