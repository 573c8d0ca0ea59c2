"""What discovery and the two sides ask of the outside world, as Protocols.

Adapters and the store implement them without importing this module's users; tests implement them with values.
All look-ups go to the one configured resolver. What the intake of reports asks for is in `intake`, what is
asked for certificates of our Policy Hosts in `certificates`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import date, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:  # some of these modules take their time to load, and no annotation is looked at
    from stsguard.core.dane import Answer, MxRecord, TlsaRecord
    from stsguard.core.dkim_verdict import DkimVerdict
    from stsguard.core.findings import HostingFinding, SeenFinding
    from stsguard.core.hosted import HistoryEvent, HostedDomain, PolicyFetchRow
    from stsguard.core.inspection import Inspection, PolicyAt, RecordAt
    from stsguard.core.mtasts import Policy
    from stsguard.core.mxcheck import MxProbe
    from stsguard.core.policycache import StoredPolicy
    from stsguard.core.report_record import Delivery, DeliveryState, ReportRecord, ReportState
    from stsguard.core.session import CounterRow
    from stsguard.names import Domain

IPAddress = IPv4Address | IPv6Address
T_co = TypeVar("T_co", covariant=True)


class Clock(Protocol):
    """The two clocks. Lifetimes run by `monotonic`; only what is stored or shown uses `now`."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""

    def monotonic(self) -> float:
        """Seconds that only ever grow, also while the machine sleeps (CLOCK_BOOTTIME)."""


class Cancellable(Protocol):
    """Work under way."""

    def cancel(self) -> object:
        """Nobody waits for it any longer."""


class Lookup(Awaitable[T_co], Cancellable, Protocol[T_co]):
    """A look-up that is under way, and tells of its outcome without the turn of the event loop that a future takes."""

    def then(self, call: Callable[[T_co | BaseException], object]) -> None:
        """Have `call`, which raises nothing, told of the outcome as soon as it is there."""


class Resolver(Protocol):
    """DNS look-ups that tell an answer, a denial and a failure apart (RFC 7672 §2.1.1).

    Each follows CNAMEs to the end. `Answer.secure` is true only where the resolver is trusted to validate and every
    step of the chain was secure. All raise `LookupFailed` when they are awaited; none raises anything else. What is no
    `async` function may be under way as soon as it is called, and give a `Lookup`.
    """

    def lookup_txt(self, name: Domain) -> Awaitable[Answer[bytes]]:
        """TXT records, each with its strings joined without blanks (RFC 8461 §3.1)."""

    def lookup_mx(self, name: Domain) -> Awaitable[Answer[MxRecord]]:
        """MX records as published, null MX included (RFC 7505)."""

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        """A and AAAA records together: secure only if both answers are; failed if either look-up failed
        and the other gave no address."""

    def lookup_some_addresses(self, name: Domain) -> Awaitable[Answer[IPAddress]]:
        """As `lookup_addresses`, but those of one family may be missing where the other has an address and no answer
        is secure: whether there is an address and how secure it is are known all the same."""

    async def lookup_tlsa(self, name: Domain) -> Answer[TlsaRecord]:
        """TLSA records at `name`, which carries its port and protocol labels already."""

    async def lookup_cname_secure(self, name: Domain) -> bool:
        """Whether the CNAME record at `name` itself is secure (RFC 7672 §2.1.3: asked only for an alias whose
        addresses are insecure)."""


class PolicyFetcher(Protocol):
    """Fetches policies over HTTPS (RFC 8461 §3.3)."""

    async def fetch(self, policy_domain: Domain) -> Policy:
        """The live policy of `policy_domain`.

        Raises:
            PolicyFetchFailed: for every way to fail, the policy's syntax included.
        """


