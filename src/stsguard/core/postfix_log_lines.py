"""Single lines of a mail log: what smtp(8) and tlsproxy(8) of Postfix 3.4 to 3.12 say of TLS and of deliveries.

A line is recognised by its whole beginning, never by a text somewhere in it: replies of remote hosts, names in their
certificates and local parts that senders choose stand in these lines too. What several lines mean together is left to
`postfix_log`. Left out on purpose: lmtp(8), which no report is about (RFC 8460 §1), and lines of TLS log levels
above 1.
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple

from stsguard.core.errors import ResultType
from stsguard.names import Domain, NameInvalid

MAX_LINE_LENGTH = 8192  # Postfix cuts its own lines at 2,000 and rsyslog at 8,096 octets
MAX_REASON_LENGTH = 100  # OpenSSL's longest text has 60
TLSA_UNUSABLE_REASON = "all-TLSA-records-unusable"  # as Postfix 3.10 spells them in its TLSRPT lines
HANDSHAKE_REASON = "tls-handshake-failure"
_ENDPOINTS_IN_MEMORY = 4096
_SAME_MINUTE = timedelta(days=180)  # later, the same stamp is of the next year
_LEAP_SECOND = 60
_SECONDS = {f"{second:02}": timedelta(seconds=second) for second in range(_LEAP_SECOND + 1)}
_FUTURE = timedelta(days=1)  # a classic stamp further ahead than a wrong clock explains is of the year before


class Endpoint(NamedTuple):
    """Where smtp(8) was connected to: the MX host as looked up, its address and port."""

    host: str
    address: str
    port: int


class TlsEstablished(NamedTuple):
    """`word` is Postfix's verdict on the certificate: Anonymous, Untrusted, Trusted or Verified."""

    endpoint: Endpoint
    word: str
    reused: bool


class ChainFailed(NamedTuple):
    """The certificate was not what the level wants; whether that ends the delivery is said by a later line."""

    endpoint: Endpoint
    result_type: ResultType
    reason: str


class HandshakeFailed(NamedTuple):
    """The handshake broke. tlsproxy(8) does not name the host then: it is empty."""

    endpoint: Endpoint


class TlsaUnusable(NamedTuple):
    """There are TLSA records, and Postfix can use none of them."""

    endpoint: Endpoint


class TlsReport(NamedTuple):
    """A `TLSRPT:` line (Postfix ≥ 3.10): what was reported to libtlsrpt. `result_type` None: success."""

    domain: str
    host: str
    address: str
    result_type: ResultType | None
    reason: str


class MxSkipped(NamedTuple):
    """An MX host that no pattern of the policy matches; `policy_domain` is empty where the policy named none."""

    mx_hostname: str
    policy_domain: str


class PolicyFailed(NamedTuple):
    """An MX host for which no TLS policy was to be had: our reply was TEMP, or Postfix's TLSA look-up has failed."""

    next_hop: str
    mx_hostname: str


class TlsStatus(NamedTuple):
    """The field `tls=` (Postfix ≥ 3.11): the level wanted, and the one that the delivery ended with."""

    level: str
    final: str
    violated: bool
    undecided: bool


class Delivery(NamedTuple):
    """What became of one recipient. `endpoint` None: no connection, or one that is not TCP.

    `delays` are the first three of the field: the same for all recipients of one connection, and no others.
    `transmission` is the fourth. `text` is what stands in parentheses.
    """

    queue_id: str
    recipient_domain: str
    endpoint: Endpoint | None
    conn_use: int
    delays: str
    transmission: str
    tls: TlsStatus | None
    status: str
    text: str

    def seconds(self) -> float:
        """How long ago the message was handed to smtp(8): connection and transmission."""
        try:
            return float(self.delays.rpartition("/")[2]) + float(self.transmission)
        except ValueError:
            return float("inf")


class Remark(NamedTuple):
    """Why a host was given up before another was tried."""

    queue_id: str
    text: str


