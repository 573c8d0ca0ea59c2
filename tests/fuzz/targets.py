"""The parsers that are fuzzed, each as a function of bytes that lets through only what must never happen.

A target returns for a value and for the parser's own documented error; any other exception, and a value that breaks a
promise of the parser, is a finding. To add one: a function here, a line in `TARGETS`, and seeds below `corpus/NAME/`.
Imports stay inside the functions, so that a target loads, and is instrumented, with its own parser only.
"""

from collections.abc import Callable

from tests.fuzz.checks import check_message as _check_message
from tests.fuzz.mail_targets import dkim_body, dkim_signature, milter

Target = Callable[[bytes], None]


def sts_record(data: bytes) -> None:
    """The TXT records at `_mta-sts`, one a line (RFC 8461 §3.1)."""
    from stsguard.core.errors import RecordInvalid
    from stsguard.core.mtasts import parse_record, select_record

    records = data.split(b"\n")
    try:
        record = select_record(records)
    except RecordInvalid as exc:
        _check_message(str(exc))
        return
    if record is not None:
        assert record.record_id.isalnum()
        assert record.record_id.isascii()
        assert parse_record(f"v=STSv1; id={record.record_id};").record_id == record.record_id
        assert len(records) > 1 or record == parse_record(data.decode())
        _check_warnings(record.warnings)


def policy(data: bytes) -> None:
    """A policy file (RFC 8461 §3.2)."""
    from stsguard.core.errors import PolicyInvalid
    from stsguard.core.mtasts import MAX_MAX_AGE, Mode, parse_any_policy, parse_plain_policy, parse_policy
    from stsguard.core.packed_policy import pack_policy, unpack_policy

    plain = parse_plain_policy(data)
    try:
        found = parse_any_policy(data)
    except PolicyInvalid as exc:
        assert plain is None
        _check_message(str(exc))
        return
    assert plain in (None, found)
    assert found.mx_patterns or found.mode is Mode.NONE
    assert 0 <= found.max_age <= MAX_MAX_AGE
    assert not any(end in line for line in found.policy_text for end in "\r\n")
    assert parse_policy("\n".join((*found.policy_text, "")).encode()) == found
    assert unpack_policy(pack_policy(found)) == found
    _check_warnings(found.warnings)


def tlsrpt_record(data: bytes) -> None:
    """The TXT records at `_smtp._tls`, one a line (RFC 8460 §3)."""
    from stsguard.core.errors import RecordInvalid
    from stsguard.core.tlsrpt_record import is_uri, parse_tlsrpt_record, select_tlsrpt_record

    try:
        record = select_tlsrpt_record(data.split(b"\n"))
    except RecordInvalid as exc:
        _check_message(str(exc))
        return
    if record is not None:
        assert all(map(is_uri, record.ruas))
        if record.ruas:
            assert parse_tlsrpt_record("v=TLSRPTv1;rua=" + ",".join(record.ruas)).ruas == record.ruas
        _check_warnings(record.warnings)


def mx_pattern(data: bytes) -> None:
    """An mx value, and after a line feed an MX host (RFC 8461 §3.2, §4.1)."""
    from stsguard.core.errors import PolicyInvalid
    from stsguard.core.mtasts import MxPattern, mx_matches
    from stsguard.names import Domain, NameInvalid

    text, _, host = data.decode("utf-8", "surrogateescape").partition("\n")
    try:
        pattern = MxPattern.parse(text)
    except PolicyInvalid as exc:
        _check_message(str(exc))
        return
    assert str(pattern) == text.lower()
    assert MxPattern.parse(str(pattern)) == pattern
    try:
        mx_hostname = Domain.parse(host)
    except NameInvalid:
        return
    wildcard_filled = f"{mx_hostname.split('.')[0]}.{pattern.name}" if pattern.wildcard else pattern.name
    assert mx_matches(pattern, mx_hostname) is (mx_hostname == wildcard_filled)


def media_type(data: bytes) -> None:
    """The value of a Content-Type field (RFC 8461 §3.2)."""
    from stsguard.core.mtasts import media_type_accepted

    text = data.decode("latin-1")
    if media_type_accepted(text):
        assert text.split(";")[0].strip().lower() == "text/plain"


def domain(data: bytes) -> None:
    """A domain name in any form."""
    from stsguard.names import MAX_NAME_OCTETS, Domain, NameInvalid

    try:
        name = Domain.parse(data.decode("utf-8", "surrogateescape"))
    except NameInvalid as exc:
        _check_message(str(exc))
        return
    assert Domain.parse(name) == name
    assert name.isascii()
    assert len(name) <= MAX_NAME_OCTETS


