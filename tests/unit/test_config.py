"""The configuration: what is accepted, every message on what is not, and the files made from the table."""

import os
import re
import tomllib
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.config import generate
from stsguard.config.load import ConfigProblems, load, missing_files, with_state_dir
from stsguard.config.model import Config
from stsguard.config.options import OPTIONS, REPEATABLE, SECTIONS, DnssecTrust, LookupMode, Option
from stsguard.config.values import (
    Duration,
    InetAddress,
    Nameserver,
    Networks,
    UnixAddress,
    ValueRefused,
    parse_duration,
    parse_listen,
)
from stsguard.core.errors import ConfigInvalid
from stsguard.names import Domain

ROOT = Path(__file__).parents[2]
PASSWORD = "correct-horse"  # noqa: S105 (of nothing)


def write(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "stsguard.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def problems(file: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigProblems) as caught:
        load(file)
    assert isinstance(caught.value, ConfigInvalid)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


LISTEN = 'allowed: a list of "inet:HOST:PORT" and "unix:/PATH", each once'
NETWORKS = 'allowed: false, true, or a list of networks such as "10.0.0.0/8"'
RESOLVERS = 'allowed: a list of "ADDRESS", "IPV4:PORT" and "[IPV6]:PORT"; [] for those of /etc/resolv.conf'
URL = 'allowed: "sqlite:////PATH" (an absolute path) or "postgresql://USER@HOST/DATABASE"'
# The file and the message without the file's name in front.
BROKEN = [
    # names
    ("[lokup]\nmode = 'observe'", "[lokup]: unknown section; did you mean [lookup]?"),
    (
        "[dashboard]\nlisten = '/x'",
        (
            "[dashboard]: unknown section; known here: [store], [dns], [network], [policy_fetch], [lookup], "
            "[verification], [sessions], [reports], [policy_host], [dns_update], [intake], [milter], [admin], [log]"
        ),
    ),
    ("[[hosts]]\nname = 1", "[hosts]: unknown section; known here: " + ", ".join(f"[{name}]" for name in SECTIONS)),
    ('[lookup]\nmod = "observe"', '[lookup] mod = "observe": unknown key; did you mean "mode"?'),
    ("[lookup]\nport = 25", "[lookup] port = 25: unknown key; it belongs below [policy_fetch] or [verification]"),
    ('[admin]\nxyz = ["a"]', '[admin] xyz = ["a"]: unknown key; known here: "listen", "inbound_listen"'),
    (
        '[admin]\n"a b" = 1979-05-27',
        '[admin] "a b" = "1979-05-27": unknown key; known here: "listen", "inbound_listen"',
    ),
    ("[log.text]\nx = 1", '[log] text = {…}: unknown key; known here: "level", "format"'),
    ('wait = "10s"', 'wait = "10s": a key outside any section; it belongs below [policy_fetch]'),
    ('foramt = ["json"]', 'foramt = ["json"]: a key outside any section; did you mean "format"?'),
    ('store = "x"', 'store = "x": "store" is a section: its keys go below a line [store]'),
    ("[[dns]]\ntimeout = '5s'", 'dns = [{…}]: "dns" is a section: its keys go below a line [dns]'),
    # choices, flags, numbers, durations
    (
        '[lookup]\nmode = "Enforce"',
        '[lookup] mode = "Enforce": not one of the choices; allowed: "enforce" or "observe"',
    ),
    ("[dns]\ndnssec = true", '[dns] dnssec = true: not a string; allowed: "auto", "yes" or "no"'),
    (
        '[log]\nlevel = "inf\\u0007o"',
        (
            '[log] level = "inf\\u0007o": holds a character that can\'t be printed; '
            'allowed: "debug", "info", "warning" or "error"'
        ),
    ),
    (
        '[verification]\nenabled = "yes"',
        '[verification] enabled = "yes": not a boolean; allowed: true or false',
    ),
    (
        "[lookup]\ncache_size = true",
        "[lookup] cache_size = true: not a whole number; allowed: 1000 to 10000000",
    ),
    ("[lookup]\ncache_size = 5e4", "[lookup] cache_size = 50000.0: not a whole number; allowed: 1000 to 10000000"),
    ("[policy_fetch]\nport = 0", "[policy_fetch] port = 0: out of range; allowed: 1 to 65535"),
    (
        "[policy_fetch]\nmax_size = 100",
        "[policy_fetch] max_size = 100: out of range; allowed: 4096 to 1048576 bytes",
    ),
    (
        "[policy_fetch]\nwait = 10",
        '[policy_fetch] wait = 10: not a string; allowed: "1s" to "60s", a whole number and s, m, h or d',
    ),
    (
        '[policy_fetch]\nwait = "10 s"',
        '[policy_fetch] wait = "10 s": not a duration; allowed: "1s" to "60s", a whole number and s, m, h or d',
    ),
    (
        '[policy_fetch]\nwait = "2m"',
        '[policy_fetch] wait = "2m": out of range; allowed: "1s" to "60s", a whole number and s, m, h or d',
    ),
    # addresses, names, paths, URLs
    (
        '[lookup]\nlisten = ["127.0.0.1:8461"]',
        f'[lookup] listen = ["127.0.0.1:8461"]: "127.0.0.1:8461" is no address to listen at; {LISTEN}',
    ),
    (
        '[lookup]\nlisten = "inet:127.0.0.1:8461"',
        f'[lookup] listen = "inet:127.0.0.1:8461": not a list; {LISTEN}',
    ),
    (
        '[lookup]\nlisten = ["inet:::1:8461"]',
        (
            '[lookup] listen = ["inet:::1:8461"]: "::1": '
            f"brackets belong around an IPv6 address and around nothing else; {LISTEN}"
        ),
    ),
    (
        '[lookup]\nlisten = ["inet:[127.0.0.1]:8461"]',
        (
            '[lookup] listen = ["inet:[127.0.0.1]:8461"]: "[127.0.0.1]": '
            f"brackets belong around an IPv6 address and around nothing else; {LISTEN}"
        ),
    ),
    (
        '[lookup]\nlisten = ["inet::8461"]',
        f'[lookup] listen = ["inet::8461"]: "" is neither an address nor a host name; {LISTEN}',
    ),
    (
        '[lookup]\nlisten = ["inet:127.0.0.1:65536"]',
        f'[lookup] listen = ["inet:127.0.0.1:65536"]: "65536" is no port; {LISTEN}',
    ),
    (
        '[lookup]\nlisten = ["unix:run/x", "unix:/run/x"]',
        f'[lookup] listen = ["unix:run/x", "unix:/run/x"]: "run/x" is not an absolute path; {LISTEN}',
    ),
    (
        '[lookup]\nlisten = ["unix:/run/x", "unix:/run/x"]',
        f'[lookup] listen = ["unix:/run/x", "unix:/run/x"]: names an address twice; {LISTEN}',
    ),
    (
        f'[admin]\nlisten = "unix:/{"x" * 107}"',
        (
            f'[admin] listen = "unix:/{"x" * 107}": the path is longer than 107 bytes; '
            'allowed: "inet:HOST:PORT" or "unix:/PATH"'
        ),
    ),
    (
        '[admin]\nlisten = "unix:"',
        '[admin] listen = "unix:": "unix:" is no address to listen at; allowed: "inet:HOST:PORT" or "unix:/PATH"',
    ),
    (
        '[dns]\nnameservers = ["ns.example.com"]',
        f'[dns] nameservers = ["ns.example.com"]: "ns.example.com" is not an IP address; {RESOLVERS}',
    ),
    ('[dns]\nnameservers = ["[::1]53"]', f'[dns] nameservers = ["[::1]53"]: "[::1]53" is no address; {RESOLVERS}'),
    ('[dns]\nnameservers = ["127.0.0.1:"]', f'[dns] nameservers = ["127.0.0.1:"]: "" is no port; {RESOLVERS}'),
    ("[dns]\nnameservers = [53]", f"[dns] nameservers = [53]: not a string; {RESOLVERS}"),
    ('[dns]\nbogus_name = ""', '[dns] bogus_name = "": the name is empty; allowed: a domain name'),
    (
        '[dns]\nsigned_name = "a b"',
        '[dns] signed_name = "a b": \'a b\' is not a label of a host name; allowed: a domain name, or "." for the root',
    ),
    (
        '[verification]\nhelo = "192.0.2.1"',
        (
            '[verification] helo = "192.0.2.1": this is an IPv4 address, not a name; '
            'allowed: a domain name, or "" for the machine\'s host name'
        ),
    ),
    (
        '[network]\nallow_private_addresses = ["10.0.0.1/8"]',
        (
            '[network] allow_private_addresses = ["10.0.0.1/8"]: '
            f'"10.0.0.1/8" has bits set behind its prefix, 10.0.0.0/8 has none; {NETWORKS}'
        ),
    ),
    (
        '[network]\nallow_private_addresses = ["lan"]',
        f'[network] allow_private_addresses = ["lan"]: "lan" is not a network; {NETWORKS}',
    ),
    (
        '[network]\nallow_private_addresses = "10.0.0.0/8"',
        f'[network] allow_private_addresses = "10.0.0.0/8": neither a boolean nor a list; {NETWORKS}',
    ),
    (
        '[network]\nca_file = "ca.pem"',
        '[network] ca_file = "ca.pem": not an absolute path; allowed: an absolute path, or "" for the system\'s',
    ),
    ('[store]\nurl = "sqlite:///x.db"', f'[store] url = "sqlite:///x.db": not an absolute path; {URL}'),
    (
        '[store]\nurl = "sqlite:////x.db?mode=ro"',
        f'[store] url = "sqlite:////x.db?mode=ro": the path may not hold ? or #, nor end with /; {URL}',
    ),
    (
        f'[store]\nurl = "mysql://stsguard:{PASSWORD}@db.example.com/x"',
        '[store] url = "mysql://stsguard:***@db.example.com/x": not the URL of a database that stsguard supports; '
        + URL,
    ),
    (
        f'[store]\nurl = "postgresql://u:{PASSWORD}@db.example.com"',
        f'[store] url = "postgresql://u:***@db.example.com": names no database; {URL}',
    ),
    (
        f'[store]\nurl = "postgresql://db.example.com:x/y?password={PASSWORD}"',
        f'[store] url = "postgresql://db.example.com:x/y?password=***": not a URL; {URL}',
    ),
    # the file itself
    (b"[log]\nlevel = 'caf\xe9'\n", "not UTF-8 text (line 2)"),
    (b"#" * 1_048_577, "larger than 1048576 bytes: this is no configuration"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=range(len(BROKEN)))
def test_broken_configuration(tmp_path: Path, text: str | bytes, message: str) -> None:
    file = write(tmp_path, text)
    assert problems(file) == (f"{file}: {message}",)
    assert PASSWORD not in message


def test_text_that_is_no_toml_names_the_line(tmp_path: Path) -> None:
    file = write(tmp_path, "[log]\nlevel = info\n")
    (problem,) = problems(file)
    assert problem.startswith(f"{file}: not TOML: ")  # the rest is the parser's, and differs between Pythons
    assert "line 2" in problem


def test_deep_nesting_is_a_message_too(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, "x = " + "[" * 100_000))
    assert ": not TOML: " in problem


def test_every_mistake_is_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'x = 1\n[log]\nlevel = "loud"\nformat = "xml"\n[dnz]\n[policy_fetch]\nwait = "1h"\n')
    found = [problem.removeprefix(f"{file}: ").split(":")[0] for problem in problems(file)]
    assert found == ["x = 1", '[log] level = "loud"', '[log] format = "xml"', "[dnz]", '[policy_fetch] wait = "1h"']


