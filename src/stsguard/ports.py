"""What discovery and the two sides ask of the outside world, as Protocols.

Adapters and the store implement them without importing this module's users; tests implement them with values.
All look-ups go to the one configured resolver.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from stsguard.core.dane import Answer, MxRecord, TlsaRecord
from stsguard.core.mtasts import Policy
from stsguard.core.mxcheck import MxProbe
from stsguard.core.policycache import StoredPolicy
from stsguard.core.session import CounterRow
from stsguard.names import Domain

IPAddress = IPv4Address | IPv6Address


class Clock(Protocol):
    """The two clocks. Lifetimes run by `monotonic`; only what is stored or shown uses `now`."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""

    def monotonic(self) -> float:
        """Seconds that only ever grow, also while the machine sleeps (CLOCK_BOOTTIME)."""


class Resolver(Protocol):
    """DNS look-ups that tell an answer, a denial and a failure apart (RFC 7672 §2.1.1).

    Each follows CNAMEs to the end. `Answer.secure` is true only where the resolver is trusted to validate and every
    step of the chain was secure. All raise `LookupFailed`; none raises anything else.
    """

    async def lookup_txt(self, name: Domain) -> Answer[bytes]:
        """TXT records, each with its strings joined without blanks (RFC 8461 §3.1)."""

    async def lookup_mx(self, name: Domain) -> Answer[MxRecord]:
        """MX records as published, null MX included (RFC 7505)."""

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        """A and AAAA records together: secure only if both answers are; failed if either look-up failed
        and the other gave no address."""

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

    async def close(self) -> None:
        """Close it; what was saved is on disk already."""

    async def load_policy(self, policy_domain: Domain) -> StoredPolicy | None:
        """The stored policy, expired or not; None where there is none.

        Raises:
            StoreUnavailable: it can't be read, within a bounded time.
        """

    async def load_policies(self, after: Domain | None, limit: int) -> Sequence[StoredPolicy]:
        """Up to `limit` policies in order of their names, from the first after `after` on.

        Raises:
            StoreUnavailable: it can't be read.
        """

    async def save_policies(self, policies: Sequence[StoredPolicy]) -> None:
        """Write these in one transaction, each replacing what is stored for its domain, and return when they are
        safe on disk.

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
        """Add `rows` to what is stored and replace the reading positions named in `positions`, all in one
        transaction, and return when it is safe on disk.

        Raises:
            StoreUnavailable: it can't be written; nothing is.
        """


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
