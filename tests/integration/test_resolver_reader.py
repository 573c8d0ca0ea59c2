"""dnspython is loaded when the first answer that is not plain comes: not before, and nothing is lost by it."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import dns.message
import dns.rcode
import pytest

from stsguard.adapters.resolver import DnsResolver
from stsguard.adapters.resolver.reader import Reader, _load
from stsguard.core.dane import AnswerStatus, MxRecord
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.names import Domain
from tests.lab.nameserver import Handler, Nameserver, respond, zone
from tests.lab.resolving import NAME, ask, failure, lookup_mx

LOAD = "stsguard.adapters.resolver.reader._load"
MX = "example.test. 300 IN MX 1 mx.test."
ALIAS = zone("example.test. 300 IN CNAME b.test.", "b.test. 300 IN MX 1 mx.test.")
FOUND = (MxRecord(1, Domain("mx.test")),)


@pytest.fixture
def without_dnspython(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("no dnspython")

    monkeypatch.setattr(LOAD, missing)


def failing(rcode: dns.rcode.Rcode) -> Handler:
    return lambda query, _over_tcp: [respond(query, rcode=rcode)]


def truncated(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
    return [respond(query, MX, truncated=not over_tcp)]


@pytest.mark.usefixtures("without_dnspython")
async def test_plain_answers_failures_and_truncation_do_without_it() -> None:
    assert (await ask(zone(MX), lookup_mx)).records == FOUND
    assert (await ask(zone(), lookup_mx)).status is AnswerStatus.NXDOMAIN
    assert (await ask(truncated, lookup_mx)).records == FOUND
    assert (await failure(failing(dns.rcode.SERVFAIL))).reason is LookupReason.SERVFAIL
    assert (await failure(failing(dns.rcode.REFUSED))).reason is LookupReason.REFUSED


@pytest.mark.usefixtures("without_dnspython")
async def test_where_it_is_not_to_be_had_the_look_up_fails_by_a_fault_of_ours() -> None:
    # Neither an answer nor a LookupFailed, which is the peer's: mail waits, and the supervisor logs it.
    with pytest.raises(ImportError, match="no dnspython"):
        await ask(ALIAS, lookup_mx)


async def test_it_is_sought_again_by_the_next_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Nameserver(ALIAS) as nameserver:
        resolver = DnsResolver([nameserver.address], timeout_seconds=30)
        with monkeypatch.context() as patched:
            patched.setattr(LOAD, lambda: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await resolver.lookup_mx(NAME)
        assert (await resolver.lookup_mx(NAME)).records == FOUND


async def test_who_comes_while_it_is_loaded_waits_for_one_load(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []

    def load() -> object:
        loads.append(1)
        return _load()

    monkeypatch.setattr(LOAD, load)
    async with Nameserver(ALIAS) as nameserver:
        resolver = DnsResolver([nameserver.address], timeout_seconds=30)
        answers = await asyncio.gather(*(resolver.lookup_mx(NAME) for _ in range(20)))
    assert [answer.records for answer in answers] == [FOUND] * 20
    assert len(nameserver.queries) == 20  # what came before it was loaded is not asked for again
    assert len(loads) == 1


async def test_rfc5452_9_1_a_true_answer_after_a_forged_one_counts_while_it_is_loaded() -> None:
    def forged_first(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        good = respond(query, MX)
        return [good[:-1], good]

    async with Nameserver(forged_first) as nameserver:
        resolver = DnsResolver([nameserver.address], timeout_seconds=30)
        assert (await resolver.lookup_mx(NAME)).records == FOUND
        assert len(nameserver.queries) == 2  # the first answer could not be told from an odd one
        assert (await resolver.lookup_mx(NAME)).records == FOUND
        assert len(nameserver.queries) == 3


async def test_loading_takes_of_the_time_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_reader: Reader) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Reader, "load", never)
    assert (await failure(ALIAS, timeout_seconds=0.2)).reason is LookupReason.TIMEOUT


def over_tcp_only(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
    return ALIAS(query, over_tcp) if over_tcp else [respond(query, truncated=True)]


async def test_an_odd_answer_over_tcp_loads_it() -> None:
    assert (await ask(over_tcp_only, lookup_mx)).records == FOUND


async def test_the_root_is_told_by_its_name() -> None:
    with pytest.raises(LookupFailed, match=r"^\. DNSKEY: servfail"):
        await ask(failing(dns.rcode.SERVFAIL), lambda resolver: resolver.look(".", 48))


async def test_a_name_that_dns_cannot_carry_is_told_before_anything_is_asked() -> None:
    with pytest.raises(LookupFailed, match="no name for the DNS"):
        await ask(zone(MX), lambda resolver: resolver.look("x" * 64 + ".test", 1))


async def test_the_checks_of_a_nameserver_do_without_it() -> None:
    def validating(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        if query.question[0].name.to_text() == "dnssec-failed.org.":
            return [respond(query, rcode=dns.rcode.SERVFAIL)]
        return [respond(query, ". 300 IN DNSKEY 257 3 15 AAAA", authentic=True)]

    script = (
        "import asyncio, sys\n"
        "from stsguard.adapters.resolver.validation import check_validation\n"
        "print(asyncio.run(check_validation([('127.0.0.1', int(sys.argv[1]))])).validates, 'dns' in sys.modules)\n"
    )
    async with Nameserver(validating) as nameserver:
        command = [sys.executable, "-c", script, str(nameserver.address[1])]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
