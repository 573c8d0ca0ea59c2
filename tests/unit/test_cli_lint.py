"""`stsguard lint`: exit codes, JSON, text, bounds, and how little it loads."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stsguard.cli import main
from stsguard.cli.lint import MAX_POLICY_BYTES
from stsguard.core.tlsrpt_report import compress, to_json
from tests.reports import EXPIRED, STS, TLSA, report, row

POLICY = b"version: STSv1\nmode: enforce\nmx: mx.example.com\nmx: *.example.net\nmax_age: 604800\n"


def lint(*arguments: str, stdin: bytes = b"") -> Result:
    """Run `stsguard lint …` within this process."""
    return CliRunner().invoke(main, ["lint", *arguments], input=stdin)


def run(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `stsguard lint …` as a process of its own."""
    command = [sys.executable, "-c", "from stsguard.cli import main; main(prog_name='stsguard')", "lint", *arguments]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})


# policy


def test_good_policy(tmp_path: Path) -> None:
    file = tmp_path / "mta-sts.txt"
    file.write_bytes(POLICY)
    result = lint("policy", str(file))
    assert result.exit_code == 0
    assert result.output == (
        "MTA-STS policy: valid\n"
        "  mode     enforce\n"
        "  max_age  604800 seconds (7 days)\n"
        "  mx       mx.example.com\n"
        "           *.example.net\n"
    )


@pytest.mark.parametrize(
    ("max_age", "shown"),
    [
        (0, "0 seconds (less than a day)"),
        (3600, "(less than a day)"),
        (86400, "(1 day)"),
        (129600, "(1.5 days)"),
        (31557600, "(365.2 days)"),
    ],
)
def test_max_age_is_shown_in_days(max_age: int, shown: str) -> None:
    assert shown in lint("policy", "-", stdin=POLICY.replace(b"604800", str(max_age).encode())).output


def test_good_policy_as_json_from_standard_input() -> None:
    result = lint("policy", "-", "--json", stdin=POLICY + b"flavour: x\n")
    assert result.exit_code == 0
    assert json.loads(result.output) == {
        "valid": True,
        "errors": [],
        "warnings": ["line 6: the unknown field 'flavour' is ignored"],
        "mode": "enforce",
        "max_age": 604800,
        "mx": ["mx.example.com", "*.example.net"],
    }


def test_warnings_leave_a_policy_valid() -> None:
    result = lint("policy", "-", stdin=POLICY + b"\n")
    assert result.exit_code == 0
    assert result.output.endswith("\nwarning: line 6: blank line\n")


def test_policy_without_mx_is_shown_without_mx() -> None:
    result = lint("policy", "-", stdin=b"version: STSv1\nmode: none\nmax_age: 86400\n")
    assert result.output == "MTA-STS policy: valid\n  mode     none\n  max_age  86400 seconds (1 day)\n"


def test_bad_policy() -> None:
    result = lint("policy", "-", stdin=POLICY.replace(b"enforce", b"strict"))
    assert result.exit_code == 1
    assert result.output == (
        "MTA-STS policy: INVALID\nerror: line 2: mode 'strict' is none of 'enforce', 'testing', 'none'\n"
    )


def test_bad_policy_as_json() -> None:
    result = lint("policy", "-", "--json", stdin=b"x")
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "valid": False,
        "errors": ["line 1: 'x' is not of the form 'name: value'"],
        "warnings": [],
        "mode": None,
        "max_age": None,
        "mx": None,
    }


def test_rfc8461_3_3_policy_of_the_suggested_size_limit() -> None:
    filler = b"x: " + b"y" * (MAX_POLICY_BYTES - len(POLICY) - 4) + b"\n"
    assert lint("policy", "-", stdin=POLICY + filler).exit_code == 0
    result = lint("policy", "-", stdin=POLICY + filler + b"\n")
    assert result.exit_code == 1
    assert "longer than 65536 bytes" in result.output


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero here")
def test_endless_input_is_read_up_to_the_limit() -> None:
    result = lint("policy", "/dev/zero")
    assert result.exit_code == 1
    assert "longer than 65536 bytes" in result.output


