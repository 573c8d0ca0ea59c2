"""What Postfix's commands print, taken apart."""

import pytest

from stsguard.core.errors import PostfixUnreadable
from stsguard.core.postfix_facts import (
    CaFacts,
    CaState,
    Nameserver,
    PostfixFacts,
    ResolvConf,
    SmtpService,
    Validation,
    dane_obstacles,
    parse_instances,
    parse_resolv_conf,
    parse_services,
    parse_settings,
    parse_version,
)

MASTER = """\
smtp       inet  n       -       y       -       -       smtpd
qmgr       unix  n       -       n       300     1       qmgr
smtp       unix  -       -       y       -       -       smtp
relay      unix  -       -       n       -       -       smtp -o syslog_name=postfix/$service_name
slow       unix  -       -       -       -       1       smtp
lmtp       unix  -       -       y       -       -       lmtp
maildrop   unix  -       n       n       -       -       pipe flags=DRXhu user=vmail argv=smtp
short      unix  -
"""
OVERRIDES = "relay/unix/syslog_name = postfix/$service_name\nslow/unix/smtp_tls_security_level = encrypt\n"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("3.7.11", (3, 7, 11)),
        ("3.10.13", (3, 10, 13)),
        ("3.10", (3, 10, 0)),
        ("3.12-20260821", (3, 12, 0)),
        ("3.11-RC1", (3, 11, 0)),
        ("2.11.3", (2, 11, 3)),
    ],
)
def test_version(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "Postfix", "3", "3.x", "٣.٧", "3.7.1.2", "99999.1"])
def test_what_is_no_version_is_said(text: str) -> None:
    with pytest.raises(PostfixUnreadable, match="mail_version"):
        parse_version(text)


def test_settings_keep_empty_values_and_equals_signs() -> None:
    output = "relayhost =\nsmtp_tls_policy_maps = inline:{ {a.example = may} }\nno such line\n"
    assert parse_settings(output) == {"relayhost": "", "smtp_tls_policy_maps": "inline:{ {a.example = may} }"}


@pytest.mark.parametrize(
    ("level", "default"),
    [("0", True), ("", True), ("1", False), ("2", False), ("3.6", False), ("3.10", False)],
)
def test_a_dash_in_the_chroot_column_goes_by_the_compatibility_level(level: str, default: bool) -> None:
    services = parse_services(MASTER, OVERRIDES, compatibility_level=level)
    assert services == (
        SmtpService("smtp/unix", chroot=True, overrides={}),
        SmtpService("relay/unix", chroot=False, overrides={"syslog_name": "postfix/$service_name"}),
        SmtpService("slow/unix", chroot=default, overrides={"smtp_tls_security_level": "encrypt"}),
    )


def test_instances() -> None:
    output = (
        "-               -               y         /etc/postfix\n"
        "postfix-out     mta             n         /etc/postfix out\n"
        "\n"
        "broken line\n"
    )
    assert parse_instances(output) == ("/etc/postfix", "/etc/postfix out")


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("nameserver 192.0.2.1\nnameserver 2001:db8::1\n", ("192.0.2.1", "2001:db8::1")),
        ("# nameserver 192.0.2.9\nsearch example.com\nnameserver\tfe80::1%eth0 # here\n", ("fe80::1%eth0",)),
        ("nameserver 192.0.2.1\n" * 2 + "nameserver 192.0.2.2\nnameserver 192.0.2.3\n",
         ("192.0.2.1", "192.0.2.1", "192.0.2.2")),  # the C library reads three lines and no more
        ("nameserver resolver.example\nnameserver\n", ("127.0.0.1",)),
        ("", ("127.0.0.1",)),
    ],
)  # fmt: skip
def test_resolv_conf(text: str, addresses: tuple[str, ...]) -> None:
    assert parse_resolv_conf(text) == addresses


@pytest.mark.parametrize(
    ("settings", "obstacles"),
    [
        ({}, ()),
        ({"smtp_host_lookup": "dns, native"}, ()),
        ({"smtp_host_lookup": "native"}, ("smtp_host_lookup = native",)),
        ({"ignore_mx_lookup_error": "yes"}, ("ignore_mx_lookup_error = yes",)),
        ({"smtp_dns_resolver_options": "res_dnsrch"}, ("smtp_dns_resolver_options = res_dnsrch",)),
    ],
)
def test_settings_that_keep_dane_off(settings: dict[str, str], obstacles: tuple[str, ...]) -> None:
    assert dane_obstacles(settings) == obstacles


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.53", True), ("::1", True), ("192.0.2.1", False), ("fe80::1%eth0", False)],
)
def test_loopback(address: str, loopback: bool) -> None:
    assert Nameserver(address, Validation.YES).loopback is loopback


SYSTEM = ResolvConf("/etc/resolv.conf", True, (Nameserver("192.0.2.1", Validation.NO),))
COPY = ResolvConf(
    "/q/etc/resolv.conf",
    True,
    (Nameserver("192.0.2.1", Validation.NO), Nameserver("127.0.0.1", Validation.YES)),
)


def facts(*services: SmtpService, copy: ResolvConf | None = None, **settings: str) -> PostfixFacts:
    authorities = CaFacts(CaState.GOOD, CaState.NOT_SET, CaState.NOT_SET, None)
    return PostfixFacts("/etc/postfix", settings, settings, services, SYSTEM, copy, authorities)


CHROOTED = SmtpService("smtp/unix", chroot=True, overrides={})
FREE = SmtpService("relay/unix", chroot=False, overrides={})


@pytest.mark.parametrize(
    ("services", "copy", "files"),
    [
        ((CHROOTED,), COPY, (COPY,)),
        ((CHROOTED, FREE), COPY, (COPY, SYSTEM)),
        ((FREE,), None, (SYSTEM,)),
        ((), None, (SYSTEM,)),
    ],
)
def test_the_resolver_of_each_service_counts(
    services: tuple[SmtpService, ...], copy: ResolvConf | None, files: tuple[ResolvConf, ...]
) -> None:
    found = facts(*services, copy=copy)
    assert found.resolver_files == files
    assert len(found.nameservers) == len(set(found.nameservers))
    assert set(found.nameservers) == {server for file in files for server in file.nameservers}


def test_defaults_and_flags() -> None:
    found = facts(CHROOTED, FREE, mail_version="3.7.11", queue_directory="/q/", smtp_use_tls="YES")
    assert found.version == (3, 7, 11)
    assert found.queue_directory == "/q"
    assert facts().queue_directory == "/var/spool/postfix"
    assert found.chrooted == ("smtp/unix",)
    assert found.is_on("smtp_use_tls")
    assert not found.is_on("smtp_enforce_tls")
