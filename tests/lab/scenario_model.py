"""What a scenario is made of: what a domain publishes, what is done, and what has to come of it.

Values only; `world.World` publishes them, `runner` carries them out. Each run of a scenario has a domain and MX hosts
of its own. In texts their names stand as `{domain}`, `{DOMAIN}` (in upper case), `{unicode}` (in U-labels), `{mx1}`,
`{mx2}` …, and `{mx_zone}` (what the names of its MX hosts end in).
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from stsguard.core.errors import FetchReason
from stsguard.core.tlspolicy import Row
from tests.lab.certificates import CertificateKind
from tests.lab.mx_servers import Behaviour

GOOD_RECORD = "v=STSv1; id=1;"
MAIN_DAEMON = "main"


class Demand(StrEnum):
    """What the RFC demands of the mail."""

    DELIVER_VERIFIED = "deliver, verified"
    DELIVER = "deliver"
    WITHHOLD = "withhold"
    BOUNCE = "return"


class Tlsa(StrEnum):
    """What an MX host has at `_25._tcp.`."""

    NONE = "none"
    MATCHING = "matching"
    MISMATCHING = "mismatching"
    UNUSABLE = "unusable"  # a matching type that nobody knows
    FAILING = "failing"  # SERVFAIL
    BOGUS = "bogus"


class Addresses(StrEnum):
    """What the look-up of a host's addresses gives."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    NONE = "none"
    FAILING = "failing"


class MxLookup(StrEnum):
    """What the MX look-up of the domain gives."""

    FOUND = "found"
    NONE = "none"  # no MX: the domain's own address counts (RFC 5321 §5.1)
    NULL = "null"  # RFC 7505
    BOGUS = "bogus"
    FAILING = "failing"  # SERVFAIL, as for all names of the domain
    UNANSWERED = "unanswered"  # likewise, but nothing at all


@dataclass(frozen=True, slots=True)
class Mx:
    """One MX host. `host` is one label or several below the run's own MX zone; `mx1`, `mx2` … where it is empty.

    `names` replaces the names of its certificate; with `alias` the MX name is a CNAME of another name.
    """

    preference: int = 10
    host: str = ""
    signed: bool = False
    behaviour: Behaviour = Behaviour.GOOD
    certificate: CertificateKind = CertificateKind.VALID
    names: tuple[str, ...] = ()
    tlsa: Tlsa = Tlsa.NONE
    addresses: Addresses = Addresses.IPV4
    alias: bool = False
    port: int = 25


class PolicyHostAddress(StrEnum):
    """Where the name of the policy host leads."""

    GOOD = "good"
    NONE = "none"
    PRIVATE = "private"  # an address that nobody may be sent to
    REFUSING = "refusing"
    UNREACHABLE = "unreachable"
    SILENT = "silent"
    FAILING = "failing"  # SERVFAIL
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Site:
    """What the policy host serves; the fields beyond the first two are those of `PolicySite`."""

    body: str
    address: PolicyHostAddress = PolicyHostAddress.GOOD
    status: str = "200 OK"
    content_type: str = "text/plain"
    more_headers: tuple[str, ...] = ()
    certificate: CertificateKind = CertificateKind.VALID
    delay_seconds: float = 0.0
    raw: bytes | None = None
    cut: int | None = None
    refuses_tls: bool = False


def policy(mode: str, *mx_patterns: str, max_age: int = 86400, more: str = "", **fault: object) -> Site:
    """A site with the policy of that mode for these patterns (`{mx1}` where none is given), broken by `fault`."""
    patterns = mx_patterns or ("{mx1}",)
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {pattern}" for pattern in patterns), f"max_age: {max_age}"]
    site = Site("\r\n".join(lines) + "\r\n" + more)
    return replace(site, **fault)  # type: ignore[arg-type] # fields of Site, given by name