def test_unreadable_policy_is_wrong_usage(tmp_path: Path) -> None:
    for file in (tmp_path / "absent", tmp_path):
        result = lint("policy", str(file))
        assert result.exit_code == 2
        assert str(file) in result.output


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc here")
def test_policy_that_fails_while_it_is_read_is_wrong_usage() -> None:
    result = lint("policy", "/proc/self/mem")
    assert result.exit_code == 2
    assert "Error: /proc/self/mem: " in result.output


# record


def test_good_sts_record() -> None:
    result = lint("record", "sts", "v=STSv1; id=20300101;")
    assert result.exit_code == 0
    assert result.output == "MTA-STS record: valid\n  id       20300101\n"


def test_good_sts_record_as_json() -> None:
    result = lint("record", "sts", "v=STSv1; id=20300101 ", "--json")
    assert json.loads(result.output) == {
        "valid": True,
        "errors": [],
        "warnings": ["white space at the end of the record"],
        "id": "20300101",
    }


def test_bad_sts_record() -> None:
    result = lint("record", "sts", "v=STSv1; id=2030-01-01", "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found == {
        "valid": False,
        "errors": ["id '2030-01-01' is not 1 to 32 letters and digits"],
        "warnings": [],
        "id": None,
    }
    assert "error: id '2030-01-01' is not" in lint("record", "sts", "v=STSv1; id=2030-01-01").output


def test_good_tlsrpt_record() -> None:
    text = "v=TLSRPTv1; rua=mailto:a@example.com,https://example.com/x"
    result = lint("record", "tlsrpt", text)
    assert result.exit_code == 0
    assert result.output == "TLSRPT record: valid\n  rua      mailto:a@example.com\n           https://example.com/x\n"
    assert json.loads(lint("record", "tlsrpt", text, "--json").output) == {
        "valid": True,
        "errors": [],
        "warnings": [],
        "rua": ["mailto:a@example.com", "https://example.com/x"],
    }


def test_bad_tlsrpt_record() -> None:
    result = lint("record", "tlsrpt", "v=TLSRPTv1; rua=a@example.com", "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found["valid"] is False
    assert found["rua"] is None


# match


@pytest.mark.parametrize(
    ("pattern", "host", "code", "shown"),
    [
        ("*.example.com", "MX.example.com.", 0, "yes: *.example.com permits mx.example.com"),
        ("mx.example.com", "mx.example.com", 0, "yes: mx.example.com permits mx.example.com"),
        ("*.example.com", "a.mx.example.com", 1, "no: *.example.com does not permit a.mx.example.com"),
        ("*.xn--bcher-kva.example", "mx.bücher.example", 0, "permits mx.xn--bcher-kva.example"),
        ("mx*.example.com", "mx1.example.com", 1, "error: pattern 'mx*.example.com' has a '*'"),
        ("*.example.com", "mx..example.com", 1, "error: host: '' is not a label"),
    ],
)
def test_match(pattern: str, host: str, code: int, shown: str) -> None:
    result = lint("match", pattern, host)
    assert result.exit_code == code
    assert shown in result.output
    found = json.loads(lint("match", pattern, host, "--json").output)
    assert found["match"] is (code == 0)
    assert found["valid"] is ("error: " not in result.output)


# report

REPORT = report(row(STS, 10, 2, {EXPIRED: 2}), row(TLSA, 1))


@pytest.mark.parametrize("data", [to_json(REPORT), compress(to_json(REPORT))])
def test_good_report(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "report"
    file.write_bytes(data)
    result = lint("report", str(file))
    assert result.exit_code == 0
    assert result.output == (
        "TLS report: valid\n"
        "  organization Example Inc.\n"
        f"  report_id    {REPORT.report_id}\n"
        "  start        2026-11-21T00:00:00+00:00\n"
        "  end          2026-11-21T23:59:59+00:00\n"
        "  successes    11\n"
        "  failures     2\n"
        "  policies     sts example.net: 10 successful, 2 failed, 1 details\n"
        "               tlsa mx.example.net: 1 successful, 0 failed, 0 details\n"
    )


def test_good_report_as_json() -> None:
    result = lint("report", "-", "--json", stdin=to_json(REPORT))
    found = json.loads(result.output)
    assert result.exit_code == 0
    assert (found["valid"], found["errors"], found["warnings"]) == (True, [], [])
    assert (found["successes"], found["failures"], found["report_id"]) == (11, 2, REPORT.report_id)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "not JSON"),
        (to_json(REPORT).replace(b'["*.mail.example.net"]', b'"*.mail.example.net"'), "mx-host: not an array"),
        (compress(to_json(REPORT))[:-1], "the gzip file is cut off"),
    ],
)
def test_bad_report(data: bytes, error: str) -> None:
    result = lint("report", "-", stdin=data)
    assert result.exit_code == 1
    assert result.output.startswith("TLS report: INVALID\n")
    assert error in result.output
    found = json.loads(lint("report", "-", "--json", stdin=data).output)
    assert found["valid"] is False
    assert set(found) == set(json.loads(lint("report", "-", "--json", stdin=to_json(REPORT)).output))


