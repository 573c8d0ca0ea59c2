"""What is wrong with a Postfix today, as far as MTA-STS (RFC 8461) and DANE (RFC 7672) go.

One check a fault, in the table at the end. Each finding says what is so, why that is a fault, and what it does to mail.
What is merely absent and gets added by a line of main.cf is not here: see `postfix_advice`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from stsguard.core.postfix_facts import CaState, PostfixFacts, Validation, dane_obstacles
from stsguard.core.postfix_maps import MapKind, PolicyMap
from stsguard.core.socketmap import Dialect

SERVERNAME_SINCE = (3, 4, 0)  # the attribute `servername=`, without which no SNI is sent
TLSRPT_ATTRIBUTES_SINCE = (3, 10, 0)  # accepted from there on, also by a build without TLSRPT
# main.cf settings on which the advice rests; a service may set its own in master.cf
_WATCHED = (
    "smtp_tls_policy_maps",
    "smtp_tls_security_level",
    "smtp_dns_support_level",
    "smtp_tls_CAfile",
    "smtp_tls_CApath",
    "smtp_tls_enforce_sts_mx_patterns",
    "smtp_tls_dane_insecure_mx_policy",
)


class Severity(StrEnum):
    """`error`: mail is unprotected or deferred; `warning`: less protection than there could be; `note`: know it."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: a stable code, what is so, why it is a fault, what it does to mail."""

    code: str
    severity: Severity
    what: str
    reason: str
    effect: str


@dataclass(frozen=True, slots=True)
class Situation:
    """The facts, put beside what the daemon offers: `listen` is [lookup] listen, empty where it is not set."""

    facts: PostfixFacts
    listen: tuple[str, ...]
    maps: tuple[PolicyMap, ...]

    @property
    def level(self) -> str:
        """The level that holds where no policy was found, the parameters of Postfix 2.2 taken into account."""
        level = self.facts.settings.get("smtp_tls_security_level", "").lower()
        if level:
            return level
        if self.facts.is_on("smtp_enforce_tls"):
            return "encrypt"
        return "may" if self.facts.is_on("smtp_use_tls") else "none"

    @property
    def dialect(self) -> Dialect:
        """The socketmap name for this version."""
        return Dialect.POLICY_TLSRPT if self.facts.version >= TLSRPT_ATTRIBUTES_SINCE else Dialect.POLICY

    @property
    def own_map(self) -> PolicyMap | None:
        """Our entry in smtp_tls_policy_maps."""
        return next((entry for entry in self.maps if entry.kind is MapKind.OURS), None)

    @property
    def dane_ready(self) -> bool:
        """Whether every name server that smtp(8) asks validates, and nothing else keeps DANE off."""
        validated = all(server.validation is Validation.YES for server in self.facts.nameservers)
        return validated and not dane_obstacles(self.facts.settings)

    def in_queue_directory(self, path: str) -> str | None:
        """`path` relative to the queue directory, as smtp(8) sees it in its chroot and out of it; None if outside."""
        root = self.facts.queue_directory + "/"
        return path.removeprefix(root) if path.startswith(root) else None

    def full_address(self, address: str) -> str:
        """The address of a socketmap as the daemon would write it in [lookup] listen."""
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            return address if path.startswith("/") else f"unix:{self.facts.queue_directory}/{path}"
        return address.replace("inet:localhost:", "inet:127.0.0.1:", 1)

    def reachable(self, address: str) -> bool:
        """Whether smtp(8) can reach a socketmap at this address: in a chroot an absolute path leads elsewhere."""
        return not (address.startswith("unix:/") and self.facts.chrooted)


def version_too_old(s: Situation) -> Iterator[Finding]:
    """Postfix before 3.4."""
    if s.facts.version < SERVERNAME_SINCE:
        yield Finding(
            "version-too-old",
            Severity.ERROR,
            f"this is Postfix {s.facts.settings['mail_version']}",
            "before 3.4 it knows no servername= in a TLS policy, and a policy with an unknown attribute is refused",
            "every mail to a domain that enforces MTA-STS would be deferred (4.7.5): update Postfix first",
        )