def dns_message(data: bytes) -> None:
    """An answer of a nameserver: an octet that chooses the type, flags and counts, then all sections but the question.

    The question is the right one: a forger who fails there fails at once.
    """
    import dns.flags
    import dns.rdatatype

    from stsguard.adapters.resolver.answer import check_rcode, read_response
    from stsguard.adapters.resolver.interpreted import parse_response, question_of
    from stsguard.adapters.resolver.plain import MAX_RECORDS, PlainAnswer, PlainFailure, is_truncated, read_plain
    from stsguard.adapters.resolver.records import to_address, to_domain, to_mx, to_tlsa, to_txt, to_wire_name
    from stsguard.adapters.resolver.udp import Malformed
    from stsguard.core.errors import LookupFailed, LookupReason

    kinds = (("TXT", to_txt), ("MX", to_mx), ("A", to_address), ("AAAA", to_address), ("TLSA", to_tlsa), ("CNAME", str))
    kind, convert = kinds[data[0] % len(kinds)] if data else kinds[0]
    rdtype = dns.rdatatype.from_text(kind)
    name = to_wire_name("example.test", "")
    question = question_of(name, rdtype)
    query_id = bytes(2)
    flags, counts = data[1:3].ljust(2, b"\0"), data[3:9].ljust(6, b"\0")
    wire = query_id + flags + b"\0\1" + counts + question.wire + data[9:]
    plain = read_plain(wire, question)
    try:
        message = parse_response(wire, question)
    except Malformed as exc:
        _check_message(str(exc))
        return
    assert not is_truncated(wire, question) or message is None
    if message is None:
        return
    failed: LookupReason | None = None
    try:
        check_rcode(message, kind, "")
        step = read_response(message, name, rdtype, kind)
        to_domain(step.owner, kind)
    except LookupFailed as exc:
        _check_message(str(exc))
        failed = exc.reason
    if isinstance(plain, PlainFailure):
        assert failed is {2: LookupReason.SERVFAIL, 5: LookupReason.REFUSED}[plain.rcode]
    if failed is not None:
        return
    values = [convert(rdata) for rdata in step.records]
    if isinstance(plain, PlainAnswer):
        # Whatever is read the short way is what dnspython reads.
        authentic = bool(message.flags & dns.flags.AD)
        assert (plain.status, plain.records, plain.ttl) == (step.status, tuple(values), step.ttl_seconds)
        assert plain.authentic is authentic
    assert len(values) <= MAX_RECORDS
    assert step.ttl_seconds >= 0
    assert (step.status == "found") is bool(values)


def http_response(data: bytes) -> None:
    """A response to a policy fetch, in pieces whose size the first octet gives, until the TLS session ends.

    Read as a fetch reads it, and by h11 alone: the outcome is the same.
    """
    from stsguard.adapters.policy_fetch.response import FullResponse, PolicyResponse
    from stsguard.core.errors import PolicyFetchFailed
    from stsguard.names import Domain

    size = data[0] or 256 if data else 1

    def read(response: PolicyResponse | FullResponse) -> bytes | str:
        try:
            for start in range(1, len(data), size):
                body = response.receive(data[start : start + size])
                if body is not None:
                    return body
            return response.finish()
        except PolicyFetchFailed as exc:
            _check_message(str(exc))
            return exc.reason.code

    outcome = read(PolicyResponse(Domain("mta-sts.example.test"), max_size_bytes=512))
    assert outcome == read(FullResponse(max_size_bytes=512))
    assert isinstance(outcome, str) or len(outcome) <= 512


def certificate(data: bytes) -> None:
    """A certificate that an MX host presents (RFC 5280 §4.1), also as TLSA data and as its own issuer."""
    from datetime import UTC, datetime

    from stsguard.core.certificate_reader import MAX_NAMES_LENGTH, certificate_facts
    from stsguard.core.dane import TlsaRecord, usable_tlsa
    from stsguard.core.danechain import match_chain, subject_public_key_info
    from stsguard.core.errors import CertificateInvalid
    from stsguard.names import Domain

    records = usable_tlsa(TlsaRecord(usage, selector, 0, data) for usage in (2, 3) for selector in (0, 1))
    match_chain(records, [data, data], [Domain("mx.example.com")], datetime(2026, 5, 4, tzinfo=UTC))
    try:
        assert subject_public_key_info(data) in data
        facts = certificate_facts(data)
    except CertificateInvalid as exc:
        _check_message(str(exc))
        return
    _check_message(facts.subject + facts.issuer)
    assert sum(map(len, facts.dns_names + facts.common_names)) <= MAX_NAMES_LENGTH


