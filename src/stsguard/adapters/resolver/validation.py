"""Whether AD from the nameservers may be believed (RFC 4035 §4.9.3, RFC 7672 §2.1.1), and which nameservers there are.

DANE evidence counts only from resolvers that validate, over a path that nobody can tamper with. Whether a resolver on
loopback gets its own answers over such a path is the operator's word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from stsguard.adapters.resolver import DnsResolver
from stsguard.adapters.resolver.plain import DNSKEY, A
from stsguard.adapters.resolver.udp import Nameserver
from stsguard.core.addresses import is_loopback
from stsguard.core.errors import ConfigInvalid, LookupFailed, LookupReason

RESOLV_CONF = Path("/etc/resolv.conf")
DNS_PORT = 53
MAX_NAMESERVERS = 3  # MAXNS of resolv.conf(5)

SIGNED_NAME = "."
BOGUS_NAME = "dnssec-failed.org"  # kept bogus on purpose by its owner, for tests like this one

# (validates, conclusive): the worst nameserver speaks for all, and of two that validate the one that shows less.
_WORST_FIRST = ((False, True), (False, False), (True, False), (True, True))


@dataclass(frozen=True, slots=True)
class ValidationCheck:
    """What a check showed: `validates` only if every nameserver does, over a path to be trusted.

    `conclusive` False: too little was seen (time-outs, no Internet). It must not replace an earlier conclusive
    result, else whoever can delay an answer switches DANE off.
    """

    validates: bool
    conclusive: bool
    reason: str


def is_trusted_path(nameserver: Nameserver) -> bool:
    """Whether nobody can change an answer on its way from `nameserver`: loopback only, for plain DNS."""
    return is_loopback(ip_address(nameserver[0]))


async def answers_with_ad(nameserver: Nameserver, signed_name: str, *, timeout_seconds: float = 5.0) -> bool:
    """Whether `nameserver` answers for the DNSKEY records of `signed_name` with AD set.

    Raises:
        LookupFailed: there was no answer.
    """
    resolver = DnsResolver([nameserver], timeout_seconds=timeout_seconds)
    look = await resolver.look(signed_name, DNSKEY)
    return look.authentic and look.has_records


async def check_validation(
    nameservers: Sequence[Nameserver],
    *,
    signed_name: str = SIGNED_NAME,
    bogus_name: str = BOGUS_NAME,
    timeout_seconds: float = 5.0,
) -> ValidationCheck:
    """Whether the nameservers validate: AD on the DNSKEY of `signed_name`, and no answer for `bogus_name`.

    Every nameserver is checked, since any of them may answer the next question. Never raises.
    """
    checks = [await _check_one(nameserver, signed_name, bogus_name, timeout_seconds) for nameserver in nameservers]
    return min(checks, key=lambda check: _WORST_FIRST.index((check.validates, check.conclusive)))


async def _check_one(
    nameserver: Nameserver, signed_name: str, bogus_name: str, timeout_seconds: float
) -> ValidationCheck:
    where = f"{nameserver[0]} port {nameserver[1]}"
    if not is_trusted_path(nameserver):
        return ValidationCheck(False, True, f"{where} is not on this machine, so its answers can be changed on the way")
    try:
        if not await answers_with_ad(nameserver, signed_name, timeout_seconds=timeout_seconds):
            return ValidationCheck(False, True, f"{where} answers without AD for {signed_name} DNSKEY")
    except LookupFailed as exc:
        return ValidationCheck(False, False, f"{where} could not be checked: {exc}")
    return await _check_bogus(nameserver, bogus_name, timeout_seconds)


async def _check_bogus(nameserver: Nameserver, bogus_name: str, timeout_seconds: float) -> ValidationCheck:
    """The second half, for a nameserver that sets AD: some set it for whatever they forward."""
    where = f"{nameserver[0]} port {nameserver[1]}"
    resolver = DnsResolver([nameserver], timeout_seconds=timeout_seconds)
    try:
        look = await resolver.look(bogus_name, A)
    except LookupFailed as exc:
        if exc.reason in (LookupReason.SERVFAIL, LookupReason.BOGUS):
            return ValidationCheck(True, True, f"{where} validates: AD for what is signed, SERVFAIL for {bogus_name}")
        # No answer, but no refusal to give one either: as much the network's doing as the nameserver's.
        return ValidationCheck(False, False, f"{where} could not be checked with the bogus name: {exc}")
    if look.has_records:
        return ValidationCheck(False, True, f"{where} answers for {bogus_name}, whose signatures are wrong")
    # The name may be gone, or a local zone hides it. Then AD alone has to do.
    text = f"{where} sets AD; {bogus_name} does not exist there, which proves nothing"
    return ValidationCheck(True, False, text)


def parse_resolv_conf(text: str) -> list[Nameserver]:
    """The nameservers that `text` names, as the C library reads it: the first three, 127.0.0.1 where there is none.

    Lines that name no IP address are skipped, as the C library does.
    """
    nameservers: list[Nameserver] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ip_address(words[1])
        except ValueError:
            continue
        nameservers.append((words[1], DNS_PORT))
    return nameservers[:MAX_NAMESERVERS] or [("127.0.0.1", DNS_PORT)]


def load_resolv_conf(path: Path = RESOLV_CONF) -> list[Nameserver]:
    """The nameservers of the file at `path`; resolv.conf(5): an absent file means 127.0.0.1.

    Raises:
        ConfigInvalid: the file is there and can't be read.
    """
    try:
        return parse_resolv_conf(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return parse_resolv_conf("")
    except OSError as exc:
        raise ConfigInvalid(f"{path}: can't be read: {exc.strerror}") from exc
