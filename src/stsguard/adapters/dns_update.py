"""Writes the TXT records of our own domains into DNS: `ports.RecordPublisher` by RFC 2136, signed with TSIG (RFC 8945).

One update is one message over TCP to the primary server: the TXT record set at one name is replaced as a whole, in one
transaction of the server's (RFC 2136 §3.4). Sent again after a lost answer it changes nothing more. An alias at the
name is a prerequisite failed, since a server passes over a TXT record beside a CNAME in silence (RFC 2136 §3.4.2.2).
Nothing but `_mta-sts` and `_smtp._tls` names can be written, whatever the key would allow.

Left out on purpose: GSS-TSIG, SIG(0), and looking whether all servers have it: `authority` does that.
"""

import asyncio
import base64
import binascii
import stat
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.tsig
import dns.update

from stsguard.core.errors import LookupFailed, OperatorError, UpdateFailed
from stsguard.metrics import Counter
from stsguard.names import Domain

UPDATES = Counter("dns_updates", "DNS updates sent, by what the server said.", "outcome")

TIMEOUT_SECONDS = 15.0
MAX_STRING_OCTETS = 255  # RFC 1035 §3.3.14
OWNERS = ("_mta-sts.", "_smtp._tls.")  # RFC 8461 §3.1, RFC 8460 §3

# RFC 2136 §2.2: what each answer means here, and what to do; True where it may pass by itself.
_ANSWERS: dict[int, tuple[bool, str]] = {
    dns.rcode.FORMERR: (False, "the server can't read the update: it may know no dynamic updates"),
    dns.rcode.SERVFAIL: (True, "the server failed: look into its log (often it can't write the zone or its journal)"),
    dns.rcode.NXDOMAIN: (False, "the zone does not exist there"),
    dns.rcode.NOTIMP: (False, "the server knows no dynamic updates: name the primary server in [dns_update] server"),
    dns.rcode.REFUSED: (
        False,
        (
            "the server does not allow it: allow this key to update TXT records at _mta-sts and _smtp._tls names there "
            "(BIND: update-policy, Knot: acl with action: update)"
        ),
    ),
    dns.rcode.YXRRSET: (
        False,
        "there is a CNAME at that name, beside which no TXT record can be: remove it, or publish at its target",
    ),
    dns.rcode.NOTAUTH: (
        False,
        "the server is not the primary of this zone: name the primary in [dns_update] server, or the zone in zone",
    ),
    dns.rcode.NOTZONE: (False, "the name is not within this zone: correct [dns_update] zone"),
}
_UNSIGNED = "it does not say so under the key; somebody on the path may have answered, so it is not believed"


@dataclass(frozen=True, slots=True)
class TsigKey:
    """The key of the updates: its name, algorithm (RFC 8945 §6), and the file that holds its secret in base64."""

    name: Domain
    algorithm: str
    key_file: Path

    def load(self) -> dns.tsig.Key:
        """The key as the file has it now, so that a new secret needs no restart.

        Raises:
            OperatorError: the file can't be read, anybody may read it, or it holds no base64.
        """
        try:
            mode = self.key_file.stat().st_mode
            text = self.key_file.read_text("ascii")
        except (OSError, UnicodeError) as exc:
            raise OperatorError(f"{self.key_file}: the TSIG key can't be read: {exc}") from exc
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise OperatorError(
                f"{self.key_file}: anybody on this machine may read or write the TSIG key (mode {mode & 0o777:04o}): "
                f"chmod 0640 {self.key_file}, and make a new key"
            )
        try:
            secret = base64.b64decode("".join(text.split()), validate=True)
        except binascii.Error as exc:
            raise OperatorError(f"{self.key_file}: not a TSIG secret in base64 alone: {exc}") from exc
        if not secret:
            raise OperatorError(f"{self.key_file}: it is empty; the TSIG secret in base64 is needed")
        return dns.tsig.Key(dns.name.from_text(self.name), secret, dns.name.from_text(self.algorithm))