Event = (
    TlsEstablished
    | ChainFailed
    | HandshakeFailed
    | TlsaUnusable
    | TlsReport
    | MxSkipped
    | PolicyFailed
    | Delivery
    | Remark
)  # fmt: skip


class Line(NamedTuple):
    """One line that was understood. `service` is the tag without the process id, `program` its last part."""

    at: datetime
    service: str
    program: str
    process_id: int
    event: Event


_CLASSIC = r"[A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2}"
_CLASSIC_LENGTH = 15
_ISO = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:?[0-9]{2})?"
_IS_CLASSIC = re.compile(_CLASSIC)
_IS_ISO = re.compile(_ISO)
_STAMP = f"(?:{_CLASSIC}|{_ISO}) "
_MAX_HEADER = 700  # a host name has 255 characters at most, a tag rarely 40
_MAX_TAGS = 4096  # as many as processes; the same come again and again
_LOSS = re.compile(
    _STAMP + r"\S{1,255} (?:systemd-journald(?:\[[0-9]{1,10}\])?: Suppressed [0-9]{1,20} messages "
    r"|rsyslogd(?:\[[0-9]{1,10}\])?: imuxsock.{1,40} messages )"
)
_HOST = r"(?P<host>[^\s\[\]]{1,255})\[(?P<address>[0-9A-Fa-f.:]{2,45})(?:%[0-9A-Za-z._-]{1,20})?\]"
_ENDPOINT = _HOST + r":(?P<port>[0-9]{1,5})"