def test_file_that_is_a_directory(tmp_path: Path) -> None:
    assert problems(tmp_path) == (f"{tmp_path}: can't be read: Is a directory",)


def test_long_and_hostile_values_are_cut_and_escaped(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, f'[log]\nlevel = "\\u001b[2J{"x" * 10_000}"'))
    assert len(problem) < 400
    assert problem.isprintable()


@pytest.mark.parametrize("text", [None, "", "# nothing\n", "[log]\n"])
def test_empty_or_absent_file_leaves_every_default(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "absent.toml" if text is None else write(tmp_path, text)
    config = load(file)
    assert (config.path, config.present) == (file, text is not None)
    assert [(s.value, s.origin) for s in config.settings] == [(o.default, "default") for o in OPTIONS]
    assert config.lookup.listen == (InetAddress("127.0.0.1", 8461),)
    assert config.admin.listen == UnixAddress(Path("/run/stsguard/admin.sock"))
    assert config.dns.bogus_name == Domain.parse("dnssec-failed.org")
    assert config.dns.signed_name == "."
    assert (config.dns.nameservers, config.network.ca_file, config.verification.helo) == ((), None, None)
    assert (config.policy_fetch.wait_seconds, config.lookup.id_check_seconds) == (10, 300)


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    config = load(
        write(
            tmp_path,
            """
            [store]
            url = "postgresql://stsguard@/stsguard?host=/run/postgresql"
            [dns]
            nameservers = ["127.0.0.1", "192.0.2.1:5353", "::1", "[::1]", "[2001:db8::1]:5353"]
            dnssec = "no"
            signed_name = "Example.COM."
            [network]
            ca_file = "/etc/ssl/ca.pem"
            allow_private_addresses = ["10.0.0.0/8", "fd00::/8"]
            [lookup]
            listen = ["unix:/var/spool/postfix/stsguard", "inet:[::1]:1", "inet:localhost:65535", "inet:0.0.0.0:8461"]
            mode = "observe"
            id_check = "24h"
            [verification]
            enabled = false
            helo = "MX.bücher.example"
            """,
        )
    )
    assert config.dns.nameservers == tuple(
        Nameserver(ip_address(address), port)
        for address, port in [("127.0.0.1", 53), ("192.0.2.1", 5353), ("::1", 53), ("::1", 53), ("2001:db8::1", 5353)]
    )
    assert config.dns.dnssec is DnssecTrust.NO
    assert config.dns.signed_name == "example.com"
    assert config.network.ca_file == Path("/etc/ssl/ca.pem")
    assert config.network.allow_private_addresses == (IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8"))
    assert config.lookup.listen == (
        UnixAddress(Path("/var/spool/postfix/stsguard")),
        InetAddress("::1", 1),
        InetAddress("localhost", 65535),
        InetAddress("0.0.0.0", 8461),
    )
    assert config.lookup.mode is LookupMode.OBSERVE
    assert config.lookup.id_check_seconds == 86400
    assert config.verification.enabled is False
    assert config.verification.helo == "mx.xn--bcher-kva.example"
    assert {s.option.name for s in config.settings if s.origin == "file" and s.option.section == "dns"} == {
        "nameservers",
        "dnssec",
        "signed_name",
    }


def test_allow_private_addresses_as_boolean() -> None:
    assert Networks().read(False) == ()
    assert Networks().read(True) == (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


@given(st.integers(0, 999_999_999), st.sampled_from([("s", 1), ("m", 60), ("h", 3600), ("d", 86400)]))
def test_duration_is_number_times_unit(number: int, unit: tuple[str, int]) -> None:
    assert parse_duration(f"{number}{unit[0]}") == number * unit[1]


@given(st.text())
def test_duration_is_read_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueRefused:
        assert not re.fullmatch(r"[0-9]{1,9}[smhd]", text, re.ASCII)
    else:
        assert seconds >= 0


@given(st.integers(0, 100_000))
def test_duration_range_includes_both_ends(seconds: int) -> None:
    kind = Duration("1m", "24h")
    if 60 <= seconds <= 86400:
        assert kind.read(f"{seconds}s") == seconds
    else:
        with pytest.raises(ValueRefused, match=r"^out of range$"):
            kind.read(f"{seconds}s")


@given(st.text(alphabet="inetux:/[]0129.afg-", max_size=30))
def test_address_is_read_or_refused(text: str) -> None:
    try:
        address = parse_listen(text)
    except ValueRefused:
        return
    assert isinstance(address, UnixAddress) or 1 <= address.port <= 65535


@given(
    st.recursive(
        st.text() | st.integers() | st.booleans() | st.floats() | st.dates(), lambda inner: st.lists(inner, max_size=3)
    ),
    st.sampled_from(OPTIONS),
)
def test_any_value_is_read_or_refused(value: object, option: Option) -> None:
    with suppress(ValueRefused):  # any other exception fails the test
        option.kind.read(value)


def test_table_and_typed_sections_agree() -> None:
    config = load(Path("/nonexistent/stsguard.toml"))
    for section in SECTIONS:
        typed = getattr(config, section)
        assert list((typed[0] if section in REPEATABLE else typed)._fields) == [
            option.field for option in OPTIONS if option.section == section
        ]
    assert set(SECTIONS) <= set(Config._fields)
    assert {option.section for option in OPTIONS} == set(SECTIONS)


@pytest.mark.parametrize("path", generate.FILES, ids=str)
def test_generated_file_is_what_the_table_makes(path: Path) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == generate.FILES[path](), (
        "run: python -m stsguard.config.generate"
    )


def test_generator_writes_below_the_directory_named(tmp_path: Path) -> None:
    for path in generate.FILES:
        (tmp_path / path).parent.mkdir(exist_ok=True)
    generate.main([str(tmp_path)])
    assert all((tmp_path / path).read_text(encoding="utf-8") == make() for path, make in generate.FILES.items())


def test_sample_is_valid_and_each_of_its_keys_is_the_default(tmp_path: Path) -> None:
    text = generate.sample()
    assert {s.origin for s in load(write(tmp_path, text)).settings} == {"default"}
    document = tomllib.loads(re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE))
    assert document == {s: {o.name: o.default for o in OPTIONS if o.section == s} for s in SECTIONS}


def test_state_dir_moves_defaults_and_nothing_else(tmp_path: Path) -> None:
    config = with_state_dir(load(tmp_path / "absent.toml"), tmp_path / "state")
    assert config.store.url == f"sqlite:///{tmp_path}/state/stsguard.db"
    assert config.admin.listen == UnixAddress(tmp_path / "state/admin.sock")
    assert [each.tlsrpt_socket for each in config.sessions] == [tmp_path / "state/tlsrpt.sock"]
    assert {s.option.field for s in config.settings if s.origin == "--state-dir"} == {
        "url",
        "tlsrpt_socket",
        "certificate_dir",
        "spool",
        "listen",
        "inbound_listen",
    }
    assert config.policy_host.certificate_dir == tmp_path / "state/certificates"
    assert config.admin.inbound_listen == UnixAddress(tmp_path / "state/inbound.sock")
    named = load(
        write(
            tmp_path,
            '[store]\nurl = "postgresql://db.example.com/x"\n[admin]\nlisten = "unix:/x"\n'
            'inbound_listen = "unix:/y"\n[policy_host]\ncertificate_dir = ""\n[sessions]\ntlsrpt_socket = ""\n'
            '[intake]\nspool = "/z"',
        )
    )
    assert with_state_dir(named, tmp_path) == named


def test_state_dir_is_taken_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_state_dir(load(Path("absent.toml")), Path("run")).store.url == f"sqlite:///{tmp_path}/run/stsguard.db"


def test_state_dir_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        with_state_dir(load(tmp_path / "absent.toml"), Path("/" + "x" * 120))
    for_events, for_commands, for_inbound = caught.value.problems
    assert for_events.startswith('--state-dir "/xxx')
    assert "too long for a socket" in for_events
    assert "the path is longer than 107 bytes" in for_commands
    assert "[admin] inbound_listen = " in for_inbound


def test_named_files_have_to_be_there(tmp_path: Path) -> None:
    file = write(tmp_path, f'[network]\nca_file = "{tmp_path}/ca.pem"\n[lookup]\noverrides = "{tmp_path}"\n')
    assert missing_files(load(file)) == (
        f'{file}: [network] ca_file = "{tmp_path}/ca.pem": there is no such file',
        f'{file}: [lookup] overrides = "{tmp_path}": there is no such file',
    )
    (tmp_path / "ca.pem").write_text("")
    assert len(missing_files(load(file))) == 1


def test_named_file_that_this_user_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").touch(mode=0)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs these tests, may read every file
    file = write(tmp_path, f'[network]\nca_file = "{tmp_path}/ca.pem"\n')
    assert missing_files(load(file)) == (
        f'{file}: [network] ca_file = "{tmp_path}/ca.pem": the file can\'t be read by this user',
    )
