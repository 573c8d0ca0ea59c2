"""The commands that ask the running daemon: what an admin reads, and the exit codes that a script goes by."""

import asyncio
import gc
import json
import re
import socket
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from stsguard.app import commands
from stsguard.cli.main import main
from stsguard.core.dane import MxRecord
from stsguard.core.errors import ResultType
from stsguard.core.mxcheck import MxProbe
from stsguard.core.overrides import parse_overrides
from stsguard.names import Domain
from tests.integration.test_admin import NAME, AdminSocket, admin_socket
from tests.unit.fakes import START

# httpcore leaves a socket that it could not connect to the garbage collector.
left_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def left_sockets_are_collected() -> Iterator[None]:
    """httpcore leaves the socket of a failed connection to the collector: here, not in whichever test comes next."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def probe(*, result_type: ResultType | None = None, dane_matched: bool | None = None) -> MxProbe:
    """What a session with the MX host of NAME showed, over TLS."""
    return MxProbe(
        Domain(f"mx.{NAME}"),
        ip_address("192.0.2.1"),
        START,
        tls=True,
        trusted=result_type is None,
        result_type=result_type,
        failure_reason_code="",
        inconclusive=False,
        certificate=None,
        dane_matched=dane_matched,
        tls_version="TLSv1.3",
    )


async def ask(at: AdminSocket, *arguments: str) -> Result:
    """The command, with a configuration that names the admin socket, beside the loop that serves it."""
    config = at.path.with_name("stsguard.toml")
    config.write_text(f'[admin]\nlisten = "unix:{at.path}"\n')
    return await asyncio.to_thread(CliRunner().invoke, main, ["--config", str(config), *arguments])


async def test_lookup_says_what_holds_mail_up(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        found = await ask(at, "lookup", NAME)
        assert (found.exit_code, "mail waits" in found.output) == (0, False)
        assert re.search(r"expires in +7 d 0 h\n", found.output)
        at.world.publish("spoofed.example", mx=["mx.other.test"])
        found = await ask(at, "lookup", "spoofed.example")
        assert found.exit_code == 1
        assert re.search(r"mail waits +no MX host is permitted by the policy\n", found.output)
        found = await ask(at, "lookup", "spoofed.example", "--json")
        assert (found.exit_code, json.loads(found.output)["would_defer"]) == (
            1,
            "no MX host is permitted by the policy",
        )


async def test_lookup_counts_what_our_own_verification_found(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        at.world.prober.found[f"mx.{NAME}"] = probe(result_type=ResultType.CERTIFICATE_EXPIRED)
        assert (await ask(at, "verify", NAME)).exit_code == 1
        found = await ask(at, "lookup", NAME)
        assert found.exit_code == 1
        assert re.search(rf"mail waits +mx.{NAME}: certificate-expired\n", found.output)


async def test_lookup_in_observe_mode_holds_nothing_up(tmp_path: Path) -> None:
    async with admin_socket(tmp_path, observe=True) as at:
        at.world.publish("spoofed.example", mx=["mx.other.test"])
        found = await ask(at, "lookup", "spoofed.example")
        assert found.exit_code == 0
        assert re.search(r"mail would wait +no MX host is permitted", found.output)


async def test_lookup_shows_no_mx_hosts_that_were_not_looked_up(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        at.world.demands.overrides = parse_overrides({NAME: {"exempt": True}})
        found = await ask(at, "lookup", NAME)
        assert found.output.endswith("MX hosts\n  not looked up, since an override holds\n")
        assert found.exit_code == 0


async def test_lookup_tells_of_an_override_that_has_expired(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        expired = {"exempt": True, "reason": "ticket 4711", "expires": date(2020, 1, 2)}
        at.world.demands.overrides = parse_overrides({f".{NAME}": {"exempt": True}, NAME: expired})
        found = await ask(at, "lookup", NAME)
        said = f"the override {NAME} exempt (ticket 4711) holds no more since 2020-01-02: give it another date, or take"
        assert re.search(rf"expired +{re.escape(said)} it out of the file\n", found.output), found.output
        assert "holds no more" not in (await ask(at, "lookup", f"x.{NAME}")).output


async def test_lookup_does_not_say_absent_of_a_record_that_could_not_be_looked_up(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        at.world.resolver.fail("TXT", "_mta-sts.a.example")
        found = await ask(at, "lookup", "a.example")
        assert re.search(r"state +unknown, the look-up of its record failed\n", found.output), found.output


async def test_verify_judges_by_dane_where_it_counts(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        host = f"mx.{NAME}"
        for matched, result_type, said, code in (
            (False, None, "FAILS, no TLSA record matches", 1),
            (True, ResultType.CERTIFICATE_NOT_TRUSTED, "good by DANE", 0),
            (None, ResultType.CERTIFICATE_NOT_TRUSTED, "FAILS, certificate-not-trusted", 1),
        ):
            at.world.prober.found[host] = probe(dane_matched=matched, result_type=result_type)
            found = await ask(at, "verify", NAME)
            assert (f"]: {said}" in found.output, found.exit_code) == (True, code)


async def test_verify_names_a_host_that_the_policy_does_not_permit(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        at.world.publish("spoofed.example", mx=["mx.other.test"])
        at.world.prober.found["mx.spoofed.example"] = replace(probe(), mx_hostname=Domain("mx.spoofed.example"))
        found = await ask(at, "verify", "spoofed.example")
        assert "]: good TLS, but the policy does not permit this host" in found.output
        assert found.exit_code == 1


async def test_verify_names_the_hosts_that_it_could_not_probe(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        at.world.publish(NAME, secure=True)
        at.world.resolver.fail("TLSA", f"_25._tcp.mx.{NAME}")
        found = await ask(at, "verify", NAME)
        assert f"mx.{NAME}: not probed, look-up failed: _25._tcp.mx.{NAME} TLSA: servfail" in found.output
        assert found.exit_code == 3
        at.world.resolver.give("MX", NAME, MxRecord(0, None))
        found = await ask(at, "verify", NAME)
        assert "null MX: the domain accepts no mail" in found.output
        assert found.exit_code == 3


@pytest.mark.parametrize("key", ["[mx.example]", "192.0.2.1", ".example", "a..b", ""])
@pytest.mark.parametrize("command", [["verify"], ["cache", "show"], ["cache", "refresh"], ["cache", "forget"]])
async def test_what_is_no_domain_is_a_usage_error(tmp_path: Path, command: list[str], key: str) -> None:
    async with admin_socket(tmp_path) as at:
        found = await ask(at, *command, key)
        assert found.exit_code == 2
        assert "is no domain name" in found.output
        assert at.world.resolver.asked == []


async def test_cache_show_speaks_of_durations(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        await at.world.ask(NAME)
        found = await ask(at, "cache", "show", NAME)
        assert "expires in" in found.output
        assert " h" in next(line for line in found.output.splitlines() if line.startswith("expires in"))
        assert isinstance(json.loads((await ask(at, "cache", "show", NAME, "--json")).output)["expires_in"], int)


@left_open
async def test_state_dir_is_where_the_daemon_of_that_directory_is_asked(tmp_path: Path) -> None:
    async with admin_socket(tmp_path):
        arguments = ["--config", "/dev/null", "cache", "list", "--state-dir", str(tmp_path)]
        found = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        assert (found.exit_code, found.output) == (0, "no policy in the cache\n")
        arguments[-1] = str(tmp_path / "absent")
        assert (await asyncio.to_thread(CliRunner().invoke, main, arguments)).exit_code == 3
        assert not (tmp_path / "absent").exists()


ASKING = [["status"], ["lookup", NAME], ["verify", NAME], ["cache", "list"], ["cache", "refresh", NAME]]


def unreachable(tmp_path: Path, *arguments: str) -> tuple[str, str]:
    """What a command says that can't ask, plain and as JSON; it ends with 3 either way."""
    config = tmp_path / "stsguard.toml"
    if not config.exists():
        config.write_text(
            f'[admin]\nlisten = "unix:{tmp_path}/admin.sock"\ninbound_listen = "unix:{tmp_path}/inbound.sock"\n'
        )
    plain = CliRunner().invoke(main, ["--config", str(config), *arguments])
    as_json = CliRunner().invoke(main, ["--config", str(config), *arguments, "--json"])
    assert (plain.exit_code, as_json.exit_code) == (3, 3)
    return plain.output.strip(), json.loads(as_json.stdout)["error"]