class PolicyStore(Protocol):
    """Keeps policies over a restart. Every call may block for a bounded time only."""

    async def open(self) -> None:
        """Open it, or look again whether it can be opened; no effect on an open one.

        Raises:
            StoreUnavailable: with what is wrong with it and what to do.
        """

    async def open_early(self) -> bool:
        """Let `load_policy` work before the store is open; False where it has to wait for that. `open` ends it.

        Whoever saves meanwhile waits until the store is open.
        """

    async def close(self) -> None:
        """Close it; what was saved is on disk already."""

    def load_policy(self, policy_domain: Domain) -> Awaitable[StoredPolicy | None]:
        """The stored policy, expired or not; None where there is none. It may be under way as soon as it is called.

        Raises:
            StoreUnavailable: it can't be read, within a bounded time.
        """

    async def load_policies(self, after: Domain | None, limit: int) -> Sequence[StoredPolicy]:
        """Up to `limit` policies in order of their names, from the first after `after` on.

        Raises:
            StoreUnavailable: it can't be read.
        """

    def may_hold_more(self, policy_domain: Domain) -> bool:
        """Whether it may hold a policy of `policy_domain` that `load_policies`, gone through to the end, has not given:
        others write to it as well, or what is stored can't be read."""

    async def save_policies(self, policies: Sequence[StoredPolicy]) -> None:
        """Write these, each of another domain, in one transaction, each replacing what is stored for its domain, and
        return when they are safe on disk.

        Raises:
            StoreUnavailable: they can't be written; none is.
        """

    async def forget_policies(self, policy_domains: Sequence[Domain]) -> None:
        """Delete these in one transaction.

        Raises:
            StoreUnavailable: they can't be deleted; none is.
        """


class CounterStore(Protocol):
    """Keeps the counters of the sessions, and how far each log has been read, over a restart."""

    async def add_counters(self, rows: Sequence[CounterRow], positions: Mapping[str, str]) -> None:
        """Add `rows` to what is stored and replace the reading positions named in `positions` (an empty one
        is deleted), all in one transaction, and return when it is safe on disk.

        Raises:
            StoreUnavailable: it can't be written; nothing is.
        """

    async def load_positions(self) -> Mapping[str, str]:
        """How far each log has been read, as last written with the counters that it gave.

        Raises:
            StoreUnavailable: they can't be read.
        """


class CounterReader(Protocol):
    """Reads the counters of the sessions, in bounded memory, and deletes them in the end."""

    def load_counters(self, day: date, report_domain: Domain | None = None) -> AsyncIterator[CounterRow]:
        """The counters of `day` in order of their report domains, or those of one; what adds up to nothing is left
        out.

        Raises:
            StoreUnavailable: they can't be read, or not to the end.
        """

    def report_domains(self, day: date) -> AsyncIterator[Domain]:
        """The report domains with counters on `day`, in order.

        Raises:
            StoreUnavailable: they can't be read, or not to the end.
        """

    async def delete_counters(self, before: date, *, dry_run: bool = False) -> int:
        """Delete the counters of the days before `before`, and return how many those were; with `dry_run` only
        count them.

        Raises:
            StoreUnavailable: they can't be deleted, or not all.
        """


