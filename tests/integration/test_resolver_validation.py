"""Whether AD may be believed, decided from nameservers that behave in each way they can; and resolv.conf."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from stsguard.adapters.resolver.validation import (
    answers_with_ad,
    check_validation,
    is_trusted_path,
    load_resolv_conf,
    parse_resolv_conf,
)
from stsguard.core.errors import ConfigInvalid, LookupFailed
from tests.lab.nameserver import Handler, Nameserver, refusing_port, respond, silent_port, zone

DNSKEY = ". 300 IN DNSKEY 257 3 15 AAAA"
SOA = ". 300 IN SOA ns.test. hostmaster.test. 1 3600 600 86400 60"


def nameserver(*, authentic: bool, bogus: Handler, signed: Handler | None = None) -> Handler:
    """Answers `. DNSKEY` with or without AD, and everything else by `bogus`."""

    def handle(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        if query.question[0].rdtype != dns.rdatatype.DNSKEY:
            return bogus(query, over_tcp)
        return signed(query, over_tcp) if signed else [respond(query, DNSKEY, authentic=authentic)]

    return handle


def fails(rcode: dns.rcode.Rcode) -> Handler:
    return lambda query, over_tcp: [respond(query, rcode=rcode)]


def silent(_query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
    return []


SERVFAIL = fails(dns.rcode.SERVFAIL)
ANSWERS = zone("dnssec-failed.org. 300 IN A 192.0.2.1", authentic=True)


@pytest.mark.parametrize(
    ("handler", "validates", "conclusive", "reason"),
    [
        (nameserver(authentic=True, bogus=SERVFAIL), True, True, "validates"),
        (nameserver(authentic=True, bogus=ANSWERS), False, True, "answers for dnssec-failed.org"),
        (nameserver(authentic=False, bogus=SERVFAIL), False, True, "without AD"),
        # NXDOMAIN proves nothing, so AD alone has to do.
        (nameserver(authentic=True, bogus=zone()), True, False, "proves nothing"),
        (nameserver(authentic=True, bogus=zone("dnssec-failed.org. 300 IN TXT x")), True, False, "proves nothing"),
        # No Internet is no proof of validation.
        (nameserver(authentic=True, bogus=silent), False, False, "timeout"),
        (nameserver(authentic=True, bogus=fails(dns.rcode.REFUSED)), False, False, "refused"),
        (nameserver(authentic=True, bogus=SERVFAIL, signed=SERVFAIL), False, False, "could not be checked"),
        (nameserver(authentic=True, bogus=SERVFAIL, signed=silent), False, False, "could not be checked"),
        # AD on a denial says nothing of signatures that could be checked.
        (
            nameserver(
                authentic=True,
                bogus=SERVFAIL,
                signed=lambda query, over_tcp: [respond(query, authority=[SOA], authentic=True)],
            ),
            False,
            True,
            "without AD",
        ),
    ],
)
async def test_one_nameserver(handler: Handler, validates: bool, conclusive: bool, reason: str) -> None:
    async with Nameserver(handler) as server:
        check = await check_validation([server.address], timeout_seconds=30 if conclusive else 0.5)
    assert (check.validates, check.conclusive) == (validates, conclusive)
    assert reason in check.reason


async def test_names_are_configurable() -> None:
    async with Nameserver(nameserver(authentic=True, bogus=SERVFAIL)) as server:
        await check_validation([server.address], signed_name="signed.test", bogus_name="bogus.test")
        questions = [query.question[0].to_text() for query in server.queries]
    assert questions == ["signed.test. IN DNSKEY", "bogus.test. IN A"]


async def test_every_nameserver_has_to_validate() -> None:
    async with (
        Nameserver(nameserver(authentic=True, bogus=SERVFAIL)) as good,
        Nameserver(nameserver(authentic=False, bogus=ANSWERS)) as bad,
        Nameserver(nameserver(authentic=True, bogus=zone())) as unsure,
    ):
        assert (await check_validation([good.address, good.address])).validates
        check = await check_validation([good.address, bad.address])
        assert (check.validates, check.conclusive) == (False, True)
        check = await check_validation([good.address, unsure.address])
        assert (check.validates, check.conclusive) == (True, False)
        with refusing_port() as refusing:
            check = await check_validation([good.address, refusing])
            assert (check.validates, check.conclusive) == (False, False)
            check = await check_validation([refusing, bad.address])
            assert (check.validates, check.conclusive) == (False, True)


async def test_rfc7672_2_1_1_plain_dns_to_elsewhere_is_not_believed_and_not_even_asked() -> None:
    check = await check_validation([("192.0.2.53", 53)])
    assert (check.validates, check.conclusive) == (False, True)
    assert "192.0.2.53 port 53 is not on this machine" in check.reason


async def test_signed_name_that_is_no_name() -> None:
    with silent_port() as address:
        check = await check_validation([address], signed_name="a..b")
    assert (check.validates, check.conclusive) == (False, False)


async def test_ad_of_one_nameserver() -> None:
    async with Nameserver(nameserver(authentic=True, bogus=SERVFAIL)) as server:
        assert await answers_with_ad(server.address, ".")
    async with Nameserver(nameserver(authentic=False, bogus=SERVFAIL)) as server:
        assert not await answers_with_ad(server.address, ".")
    with ExitStack() as stack:
        refusing = stack.enter_context(refusing_port())
        with pytest.raises(LookupFailed):
            await answers_with_ad(refusing, ".")


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("127.0.0.1", True),
        ("127.0.0.53", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.53", False),
        ("10.0.0.1", False),  # a LAN is no trusted path
        ("fe80::1%eth0", False),
        ("2001:db8::53", False),
    ],
)
def test_rfc4035_4_9_3_trusted_path_is_loopback(address: str, trusted: bool) -> None:
    assert is_trusted_path((address, 53)) is trusted


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", ["127.0.0.1"]),
        ("search example.test\noptions edns0 trust-ad\n", ["127.0.0.1"]),
        ("nameserver 127.0.0.53\n", ["127.0.0.53"]),
        ("# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nnameserver 192.0.2.3 # ours", ["192.0.2.3"]),
        ("nameserver\t::1\r\nnameserver fe80::1%eth0\n", ["::1", "fe80::1%eth0"]),
        ("nameserver\nnameserver localhost\nnameserver 192.0.2.300\nnameserver 192.0.2.4\n", ["192.0.2.4"]),
        ("".join(f"nameserver 192.0.2.{i}\n" for i in range(5)), ["192.0.2.0", "192.0.2.1", "192.0.2.2"]),
    ],
)
def test_nameservers_of_resolv_conf(text: str, addresses: list[str], tmp_path: Path) -> None:
    expected = [(address, 53) for address in addresses]
    assert parse_resolv_conf(text) == expected
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    assert load_resolv_conf(path) == expected


def test_absent_resolv_conf_means_this_machine(tmp_path: Path) -> None:
    assert load_resolv_conf(tmp_path / "absent") == [("127.0.0.1", 53)]


def test_unreadable_resolv_conf_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="can't be read"):
        load_resolv_conf(tmp_path)