_ESTABLISHED = re.compile(
    r"(?P<word>Anonymous|Untrusted|Trusted|Verified) TLS connection (?P<how>established|reused) to "
    + _ENDPOINT
    + r"(?: to \S{1,255})?: [A-Za-z]"
)
_CHAIN = re.compile(rf"(?:(?:server|CA) )?certificate verification failed for {_ENDPOINT}: (?P<why>.*)")
_HANDSHAKE = re.compile(rf"SSL_connect error to {_ENDPOINT}: ")
_PROXY_HANDSHAKE = re.compile(
    r"TLS handshake failed for service=smtp peer=\[(?P<address>[0-9A-Fa-f.:]{2,45})(?:%[0-9A-Za-z._-]{1,20})?\]"
    r":(?P<port>[0-9]{1,5})"
)
_TLSA = re.compile(rf"warning: {_ENDPOINT}: all TLSA records unusable")
_REPORT = re.compile(
    rf"TLSRPT: status=(?P<status>success|failure), domain=(?P<domain>[^\s,]{{1,255}}), receiving_mx={_HOST}"
    r"(?:, failure_type=(?P<type>[a-z_-]{1,60})(?:, failure_reason=(?P<why>.*))?)?"
)
_SKIPPED = re.compile(
    r"warning: MX name '(?P<mx>[^\s']{1,255})' does not match STS MX pattern for '(?P<domain>[^\s']{0,255})'"
)
_NO_POLICY = re.compile(r"warning: TLS policy lookup for (?P<domain>[^\s/]{1,255})/(?P<mx>[^\s/:]{1,255}): ")
_QUEUE_ID = r"(?P<queue_id>[0-9A-Za-z]{5,30}): "
# A local part that isn't quoted has neither blank nor angle bracket (RFC 5321 §4.1.2). Postfix before 3.5 writes it as
# it is: there a sender could put a whole line into it, so what is not of this form is no delivery to us.
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ADDRESS = rf"<(?:(?:{_QUOTED}|[^\s<>\"]*)@(?P<{{0}}>[^\s<>@\"]{{{{1,255}}}})|{_QUOTED}|[^\s<>@\"]*)>"
_RELAY = ">, relay="
_DELIVERY = re.compile(
    _QUEUE_ID
    + "to="
    + _ADDRESS.format("domain")
    + "(?:, orig_to="
    + _ADDRESS.format("original")
    + f")?, relay=(?:{_ENDPOINT}"
    + r"|(?P<elsewhere>[^\s,]{1,300}))"
    r"(?:, conn_use=(?P<use>[0-9]{1,9}))?"
    r", delay=[0-9.e+]{1,20}, delays=(?P<delays>[0-9.e+]{1,20}/[0-9.e+]{1,20}/[0-9.e+]{1,20})"
    r"/(?P<transmission>[0-9.e+]{1,20})"
    r"(?:, tls=(?P<tls>[^\s,]{1,100}))?"
    r", dsn=[245](?:\.[0-9]{1,3}){2}, status=(?P<status>[a-z]{1,30})(?: \((?P<text>.*))?"
)
_REMARK = re.compile(
    _QUEUE_ID + r"(?P<text>(?:Server certificate not verified|Cannot start TLS: handshake failure|TLS is required, ).*)"
)
# One of two marks says that the level was given up (the other form is that of the snapshots before 3.11), `!` that it
# was violated, `?` that nothing was decided. What follows a slash is REQUIRETLS (RFC 8689).
_TLS_STATUS = re.compile(
    r"(?P<violated>!)?\(?(?P<disabled>disabled:)?(?P<level>[a-z-]{1,20})(?::(?P<final>[a-z-]{1,20}))?\)?(?P<open>\?)?(?:/|$)"
)
_NUMBERED = re.compile(r"num=(?P<number>[0-9]{1,5}):(?P<text>.*)")
_EXTERNAL = re.compile(r"external policy failure \((?P<type>[a-z-]{1,60})\)")
_WORDS = frozenset({"Anon", "Untr", "Trus", "Veri"})
_NO_REASON_CHARACTER = re.compile(r"[^!-~]")

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}
# The texts of tls_verify.c and what Postfix 3.10 reports for each. For name and TLSA mismatch it gives no reason.
_CHAIN_TEXTS = {
    "certificate has expired": (ResultType.CERTIFICATE_EXPIRED, ""),
    "certificate not yet valid": (ResultType.VALIDATION_FAILURE, "certificate_is_not_yet_valid"),
    "self-signed certificate": (ResultType.VALIDATION_FAILURE, "self-signed_certificate"),
    "not trusted by local or TLSA policy": (ResultType.CERTIFICATE_NOT_TRUSTED, ""),
}
_CHAIN_BEGINNINGS = (
    ("untrusted issuer ", "unable_to_get_local_issuer_certificate"),
    ("not designated for use as a", "unsuitable_certificate_purpose"),
    ("certificate chain longer than limit", "certificate_chain_too_long"),
)
_CHAIN_NUMBERS = {
    "62": ResultType.CERTIFICATE_HOST_MISMATCH,  # X509_V_ERR_HOSTNAME_MISMATCH
    "65": ResultType.CERTIFICATE_NOT_TRUSTED,  # X509_V_ERR_DANE_NO_MATCH
}