class ReportStore(Protocol):
    """Keeps reports and their deliveries, and lets one node alone do each. A claim is a lease: once it has run out,
    its holder counts as gone. Every method raises `StoreUnavailable` where the database can't be used."""

    async def unbuilt_days(self, before: date) -> Sequence[date]:
        """The days before `before`, in order, with counters of a domain whose report is neither built nor marked as
        not wanted. It looks through the counters: for every few minutes, not for every second."""

    def unbuilt_domains(self, day: date) -> AsyncIterator[Domain]:
        """The report domains, in order, with counters on `day` and no report built nor mark set; those that a node
        is at work on are among them."""

    async def claim_day(self, day: date, report_domain: Domain, node: str, now: datetime, lease_seconds: float) -> bool:
        """Whether `node` is now the one that builds this report; False where it is done, or another's turn."""

    async def mark_not_wanted(self, day: date, report_domain: Domain, now: datetime) -> bool:
        """Note that nobody wants this report, so that it isn't looked at again; False where there is one."""

    async def save_report(self, report: ReportRecord, deliveries: Sequence[Delivery]) -> bool:
        """Write the report and its deliveries in one transaction; False where there is one already, which stands."""

    async def load_report(self, report_id: str) -> ReportRecord | None:
        """The report; None where there is none."""

    async def list_reports(
        self,
        *,
        day: date | None = None,
        report_domain: Domain | None = None,
        state: ReportState | None = None,
        limit: int = 1000,
    ) -> Sequence[ReportRecord]:
        """Up to `limit` reports without their `json`, latest day first, then by domain. Where no state is asked
        for, those being built and the marks are left out."""

    async def load_deliveries(self, report_id: str) -> Sequence[Delivery]:
        """The deliveries of one report, in order of their endpoints."""

    async def due_deliveries(
        self, now: datetime, limit: int, *, force: bool = False, report_id: str | None = None
    ) -> Sequence[Delivery]:
        """Up to `limit` deliveries to be attempted by now, those due longest first, including those whose node is
        gone. With `force` every one that is not over and not being sent; with `report_id` of that report alone."""

    async def claim_delivery(
        self, report_id: str, endpoint: str, node: str, now: datetime, lease_seconds: float, *, force: bool = False
    ) -> bool:
        """Whether `node` is now the one that sends; that counts as an attempt. `force` as in `due_deliveries`."""

    async def finish_delivery(
        self,
        report_id: str,
        endpoint: str,
        node: str,
        *,
        state: DeliveryState,
        error: str = "",
        next_attempt_at: datetime | None = None,
    ) -> bool:
        """Write what came of the attempt of `node`: `state` PENDING with `next_attempt_at` for another one. False
        where it has lost its claim, which changes nothing; but SENT always stands, since it can't be undone."""

    async def delete_reports(self, before: date, *, dry_run: bool = False) -> int:
        """Delete the reports, marks and deliveries of the days before `before`, and return how many reports and marks
        those were; with `dry_run` only count them."""


class MxProber(Protocol):
    """Connects to an MX host and looks at its TLS (RFC 8461 §4.2)."""

    async def probe(
        self,
        mx_hostname: Domain,
        address: IPAddress,
        tlsa: Sequence[TlsaRecord],
        *,
        reference_identifiers: Sequence[Domain] = (),
    ) -> MxProbe:
        """What one STARTTLS session with that host at that address showed. Never raises; a failure is a value.

        `tlsa` are the usable records, `reference_identifiers` the names for DANE-TA(2), the TLSA base domain first
        (RFC 7672 §3.2.2); where none is given, the MX hostname.
        """


