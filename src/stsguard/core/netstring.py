"""Netstrings: `LENGTH:PAYLOAD,` with a decimal length, as socketmap frames requests and replies.

Sans-I/O and strict: a length with a leading zero, a missing comma or a length over the limit can only come from
something that is no Postfix, so there is nothing to resynchronise with. The one error ends the connection.
"""

from stsguard.core.errors import RequestInvalid

MAX_QUERY_BYTES = 10_000  # socketmap_max_query_size of Postfix 3.12, without the framing
_MAX_QUERY_DIGITS = len(str(MAX_QUERY_BYTES))


def encode(payload: bytes) -> bytes:
    """`payload` as a netstring."""
    return b"%d:%b," % (len(payload), payload)


def split(buffer: bytes, limit_bytes: int = MAX_QUERY_BYTES) -> tuple[list[bytes], bytes]:
    """The complete netstrings at the start of `buffer`, each with its framing, and the incomplete rest.

    The framing is kept since the whole netstring is the key of the reply cache; `payload` takes it off.

    Raises:
        RequestInvalid: the buffer starts with no netstring, or with one longer than `limit_bytes`.
    """
    found: list[bytes] = []
    position = 0
    digits_limit = _MAX_QUERY_DIGITS if limit_bytes == MAX_QUERY_BYTES else len(str(limit_bytes))
    while position < len(buffer):
        colon = buffer.find(b":", position, position + digits_limit + 1)
        digits = buffer[position : colon if colon >= 0 else position + digits_limit + 1]
        if not digits.isdigit() or (digits[0:1] == b"0" and len(digits) > 1):
            raise RequestInvalid("malformed netstring length")
        if colon < 0:
            if len(digits) > digits_limit:
                raise RequestInvalid("netstring length has too many digits")
            break
        length = int(digits)
        if length > limit_bytes:
            raise RequestInvalid(f"netstring of {length} bytes is longer than {limit_bytes}")
        end = colon + 1 + length
        if end >= len(buffer):
            break
        if buffer[end] != 0x2C:
            raise RequestInvalid("netstring does not end with a comma")
        found.append(buffer[position : end + 1])
        position = end + 1
    return found, buffer[position:]


def payload(netstring: bytes) -> bytes:
    """The payload of one complete netstring, as `split` returns it."""
    return netstring[netstring.index(b":") + 1 : -1]