class LineParser:
    """Understands the lines of one Postfix instance.

    `syslog_name` is its parameter of that name; services may have further parts behind it (`postfix/relay/smtp`).
    `time_zone` is that of classic time stamps and of ISO ones without offset.
    """

    def __init__(self, syslog_name: str, time_zone: tzinfo) -> None:
        self._tag = re.compile(
            rf" \S{{1,255}} (?P<service>{re.escape(syslog_name)}(?:/[^\s/\[\]]{{1,64}})*"
            r"/(?P<program>smtp|tlsproxy))\[(?P<pid>[0-9]{1,10})"
        )
        self._tags: dict[str, tuple[str, str, int] | None] = {}
        self._time_zone = time_zone
        self._last_minute = ("", datetime.min.replace(tzinfo=UTC))

    def parse(self, line: str, now: datetime) -> Line | None:
        """What the line says; None where it says nothing of TLS or deliveries, or is of another program."""
        end = line.find("]: ", 0, _MAX_HEADER)
        start = line.find(" ", 0, _MAX_HEADER) if line[4:5] == "-" else _CLASSIC_LENGTH
        tag = line[start:end]
        try:
            known = self._tags[tag]
        except KeyError:
            known = self._learn(tag)
        if known is None or end < 0 or len(line) > MAX_LINE_LENGTH:
            return None
        event = _parse_event(line.rstrip("\r\n"), end + 3)
        if event is None:
            return None
        at = self._parse_stamp(line[:start], now)
        if at is None:
            return None
        service, program, process_id = known
        return Line(at, service, program, process_id, event)

    def _learn(self, tag: str) -> tuple[str, str, int] | None:
        """Service, program and process id of host and tag, if it is one of ours."""
        if len(self._tags) >= _MAX_TAGS:
            self._tags.clear()
        found = self._tag.fullmatch(tag)
        known = (found["service"], found["program"], int(found["pid"])) if found else None
        self._tags[tag] = known
        return known

    def parse_time(self, line: str, now: datetime) -> datetime | None:
        """When any program's line was written; None where it has no time stamp that is understood."""
        return self._parse_stamp(line[: _stamp_length(line)], now)

    def _parse_stamp(self, stamp: str, now: datetime) -> datetime | None:
        minute, at = self._last_minute
        if stamp[:13] == minute and now - at <= _SAME_MINUTE and (after := _SECONDS.get(stamp[13:])) is not None:
            return at + after
        if len(stamp) != _CLASSIC_LENGTH:
            return parse_iso(stamp, self._time_zone) if _IS_ISO.fullmatch(stamp) else None
        if not _IS_CLASSIC.fullmatch(stamp):
            return None
        seconds = int(stamp[13:])
        if seconds > _LEAP_SECOND:
            return None
        start = parse_classic(stamp[:13] + "00", self._time_zone, now)
        if start is None:
            return None
        local = start.astimezone(self._time_zone)
        if local.replace(fold=1 - local.fold).astimezone(UTC) == start:  # else this minute comes twice
            self._last_minute = (stamp[:13], start)
        return start + timedelta(seconds=seconds)


def _stamp_length(line: str) -> int:
    """How long the line's time stamp would be: a classic one has blanks within, an ISO one ends at the first."""
    return line.find(" ", 0, _MAX_HEADER) if line[4:5] == "-" else _CLASSIC_LENGTH


