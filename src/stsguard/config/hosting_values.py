"""The kinds of values that have to do with our own domains."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from stsguard.config.show import show
from stsguard.config.values import InetAddress, ValueRefused, parse_listen, read_text
from stsguard.core.errors import RecordInvalid
from stsguard.core.tlsrpt_record import parse_tlsrpt_record

_MAX_URL = 500


@dataclass(frozen=True, slots=True)
class HttpsUrl:
    """The URL of an HTTPS server; the empty string, read as None, means `otherwise`."""

    otherwise: str
    unit = ""
    type_name = "string"

    @property
    def allowed(self) -> str:
        return f'a URL that begins with https://, or "" for {self.otherwise}'

    def read(self, value: object) -> str | None:
        """The URL itself, or None for the empty string."""
        text = read_text(value)
        if not text:
            return None
        try:
            named = urlsplit(text)
            host, _ = named.hostname, named.port
        except ValueError as exc:
            raise ValueRefused("not a URL") from exc
        if named.scheme != "https" or not host or len(text) > _MAX_URL or not text.isascii() or " " in text:
            raise ValueRefused("not the URL of an HTTPS server")
        return text


class RuaList:
    """URIs for reports (RFC 8460 §3 tlsrpt-uri)."""

    unit = ""
    type_name = "list of strings"
    allowed = 'a list of "mailto:ADDRESS" and "https://URL"'

    def read(self, value: object) -> tuple[str, ...]:
        """The URIs as they stand."""
        if not isinstance(value, list):
            raise ValueRefused("not a list")
        return tuple(_read_rua(each) for each in value)


def _read_rua(value: object) -> str:
    text = read_text(value)
    if any(character in text for character in " ,!;"):
        raise ValueRefused(f"{show(text)}: write blank, comma, ! and ; as %20, %2C, %21 and %3B (RFC 8460 §3)")
    try:
        record = parse_tlsrpt_record(f"v=TLSRPTv1; rua={text}")
    except RecordInvalid as exc:
        raise ValueRefused(f"{show(text)}: {exc}") from exc
    if not record.ruas:
        raise ValueRefused(f"{show(text)} is neither mailto: nor https:")
    return text


class UpdateServer:
    """The server that takes updates; the empty string, read as None, means none."""

    unit = ""
    type_name = "string"
    allowed = '"HOST:PORT" (usually port 53), or "" for none'

    def read(self, value: object) -> InetAddress | None:
        """Host and port, or None for the empty string."""
        text = read_text(value)
        if not text:
            return None
        address = parse_listen(f"inet:{text}") if ":" in text else None
        if not isinstance(address, InetAddress):
            raise ValueRefused(f"{show(text)} is not HOST:PORT")
        return address
