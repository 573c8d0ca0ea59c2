"""What to add to main.cf so that a Postfix asks stsguard, chosen for its version, each line with its reason.

`advise` is the whole: facts in, lines and findings out. A line is advised only where it changes something, and none
ever lowers what the administrator has set. What is wrong today is in `postfix_findings`.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stsguard.core.postfix_facts import CaState, PostfixFacts
from stsguard.core.postfix_findings import CHECKS, Finding, Severity, Situation, version_too_old
from stsguard.core.postfix_maps import MapKind, classify, place, split_maps
from stsguard.core.socketmap import Dialect

DEFAULT_LISTEN = "inet:127.0.0.1:8461"
SOCKET_NAME = "stsguard/lookup.sock"  # below the queue directory, which is where a chrooted smtp(8) starts
TLSRPT_SOCKET_NAME = "stsguard/tlsrpt.sock"
MAX_SOCKET_PATH_BYTES = 107  # sun_path of Linux, less the final NUL
_OWN_MILTER = ("stsguard", "inet:127.0.0.1:8462", "inet:[::1]:8462", "inet:localhost:8462")  # [milter] socket
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_OLD_PROTOCOLS = "!SSLv2, !SSLv3, !TLSv1, !TLSv1.1"
_RANGES_SINCE = (3, 6, 0)  # `>=TLSv1.2`


@dataclass(frozen=True, slots=True)
class Setting:
    """One line for main.cf. `optional` marks what only takes effect with a part of stsguard that is not set up."""

    name: str
    value: str
    reason: str
    optional: bool = False

    @property
    def line(self) -> str:
        """The line as main.cf has it."""
        return f"{self.name} = {self.value}"

    def command(self, config_directory: str) -> str:
        """The shell command that writes the line."""
        where = "" if config_directory == "/etc/postfix" else f"-c {shlex.quote(config_directory)} "
        return f"postconf {where}-e {shlex.quote(self.line)}"


@dataclass(frozen=True, slots=True)
class Advice:
    """`listen` is the address that [lookup] listen needs for `settings` to work; None where no line may be added."""

    findings: tuple[Finding, ...]
    settings: tuple[Setting, ...]
    listen: str | None

    @property
    def nothing_to_do(self) -> bool:
        """Whether Postfix can stay as it is. Notes and optional lines don't count."""
        wrong = any(finding.severity is not Severity.NOTE for finding in self.findings)
        return not wrong and all(setting.optional for setting in self.settings)


def advise(facts: PostfixFacts, *, listen: Sequence[str] = (), tlsrpt_socket: str | None = None) -> Advice:
    """What to change in this Postfix.

    `listen` is [lookup] listen where the configuration sets it, `tlsrpt_socket` [sessions] tlsrpt_socket likewise.

    Raises:
        PostfixUnreadable: mail_version is no version.
    """
    known = [*(listen or [DEFAULT_LISTEN]), f"unix:{facts.queue_directory}/{SOCKET_NAME}"]
    bare = Situation(facts, tuple(listen), ())
    entries = split_maps(facts.settings.get("smtp_tls_policy_maps", ""))
    ours = [entry for entry in entries if bare.full_address(_address(entry)) in known]
    maps = tuple(classify(entry, our_addresses=[_address(entry) for entry in ours]) for entry in entries)
    situation = Situation(facts, tuple(listen), maps)
    too_old = tuple(version_too_old(situation))
    if too_old:
        return Advice(too_old, (), None)
    address = _socket_address(situation)
    findings = [finding for check in CHECKS for finding in check(situation)]
    findings.sort(key=lambda finding: list(Severity).index(finding.severity))
    settings = (
        *_policy_maps(situation, address),
        *_security_level(situation),
        *_dane(situation),
        *_authorities(situation),
        *_mx_patterns(situation),
        *_mandatory_protocols(situation),
        *_log_level(situation),
        *_milter(situation),
        *_tlsrpt(situation, tlsrpt_socket),
    )
    return Advice(tuple(findings), settings, situation.full_address(address))


def _address(entry: str) -> str:
    """`inet:host:port` or `unix:path` of a socketmap entry."""
    return entry.removeprefix("proxy:").removeprefix("socketmap:").rpartition(":")[0]