class Mailer(Protocol):
    """Hands mail to the local MTA."""

    async def send(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Hand over one complete message; when this returns, the MTA has taken it for every recipient.

        `sender` may be empty, for the null reverse-path.

        Raises:
            DeliveryFailed: it was not taken for at least one recipient, or nobody knows whether it was.
        """


class ReportPoster(Protocol):
    """Submits reports over HTTPS (RFC 8460 §5.4)."""

    async def post(self, url: str, body: bytes, media_type: str) -> None:
        """POST `body` to `url`; when this returns, the answer was a 2xx.

        Raises:
            DeliveryFailed: for every other answer, and for none.
        """


class Signer(Protocol):
    """Signs messages with DKIM (RFC 6376)."""

    def sign(self, message: bytes) -> bytes:
        """`message` with a DKIM-Signature field in front."""


class ReportVerifier(Protocol):
    """Verifies the DKIM signatures of report mail (RFC 8460 §3)."""

    async def verify(self, message: bytes, received_at: datetime) -> DkimVerdict:
        """The verdict on a mail as it was received at that time, to be had soon after: keys and signatures expire.
        Never raises; its status is TEMPORARY where a key could not be looked up and another try may tell."""


class DomainWarmer(Protocol):
    """Has destinations looked up before Postfix asks."""

    def warm(self, next_hops: Sequence[str]) -> None:
        """Tell the outbound daemon of them; it returns in a bounded short time. It blocks.

        Raises:
            DaemonSilent: it does not answer, or takes nothing.
        """


class DomainStore(Protocol):
    """Keeps our own domains with all versions of their policies. Every change is one transaction, so that a process
    killed at any moment leaves either all of it or nothing. Every method raises `StoreUnavailable` where the database
    can't be used."""

    async def revision(self) -> int:
        """The number of the last change to any domain, growing; cheap, for several times a second."""

    async def load_domain(self, policy_domain: Domain) -> HostedDomain | None:
        """The domain, retired or not; None where it is not hosted."""

    async def load_domains(self, after_revision: int = 0) -> Sequence[HostedDomain]:
        """All domains changed after that revision, in order of their names; retired ones included."""

    async def save_domain(self, domain: HostedDomain, events: Sequence[HistoryEvent]) -> HostedDomain | None:
        """Write `domain` with its versions and add `events` to its history, if it is stored with the revision that
        `domain` has (0: not at all); the domain with its new revision. None where another process was first: load it,
        decide anew, and save that.

        Raises:
            ValueError: a stored version would be lost, or anything but its times be changed: a bug of the caller's,
                of which nothing is written.
        """

    async def load_history(self, policy_domain: Domain) -> Sequence[HistoryEvent]:
        """What happened to it, oldest first."""


class FindingStore(Protocol):
    """Keeps what is wrong with our own domains, since when and until when. Raises `StoreUnavailable`."""

    async def save_findings(
        self, policy_domain: Domain, findings: Sequence[HostingFinding], now: datetime
    ) -> tuple[Sequence[SeenFinding], Sequence[SeenFinding]]:
        """Note what an inspection at `now` found: those that came with it, and those that went. One that comes back
        begins anew. Nothing is noted of a domain that is not hosted."""

    async def load_findings(
        self, policy_domain: Domain | None = None, *, only_open: bool = False
    ) -> Sequence[tuple[Domain, SeenFinding]]:
        """The findings, gone ones included unless `only_open`, latest first; of one domain or of all."""

    async def load_inspection_times(self, policy_domain: Domain | None = None) -> Mapping[Domain, datetime]:
        """When each domain was inspected last, or that one; without those that never were."""

    async def delete_findings(self, gone_before: datetime) -> int:
        """Delete the findings that went before that; how many."""


class PolicyFetchStore(Protocol):
    """Keeps who fetched our policies. Raises `StoreUnavailable`."""

    async def add_policy_fetches(self, rows: Sequence[PolicyFetchRow]) -> None:
        """Add these to what is counted already."""

    async def load_policy_fetches(self, policy_domain: Domain, since: date) -> Sequence[PolicyFetchRow]:
        """What was counted from that UTC day on, latest day first, then those who fetched most."""

    async def delete_policy_fetches(self, before: date) -> int:
        """Delete what was counted before that day; how many rows."""


class Authority(Protocol):
    """Asks the authoritative servers of a zone themselves, every one at every address, past all caches."""

    async def lookup_txt_everywhere(self, name: Domain) -> Sequence[RecordAt]:
        """The TXT records at `name` at each authoritative server; a server that does not answer is among them with its
        problem.

        Raises:
            LookupFailed: the servers themselves can't be found.
        """


class PolicyInspector(Protocol):
    """Fetches a policy from one given address of its Policy Host, as a sender would (RFC 8461 §3.3)."""

    async def fetch_at(self, policy_domain: Domain, address: IPAddress) -> PolicyAt:
        """What that address serves, whatever goes wrong as a value; never raises."""


class Inspector(Protocol):
    """Looks at one of our own domains from outside, as its senders do."""

    async def inspect(self, policy_domain: Domain, *, mx: bool = True) -> Inspection:
        """What there is to be seen now; without `mx` its MX hosts are left out. Never raises; what can't be seen is
        among it with its problem."""


class RecordPublisher(Protocol):
    """Writes TXT records into DNS (RFC 2136)."""

    async def publish_txt(self, name: Domain, text: str, ttl_seconds: int) -> None:
        """Replace all TXT records at `name` by this one.

        Raises:
            UpdateFailed: the server did not take it; the message says what it answered and what to do.
        """

    async def remove_txt(self, name: Domain) -> None:
        """Remove all TXT records at `name`; no effect where there is none.

        Raises:
            UpdateFailed: as above.
        """