def _mx_patterns(s: Situation) -> Iterator[Finding]:
    if "smtp_tls_enforce_sts_mx_patterns" not in s.facts.settings:
        yield Finding(
            "mx-patterns-unknown",
            Severity.NOTE,
            f"Postfix {s.facts.settings['mail_version']} does not check MX names against a policy itself (3.10.5 does)",
            "it takes a certificate for any name in match= for any MX host",
            "stsguard therefore names only MX hosts that it has checked; nothing needs to be done",
        )
    elif not s.facts.is_on("smtp_tls_enforce_sts_mx_patterns"):
        yield Finding(
            "mx-patterns-off",
            Severity.WARNING,
            "smtp_tls_enforce_sts_mx_patterns = no",
            "Postfix then takes a certificate for any permitted MX host for any other (RFC 8461 §4.1 asks for its own)",
            "an MX host that the policy does not name may be given mail",
        )


def _policy_map(s: Situation) -> Iterator[Finding]:
    own = s.own_map
    if own is None:
        yield Finding(
            "policy-not-asked",
            Severity.ERROR,
            "smtp_tls_policy_maps has no map of stsguard",
            "Postfix finds out about MTA-STS only by asking",
            "mail to domains that enforce MTA-STS is sent like any other, over whatever the network lets through",
        )
        return
    if own.dialect is None:
        yield Finding(
            "policy-map-name",
            Severity.ERROR,
            f"the map name {own.map_name!r} is none that stsguard serves",
            f"it serves {Dialect.POLICY.value!r} and {Dialect.POLICY_TLSRPT.value!r}",
            "every mail is deferred (4.7.5 client TLS configuration problem)",
        )
    elif own.dialect is not s.dialect and s.dialect is Dialect.POLICY:
        yield Finding(
            "policy-map-too-new",
            Severity.ERROR,
            f"the map name {own.map_name!r} is for Postfix 3.10 and later",
            "its replies carry attributes that this version refuses",
            "every mail to a domain that enforces MTA-STS is deferred (4.7.5 client TLS configuration problem)",
        )
    elif own.dialect is not s.dialect:
        yield Finding(
            "policy-map-too-plain",
            Severity.WARNING,
            f"the map name {own.map_name!r} is for Postfix before 3.10",
            "its replies do not say that the policy comes from MTA-STS, nor its MX patterns",
            "mail is protected, but Postfix checks no MX names itself and its TLS reports say no-policy-found",
        )


def _policy_socket(s: Situation) -> Iterator[Finding]:
    own = s.own_map
    if own is None:
        return
    if not s.reachable(own.address):
        yield Finding(
            "policy-socket-outside-chroot",
            Severity.ERROR,
            f"{own.address} is an absolute path, and {', '.join(s.facts.chrooted)} runs in a chroot",
            f"there the path leads to {s.facts.queue_directory}{own.address.removeprefix('unix:')}",
            "every mail is deferred (4.7.5 client TLS configuration problem), also to domains without a policy",
        )
    elif s.listen and s.full_address(own.address) not in s.listen:
        yield Finding(
            "policy-socket-elsewhere",
            Severity.ERROR,
            f"Postfix asks at {s.full_address(own.address)}, and stsguard listens at {', '.join(s.listen)}",
            "nobody answers there, unless a systemd socket unit does",
            "every mail is deferred (4.7.5 client TLS configuration problem), also to domains without a policy",
        )


