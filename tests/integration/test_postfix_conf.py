"""`stsguard postfix` against real Postfix installations: what their own commands say of directories made here."""

import json
import os
import random
import shutil
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import pytest

from stsguard.adapters import postfix_conf
from stsguard.cli import main
from stsguard.core.errors import PostfixUnreadable
from stsguard.core.postfix_facts import CaState, PostfixDaneFacts, PostfixFacts, Validation
from tests.lab.chroots import TRIXIE
from tests.lab.nameserver import respond

SBIN = ("/usr/sbin", "/usr/local/sbin")
MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
smtp_tls_policy_maps = hash:$config_directory/tls_policy
"""
MASTER_CF = """\
smtp      inet  n       -       y       -       -       smtpd
smtp      unix  -       -       y       -       -       smtp
relay     unix  -       -       n       -       -       smtp
  -o syslog_name=postfix/$service_name -o smtp_tls_security_level=encrypt
lmtp      unix  -       -       y       -       -       lmtp
"""


def needed(program: str) -> str:
    """The path of a program; without it the test is skipped here and fails where nothing may be skipped."""
    path = shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), *SBIN)))
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed")
    return path


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration directory, and beside it a queue directory and two files resolv.conf: outside and in the chroot.

    The machine's own is left out, since its name server would be asked.
    """
    needed("postconf")
    monkeypatch.setattr(postfix_conf, "RESOLV_CONF", tmp_path / "resolv.conf")
    directory = tmp_path / "postfix"
    for name in (directory, tmp_path / "data", tmp_path / "queue/etc"):
        name.mkdir(parents=True)
    write(directory, MAIN_CF.format(directory=tmp_path))
    write(directory, MASTER_CF, to="master.cf")
    (tmp_path / "queue/etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    return directory


def write(directory: Path, text: str, *, to: str = "main.cf") -> None:
    """Write a file, or add to main.cf. It gets an old date: Postfix waits until a file that it reads is 2 s old."""
    path = directory / to
    before = path.read_text() if to == "main.cf" and path.exists() else ""
    path.write_text(before + text)
    os.utime(path, (0, 0))


def validating(_address: str) -> Validation:
    return Validation.YES


def read(directory: Path) -> PostfixFacts:
    return postfix_conf.read_postfix(directory, validating)


def test_facts_of_a_real_postfix(instance: Path) -> None:
    (instance.parent / "resolv.conf").write_text("nameserver 127.0.0.1\nnameserver 192.0.2.53\n")
    asked: list[str] = []

    def ask(address: str) -> Validation:
        asked.append(address)
        return Validation.YES if address == "127.0.0.1" else Validation.NO_ANSWER

    facts = postfix_conf.read_postfix(instance, ask)
    assert facts.version >= (3, 4, 0)
    assert [(service.name, service.chroot) for service in facts.services] == [
        ("smtp/unix", True),
        ("relay/unix", False),
    ]
    assert facts.services[1].overrides["smtp_tls_security_level"] == "encrypt"
    assert facts.written["smtp_tls_policy_maps"] == "hash:$config_directory/tls_policy"
    assert facts.settings["smtp_tls_policy_maps"] == f"hash:{instance}/tls_policy"
    assert facts.settings["smtp_tls_dane_insecure_mx_policy"] == "may"  # the default is a formula, and is worked out
    assert facts.queue_directory_exists
    assert [file.path for file in facts.resolver_files] == [
        f"{instance.parent}/queue/etc/resolv.conf",
        f"{instance.parent}/resolv.conf",
    ]
    assert asked == ["127.0.0.1", "192.0.2.53"]
    assert [server.validation for server in facts.nameservers] == [Validation.YES, Validation.NO_ANSWER]


def test_a_name_server_that_no_smtp_asks_is_not_asked_either(instance: Path) -> None:
    write(instance, "smtp unix - - y - - smtp\n", to="master.cf")
    (instance.parent / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    facts = read(instance)
    assert [server.address for server in facts.nameservers] == ["127.0.0.1"]
    assert [server.validation for server in facts.resolv_conf.nameservers] == [Validation.NOT_ASKED]


@pytest.mark.parametrize(
    ("setting", "prepare", "state"),
    [
        ("smtp_tls_CAfile = {0}/ca.pem", lambda d: None, CaState.MISSING),
        ("smtp_tls_CAfile = {0}/ca.pem", lambda d: (d / "ca.pem").write_text("empty"), CaState.NO_CERTIFICATE),
        ("smtp_tls_CAfile = {0}/ca.pem", lambda d: (d / "ca.pem").write_text("-----BEGIN CERTIFICATE-----"),
         CaState.GOOD),
        ("smtp_tls_CAfile = {0}/ca.pem", lambda d: (d / "ca.pem").mkdir(), CaState.UNREADABLE),
        ("smtp_tls_CAfile =", lambda d: None, CaState.NOT_SET),
    ],
)  # fmt: skip
def test_authorities_file(instance: Path, setting: str, prepare: Callable[[Path], object], state: CaState) -> None:
    prepare(instance)
    write(instance, setting.format(instance) + "\n")
    assert read(instance).authorities.file is state


def test_authorities_directory_is_looked_for_in_the_chroot_too(instance: Path) -> None:
    write(instance, f"smtp_tls_CApath = {instance}/certs\n")
    states = [read(instance).authorities]
    (instance / "certs").mkdir()
    states.append(read(instance).authorities)
    (instance / "certs/4f06f81d.0").touch()
    states.append(read(instance).authorities)
    copy = Path(f"{instance.parent}/queue/{instance}/certs")
    copy.mkdir(parents=True)
    (copy / "4f06f81d.0").touch()
    states.append(read(instance).authorities)
    shutil.rmtree(instance / "certs")
    (instance / "certs").touch()
    states.append(read(instance).authorities)
    assert [(found.directory, found.directory_in_chroot) for found in states] == [
        (CaState.MISSING, CaState.MISSING),
        (CaState.NO_CERTIFICATE, CaState.MISSING),
        (CaState.GOOD, CaState.MISSING),
        (CaState.GOOD, CaState.GOOD),
        (CaState.UNREADABLE, CaState.GOOD),
    ]


def test_dane_facts_send_no_query(instance: Path) -> None:
    write(instance, "smtp_dns_support_level = dnssec\nsmtp_host_lookup = native\n")
    (instance.parent / "queue/etc/resolv.conf").unlink()
    (instance.parent / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    facts = postfix_conf.postfix_dane_facts(instance)
    assert facts == PostfixDaneFacts(
        has_postfix=True,
        dns_support_level="dnssec",
        nameservers={
            f"{instance.parent}/queue/etc/resolv.conf": ("127.0.0.1",),  # absent: what the C library then asks
            f"{instance.parent}/resolv.conf": ("192.0.2.53",),
        },
        obstacles=("smtp_host_lookup = native",),
    )


@pytest.mark.parametrize(
    ("line", "obstacle"),
    [
        ("", "smtp_dns_support_level = (empty)"),
        ("smtp_dns_support_level = enabled\n", "smtp_dns_support_level = enabled"),
    ],
)
def test_dane_facts_name_a_postfix_that_asks_for_no_dnssec(instance: Path, line: str, obstacle: str) -> None:
    write(instance, line)
    facts = postfix_conf.postfix_dane_facts(instance)
    assert facts.obstacles == (obstacle,)


@pytest.mark.parametrize(("chroot", "read_files"), [("n", ["resolv.conf"]), ("y", ["queue/etc/resolv.conf"])])
def test_dane_facts_name_the_files_that_are_read(instance: Path, chroot: str, read_files: list[str]) -> None:
    write(instance, f"smtp unix - - {chroot} - - smtp\n", to="master.cf")
    facts = postfix_conf.postfix_dane_facts(instance)
    assert list(facts.nameservers) == [str(instance.parent / name) for name in read_files]


def test_dane_facts_without_a_postfix_leave_it_to_the_daemons_resolver(tmp_path: Path) -> None:
    facts = postfix_conf.postfix_dane_facts(tmp_path)
    assert facts == PostfixDaneFacts(has_postfix=False, dns_support_level="", nameservers={}, obstacles=())


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "there is no postconf here: is Postfix installed?"),
        ("#!/bin/sh\nexit 0\n", "postconf says nothing of mail_version"),
        ("#!/bin/sh\necho postconf: warning: x >&2\necho postconf: fatal: broken >&2\nexit 1\n",
         "postconf failed: postconf: fatal: broken"),
        ("#!/bin/sh\nexit 1\n", "postconf failed: the mail log says why"),
        ("#!/bin/sh\nexec sleep 60\n", "postconf took longer than 0 s"),
        ("no program", "postconf can't be run: Exec format error"),
    ],
)  # fmt: skip
def test_a_postfix_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postfix_conf, "_SEARCH_PATH", "/bin")
    if script is not None:
        install(tmp_path / "postconf", script)
    if script and "sleep" in script:
        monkeypatch.setattr(postfix_conf, "COMMAND_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(PostfixUnreadable) as caught:
        postfix_conf.read_postfix(tmp_path, validating)
    assert str(caught.value) == message


def install(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_all_instances_are_found() -> None:
    needed("postmulti")
    if not Path("/etc/postfix/main.cf").exists():
        pytest.skip("/etc/postfix/main.cf does not exist")
    assert postfix_conf.find_instances()[0] == Path("/etc/postfix")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `stsguard postfix`: exit code, standard output, standard error."""

    def run_command(*arguments: str, config: str = "") -> tuple[int, str, str]:
        file = tmp_path / "stsguard.toml"
        file.write_text(f'[dns]\ntimeout = "1s"\n{config}')
        code = main.main(["--config", str(file), "postfix", *arguments], "stsguard", standalone_mode=False)
        return code or 0, *capsys.readouterr()

    return run_command


def test_command_text_has_what_to_paste(run: Run, instance: Path) -> None:
    code, output, _ = run("--config-directory", str(instance))
    assert code == 1
    line = "smtp_tls_policy_maps = hash:$config_directory/tls_policy, socketmap:unix:stsguard/lookup.sock:policy"
    assert f"postconf -c {instance} -e '{line}" in output
    assert f"\n{line}" in output
    assert f'[lookup]\nlisten = ["unix:{instance.parent}/queue/stsguard/lookup.sock"]' in output
    assert "[policy-not-asked]" in output
    assert "in a chroot: smtp/unix\n" in output


def test_command_json(run: Run, instance: Path) -> None:
    write(instance, "smtp_tls_per_site = hash:/etc/postfix/per_site\n")
    code, output, _ = run("--config-directory", str(instance), "--config-directory", str(instance), "--json")
    assert code == 1
    answer = json.loads(output)
    assert answer["nothing_to_do"] is False
    assert answer["lookup_listen"] == [f"unix:{instance.parent}/queue/stsguard/lookup.sock"]
    first, second = answer["instances"]
    assert first == second
    assert first["services"] == [{"name": "smtp/unix", "chroot": True}, {"name": "relay/unix", "chroot": False}]
    assert {"per-site-table-ignored", "policy-not-asked", "service-override"} <= {f["code"] for f in first["findings"]}
    assert all(entry["reason"] and entry["command"].startswith("postconf -c ") for entry in first["add"])


def test_the_advised_lines_leave_no_line_to_advise(run: Run, instance: Path) -> None:
    code, output, _ = run("--config-directory", str(instance), "--json")
    assert code == 1
    lines = [f"{entry['name']} = {entry['value']}" for entry in json.loads(output)["instances"][0]["add"]]
    write(instance, "\n".join(lines) + "\n")
    _, output, _ = run("--config-directory", str(instance), "--json")
    answer = json.loads(output)["instances"][0]
    assert answer["add"] == []
    assert not {f["code"] for f in answer["findings"]} & {"policy-not-asked", "no-tls", "no-authorities"}


@pytest.fixture
def resolver() -> Iterator[str]:
    """An address of this machine at whose port 53 a name server says AD of everything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        address = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
        try:
            server.bind((address, 53))
        except PermissionError:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("port 53 needs root")

        def serve() -> None:
            while query := server.recvfrom(4096):
                if not query[0]:
                    return
                key = ". 60 IN DNSKEY 257 3 13 AAAA"
                server.sendto(respond(dns.message.from_wire(query[0]), key, authentic=True), query[1])

        thread = threading.Thread(target=serve)
        thread.start()
        yield address
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"", (address, 53))
        thread.join()


def test_command_exits_0_where_all_is_done(run: Run, instance: Path, resolver: str) -> None:
    for path in (instance.parent / "queue/etc/resolv.conf", instance.parent / "resolv.conf"):
        path.write_text(f"nameserver {resolver}\n")
    write(instance, "smtp unix - - y - - smtp\n", to="master.cf")
    _, output, _ = run("--config-directory", str(instance), "--json")
    lines = {entry["name"]: entry["value"] for entry in json.loads(output)["instances"][0]["add"]}
    assert (lines["smtp_tls_security_level"], lines["smtp_dns_support_level"]) == ("dane", "dnssec")
    write(instance, "".join(f"{name} = {value}\n" for name, value in lines.items()))
    listen = f'[lookup]\nlisten = ["unix:{instance.parent}/queue/stsguard/lookup.sock"]\n'
    code, output, _ = run("--config-directory", str(instance), config=listen)
    assert code == 0, output
    assert output.endswith("Nothing needs to be changed.\n\n")


def test_command_says_why_postfix_cannot_be_read(run: Run, tmp_path: Path) -> None:
    needed("postconf")
    code, _, errors = run("--config-directory", str(tmp_path / "absent"))
    assert code == 3
    assert errors.startswith("Postfix can't be read: postconf failed: ")
    assert "No such file or directory" in errors


@pytest.mark.parametrize(
    ("listen", "needed_listen", "shown"),
    [
        ('["inet:127.0.0.1:8461"]', ["inet:127.0.0.1:8461"], False),
        ("[]", [], False),  # the sockets are systemd's
        ('["unix:/run/stsguard/lookup.sock"]', None, True),
    ],
)
def test_command_goes_by_what_the_daemon_listens_at(
    run: Run, instance: Path, listen: str, needed_listen: list[str] | None, shown: bool
) -> None:
    config = f"[lookup]\nlisten = {listen}\n"
    _, text, _ = run("--config-directory", str(instance), config=config)
    answer = json.loads(run("--config-directory", str(instance), "--json", config=config)[1])
    expected = ["unix:/run/stsguard/lookup.sock", f"unix:{instance.parent}/queue/stsguard/lookup.sock"]
    assert answer["lookup_listen"] == (expected if needed_listen is None else needed_listen)
    assert ("listen = " in text) is shown


def test_postfix_3_10_gets_the_map_with_tlsrpt_attributes(
    run: Run, instance: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian 13's postconf, run out of its chroot with its own libraries."""
    if not TRIXIE.ready:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{TRIXIE.path} is not prepared")
    programs = tmp_path / "bin"
    programs.mkdir()
    root = TRIXIE.path
    (loader,) = root.glob("usr/lib/*-linux-gnu*/ld-linux-*.so.*")
    libraries = f"{loader.parent}:{root}/usr/lib/postfix"
    install(
        programs / "postconf",
        f'#!/bin/sh\nexec {loader} --library-path {libraries} {root}/usr/sbin/postconf "$@"\n',
    )
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    write(instance, "smtp_tls_enforce_sts_mx_patterns = no\n")
    code, output, _ = run("--config-directory", str(instance), "--json")
    assert code == 1
    (answer,) = json.loads(output)["instances"]
    assert answer["mail_version"].startswith("3.10.")
    added = {entry["name"]: (entry["value"], entry["optional"]) for entry in answer["add"]}
    assert added["smtp_tls_policy_maps"] == (
        "hash:$config_directory/tls_policy, socketmap:unix:stsguard/lookup.sock:policy-tlsrpt",
        False,
    )
    assert added["smtp_tls_enforce_sts_mx_patterns"] == ("yes", False)
    assert added["smtp_tlsrpt_skip_reused_handshakes"] == ("no", True)
    _, text, _ = run("--config-directory", str(instance))
    assert "Only for TLS reports, when stsguard collects them:\n# Postfix tells stsguard" in text
    tlsrpt = tlsrpt_lines(run, instance, f'[sessions]\ntlsrpt_socket = "{instance.parent}/queue/s/t.sock"\n')
    assert tlsrpt["smtp_tlsrpt_enable"] == ("yes", False)
    assert tlsrpt["smtp_tlsrpt_socket_name"] == ("s/t.sock", False)
    # Elsewhere, it is for this instance only if there is no other.
    tlsrpt = tlsrpt_lines(run, instance, '[sessions]\ntlsrpt_socket = "/run/t.sock"\n')
    assert tlsrpt["smtp_tlsrpt_socket_name"] == ("/run/t.sock", False)
    several = '[[sessions]]\ntlsrpt_socket = "/run/t.sock"\n[[sessions]]\nsyslog_name = "other"\n'
    assert tlsrpt_lines(run, instance, several)["smtp_tlsrpt_socket_name"] == ("stsguard/tlsrpt.sock", True)
    several += f'tlsrpt_socket = "{instance.parent}/queue/t.sock"\n'
    assert tlsrpt_lines(run, instance, several)["smtp_tlsrpt_socket_name"] == ("t.sock", False)


def tlsrpt_lines(run: Run, instance: Path, config: str) -> dict[str, tuple[str, bool]]:
    """The lines proposed for TLSRPT under this configuration of stsguard: value, and whether it is optional."""
    answer = json.loads(run("--config-directory", str(instance), "--json", config=config)[1])
    added = answer["instances"][0]["add"]
    return {each["name"]: (each["value"], each["optional"]) for each in added if "tlsrpt" in each["name"]}