@dataclass(frozen=True, slots=True)
class Publication:
    """Everything a domain publishes. `records` None is no `_mta-sts` name; several texts are several records.

    `record_alias` puts the record at another provider's name and a CNAME in its place.
    """

    records: tuple[str, ...] | None = (GOOD_RECORD,)
    record_alias: bool = False
    record_fails: bool = False
    site: Site | None = field(default_factory=lambda: policy("enforce"))
    mx: tuple[Mx, ...] = (Mx(),)
    mx_lookup: MxLookup = MxLookup.FOUND
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send a message and look at its first attempt; `on_37` where Postfix 3.7 differs.

    `outcome`: `sent`, `deferred`, `bounced` or `any` of the first two, then as far as they matter what Postfix says of
    the TLS session (`Verified` …, `plaintext`), the DSN, the host that took the mail (`mx2`).
    """

    outcome: str
    on_37: str = ""
    recipient_domain: str = "{domain}"


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the last message again; the outcome as in `Deliver`."""

    outcome: str
    on_37: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Ask the daemon as Postfix would; with `eventually` ask again until the answer is this one.

    `answer`: `NOTFOUND`, `TEMP`, `dane`, `dane-only`, or `secure` and the hosts that may be used (`secure mx1 mx2`;
    `secure -` for none).
    """

    answer: str
    on_37: str = ""
    key: str = "{domain}"
    eventually: bool = False


@dataclass(frozen=True, slots=True)
class Publish:
    """From now on the domain publishes this; the resolver has forgotten what was before."""

    publication: Publication


@dataclass(frozen=True, slots=True)
class Command:
    """Run `stsguard ARGUMENTS…` against the daemon; with `says` again until it prints that."""

    arguments: tuple[str, ...]
    exit_status: int = 0
    says: str = ""


@dataclass(frozen=True, slots=True)
class DecidedBy:
    """The daemon names this row of the decision table for its answer."""

    row: Row


@dataclass(frozen=True, slots=True)
class FetchFails:
    """The daemon has said why it could not have the policy, or says it soon."""

    reason: FetchReason


class DaemonAction(StrEnum):
    """What happens to the daemon."""

    STOP = "stop"
    KILL = "kill"
    START = "start"
    BREAK_STORE = "break-store"  # overwrite the database while the daemon is down
    CHECK_BROKEN_STORE = "check-broken-store"  # it lies there as it was left
    MEND_STORE = "mend-store"


@dataclass(frozen=True, slots=True)
class Flood:
    """Look up so many other domains, none of which exists."""

    count: int


Step = Deliver | Retry | Answer | Publish | Command | DaemonAction | Flood | DecidedBy | FetchFails


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row: what is published, what is done, what the daemon answers, what Postfix does, what the RFC demands.

    Without `steps` it is: deliver one message, then ask the daemon; with `row` and `fetch_reason` it has to give these
    as its reasons. `nexthop` sends the mail there instead of to the domain (a transport map). `overrides` is an
    override file. `daemon` names another instance of the daemon, with settings of its own (`runner.SETTINGS`).
    `unicode_label` begins the domain instead of the name; `subdomain` stands before it, and `{parent}` is what follows.
    """

    name: str
    says: str
    demand: Demand
    section: str
    publication: Publication = Publication()
    answer: str = ""
    outcome: str = ""
    row: Row | None = None
    fetch_reason: FetchReason | None = None
    steps: tuple[Step, ...] = ()
    overrides: str = ""
    nexthop: str = ""
    daemon: str = MAIN_DAEMON
    unicode_label: str = ""
    subdomain: str = ""

    @property
    def waits(self) -> bool:
        """Whether it spends its time waiting: for a lifetime to end, for a look at a record that comes by itself."""
        return any(isinstance(step, Answer) and step.eventually for step in self.steps)

    def all_steps(self) -> tuple[Step, ...]:
        """The steps, the implied ones spelled out."""
        steps: list[Step] = list(self.steps or (Deliver(self.outcome), Answer(self.answer)))
        if self.row is not None:
            steps.append(DecidedBy(self.row))
        if self.fetch_reason is not None:
            steps.append(FetchFails(self.fetch_reason))
        return tuple(steps)