def client_hello(data: bytes) -> None:
    """What opens a TLS connection (RFC 8446 §4.1.2), asked again with as much as it wants until it is all there."""
    from stsguard.core.client_hello import MAX_HELLO_OCTETS, Partial, parse_client_hello
    from stsguard.core.errors import ClientHelloInvalid
    from stsguard.names import Domain

    have = 0
    try:
        found = parse_client_hello(b"")
        while isinstance(found, Partial):
            assert have < found.wanted <= MAX_HELLO_OCTETS
            if have == len(data):
                return
            have = min(found.wanted, len(data))
            found = parse_client_hello(data[:have])
    except ClientHelloInvalid as exc:
        _check_message(str(exc))
        return
    assert found == parse_client_hello(data)
    assert found.server_name is None or Domain.parse(found.server_name) == found.server_name


def socketmap(data: bytes) -> None:
    """A stream of requests from a client, in two segments (the first octet says where it is cut), and each key."""
    from stsguard.core import netstring
    from stsguard.core.errors import RequestInvalid
    from stsguard.core.socketmap import KeyKind, parse_next_hop, parse_request
    from stsguard.names import Domain

    cut, stream = (data[0], data[1:]) if data else (0, b"")
    try:
        whole = netstring.split(stream)
    except RequestInvalid as exc:
        _check_message(str(exc))
        return
    first, rest = netstring.split(stream[:cut])
    second, end = netstring.split(rest + stream[cut:])
    assert (first + second, end) == whole
    for framed in whole[0]:
        try:
            key = parse_request(netstring.payload(framed)).key
        except RequestInvalid as exc:
            _check_message(str(exc))
            continue
        next_hop = parse_next_hop(key)
        assert (next_hop.host is not None) is (next_hop.kind in (KeyKind.DOMAIN, KeyKind.BRACKETED))
        assert next_hop.host is None or Domain.parse(next_hop.host) == next_hop.host


def reply(data: bytes) -> None:
    """A policy file, rendered for Postfix: none of its text may become an attribute."""
    from stsguard.core.errors import PolicyInvalid
    from stsguard.core.mtasts import parse_policy
    from stsguard.core.socketmap import MAX_REPLY_BYTES, Dialect, render_reply
    from stsguard.core.tlspolicy import Decision, Reply, Row
    from stsguard.names import Domain

    try:
        found = parse_policy(data)
    except PolicyInvalid:
        return
    names = (Domain("mx.example.com"),)
    made = Decision(Reply.SECURE, Row.NO_TLSA_ENFORCE, "", names, names, found)
    text = render_reply(made, Dialect.POLICY_TLSRPT, Domain("example.com"))
    assert len(text) <= MAX_REPLY_BYTES
    plain, *strings = text.split(b" { policy_string = ")
    assert plain.count(b"=") == 5
    assert all(string.endswith(b" }") and string.count(b"}") == 1 and b"{" not in string for string in strings)
    assert strings
    assert render_reply(made, Dialect.POLICY, Domain("example.com")).count(b"=") == 2


def overrides(data: bytes) -> None:
    """The operator's override file."""
    import tomllib

    from stsguard.core.errors import OverrideInvalid
    from stsguard.core.overrides import parse_overrides

    try:
        tables = tomllib.loads(data.decode("utf-8", "replace"))
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    try:
        assert len(parse_overrides(tables)) == len(tables)
    except OverrideInvalid:
        return


def tlsrpt_event(data: bytes) -> None:
    """A datagram of libtlsrpt."""
    from datetime import UTC, datetime

    from stsguard.core.errors import EventInvalid
    from stsguard.core.session import Seen
    from stsguard.core.tlsrpt_event import MAX_POLICIES, MAX_POLICY_STRING_LENGTH, parse_datagram
    from stsguard.names import Domain

    try:
        sessions = parse_datagram(data, datetime(2026, 5, 4, tzinfo=UTC), "")
    except EventInvalid as exc:
        _check_message(str(exc))
        return
    assert len(sessions) <= MAX_POLICIES
    for session in sessions:
        assert session.seen is Seen.FAILURE or session.result_type is None
        assert Domain.parse(session.recipient_domain) == session.recipient_domain
        for text in (
            session.failure_reason_code,
            session.receiving_mx_helo,
            session.additional_information,
            session.sending_mta_ip + session.receiving_ip,
            (session.policy_domain or "") + (session.receiving_mx_hostname or ""),
        ):
            _check_message(text)
        assert all(text.isprintable() and len(text) <= MAX_POLICY_STRING_LENGTH for text in session.policy_strings)