@left_open
@pytest.mark.parametrize("arguments", ASKING)
def test_a_daemon_that_does_not_run(tmp_path: Path, arguments: list[str]) -> None:
    asked = (
        {"outbound": "admin.sock", "inbound": "inbound.sock"} if arguments == ["status"] else {"outbound": "admin.sock"}
    )
    expected = "\n".join(
        f"stsguard {daemon} does not run, or has its admin socket elsewhere: there is no unix:{tmp_path}/{name}"
        for daemon, name in asked.items()
    )
    assert unreachable(tmp_path, *arguments) == (expected, expected)


@left_open
def test_a_socket_that_a_killed_daemon_has_left(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "admin.sock"))
    assert unreachable(tmp_path, "status")[0].splitlines()[0] == (
        f"stsguard outbound does not run: nobody answers at unix:{tmp_path}/admin.sock"
    )


@left_open
async def test_a_daemon_that_does_not_answer_is_told_beside_one_that_is_well(tmp_path: Path) -> None:
    """A site may run one daemon alone; but one whose socket is there, or that is named, has to answer."""
    async with admin_socket(tmp_path) as at:

        async def status(*arguments: str) -> Result:
            config = at.path.with_name("stsguard.toml")
            config.write_text(f'[admin]\nlisten = "unix:{at.path}"\ninbound_listen = "unix:{tmp_path}/inbound.sock"\n')
            return await asyncio.to_thread(
                CliRunner().invoke, main, ["--config", str(config), "status", "--json", *arguments]
            )

        alone = await status()
        assert alone.exit_code == 0, alone.output
        assert list(json.loads(alone.stdout)["unreachable"]) == ["inbound"]
        assert json.loads((await status("outbound")).stdout)["unreachable"] == {}
        assert (await status("outbound", "inbound")).exit_code == 3
        assert (await status("inbound")).exit_code == 3
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "inbound.sock"))
        dead = await status()
        reason = f"stsguard inbound does not run: nobody answers at unix:{tmp_path}/inbound.sock"
        assert (dead.exit_code, json.loads(dead.stdout)["unreachable"]) == (3, {"inbound": reason})


def test_a_socket_that_is_not_for_this_user() -> None:
    try:
        raise httpx.ConnectError("[Errno 13] Permission denied") from PermissionError(13, "Permission denied")
    except httpx.ConnectError as exc:
        said = commands.why_unreachable(exc, "unix:/run/stsguard/admin.sock")
    assert said.startswith("no permission to use unix:/run/stsguard/admin.sock")


@pytest.mark.parametrize("arguments", ASKING)
def test_a_broken_configuration_is_no_verdict_on_a_domain(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "stsguard.toml").write_text("[lookup]\nmodus = 1\n")
    for said in unreachable(tmp_path, *arguments):
        assert "[lookup] modus = 1: unknown key" in said
