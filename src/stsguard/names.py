"""Domain names: the one value type and the one normaliser.

A `Domain` is a host or domain name as the DNS compares it: A-labels, lower case, no trailing dot
(RFC 5890 §2.3.2.1, RFC 1035 §2.3.1). Underscores are kept, since `_mta-sts` and TLSA names need them.
Nothing else is a name: address literals and keys of a socketmap are told apart by their own parsers.
"""

import re
from typing import Self

MAX_NAME_OCTETS = 253  # RFC 1035 §2.3.4: 255 octets on the wire
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# A name in canonical form already, as most are that come from DNS or from Postfix; none that could be an address. Names
# so short that no label is too long are most of them, and told in half the time.
_CANONICAL = re.compile(rf"(?:{_LABEL.pattern}\.)+[a-z](?:[a-z0-9_-]{{0,61}}[a-z0-9_])?", re.ASCII)
_SHORT = re.compile(r"(?:[a-z0-9_]++(?:-++[a-z0-9_]++)*+\.)++[a-z][a-z0-9_]*+(?:-++[a-z0-9_]++)*+", re.ASCII)
_MAX_LABEL_OCTETS = 63  # RFC 1035 §2.3.4
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", re.ASCII)
MAX_IPV4_OCTET = 255
MAX_REASON_LENGTH = 120


class NameInvalid(ValueError):
    """The text is no domain name; the message says why, the text itself is in `args[1]`."""

    def __str__(self) -> str:
        return str(self.args[0])


class Domain(str):
    """A domain name in canonical form. Equal names are equal strings, so it serves as a key."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The canonical form of `text`, given as A- or U-labels in any case, with or without the final dot.

        U-labels become A-labels by UTS #46, non-transitional, as Postfix does (RFC 5891 §4.4).

        Raises:
            NameInvalid: empty, too long, an empty or ill-formed label, or four numbers that form an IPv4 address.
        """
        if cls.is_canonical(text):
            return cls(text)
        name = text.removesuffix(".")
        if not name:
            raise NameInvalid("the name is empty", text)
        # A U-label is never longer than its A-label, so this also bounds what the conversion gets to see.
        if len(name) <= MAX_NAME_OCTETS and not name.isascii():
            name = _to_ascii(name, text)
        if len(name) > MAX_NAME_OCTETS:
            raise NameInvalid(f"the name is longer than {MAX_NAME_OCTETS} octets", text)
        name = name.lower()
        for label in name.split("."):
            if not _LABEL.fullmatch(label):
                raise NameInvalid(f"{label[:70]!r} is not a label of a host name", text)
        # Digits-only labels are legal, but four octets in a row are an address (RFC 1123 §2.1).
        if _IPV4.fullmatch(name) and all(int(octet) <= MAX_IPV4_OCTET for octet in name.split(".")):
            raise NameInvalid("this is an IPv4 address, not a name", text)
        return cls(name)

    @staticmethod
    def is_canonical(text: str) -> bool:
        """Whether `text` is a name in canonical form, told without making one; some that are get False."""
        if len(text) <= _MAX_LABEL_OCTETS:
            return _SHORT.fullmatch(text) is not None
        return len(text) <= MAX_NAME_OCTETS and _CANONICAL.fullmatch(text) is not None

    @classmethod
    def if_canonical(cls, text: str) -> Self | None:
        """`text` where it is in canonical form already and of letters enough that it can be no address; else None, and
        `parse` has to tell."""
        return cls(text) if cls.is_canonical(text) else None

    def child(self, *labels: str) -> "Domain":
        """This name with `labels` put in front, for fixed labels such as `_mta-sts`.

        Raises:
            NameInvalid: the result is longer than a name may be.
        """
        name = ".".join((*labels, self))
        if len(name) > MAX_NAME_OCTETS:
            raise NameInvalid(f"the name is longer than {MAX_NAME_OCTETS} octets", name)
        return Domain(name)


def _to_ascii(name: str, text: str) -> str:
    import idna  # noqa: PLC0415 (its tables are large, and internationalised keys are rare)

    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as exc:
        # idna quotes the whole label, escaped: that may be over a thousand characters.
        raise NameInvalid(f"not an internationalised domain name: {str(exc)[:MAX_REASON_LENGTH]}", text) from exc