def _socket_address(s: Situation) -> str:
    """Where Postfix should ask: the present address if it works, else what the daemon has, else one for the daemon.

    A path within the queue directory is given relative to it: smtp(8) finds it so with and without a chroot.
    """
    own = s.own_map
    if own is not None and s.reachable(own.address) and (not s.listen or s.full_address(own.address) in s.listen):
        return own.address
    for address in s.listen:
        if address.startswith("unix:"):
            inside = s.in_queue_directory(address.removeprefix("unix:"))
            if inside is not None:
                return f"unix:{inside}"
            if s.reachable(address):
                return address
        else:
            host, _, port = address.removeprefix("inet:").rpartition(":")
            return f"inet:{_ANYWHERE.get(host, host)}:{port}"
    full_path = f"{s.facts.queue_directory}/{SOCKET_NAME}"
    if s.facts.queue_directory_exists and len(full_path.encode()) <= MAX_SOCKET_PATH_BYTES:
        return f"unix:{SOCKET_NAME}"
    return DEFAULT_LISTEN


def _policy_maps(s: Situation, address: str) -> Iterator[Setting]:
    own = s.own_map
    # A name that means the same stays: sites that moved over keep the name of their former service.
    keeps_name = own is not None and own.dialect is s.dialect
    name = own.map_name if own is not None and keeps_name else s.dialect.value
    wanted = place(s.maps, f"socketmap:{address}:{name}")
    if wanted == tuple(entry.text for entry in s.maps):
        return
    written = split_maps(s.facts.written.get("smtp_tls_policy_maps", ""))
    if len(written) == len(s.maps):  # keep `$config_directory` and its like as they were written
        as_written = dict(zip((entry.text for entry in s.maps), written, strict=True))
        wanted = tuple(as_written.get(entry, entry) for entry in wanted)
    reason = (
        "Asks stsguard for the TLS policy of each destination."
        if s.dialect is Dialect.POLICY
        else "Asks stsguard for the TLS policy of each destination, with the attributes of Postfix 3.10 and later."
    )
    if address.startswith("unix:") and not address.startswith("unix:/"):
        reason += f" The path is relative to {s.facts.queue_directory}, so that a chrooted smtp(8) finds it too."
    if any(entry.kind is not MapKind.OURS for entry in s.maps):
        reason += (
            " The other maps stay. Postfix asks all maps for the exact name before any for a parent domain:"
            " exact entries in front win, their .parent entries do not (stsguard's overrides do)."
        )
    yield Setting("smtp_tls_policy_maps", ", ".join(wanted), reason)


def _security_level(s: Situation) -> Iterator[Setting]:
    if s.level == "none" and not s.dane_ready:
        yield Setting(
            "smtp_tls_security_level",
            "may",
            "TLS wherever it is offered, and TLS sessions are reported. "
            "dane would need a validating resolver, which Postfix does not have.",
        )
    elif s.level in ("none", "may") and s.dane_ready:
        yield Setting(
            "smtp_tls_security_level",
            "dane",
            "DANE (RFC 7672) where the destination publishes it, TLS wherever it is offered elsewhere; "
            "it holds also for mail that no policy was found for.",
        )


def _dane(s: Situation) -> Iterator[Setting]:
    if s.dane_ready and s.facts.settings.get("smtp_dns_support_level") != "dnssec":
        yield Setting(
            "smtp_dns_support_level",
            "dnssec",
            "Postfix asks for DNSSEC; without it the level dane means may, and dane-only defers all mail.",
        )
    dane_counts = s.dane_ready or s.facts.settings.get("smtp_dns_support_level") == "dnssec"
    if dane_counts and s.facts.settings.get("smtp_tls_dane_insecure_mx_policy", "dane") != "dane":
        yield Setting(
            "smtp_tls_dane_insecure_mx_policy",
            "dane",
            "stsguard answers dane for MX hosts with TLSA records also where the MX record is unsigned; "
            "by default Postfix takes that for may.",
        )


