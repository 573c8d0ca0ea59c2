"""How a report came to us, and the form in which it lies in the spool until it is stored.

An entry of the spool is one line that describes it, then the octets as they came. The line has their length and hash,
so that what a disk has damaged is told from what was sent. Text in it was bounded, but not made harmless, by whoever
took the report in.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from stsguard.core.syntax import quoted

MAX_TEXT_LENGTH = 300
MAX_HEADER_BYTES = 16_384  # three texts of 300 characters, at most 12 octets each in JSON, and the rest

MAIL = "message/rfc822"
_MAGIC = b"stsguard-spool-1 "
# As gzip, zip and JSON begin, whatever its encoding: no mail does.
_NO_MAIL = (
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"{",
    b"[",
    b'"',
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xfe\xff",
    b"\0",
)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Via(StrEnum):
    """The way by which a report came."""

    MILTER = "milter"
    PIPE = "pipe"
    HTTPS = "https"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Arrival:
    """How it came. Empty text where that is not known or there is no such thing.

    `recipient` is the envelope recipient, `client` who handed it in (an IP address, or the file's name). `media_type`
    is what the sender called the octets: "message/rfc822" for a mail.
    """

    via: Via
    received_at: datetime
    recipient: str = ""
    client: str = ""
    media_type: str = MAIL

    @property
    def is_mail(self) -> bool:
        """Whether the octets are a whole mail, and no report by itself."""
        return self.media_type == MAIL


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """What lay in the spool: how it came, and the octets."""

    arrival: Arrival
    octets: bytes


def media_type_of(octets: bytes) -> str:
    """Whether this is a mail, by what it begins with; empty where it is none."""
    return "" if octets.lstrip(b" \t\r\n").startswith(_NO_MAIL) else MAIL


class EntryInvalid(Exception):
    """The file is no entry of a spool, or a damaged one; the message says in what way."""


def serialize_entry(arrival: Arrival, octets: bytes) -> bytes:
    """What stands before `octets` in the file of an entry. Text beyond `MAX_TEXT_LENGTH` is cut."""
    values = {
        "via": arrival.via.value,
        "received_at": arrival.received_at.astimezone(UTC).isoformat(),
        "recipient": arrival.recipient[:MAX_TEXT_LENGTH],
        "client": arrival.client[:MAX_TEXT_LENGTH],
        "media_type": arrival.media_type[:MAX_TEXT_LENGTH],
        "length": len(octets),
        "sha256": hashlib.sha256(octets).hexdigest(),
    }
    return _MAGIC + json.dumps(values).encode("ascii") + b"\n"


def parse_entry(content: bytes) -> SpoolEntry:
    """The entry in a file.

    Raises:
        EntryInvalid: it is none, or damaged. Nothing else is raised.
    """
    end = content.find(b"\n", 0, MAX_HEADER_BYTES)
    if not content.startswith(_MAGIC) or end < 0:
        raise EntryInvalid("it does not begin as an entry of the spool")
    octets = content[end + 1 :]
    try:
        values = json.loads(content[len(_MAGIC) : end].decode("ascii"))
        arrival = _arrival(values)
        length, sha256 = values["length"], values["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as exc:
        raise EntryInvalid(f"its first line can't be read: {quoted(str(exc))}") from exc
    if len(octets) != length:
        raise EntryInvalid(f"it has {len(octets)} bytes in place of {quoted(str(length))}")
    if not _HEX.fullmatch(str(sha256)) or hashlib.sha256(octets).hexdigest() != sha256:
        raise EntryInvalid("its bytes are not those that were written")
    return SpoolEntry(arrival, octets)


def _arrival(values: dict[str, object]) -> Arrival:
    recipient, client, media_type = (
        str(values[key])[:MAX_TEXT_LENGTH] for key in ("recipient", "client", "media_type")
    )
    received_at = datetime.fromisoformat(str(values["received_at"]))
    if received_at.tzinfo is None:
        raise ValueError("received_at has no zone")
    return Arrival(Via(str(values["via"])), received_at.astimezone(UTC), recipient, client, media_type)
