"""What the lab's DNS publishes, as data: owner, type, records; and how that becomes zone files.

The zones are a small internet of their own below a signed root. `put` and `remove` change the data; `dns.Dns` makes
it known. A name that is delegated to the faulty server gets SERVFAIL or no answer at all, for chosen types.
"""

import base64
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

NAME_SERVER = "192.0.2.53"
FAULTY_SERVER = "192.0.2.54"
SIGNED_ZONES = (".", "test.", "signed.test.", "mxsigned.test.", "bogus.test.")
UNSIGNED_ZONES = ("plain.test.", "mxplain.test.")
FAULTY_ZONE = "faulty.test."
BOGUS_ZONE = "bogus.test."  # every signature in it is broken
BOGUS_NAME = "broken.bogus.test"  # a name that must never resolve behind a validating resolver
TTL = 60

Key = tuple[str, str]  # owner with its final dot, type


@dataclass(slots=True)
class Zones:
    """The records of all zones; `bogus` names RRsets of signed zones whose signature is broken."""

    records: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    bogus: set[Key] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)  # delegated to the faulty server, and it says nothing

    def put(self, owner: str, record_type: str, *data: str) -> None:
        """Publish these records as the whole RRset at `owner`."""
        self.records[absolute(owner), record_type] = data

    def remove(self, owner: str, record_type: str) -> None:
        """Publish no such RRset any more; it may be absent already."""
        self.records.pop((absolute(owner), record_type), None)
        self.bogus.discard((absolute(owner), record_type))

    def put_txt(self, owner: str, *texts: str) -> None:
        """Publish TXT records, each cut into strings of 255 octets."""
        self.put(owner, "TXT", *(_txt(text) for text in texts))

    def fail(self, owner: str, *, unanswered: bool = False) -> None:
        """Make `owner` and all below it fail: SERVFAIL, or with `unanswered` nothing at all."""
        for key in [key for key in self.records if key[0] == absolute(owner)]:
            del self.records[key]
        self.put(owner, "NS", f"ns.{FAULTY_ZONE}")
        if unanswered:
            self.unanswered.add(absolute(owner))

    def text(self, zone: str, serial: int, delegation_signers: Iterable[str]) -> str:
        """The zone file, as the signer or the name server reads it."""
        lines = [
            f"{zone} {TTL} IN SOA ns.test. hostmaster.test. {serial} 3600 600 86400 {TTL}",
            f"{zone} {TTL} IN NS ns.test.",
        ]
        if zone in (".", "test."):
            lines.append(f"ns.test. {TTL} IN A {NAME_SERVER}")
        lines += [
            f"{child} {TTL} IN NS ns.{child if child == FAULTY_ZONE else 'test.'}"
            for child in (*SIGNED_ZONES[1:], *UNSIGNED_ZONES, FAULTY_ZONE)
            if _parent(child) == zone
        ]
        if zone == "test.":
            lines.append(f"ns.{FAULTY_ZONE} {TTL} IN A {FAULTY_SERVER}")
        lines += [line for line in delegation_signers if _parent(line.split()[0].lower()) == zone]
        for (owner, record_type), records in self.records.items():
            if zone_of(owner) == zone:
                lines += [f"{owner} {TTL} IN {record_type} {data}" for data in records]
        return "\n".join(lines) + "\n"


def break_signatures(zone: str, signed_text: str, bogus: Collection[Key]) -> str:
    """The signed zone with the signatures of the `bogus` RRsets broken; of a bogus zone all but its key's."""
    lines = []
    for line in signed_text.splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[3] == "RRSIG":
            covered = (fields[0].lower(), fields[4])
            if covered in bogus or (zone == BOGUS_ZONE and fields[4] != "DNSKEY"):
                signature = base64.b64decode(fields[-1])
                fields[-1] = base64.b64encode(bytes([signature[0] ^ 0xFF]) + signature[1:]).decode()
                line = " ".join(fields)  # noqa: PLW2901 (the line as published)
        lines.append(line)
    return "\n".join(lines) + "\n"


def absolute(name: str) -> str:
    """`name` in lower case with its final dot."""
    return name.lower().rstrip(".") + "."


def zone_of(owner: str) -> str:
    """The zone that holds `owner`: the longest that it ends in."""
    inside = [zone for zone in (*SIGNED_ZONES, *UNSIGNED_ZONES) if zone == "." or f".{owner}".endswith(f".{zone}")]
    return max(inside, key=len)


def _parent(zone: str) -> str:
    if zone == ".":
        return ""
    return zone.partition(".")[2] or "."


def _txt(text: str) -> str:
    octets = text.encode()
    strings = [octets[start : start + 255] for start in range(0, len(octets), 255)] or [b""]
    return " ".join(f'"{_escape(string)}"' for string in strings)


def _escape(octets: bytes) -> str:
    plain = re.compile(rb"[A-Za-z0-9 =:;_.,@/*+-]")
    return "".join(chr(octet) if plain.fullmatch(bytes([octet])) else f"\\{octet:03d}" for octet in octets)
