"""conf/: systemd's own tools read the unit files, and the units agree with what stsguard tells an administrator."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stsguard.config.options import OPTIONS
from stsguard.core.postfix_advice import DEFAULT_LISTEN, SOCKET_NAME

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
UNITS = ("stsguard-outbound.service", "stsguard-outbound.socket", "stsguard-inbound.service", "stsguard-milter.service")
SERVICES = [name for name in UNITS if name.endswith(".service")]
# systemd's score from 0 (safe) to 10, in tenths; what uses the network can't get below 0.8.
MOST_EXPOSED = "20"


def unavailable(what: str) -> None:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(program) is None:
        unavailable(f"{program} is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units in a directory, with a program that exists here in place of the installed command."""
    for name in UNITS:
        (tmp_path / name).write_text((CONF / name).read_text().replace("/usr/bin/stsguard", sys.executable))
    return tmp_path


def read_unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names of settings keep their case
    parser.read_string((CONF / name).read_text())
    return parser


def complaints(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What systemd says of our units; other units of this machine are not our business."""
    return [line for line in (result.stdout + result.stderr).splitlines() if "stsguard" in line]


def test_systemd_has_nothing_to_say_against_the_units(units: Path) -> None:
    assert complaints(run("systemd-analyze", "verify", "--man=no", *(str(units / name) for name in UNITS))) == []


def test_the_check_would_notice(units: Path) -> None:
    with (units / UNITS[0]).open("a") as file:
        file.write("[Service]\nWatchdogSec=sixty\nNoNewPrivilege=yes\n")
    assert len(complaints(run("systemd-analyze", "verify", "--man=no", str(units / UNITS[0])))) == 2


@pytest.mark.parametrize("name", SERVICES)
def test_the_service_is_hardened(units: Path, name: str) -> None:
    options = ("--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager")
    result = run("systemd-analyze", "security", *options, str(units / name))
    if "unrecognized option" in result.stderr:
        unavailable("this systemd-analyze has no security --offline")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_socket_is_where_main_cf_is_told_to_look() -> None:
    listen = [
        line.partition("=")[2]
        for line in (CONF / UNITS[1]).read_text().splitlines()
        if line.startswith("ListenStream=")
    ]
    assert listen == [f"/var/spool/postfix/{SOCKET_NAME}", DEFAULT_LISTEN.removeprefix("inet:")]


def test_sessions_are_heard_where_the_configuration_says() -> None:
    (default,) = [
        option.default for option in OPTIONS if (option.section, option.name) == ("sessions", "tlsrpt_socket")
    ]
    assert read_unit(UNITS[1])["Socket"]["ListenDatagram"] == default


def test_the_units_belong_together() -> None:
    service, socket = read_unit(UNITS[0]), read_unit(UNITS[1])
    assert service["Service"]["Sockets"] == UNITS[1]
    assert service["Service"]["Type"] == "notify"
    assert service["Service"]["ExecStart"] == "/usr/bin/stsguard outbound"
    # All users' access goes by the group of Postfix on one side, by the group of stsguard on the other.
    assert (socket["Socket"]["SocketGroup"], socket["Socket"]["SocketMode"]) == ("postfix", "0660")
    assert service["Service"]["RuntimeDirectoryMode"] == "0750"
    assert socket["Unit"]["Before"] == "postfix.service"


def test_the_inbound_service_listens_below_1024_and_lets_a_web_server_in() -> None:
    service = read_unit("stsguard-inbound.service")["Service"]
    assert service["ExecStart"] == "/usr/bin/stsguard inbound"
    assert service["Type"] == "notify"
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    assert "PrivateUsers" not in service  # the capability would count in that namespace alone
    (admin,) = [each.default for each in OPTIONS if (each.section, each.name) == ("admin", "inbound_listen")]
    assert admin == f"unix:/run/{service['RuntimeDirectory']}/admin.sock"
    assert service["RuntimeDirectoryMode"] == "0755"
    # Two services may not share one: systemd removes it with the first that stops.
    assert service["RuntimeDirectory"] != read_unit("stsguard-outbound.service")["Service"]["RuntimeDirectory"]
    for sample in ("nginx.conf", "Caddyfile"):
        assert f"/run/{service['RuntimeDirectory']}/policy.sock" in (CONF / sample).read_text()


def test_the_milter_service_writes_the_spool_and_nothing_else() -> None:
    service = read_unit("stsguard-milter.service")["Service"]
    assert (service["ExecStart"], service["Type"]) == ("/usr/bin/stsguard milter", "notify")
    (spool,) = [each.default for each in OPTIONS if (each.section, each.name) == ("intake", "spool")]
    assert service["ReadWritePaths"] == f"-{spool}"
    assert service["RuntimeDirectory"] not in ("stsguard", "stsguard-inbound")


def test_user_and_directories_are_made(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        unavailable("making users below another root needs root")
    (tmp_path / "etc/stsguard").mkdir(parents=True)
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / "etc/stsguard/stsguard.toml").touch(mode=0o644)
    assert run("systemd-sysusers", f"--root={tmp_path}", str(CONF / "stsguard.sysusers")).returncode == 0
    name, _, uid, gid, _, home, shell = (tmp_path / "etc/passwd").read_text().strip().split(":")
    assert (name, home, shell) == ("stsguard", "/var/lib/stsguard", "/usr/sbin/nologin")
    assert run("systemd-tmpfiles", f"--root={tmp_path}", "--create", str(CONF / "stsguard.tmpfiles")).returncode == 0
    found = [
        (tmp_path / path).stat() for path in ("var/lib/stsguard", "var/spool/stsguard", "etc/stsguard/stsguard.toml")
    ]
    assert [(oct(s.st_mode & 0o7777), s.st_uid, s.st_gid) for s in found] == [
        ("0o750", int(uid), int(gid)),
        ("0o3770", int(uid), int(gid)),
        ("0o640", 0, int(gid)),
    ]


@pytest.mark.parametrize("name", ["install", "docs", "examples", "manpages"])
def test_the_package_takes_only_files_that_are_there(name: str) -> None:
    sources = [line.split()[0] for line in (ROOT / f"debian/stsguard.{name}").read_text().splitlines()]
    assert [source for source in sources if not (ROOT / source).is_file()] == []


@pytest.mark.parametrize("name", ["sysusers", "tmpfiles"])
def test_the_package_takes_user_and_directories_from_conf(name: str) -> None:
    assert (ROOT / f"debian/stsguard.{name}").samefile(CONF / f"stsguard.{name}")