class DnsUpdater:
    """Implements `ports.RecordPublisher`.

    Args:
        server: the primary server, name or address; `find_addresses` gives its addresses in the order to try them.
        zone: the zone to update; None to ask the server for the SOA above the name.
        key: None sends updates unsigned, for servers that go by the address.
    """

    def __init__(
        self,
        server: str,
        port: int,
        find_addresses: Callable[[str], Awaitable[Sequence[str]]],
        *,
        zone: Domain | None = None,
        key: TsigKey | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._server = server
        self._port = port
        self._find_addresses = find_addresses
        self._zone = zone
        self._key = key
        self._timeout = timeout_seconds

    async def publish_txt(self, name: Domain, text: str, ttl_seconds: int) -> None:
        """Replace all TXT records at `name` by this one.

        Raises:
            UpdateFailed: the server did not take it; the message says what it answered and what to do.
        """
        octets = text.encode("ascii")
        strings = [octets[start : start + MAX_STRING_OCTETS] for start in range(0, len(octets), MAX_STRING_OCTETS)]
        rdata = dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, strings)

        def change(update: dns.update.UpdateMessage, owner: dns.name.Name) -> None:
            update.absent(owner, dns.rdatatype.CNAME)
            update.replace(owner, ttl_seconds, rdata)

        await self._update(name, change)

    async def remove_txt(self, name: Domain) -> None:
        """Remove all TXT records at `name`; no effect where there is none.

        Raises:
            UpdateFailed: as above.
        """
        await self._update(name, lambda update, owner: update.delete(owner, dns.rdatatype.TXT))

    async def _update(self, name: Domain, change: Callable[[dns.update.UpdateMessage, dns.name.Name], None]) -> None:
        if not name.startswith(OWNERS):
            raise ValueError(f"{name} is no name that stsguard may write to")
        owner = dns.name.from_text(name)
        where = f"{self._server} port {self._port}"
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(owner, where, change)
        except TimeoutError as exc:
            UPDATES.inc("timeout")
            raise UpdateFailed(
                True, f"{where}: no answer within {self._timeout:g} s; whether {name} was changed is not known"
            ) from exc
        except UpdateFailed:
            UPDATES.inc("failed")
            raise
        UPDATES.inc("taken")

    async def _send(
        self, owner: dns.name.Name, where: str, change: Callable[[dns.update.UpdateMessage, dns.name.Name], None]
    ) -> None:
        try:
            key = self._key.load() if self._key else None
            addresses = await self._find_addresses(self._server)
        except OperatorError as exc:
            raise UpdateFailed(False, str(exc)) from exc
        except LookupFailed as exc:
            raise UpdateFailed(True, f"{where}: its addresses can't be found: {exc}") from exc
        if not addresses:
            raise UpdateFailed(False, f"{where}: it has no address; correct [dns_update] server")
        zone = dns.name.from_text(self._zone) if self._zone else await self._find_zone(owner, addresses, where, key)
        if not owner.is_subdomain(zone):
            raise UpdateFailed(False, f"{where}, zone {_text(zone)}: {_text(owner)} is not within it; correct zone")
        update = dns.update.UpdateMessage(zone)
        change(update, owner)
        update.use_edns(False)
        response = await self._exchange(update, addresses, f"{where}, zone {_text(zone)}", key)
        if response.rcode() != dns.rcode.NOERROR:
            raise _refusal(response.rcode(), f"{where}, zone {_text(zone)}", _text(owner))

    async def _find_zone(
        self, owner: dns.name.Name, addresses: Sequence[str], where: str, key: dns.tsig.Key | None
    ) -> dns.name.Name:
        """The zone by the SOA record that the server gives, with its denial as a rule (RFC 2308 §3)."""
        query = dns.message.make_query(owner, dns.rdatatype.SOA)
        query.flags &= ~dns.flags.RD
        response = await self._exchange(query, addresses, where, key)
        above = [
            rr.name
            for rr in (*response.answer, *response.authority)
            if rr.rdtype == dns.rdatatype.SOA and owner.is_subdomain(rr.name)
        ]
        if not above or not response.flags & dns.flags.AA:
            said = dns.rcode.to_text(response.rcode())
            raise UpdateFailed(
                False, f"{where}: it names no zone of its own that {_text(owner)} is in ({said}); set [dns_update] zone"
            )
        return max(above, key=len)

    async def _exchange(
        self, message: dns.message.Message, addresses: Sequence[str], where: str, key: dns.tsig.Key | None
    ) -> dns.message.Message:
        """The answer of the first address that can be connected to."""
        if key is not None:
            message.use_tsig(key)
        failure: OSError | None = None
        for address in addresses:
            try:
                response = _read(await _exchange_tcp(message.to_wire(), address, self._port), message, key)
            except OSError as exc:
                failure = exc
                continue
            except dns.tsig.PeerError as exc:
                raise _bad_key(exc, where, self._key) from exc
            except (dns.exception.DNSException, EOFError, ValueError) as exc:
                detail = " ".join(str(exc).split()) or type(exc).__name__
                raise UpdateFailed(True, f"{where}: what it answers can't be used: {detail[:200]}") from exc
            if key is not None and not response.had_tsig and response.rcode() == dns.rcode.NOERROR:
                raise UpdateFailed(False, f"{where}: {_UNSIGNED}")
            return response
        detail = (failure.strerror if failure else "") or type(failure).__name__
        raise UpdateFailed(True, f"{where}: no connection to {', '.join(addresses)}: {detail}") from failure