def _maps_in_front(s: Situation) -> Iterator[Finding]:
    own = s.own_map
    front = s.maps[: s.maps.index(own)] if own else ()
    for entry in front:
        if entry.kind is MapKind.CATCH_ALL:
            yield Finding(
                "policy-shadowed",
                Severity.ERROR,
                f"{entry.text} stands in front of stsguard's map",
                "it answers every name, and Postfix takes the first answer",
                "stsguard is never asked: no MTA-STS policy is enforced",
            )
        elif entry.kind is MapKind.PATTERN:
            yield Finding(
                "policy-maybe-shadowed",
                Severity.NOTE,
                f"{entry.text} stands in front of stsguard's map",
                "it answers by pattern, and Postfix takes the first answer",
                "for each name that a pattern matches no MTA-STS policy is enforced",
            )
    for entry in s.maps:
        if entry.kind is MapKind.FOREIGN:
            yield Finding(
                "other-policy-service",
                Severity.WARNING if entry in front or own is None else Severity.NOTE,
                f"{entry.text} is another policy service",
                "the first that answers wins, and while either is down all mail waits",
                "take it out once stsguard has proved itself",
            )


def _per_site_table(s: Situation) -> Iterator[Finding]:
    if s.facts.settings.get("smtp_tls_per_site"):
        yield Finding(
            "per-site-table-ignored",
            Severity.WARNING,
            f"smtp_tls_per_site = {s.facts.settings['smtp_tls_per_site']}",
            "Postfix ignores it as soon as smtp_tls_policy_maps is set",
            "what it demands of a destination no longer holds: write it into a table of smtp_tls_policy_maps",
        )


def _service_overrides(s: Situation) -> Iterator[Finding]:
    for service in s.facts.services:
        for name in _WATCHED:
            if name in service.overrides:
                yield Finding(
                    "service-override",
                    Severity.WARNING,
                    f"master.cf has {name} = {service.overrides[name]} for {service.name}",
                    "what main.cf says of it does not hold for that service",
                    "mail that goes through it is treated as that line says; nothing here was advised for it",
                )


def _relayhost(s: Situation) -> Iterator[Finding]:
    if s.facts.settings.get("relayhost"):
        yield Finding(
            "relayhost",
            Severity.NOTE,
            f"relayhost = {s.facts.settings['relayhost']}",
            "Postfix asks for the policy of the next hop, and that is the relay (RFC 8461 §3.4)",
            "the policies of the recipients' domains are for the relay to enforce; an override serves the way to it",
        )


def _no_tls(s: Situation) -> Iterator[Finding]:
    if s.level == "none":
        yield Finding(
            "no-tls",
            Severity.ERROR,
            "smtp_tls_security_level is none or empty",
            "TLS is used only where a policy demands it, and no TLS session is reported",
            "all other mail goes out unencrypted",
        )


def _authorities(s: Situation) -> Iterator[Finding]:
    authorities = s.facts.authorities
    if s.facts.is_on("tls_append_default_CA"):
        return
    deferred = "every mail to a domain that enforces MTA-STS is deferred (Server certificate not trusted)"
    if authorities.file is CaState.NOT_SET and authorities.directory is CaState.NOT_SET:
        yield Finding(
            "no-authorities",
            Severity.ERROR,
            "neither smtp_tls_CAfile nor smtp_tls_CApath is set",
            "Postfix trusts no certificate authority by itself",
            deferred,
        )
    elif authorities.file not in (CaState.NOT_SET, CaState.GOOD):
        yield Finding(
            "authorities-file-bad",
            Severity.ERROR,
            f"smtp_tls_CAfile = {s.facts.settings['smtp_tls_CAfile']}: {authorities.file.value}",
            "Postfix switches TLS off in smtp(8) when it can't load the file",
            "every mail that demands TLS is deferred, and all other goes out unencrypted",
        )
    elif authorities.file is CaState.NOT_SET:
        path = s.facts.settings["smtp_tls_CApath"]
        if authorities.directory is not CaState.GOOD:
            what = f"smtp_tls_CApath = {path}: {authorities.directory.value}"
        elif s.facts.chrooted and authorities.directory_in_chroot is not CaState.GOOD:
            what = f"smtp_tls_CApath = {path}: {authorities.directory_in_chroot.value} below {s.facts.queue_directory}"
        else:
            return
        yield Finding(
            "authorities-directory-bad",
            Severity.ERROR,
            what,
            "the directory is read at each connection, by a chrooted smtp(8) within its chroot",
            deferred,
        )