def parse_iso(stamp: str, time_zone: tzinfo) -> datetime | None:
    """An ISO 8601 time stamp in UTC; one without an offset is in `time_zone`."""
    try:
        at = datetime.fromisoformat(stamp)
        return (at if at.tzinfo is not None else at.replace(tzinfo=time_zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_classic(stamp: str, time_zone: tzinfo, now: datetime) -> datetime | None:
    """A time stamp without year (RFC 3164 §4.1.2), in UTC: the latest that is not in the future, as `now` sees it.

    In the hour that is there twice when summer time ends, it is the one nearer to `now`.
    """
    month = _MONTHS.get(stamp[:3])
    if month is None:
        return None
    numbers = (int(stamp[4:6]), int(stamp[7:9]), int(stamp[10:12]), int(stamp[13:15]))
    year = now.astimezone(time_zone).year
    for candidate in (year + 1, year, year - 1):
        try:
            local = datetime(candidate, month, *numbers, tzinfo=time_zone)
            times = {local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)}
        except (ValueError, OverflowError):  # 29 February in another year, or no date at all
            continue
        past = [at for at in times if at <= now + _FUTURE]
        if past:
            return min(past, key=lambda at: abs(now - at))
    return None


def parse_host(text: str) -> Domain | None:
    """A host or domain name of the log, U-labels included; None for anything else."""
    try:
        return Domain.parse(text)
    except NameInvalid:
        return None


def tells_of_loss(line: str) -> bool:
    """Whether the system's log says that it dropped lines, since there were too many."""
    return _LOSS.match(line) is not None


def _parse_event(line: str, start: int) -> Event | None:
    first = line[start : start + 4]
    if first == "TLSR":
        return _parse_report(line, start)
    if first == "warn":
        return _parse_warning(line, start)
    if first == "SSL_":
        found = _HANDSHAKE.match(line, start)
        return HandshakeFailed(_endpoint(found)) if found else None
    if first == "TLS ":
        found = _PROXY_HANDSHAKE.match(line, start)
        return HandshakeFailed(Endpoint("", found["address"].lower(), int(found["port"]))) if found else None
    if first in _WORDS:
        found = _ESTABLISHED.match(line, start)
        if found is None:
            return None
        word, how, host, address, port = found.groups()
        return TlsEstablished(_endpoint_of(host, address, port), word, how == "reused")
    if found := _DELIVERY.match(line, start):
        # The true field stands last where a local part has forged one (see _ADDRESS).
        return None if _RELAY in (found["text"] or "") else _delivery(found)
    if found := _CHAIN.match(line, start):
        return ChainFailed(_endpoint(found), *_chain_failure(found["why"]))
    if found := _REMARK.match(line, start):
        return Remark(found["queue_id"], found["text"])
    return None


def _parse_warning(line: str, start: int) -> Event | None:
    if found := _SKIPPED.match(line, start):
        return MxSkipped(found["mx"], found["domain"])
    if found := _NO_POLICY.match(line, start):
        return PolicyFailed(found["domain"], found["mx"])
    found = _TLSA.match(line, start)
    return TlsaUnusable(_endpoint(found)) if found else None


def _parse_report(line: str, start: int) -> TlsReport | None:
    found = _REPORT.match(line, start)
    if found is None:
        return None
    result_type = None
    if found["status"] == "failure":
        result_type = _result_type((found["type"] or "").replace("_", "-"))
    return TlsReport(found["domain"], found["host"], found["address"], result_type, _reason(found["why"] or ""))


def _result_type(text: str) -> ResultType:
    """RFC 8460 §4.3.3: what has no name of its own is a general failure."""
    try:
        return ResultType(text)
    except ValueError:
        return ResultType.VALIDATION_FAILURE


def _chain_failure(why: str) -> tuple[ResultType, str]:
    """result-type and failure-reason-code as Postfix 3.10 gives them for the same failure."""
    if why in _CHAIN_TEXTS:
        return _CHAIN_TEXTS[why]
    for beginning, reason in _CHAIN_BEGINNINGS:
        if why.startswith(beginning):
            return ResultType.VALIDATION_FAILURE, reason
    if found := _NUMBERED.fullmatch(why):
        if found["number"] in _CHAIN_NUMBERS:
            return _CHAIN_NUMBERS[found["number"]], ""
        return ResultType.VALIDATION_FAILURE, _reason(found["text"])
    if found := _EXTERNAL.fullmatch(why):
        return _result_type(found["type"]), ""
    return ResultType.VALIDATION_FAILURE, ""


def _reason(text: str) -> str:
    """A failure-reason-code: no blanks, nothing that isn't printable ASCII, and short."""
    return _NO_REASON_CHARACTER.sub("_", text.strip())[:MAX_REASON_LENGTH]


def _delivery(found: re.Match[str]) -> Delivery:
    queue_id, domain, _, host, address, port, _, use, delays, transmission, tls, status, text = found.groups()
    return Delivery(
        queue_id,
        domain or "",
        _endpoint_of(host, address, port) if host else None,
        int(use) if use else 1,
        delays,
        transmission,
        _tls_status(tls) if tls else None,
        status,
        text.removesuffix(")") if text else "",
    )


def _tls_status(text: str) -> TlsStatus | None:
    found = _TLS_STATUS.match(text)
    if found is None or found["level"] == "requiretls":
        return None
    level = found["level"]
    final = "none" if found["disabled"] else found["final"] or level
    return TlsStatus(level, final, violated=bool(found["violated"]), undecided=bool(found["open"]))


def _endpoint(found: re.Match[str]) -> Endpoint:
    return _endpoint_of(found["host"], found["address"], found["port"])


@lru_cache(maxsize=_ENDPOINTS_IN_MEMORY)
def _endpoint_of(host: str, address: str, port: str) -> Endpoint:
    """The same one again for the lines of one connection."""
    return Endpoint(host.lower(), address.lower(), int(port))