def mail_log(data: bytes) -> None:
    """Lines of a mail log, of which the first octet chooses how many times they come (RFC 8460 §4.3)."""
    from datetime import UTC, datetime

    from stsguard.core.postfix_log import LogReader
    from stsguard.core.session import Seen
    from stsguard.names import Domain

    reader = LogReader("mta", logs_tls=True, from_start=True)
    now = datetime(2026, 5, 4, tzinfo=UTC)
    times = 1 + data[0] % 3 if data else 0
    lines = data[1:].decode("utf-8", "replace").split("\n") * times
    found = [session for line in lines for session in reader.feed(line, now)]
    assert len(found) <= 2 * len(lines)
    for session in found:
        assert Domain.parse(session.recipient_domain) == session.recipient_domain
        assert session.at <= now or session.at.year >= 2026
        assert (session.seen is Seen.FAILURE) == (session.result_type is not None)
        _check_message(session.failure_reason_code + session.receiving_ip + session.tls_level)


def received_report(data: bytes) -> None:
    """A report that somebody sent, in JSON (RFC 8460 §4)."""
    from stsguard.core.errors import ReportInvalid
    from stsguard.core.received_report import MAX_WARNINGS
    from stsguard.core.tlsrpt_report_received import MAX_DETAILS, MAX_POLICIES, parse_received

    try:
        found = parse_received(data)
    except ReportInvalid as exc:
        _check_message(str(exc))
        return
    assert found.start_at <= found.end_at
    assert len(found.policies) <= MAX_POLICIES
    assert sum(len(policy.details) for policy in found.policies) <= MAX_DETAILS
    warnings = list(found.all_warnings())
    assert len(warnings) <= MAX_WARNINGS + 1
    for policy in found.policies:
        assert min(policy.successes, policy.failures, *(detail.sessions for detail in policy.details)) >= 0
    texts = (
        *(found.organization_name, found.contact_info, found.report_id),
        *(text for policy in found.policies for text in (*policy.policy_strings, *policy.mx_hosts)),
        *(policy.policy_domain_text for policy in found.policies),
    )
    for text in texts:
        assert "\0" not in text
        text.encode()
    for warning in warnings:
        assert warning.text.isprintable(), repr(warning.text)


def received_mail(data: bytes) -> None:
    """A mail with reports in it (RFC 8460 §5.3)."""
    from stsguard.core.received_mail import MAX_REPORTS, find_reports
    from stsguard.core.vouching import doubt

    for signed in (True, False):
        assert doubt(data, content_type_signed=signed).isprintable()
    found = find_reports(data)
    assert len(found.parts) <= MAX_REPORTS
    header = found.header
    for text in (header.from_address, header.subject, header.message_id, header.report_domain, header.submitter):
        assert "\0" not in text
        text.encode()
    for part in found.parts:
        assert 0 < len(part.content) <= len(data)
        part.name.encode()
    for warning in found.warnings:
        assert warning.text.isprintable(), repr(warning.text)


def gzip_file(data: bytes) -> None:
    """A report file that begins as gzip (RFC 1952)."""
    _unpack(b"\x1f\x8b" + data)


def zip_file(data: bytes) -> None:
    """A report file that begins as a zip archive."""
    _unpack(b"PK\x03\x04" + data)


def _unpack(data: bytes) -> None:
    from stsguard.core.errors import ReportInvalid
    from stsguard.core.unpack import Limits, unpack

    limits = Limits(max_compressed=4096, max_decompressed=10_000, max_entries=3)
    try:
        found = unpack(data, limits)
    except ReportInvalid as exc:
        _check_message(str(exc))
        return
    assert 0 < len(found.documents) <= limits.max_entries
    assert sum(map(len, found.documents)) <= 3 * limits.max_decompressed


def _check_warnings(warnings: tuple[str, ...]) -> None:
    assert len(warnings) <= 25
    for warning in warnings:
        _check_message(warning)


TARGETS: dict[str, Target] = {
    "overrides": overrides,
    "reply": reply,
    "socketmap": socketmap,
    "certificate": certificate,
    "client_hello": client_hello,
    "dkim_body": dkim_body,
    "dkim_signature": dkim_signature,
    "dns_message": dns_message,
    "domain": domain,
    "http_response": http_response,
    "mail_log": mail_log,
    "media_type": media_type,
    "milter": milter,
    "mx_pattern": mx_pattern,
    "policy": policy,
    "gzip_file": gzip_file,
    "received_mail": received_mail,
    "received_report": received_report,
    "zip_file": zip_file,
    "sts_record": sts_record,
    "tlsrpt_event": tlsrpt_event,
    "tlsrpt_record": tlsrpt_record,
}