def _authorities(s: Situation) -> Iterator[Setting]:
    authorities = s.facts.authorities
    if s.facts.is_on("tls_append_default_CA") or authorities.system_file is None:
        return
    in_place = authorities.directory_in_chroot if s.facts.chrooted else authorities.directory
    directory_works = authorities.directory is CaState.GOOD and in_place is CaState.GOOD
    file_fails = authorities.file not in (CaState.GOOD, CaState.NOT_SET)
    if file_fails or (authorities.file is CaState.NOT_SET and not directory_works):
        yield Setting(
            "smtp_tls_CAfile",
            authorities.system_file,
            "The certificate authorities that MX hosts are verified with. The file is read before the chroot.",
        )


def _mx_patterns(s: Situation) -> Iterator[Setting]:
    name = "smtp_tls_enforce_sts_mx_patterns"
    if name in s.facts.settings and not s.facts.is_on(name):
        yield Setting(name, "yes", "Mail goes only to MX hosts that the policy permits (RFC 8461 §4.1).")


def _mandatory_protocols(s: Situation) -> Iterator[Setting]:
    present = {
        word.upper() for word in s.facts.settings.get("smtp_tls_mandatory_protocols", "").replace(",", " ").split()
    }
    by_range = {">=TLSV1.2", ">=TLSV1.3"} & present
    by_name = {"!TLSV1", "!TLSV1.1"} <= present or (present and present <= {"TLSV1.2", "TLSV1.3"})
    # RFC 8461 §7.2 with RFC 9325 §3.1.1: TLS 1.2 or later.
    if not by_range and not by_name:
        value = ">=TLSv1.2" if s.facts.version >= _RANGES_SINCE else _OLD_PROTOCOLS
        yield Setting(
            "smtp_tls_mandatory_protocols",
            value,
            "TLS 1.2 or later where TLS is mandatory (RFC 9325 §3.1.1); stsguard verifies MX hosts likewise.",
        )


def _log_level(s: Situation) -> Iterator[Setting]:
    if s.facts.settings.get("smtp_tls_loglevel", "0") == "0":
        yield Setting("smtp_tls_loglevel", "1", "One log line for each TLS session: how it was verified, or why not.")


def _milter(s: Situation) -> Iterator[Setting]:
    """Our milter only looks: when it is down mail must not wait for it. Other milters keep what holds for them."""
    default = s.facts.settings.get("milter_default_action", "tempfail")
    for name in ("smtpd_milters", "non_smtpd_milters"):
        milters = split_maps(s.facts.settings.get(name, ""))
        ours = [milter for milter in milters if any(own in milter for own in _OWN_MILTER)]
        if default == "accept" or not ours or "default_action" in ours[0]:
            continue
        reason = "Without it mail is refused for a while when the milter is down, and it only looks at other mail."
        if milters == tuple(ours):
            yield Setting("milter_default_action", "accept", reason)
            return
        changed = (f"{{ {m.strip('{} ')}, default_action = accept }}" if m in ours else m for m in milters)
        yield Setting(name, ", ".join(changed), reason + " The other milters keep their own action.")


def _tlsrpt(s: Situation, socket: str | None) -> Iterator[Setting]:
    """Postfix's reports of TLS sessions. Another collector's socket is left to it."""
    if "smtp_tlsrpt_enable" not in s.facts.settings:
        return
    path = socket or f"{s.facts.queue_directory}/{TLSRPT_SOCKET_NAME}"
    relative = s.in_queue_directory(path) or path
    present = s.facts.settings.get("smtp_tlsrpt_socket_name", "")
    enabled = s.facts.is_on("smtp_tlsrpt_enable")
    if enabled and present not in ("", relative, path):
        return
    optional = socket is None
    if not enabled:
        yield Setting(
            "smtp_tlsrpt_enable", "yes", "Postfix tells stsguard how each TLS session ended (RFC 8460).", optional
        )
    if present != relative:
        yield Setting(
            "smtp_tlsrpt_socket_name",
            relative,
            f"Where stsguard listens for it; a chrooted smtp(8) sees only what is below {s.facts.queue_directory}.",
            optional,
        )
    if s.facts.is_on("smtp_tlsrpt_skip_reused_handshakes"):
        yield Setting(
            "smtp_tlsrpt_skip_reused_handshakes",
            "no",
            "RFC 8460 counts sessions; with yes a session resumed from smtp_tls_session_cache_database is not counted.",
            optional,
        )