async def _exchange_tcp(wire: bytes, address: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(struct.pack("!H", len(wire)) + wire)
        await writer.drain()
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        return await reader.readexactly(length)
    finally:
        writer.transport.abort()  # all has been said, or no more will come


def _read(wire: bytes, message: dns.message.Message, key: dns.tsig.Key | None) -> dns.message.Message:
    """The answer to `message`, its signature verified where it has one.

    Raises:
        dns.tsig.PeerError: the server refuses our signature.
        dns.exception.DNSException, ValueError: no DNS message, not the answer, or a signature that is wrong.
    """
    request_mac = message.mac if key is not None else b""
    try:
        response = dns.message.from_wire(wire, keyring=key, request_mac=request_mac)
    except dns.exception.FormError:
        # Newer dnspython raises where the answer bears no signature, as a refusal may (RFC 8945 §5.3).
        response = dns.message.from_wire(wire)
    if not message.is_response(response):
        raise ValueError("not the answer to what was sent")
    return response


def _refusal(rcode: int, where: str, owner: str) -> UpdateFailed:
    temporary, meaning = _ANSWERS.get(rcode, (False, "an answer that no update should get"))
    return UpdateFailed(temporary, f"{where}: {dns.rcode.to_text(dns.rcode.Rcode(rcode))} for {owner}: {meaning}")


def _bad_key(exc: dns.tsig.PeerError, where: str, key: TsigKey | None) -> UpdateFailed:
    """RFC 8945 §5.2: what the server says of our signature."""
    name, file = (key.name, key.key_file) if key else ("", "")
    match exc:
        case dns.tsig.PeerBadKey():
            # Knot DNS says the same of a key that it knows and that may not do this.
            text = (
                f"BADKEY: it knows no key {name} with this algorithm, or does not let it update this zone: compare "
                "tsig_name and tsig_algorithm with the server's, and look who may update there"
            )
        case dns.tsig.PeerBadSignature():
            text = f"BADSIG: its secret of key {name} is another one: compare it with {file}"
        case dns.tsig.PeerBadTime():
            return UpdateFailed(True, f"{where}: BADTIME: the two clocks differ by more than 5 minutes: set them right")
        case _:
            text = f"the server refuses the signature of key {name}: {exc}"
    return UpdateFailed(False, f"{where}: {text}")


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True) or "."