def _resolver(s: Situation) -> Iterator[Finding]:
    no_dane = "Postfix finds no DANE record: mail to domains that rely on DANE alone is sent without verification"
    for server in s.facts.nameservers:
        if server.validation is Validation.NO:
            yield Finding(
                "resolver-not-validating",
                Severity.WARNING,
                f"Postfix asks {server.address}, which does not validate",
                "it does not set AD for a signed name, and DANE counts only what is signed (RFC 7672 §2.1.1)",
                f"{no_dane}; a validating resolver on this host (unbound, for one) mends it",
            )
        elif server.validation is Validation.NO_ANSWER:
            yield Finding(
                "resolver-silent",
                Severity.WARNING,
                f"Postfix asks {server.address}, which did not answer",
                "whether it validates could not be found out",
                f"without an answer mail is deferred; without validation {no_dane}",
            )
        elif not server.loopback:
            yield Finding(
                "resolver-not-local",
                Severity.WARNING,
                f"Postfix asks {server.address}, which validates but is not on this host",
                "whoever is on the way to it can forge its answers, AD bit and all",
                "DANE then protects against everyone but them; a validating resolver on this host mends it",
            )


def _chroot_resolver(s: Situation) -> Iterator[Finding]:
    copy = s.facts.chroot_resolv_conf
    if copy is None or [x.address for x in copy.nameservers] == [x.address for x in s.facts.resolv_conf.nameservers]:
        return
    if not copy.present:
        yield Finding(
            "chroot-resolver-missing",
            Severity.WARNING,
            f"there is no {copy.path}",
            "a chrooted smtp(8) then asks 127.0.0.1; Debian's start script makes the copy when Postfix starts",
            "without a resolver there all mail is deferred",
        )
    else:
        yield Finding(
            "chroot-resolver-stale",
            Severity.WARNING,
            f"{copy.path} names other servers than {s.facts.resolv_conf.path}",
            "a chrooted smtp(8) reads the copy, which is made when Postfix starts",
            "Postfix and stsguard may see different answers; copy the file anew (on Debian: restart Postfix)",
        )


def _dane_settings(s: Situation) -> Iterator[Finding]:
    for obstacle in dane_obstacles(s.facts.settings):
        yield Finding(
            "dane-off",
            Severity.WARNING,
            obstacle,
            "with it smtp(8) takes the level dane for may, and refuses dane-only",
            "no DANE record counts, whatever the resolver says",
        )
    if s.level in ("dane", "dane-only") and s.facts.settings.get("smtp_dns_support_level") != "dnssec":
        yield Finding(
            "dane-without-dnssec",
            Severity.ERROR,
            f"smtp_tls_security_level = {s.level} without smtp_dns_support_level = dnssec",
            "smtp(8) then asks for no DNSSEC and finds no DANE record",
            "mail is sent as at the level may" if s.level == "dane" else "all mail is deferred",
        )


def _connection_reuse(s: Situation) -> Iterator[Finding]:
    if s.facts.is_on("smtp_tls_connection_reuse"):
        yield Finding(
            "connection-reuse",
            Severity.NOTE,
            "smtp_tls_connection_reuse = yes",
            "tlsproxy(8) ignores policy_failure= (stsguard never sends it), and a reused connection is not reported",
            "mail is protected; TLS reports count connections, not messages",
        )


CHECKS: tuple[Callable[[Situation], Iterator[Finding]], ...] = (
    _policy_map,
    _policy_socket,
    _maps_in_front,
    _per_site_table,
    _service_overrides,
    _relayhost,
    _mx_patterns,
    _no_tls,
    _authorities,
    _resolver,
    _chroot_resolver,
    _dane_settings,
    _connection_reuse,
)
