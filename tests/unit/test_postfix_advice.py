"""Facts in, lines and findings out: each row changes one thing about a Postfix that needs nothing."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from stsguard.core.errors import PostfixUnreadable
from stsguard.core.postfix_advice import Setting, advise
from stsguard.core.postfix_facts import (
    CaFacts,
    CaState,
    Nameserver,
    PostfixFacts,
    ResolvConf,
    SmtpService,
    Validation,
)
from stsguard.core.postfix_findings import Severity

QUEUE = "/var/spool/postfix"
CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
LOCAL = Nameserver("127.0.0.1", Validation.YES)
SETTLED = {
    "compatibility_level": "3.6",
    "ignore_mx_lookup_error": "no",
    "mail_version": "3.7.11",
    "milter_default_action": "tempfail",
    "queue_directory": QUEUE,
    "relayhost": "",
    "smtp_dns_support_level": "dnssec",
    "smtp_host_lookup": "dns",
    "smtp_tls_CAfile": CA_FILE,
    "smtp_tls_CApath": "",
    "smtp_tls_connection_reuse": "no",
    "smtp_tls_dane_insecure_mx_policy": "dane",
    "smtp_tls_loglevel": "1",
    "smtp_tls_mandatory_protocols": ">=TLSv1.2",
    "smtp_tls_policy_maps": "socketmap:unix:stsguard/lookup.sock:policy",
    "smtp_tls_security_level": "dane",
}
NEW = {
    "mail_version": "3.10.13",
    "smtp_tls_policy_maps": "socketmap:unix:stsguard/lookup.sock:policy-tlsrpt",
    "smtp_tls_enforce_sts_mx_patterns": "yes",
    "smtp_tlsrpt_enable": "yes",
    "smtp_tlsrpt_socket_name": "stsguard/tlsrpt.sock",
    "smtp_tlsrpt_skip_reused_handshakes": "no",
}
CHROOTED = SmtpService("smtp/unix", chroot=True, overrides={})
FREE = SmtpService("smtp/unix", chroot=False, overrides={})


def resolv_conf(*servers: Nameserver, path: str = "/etc/resolv.conf", present: bool = True) -> ResolvConf:
    return ResolvConf(path, present, servers)


def postfix(**settings: str) -> PostfixFacts:
    """A chrooted Postfix 3.7 that needs nothing, but for `settings`."""
    merged = {**SETTLED, **settings}
    return PostfixFacts(
        config_directory="/etc/postfix",
        settings=merged,
        written=merged,
        services=(CHROOTED,),
        resolv_conf=resolv_conf(LOCAL),
        chroot_resolv_conf=resolv_conf(LOCAL, path=f"{QUEUE}/etc/resolv.conf"),
        authorities=CaFacts(CaState.GOOD, CaState.NOT_SET, CaState.NOT_SET, CA_FILE),
    )


def with_servers(*servers: Nameserver) -> PostfixFacts:
    copy = resolv_conf(*servers, path=f"{QUEUE}/etc/resolv.conf")
    return replace(postfix(), resolv_conf=resolv_conf(*servers), chroot_resolv_conf=copy)


def with_authorities(
    file: CaState = CaState.NOT_SET,
    directory: CaState = CaState.NOT_SET,
    in_chroot: CaState = CaState.NOT_SET,
    *,
    services: tuple[SmtpService, ...] = (CHROOTED,),
    **settings: str,
) -> PostfixFacts:
    paths = {
        "smtp_tls_CAfile": "" if file is CaState.NOT_SET else "/ca.pem",
        "smtp_tls_CApath": "" if directory is CaState.NOT_SET else "/ca",
    }
    return replace(
        postfix(**paths, **settings), services=services, authorities=CaFacts(file, directory, in_chroot, CA_FILE)
    )


def without(name: str) -> PostfixFacts:
    facts = postfix()
    kept = {key: value for key, value in facts.settings.items() if key != name}
    return replace(facts, settings=kept, written=kept)


def test_a_settled_postfix_needs_nothing() -> None:
    for facts in (postfix(), postfix(**NEW)):
        advice = advise(facts)
        assert advice.nothing_to_do
        assert advice.settings == ()
        assert advice.listen == f"unix:{QUEUE}/stsguard/lookup.sock"
        assert {finding.severity for finding in advice.findings} <= {Severity.NOTE}


FINDINGS: list[tuple[str, Severity, PostfixFacts]] = [
    ("version-too-old", Severity.ERROR, postfix(mail_version="3.3.22")),
    ("mx-patterns-unknown", Severity.NOTE, postfix()),
    ("mx-patterns-off", Severity.WARNING, postfix(**{**NEW, "smtp_tls_enforce_sts_mx_patterns": "no"})),
    ("policy-not-asked", Severity.ERROR, postfix(smtp_tls_policy_maps="hash:/etc/postfix/tls_policy")),
    ("policy-map-name", Severity.ERROR, postfix(smtp_tls_policy_maps="socketmap:inet:127.0.0.1:8461:sts")),
    ("policy-map-too-new", Severity.ERROR, postfix(smtp_tls_policy_maps="socketmap:inet:localhost:8461:policy-tlsrpt")),
    ("policy-map-too-plain", Severity.WARNING,
     postfix(**{**NEW, "smtp_tls_policy_maps": "socketmap:unix:stsguard/lookup.sock:policy"})),
    ("policy-socket-outside-chroot", Severity.ERROR,
     postfix(smtp_tls_policy_maps=f"socketmap:unix:{QUEUE}/stsguard/lookup.sock:policy")),
    ("policy-shadowed", Severity.ERROR, postfix(smtp_tls_policy_maps="static:may socketmap:unix:x:policy")),
    ("policy-maybe-shadowed", Severity.NOTE, postfix(smtp_tls_policy_maps="regexp:/r socketmap:unix:x:policy")),
    ("other-policy-service", Severity.WARNING,
     postfix(smtp_tls_policy_maps="socketmap:inet:127.0.0.1:8642:QUERY socketmap:unix:x:policy")),
    ("other-policy-service", Severity.WARNING, postfix(smtp_tls_policy_maps="socketmap:inet:127.0.0.1:8642:QUERY")),
    ("other-policy-service", Severity.NOTE, postfix(smtp_tls_policy_maps="socketmap:unix:x:policy tcp:127.0.0.1:1")),
    ("per-site-table-ignored", Severity.WARNING, postfix(smtp_tls_per_site="hash:/etc/postfix/tls_per_site")),
    ("service-override", Severity.WARNING,
     replace(postfix(), services=(SmtpService("slow/unix", True, {"smtp_tls_security_level": "none"}),))),
    ("relayhost", Severity.NOTE, postfix(relayhost="[relay.example]:587")),
    ("no-tls", Severity.ERROR, postfix(smtp_tls_security_level="")),
    ("no-tls", Severity.ERROR, postfix(smtp_tls_security_level="none")),
    ("no-authorities", Severity.ERROR, with_authorities()),
    ("authorities-file-bad", Severity.ERROR, with_authorities(CaState.MISSING)),
    ("authorities-file-bad", Severity.ERROR, with_authorities(CaState.NO_CERTIFICATE, CaState.GOOD, CaState.GOOD)),
    ("authorities-directory-bad", Severity.ERROR, with_authorities(CaState.NOT_SET, CaState.MISSING)),
    ("authorities-directory-bad", Severity.ERROR, with_authorities(CaState.NOT_SET, CaState.GOOD, CaState.MISSING)),
    ("resolver-not-validating", Severity.WARNING, with_servers(Nameserver("127.0.0.1", Validation.NO))),
    ("resolver-silent", Severity.WARNING, with_servers(LOCAL, Nameserver("192.0.2.1", Validation.NO_ANSWER))),
    ("resolver-not-local", Severity.WARNING, with_servers(Nameserver("192.0.2.1", Validation.YES))),
    ("chroot-resolver-missing", Severity.WARNING,
     replace(with_servers(Nameserver("::1", Validation.YES)), chroot_resolv_conf=resolv_conf(LOCAL, present=False))),
    ("chroot-resolver-stale", Severity.WARNING,
     replace(with_servers(Nameserver("::1", Validation.YES)), chroot_resolv_conf=resolv_conf(LOCAL))),
    ("dane-off", Severity.WARNING, postfix(smtp_host_lookup="native")),
    ("dane-without-dnssec", Severity.ERROR, postfix(smtp_dns_support_level="")),
    ("dane-without-dnssec", Severity.ERROR,
     postfix(smtp_dns_support_level="enabled", smtp_tls_security_level="dane-only")),
    ("connection-reuse", Severity.NOTE, postfix(smtp_tls_connection_reuse="yes")),
]  # fmt: skip


@pytest.mark.parametrize(("code", "severity", "facts"), FINDINGS)
def test_what_is_wrong(code: str, severity: Severity, facts: PostfixFacts) -> None:
    advice = advise(facts)
    found = [finding for finding in advice.findings if finding.code == code]
    assert [finding.severity for finding in found] == [severity]
    assert all((finding.what, finding.reason, finding.effect) for finding in found)
    if severity is not Severity.NOTE:
        assert not advice.nothing_to_do


@pytest.mark.parametrize(
    "facts",
    [
        with_authorities(tls_append_default_CA="yes"),
        with_authorities(CaState.NOT_SET, CaState.GOOD, CaState.GOOD),
        with_authorities(CaState.NOT_SET, CaState.GOOD, CaState.MISSING, services=(FREE,)),
        replace(postfix(), chroot_resolv_conf=resolv_conf(LOCAL, present=False)),  # 127.0.0.1 is what it asks anyway
        replace(postfix(), chroot_resolv_conf=None, services=(FREE,)),
        postfix(smtp_tls_policy_maps="hash:/a, socketmap:inet:localhost:8461:policy"),
        postfix(smtp_tls_policy_maps="socketmap:inet:127.0.0.1:8461:postfix"),
        postfix(smtp_tls_security_level="", smtp_enforce_tls="yes"),
        postfix(smtp_tls_security_level="encrypt"),
        postfix(smtp_tls_mandatory_protocols="!SSLv2, !SSLv3, !TLSv1, !TLSv1.1"),
        postfix(smtp_tls_mandatory_protocols="TLSv1.2 TLSv1.3"),
        postfix(**{**NEW, "smtp_tlsrpt_socket_name": "run/other.sock", "smtp_tlsrpt_skip_reused_handshakes": "yes"}),
        without("smtp_tls_dane_insecure_mx_policy"),
        without("smtp_host_lookup"),
    ],
)
def test_what_works_is_left_alone(facts: PostfixFacts) -> None:
    advice = advise(facts)
    assert advice.nothing_to_do
    assert advice.settings == ()


UNTRUSTED = (Nameserver("192.0.2.1", Validation.NO),)
SETTINGS: list[tuple[PostfixFacts, str, str | None]] = [
    # the map: the socketmap name of the version, the path as a chrooted smtp(8) sees it, other maps kept
    (postfix(smtp_tls_policy_maps=""), "smtp_tls_policy_maps", "socketmap:unix:stsguard/lookup.sock:policy"),
    (postfix(**{**NEW, "smtp_tls_policy_maps": ""}),
     "smtp_tls_policy_maps", "socketmap:unix:stsguard/lookup.sock:policy-tlsrpt"),
    (postfix(smtp_tls_policy_maps="hash:/a static:may"),
     "smtp_tls_policy_maps", "hash:/a, socketmap:unix:stsguard/lookup.sock:policy, static:may"),
    (postfix(smtp_tls_policy_maps="static:may socketmap:inet:127.0.0.1:8461:QUERY"),
     "smtp_tls_policy_maps", "socketmap:inet:127.0.0.1:8461:QUERY, static:may"),  # moves, keeps its name
    (postfix(**{**NEW, "smtp_tls_policy_maps": "socketmap:inet:127.0.0.1:8461:QUERY"}),
     "smtp_tls_policy_maps", "socketmap:inet:127.0.0.1:8461:policy-tlsrpt"),
    (postfix(smtp_tls_policy_maps=f"socketmap:unix:{QUEUE}/stsguard/lookup.sock:policy"),
     "smtp_tls_policy_maps", "socketmap:unix:stsguard/lookup.sock:policy"),
    # the level: never lowered, dane only where it can work
    (postfix(smtp_tls_security_level="may"), "smtp_tls_security_level", "dane"),
    (postfix(smtp_tls_security_level="", smtp_use_tls="yes"), "smtp_tls_security_level", "dane"),
    (postfix(smtp_tls_security_level="none"), "smtp_tls_security_level", "dane"),
    (replace(with_servers(*UNTRUSTED), settings={**SETTLED, "smtp_tls_security_level": ""}),
     "smtp_tls_security_level", "may"),
    (replace(with_servers(*UNTRUSTED), settings={**SETTLED, "smtp_tls_security_level": "may"}),
     "smtp_tls_security_level", None),
    (with_servers(*UNTRUSTED), "smtp_tls_security_level", None),
    (postfix(smtp_tls_security_level="may", ignore_mx_lookup_error="yes"), "smtp_tls_security_level", None),
    (postfix(smtp_tls_security_level="secure"), "smtp_tls_security_level", None),
    (postfix(smtp_dns_support_level=""), "smtp_dns_support_level", "dnssec"),
    (replace(with_servers(*UNTRUSTED), settings={**SETTLED, "smtp_dns_support_level": ""}),
     "smtp_dns_support_level", None),
    (postfix(smtp_tls_dane_insecure_mx_policy="may"), "smtp_tls_dane_insecure_mx_policy", "dane"),
    (replace(with_servers(*UNTRUSTED),
             settings={**SETTLED, "smtp_dns_support_level": "", "smtp_tls_dane_insecure_mx_policy": "may"}),
     "smtp_tls_dane_insecure_mx_policy", None),
    # the rest
    (with_authorities(), "smtp_tls_CAfile", CA_FILE),
    (with_authorities(CaState.MISSING), "smtp_tls_CAfile", CA_FILE),
    (with_authorities(CaState.NOT_SET, CaState.GOOD, CaState.MISSING), "smtp_tls_CAfile", CA_FILE),
    (with_authorities(CaState.NOT_SET, CaState.GOOD, CaState.NOT_SET, services=(FREE,)), "smtp_tls_CAfile", None),
    (replace(with_authorities(), authorities=CaFacts(CaState.NOT_SET, CaState.NOT_SET, CaState.NOT_SET, None)),
     "smtp_tls_CAfile", None),
    (postfix(**{**NEW, "smtp_tls_enforce_sts_mx_patterns": "no"}), "smtp_tls_enforce_sts_mx_patterns", "yes"),
    (postfix(smtp_tls_loglevel="0"), "smtp_tls_loglevel", "1"),
    (postfix(smtp_tls_mandatory_protocols=">=TLSv1"), "smtp_tls_mandatory_protocols", ">=TLSv1.2"),
    (postfix(smtp_tls_mandatory_protocols=""), "smtp_tls_mandatory_protocols", ">=TLSv1.2"),
    (postfix(mail_version="3.5.25", smtp_tls_mandatory_protocols="!SSLv2, !SSLv3"),
     "smtp_tls_mandatory_protocols", "!SSLv2, !SSLv3, !TLSv1, !TLSv1.1"),
    # the milter: our own only
    (postfix(smtpd_milters="inet:127.0.0.1:11332"), "milter_default_action", None),
    (postfix(smtpd_milters="unix:stsguard/milter.sock"), "milter_default_action", "accept"),
    (postfix(smtpd_milters="inet:127.0.0.1:8462"), "milter_default_action", "accept"),
    (postfix(smtpd_milters="unix:stsguard/milter.sock", milter_default_action="accept"), "milter_default_action", None),
    (postfix(smtpd_milters="{ unix:stsguard/milter.sock, default_action = accept }"), "milter_default_action", None),
    (postfix(smtpd_milters="inet:127.0.0.1:11332, { unix:stsguard/milter.sock }"),
     "smtpd_milters", "inet:127.0.0.1:11332, { unix:stsguard/milter.sock, default_action = accept }"),
    (postfix(smtpd_milters="inet:127.0.0.1:11332, unix:stsguard/milter.sock"), "milter_default_action", None),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "name", "value"), SETTINGS)
def test_lines(facts: PostfixFacts, name: str, value: str | None) -> None:
    advice = advise(facts)
    assert [setting.value for setting in advice.settings if setting.name == name] == ([] if value is None else [value])
    assert all(setting.reason for setting in advice.settings)
    if value is not None:
        assert not advice.nothing_to_do


def _configured(facts: PostfixFacts) -> tuple[str, str | None]:
    advice = advise(facts)
    found = {setting.name: setting.value for setting in advice.settings}
    return found.get("smtp_tls_policy_maps", facts.settings["smtp_tls_policy_maps"]), advice.listen


@pytest.mark.parametrize(
    ("listen", "services", "address", "needed"),
    [
        # what the daemon has is used, a chrooted smtp(8) willing
        (("inet:127.0.0.1:8461",), (CHROOTED,), "inet:127.0.0.1:8461", "inet:127.0.0.1:8461"),
        (("inet:0.0.0.0:99",), (CHROOTED,), "inet:127.0.0.1:99", "inet:127.0.0.1:99"),
        (("inet:[::]:99",), (CHROOTED,), "inet:[::1]:99", "inet:[::1]:99"),
        ((f"unix:{QUEUE}/sts/s",), (CHROOTED,), "unix:sts/s", f"unix:{QUEUE}/sts/s"),
        (("unix:/run/stsguard/l.sock",), (FREE,), "unix:/run/stsguard/l.sock", "unix:/run/stsguard/l.sock"),
        (("unix:/run/l.sock", "inet:127.0.0.1:1"), (CHROOTED,), "inet:127.0.0.1:1", "inet:127.0.0.1:1"),
        # and else one is proposed that it can reach
        (("unix:/run/l.sock",), (CHROOTED,), "unix:stsguard/lookup.sock", f"unix:{QUEUE}/stsguard/lookup.sock"),
        ((), (FREE,), "unix:stsguard/lookup.sock", f"unix:{QUEUE}/stsguard/lookup.sock"),
    ],
)
def test_address(listen: tuple[str, ...], services: tuple[SmtpService, ...], address: str, needed: str) -> None:
    advice = advise(replace(postfix(smtp_tls_policy_maps=""), services=services), listen=listen)
    assert {s.name: s.value for s in advice.settings} == {"smtp_tls_policy_maps": f"socketmap:{address}:policy"}
    assert advice.listen == needed


def test_inet_where_no_path_in_the_queue_directory_will_do() -> None:
    far = postfix(smtp_tls_policy_maps="", queue_directory="/srv/" + "q" * 90)
    absent = replace(postfix(smtp_tls_policy_maps=""), queue_directory_exists=False)
    for facts in (far, absent):
        assert _configured(facts) == ("socketmap:inet:127.0.0.1:8461:policy", "inet:127.0.0.1:8461")


def test_a_map_that_asks_where_the_daemon_does_not_listen_is_an_error() -> None:
    facts = postfix(smtp_tls_policy_maps="socketmap:inet:127.0.0.1:99:policy")
    advice = advise(facts, listen=("inet:127.0.0.1:8461",))
    assert "policy-socket-elsewhere" in {finding.code for finding in advice.findings}
    assert advice.settings[0].line == "smtp_tls_policy_maps = socketmap:inet:127.0.0.1:8461:policy"


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("hash:$config_directory/a", "hash:$config_directory/a, socketmap:unix:stsguard/lookup.sock:policy"),
        ("$my_maps", "hash:/etc/postfix/a, hash:/b, socketmap:unix:stsguard/lookup.sock:policy"),
    ],
)
def test_other_maps_stay_as_they_were_written(written: str, line: str) -> None:
    expanded = "hash:/etc/postfix/a" + (", hash:/b" if written == "$my_maps" else "")
    facts = postfix(smtp_tls_policy_maps=expanded)
    advice = advise(replace(facts, written={**facts.settings, "smtp_tls_policy_maps": written}))
    assert advice.settings[0].value == line
    assert "all maps for the exact name" in advice.settings[0].reason


def test_no_line_is_advised_before_3_4() -> None:
    advice = advise(postfix(mail_version="3.3.0", smtp_tls_security_level="", smtp_tls_policy_maps=""))
    assert (advice.settings, advice.listen) == ((), None)
    assert [finding.code for finding in advice.findings] == ["version-too-old"]


TLSRPT_OFF = {
    **NEW,
    "smtp_tlsrpt_enable": "no",
    "smtp_tlsrpt_socket_name": "",
    "smtp_tlsrpt_skip_reused_handshakes": "yes",
}


@pytest.mark.parametrize(
    ("settings", "socket", "lines"),
    [
        (TLSRPT_OFF, None, {"enable": "yes", "socket_name": "stsguard/tlsrpt.sock", "skip_reused_handshakes": "no"}),
        (TLSRPT_OFF, f"{QUEUE}/t", {"enable": "yes", "socket_name": "t", "skip_reused_handshakes": "no"}),
        ({**TLSRPT_OFF, "smtp_tlsrpt_enable": "yes"}, "/run/t",
         {"socket_name": "/run/t", "skip_reused_handshakes": "no"}),
        (NEW, None, {}),
        ({}, f"{QUEUE}/t", {}),  # before 3.10 there is no such thing
    ],
)  # fmt: skip
def test_tlsrpt(settings: Mapping[str, str], socket: str | None, lines: dict[str, str]) -> None:
    advice = advise(postfix(**settings), tlsrpt_socket=socket)
    found = {s.name.removeprefix("smtp_tlsrpt_"): s.value for s in advice.settings}
    assert found == lines
    # Without [sessions] nobody would listen: the lines are shown, and nothing is wrong without them.
    assert all(setting.optional is (socket is None) for setting in advice.settings)
    assert advice.nothing_to_do is (socket is None or not lines)


@pytest.mark.parametrize(
    ("directory", "command"),
    [
        ("/etc/postfix", "postconf -e 'smtp_tls_CAfile = /it'\"'\"'s $here'"),
        ("/etc/postfix out", "postconf -c '/etc/postfix out' -e 'smtp_tls_CAfile = /it'\"'\"'s $here'"),
    ],
)
def test_commands_are_safe_to_paste(directory: str, command: str) -> None:
    assert Setting("smtp_tls_CAfile", "/it's $here", "why").command(directory) == command


@pytest.mark.parametrize("change", [lambda f: replace(f, settings={}), lambda f: postfix(mail_version="?")])
def test_no_advice_without_a_version(change: Callable[[PostfixFacts], PostfixFacts]) -> None:
    with pytest.raises(PostfixUnreadable):
        advise(change(postfix()))
