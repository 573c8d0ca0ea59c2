"""The exact records beside what is published (RFC 8461 §3.1, §8.2, §8.3, RFC 8460 §3)."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from stsguard.core.hosted import HostedDomain, Stage, record_text
from stsguard.core.hosted_records import CaaWanted, HostAddresses, Mark, WantedRecord, hosted_records
from stsguard.core.readiness import Readiness
from stsguard.core.rollout import enforce, retire
from stsguard.core.rollout_evidence import published, record_gone, served
from stsguard.names import Domain
from tests.unit.lives import DAY, NOW, added, inspection, record_at

RUA = "mailto:tls@example.com"
V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
HERE = HostAddresses((V4, V6), (V4, V6))


def out(domain: HostedDomain) -> HostedDomain:
    number, now = domain.current.number, domain.current.created_at
    return published(served(domain, number, now)[0], number, 300, now)[0]


TESTING = out(added())
ENFORCE = out(enforce(TESTING, Readiness(()), NOW, first_max_age=604_800)[0])
RETIRING = out(retire(ENFORCE, NOW)[0])
RETIRED = replace(RETIRING, stage=Stage.RETIRED)


def records(
    domain: HostedDomain,
    addresses: HostAddresses = HERE,
    caa: CaaWanted | None = None,
    *,
    ruas: tuple[str, ...] = (RUA,),
    days: int = 0,
    **parts: object,
) -> list[WantedRecord]:
    seen = replace(inspection(domain), **parts)  # type: ignore[arg-type]  # the keywords are the fields' names
    now = NOW + days * DAY
    return list(hosted_records(domain, seen, addresses, caa or CaaWanted(), now, ruas=ruas, record_ttl=300))


def of(found: list[WantedRecord], name: str, rtype: str = "TXT") -> WantedRecord:
    (record,) = [record for record in found if record.name == name and record.rtype == rtype]
    return record


def test_all_is_as_it_has_to_be() -> None:
    found = records(TESTING, caa=CaaWanted("0 issue x", ("0 issue x",)))
    assert [(record.name, record.rtype, record.value, record.mark) for record in found] == [
        ("mta-sts.example.com", "A", "192.0.2.1", Mark.OK),
        ("mta-sts.example.com", "AAAA", "2001:db8::1", Mark.OK),
        ("_mta-sts.example.com", "TXT", "v=STSv1; id=20260301T120001Z;", Mark.OK),
        ("_smtp._tls.example.com", "TXT", "v=TLSRPTv1; rua=mailto:tls@example.com", Mark.OK),
        ("mta-sts.example.com", "CAA", "0 issue x", Mark.OK),
    ]


def test_rfc8461_8_2_an_id_waits_for_its_policy() -> None:
    record = of(records(added(), sts_records=(record_at(),)), "_mta-sts.example.com")
    assert (record.mark, record.note) == (Mark.WAIT, "not yet: version 1 is not served at every address")
    changed = enforce(TESTING, Readiness(()), NOW, first_max_age=604_800)[0]
    text = record_text(TESTING.current.record_id)
    record = of(records(changed, sts_records=(record_at(text),)), "_mta-sts.example.com")
    assert (record.value, record.mark) == (text, Mark.OK)
    assert record.note == "id 20260301T120002Z follows when version 2 is served at every address"


@pytest.mark.parametrize(
    ("texts", "mark"),
    [((), Mark.MISSING), (("v=STSv1; id=1;",), Mark.DIFFERS), (("v=STSv1; id=1;", "v=STSv1; id=2;"), Mark.DIFFERS)],
)
def test_what_is_published_beside_it(texts: tuple[str, ...], mark: Mark) -> None:
    record = of(records(TESTING, sts_records=(record_at(*texts),)), "_mta-sts.example.com")
    assert (record.published, record.mark) == (texts, mark)


def test_what_can_not_be_looked_at() -> None:
    name = "_mta-sts.example.com"
    unknown = of(records(TESTING, sts_records=(), sts_records_problem="servfail"), name)
    assert (unknown.mark, unknown.note, unknown.value) == (Mark.UNKNOWN, "servfail", "v=STSv1; id=20260301T120001Z;")
    assert of(records(added(), sts_records=()), name).note == "no authoritative server was asked"
    silent = of(records(TESTING, sts_records=(record_at(problem="timeout"),)), name)
    assert (silent.mark, silent.note) == (Mark.UNKNOWN, "ns1.example.net: timeout")
    tlsrpt = of(records(TESTING, tlsrpt_records=(), tlsrpt_records_problem="servfail"), "_smtp._tls.example.com")
    assert tlsrpt.mark is Mark.UNKNOWN


def test_rfc8461_8_3_the_record_goes_in_the_end() -> None:
    name = "_mta-sts.example.com"
    assert of(records(RETIRING), name).mark is Mark.OK
    due = of(records(RETIRING, days=8), name)
    assert (due.value, due.mark, due.note) == ("", Mark.REMOVE, "no sender may find it any more")
    gone = record_gone(RETIRING, NOW + 8 * DAY)[0]
    assert of(records(gone, days=8, sts_records=(record_at(),)), name).mark is Mark.OK
    retired = records(RETIRED)
    assert [(record.rtype, record.mark) for record in retired] == [("A", Mark.REMOVE), ("TXT", Mark.REMOVE)]
    assert records(RETIRED, HostAddresses())[0].mark is Mark.OK


@pytest.mark.parametrize(
    ("addresses", "marks"),
    [
        (HostAddresses(problem="servfail"), [("A", Mark.UNKNOWN)]),
        (HostAddresses((V4,)), [("A", Mark.INFO)]),
        (HostAddresses(), [("A", Mark.MISSING)]),
        (HostAddresses((), (V4,)), [("A", Mark.MISSING)]),
        (HostAddresses((V6,), (V4,)), [("A", Mark.MISSING), ("AAAA", Mark.DIFFERS)]),
        (HostAddresses((V4, ip_address("192.0.2.2")), (V4,)), [("A", Mark.DIFFERS)]),
        (HostAddresses((V4,), (V4,), cname=Domain("policy.example.net")), [("A", Mark.OK)]),
    ],
)
def test_rfc8461_3_3_the_address_of_the_policy_host(addresses: HostAddresses, marks: list[tuple[str, Mark]]) -> None:
    found = [record for record in records(TESTING, addresses) if record.name == "mta-sts.example.com"]
    assert [(record.rtype, record.mark) for record in found] == marks
    if addresses.cname:
        assert found[0].note == "an alias of policy.example.net"


@pytest.mark.parametrize(
    ("texts", "mark"),
    [
        ((), Mark.MISSING),
        (("v=TLSRPTv1; rua=mailto:tls@example.com,mailto:me@example.com",), Mark.OK),
        (("v=TLSRPTv1; rua=mailto:me@example.com",), Mark.DIFFERS),
        (("v=TLSRPTv1;",), Mark.DIFFERS),
        (("v=spf1 -all",), Mark.DIFFERS),
    ],
)
def test_rfc8460_3_reports_come_to_us_too(texts: tuple[str, ...], mark: Mark) -> None:
    assert of(records(TESTING, tlsrpt_records=(record_at(*texts),)), "_smtp._tls.example.com").mark is mark


def test_without_a_rua_there_is_nothing_to_compare() -> None:
    assert of(records(TESTING, ruas=()), "_smtp._tls.example.com").mark is Mark.INFO


@pytest.mark.parametrize(("published", "mark"), [((), Mark.MISSING), (("0 issue y",), Mark.DIFFERS)])
def test_caa_is_optional(published: tuple[str, ...], mark: Mark) -> None:
    record = of(records(TESTING, caa=CaaWanted("0 issue x", published)), "mta-sts.example.com", "CAA")
    assert record.mark is mark
    assert record.note.startswith("optional")