def test_bad_report_that_is_taken_in_all_the_same_says_so() -> None:
    data = to_json(REPORT).replace(b'["*.mail.example.net"]', b'"*.mail.example.net"')
    output = lint("report", "-", stdin=data).output
    assert "warning: taken in by stsguard ingest all the same: 11 successful, 2 failed" in output
    assert "warning: string-for-array: policies[" in output
    assert "taken in" not in lint("report", "-", stdin=b"").output
    assert "taken in" not in lint("report", "-", stdin=to_json(REPORT)).output


def test_warnings_leave_a_report_valid() -> None:
    result = lint("report", "-", stdin=to_json(REPORT).replace(b"certificate-expired", b"certificate-odd"))
    assert result.exit_code == 0
    assert "warning: policies[0].failure-details[0].result-type: 'certificate-odd'" in result.output


def test_a_reports_text_does_not_reach_the_terminal() -> None:
    hostile = replace(REPORT, organization="\x1b[2J" + "x" * 1000)
    output = lint("report", "-", stdin=to_json(hostile)).output
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) < 400


def test_unreadable_report_is_wrong_usage(tmp_path: Path) -> None:
    assert lint("report", str(tmp_path / "absent")).exit_code == 2
    assert lint("report", str(tmp_path)).exit_code == 2


# usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["policy"],
        ["report"],
        ["record", "sts"],
        ["record", "spf", "v=spf1"],
        ["match", "*.example.com"],
        ["policy", "-", "--yaml"],
        ["nonsense"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert lint(*arguments).exit_code == 2


def test_help_names_the_commands() -> None:
    output = lint("--help").output
    assert all(name in output for name in ("policy", "record", "report", "match"))


# the process


def test_loads_no_heavy_library() -> None:
    """It starts in a blink: the libraries for DNS, HTTP, the database and certificates stay out."""
    heavy = {"httpx", "sqlalchemy", "alembic", "dns", "cryptography", "prometheus_client", "uvloop", "idna", "asyncio"}
    code = (
        "import sys\nfrom stsguard.cli import main\n"
        "try:\n    main(['lint', 'record', 'sts', 'v=STSv1; id=a'])\n"
        "finally:\n    print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stderr.split())
    assert "stsguard" in loaded
    assert not loaded & heavy


def test_text_that_is_no_utf8_is_an_invalid_record() -> None:
    result = run("record", "sts", b"v=STSv1; id=\xff\xfe")
    assert result.returncode == 1
    assert b"not US-ASCII" in result.stdout
    assert result.stderr == b""


def test_a_terminal_in_another_character_set_gets_escapes() -> None:
    result = run("match", "*.bücher.example", "mx.bücher.example", PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert result.returncode == 1
    assert b"'*.b\\xfccher.example' is not in A-labels" in result.stdout
    assert result.stderr == b""
