"""`stsguard report` on a real database."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stsguard.cli.main import main
from stsguard.core.report_record import Delivery, DeliveryState, ReportRecord
from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail, PolicyType
from stsguard.core.tlsrpt_report import build_report, compress, parse_report, to_json
from stsguard.names import Domain
from stsguard.store.stores import open_stores

TODAY = datetime.now(UTC).date()
YESTERDAY = TODAY - timedelta(days=1)
ONE, TWO = Domain("one.example"), Domain("two.example")
Run = Callable[..., tuple[int, str, str]]


def row(domain: Domain, good: int, bad: int) -> CounterRow:
    details = {FailureDetail("certificate-expired", receiving_mx_hostname="mx.example"): bad} if bad else {}
    policy = AppliedPolicy(PolicyType.STS, domain, ("version: STSv1",), ("mx.example",))
    return CounterRow(TODAY, domain, domain, False, policy, good, bad, 0, details)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a database that holds counters of today and one report of yesterday."""
    file = tmp_path / "stsguard.toml"
    url = f"sqlite:///{tmp_path}/stsguard.db"
    file.write_text(
        f'[store]\nurl = "{url}"\n[dns]\nnameservers = ["127.0.0.1:1"]\ntimeout = "1s"\n'
        '[reports]\nfrom = "tlsrpt@sender.example"\norganization = "Sender"\nsend_via = "smtp:127.0.0.1:1"\n'
    )

    async def fill() -> None:
        stores = open_stores(url)
        await stores.policies.open()
        await stores.sessions.add_counters([row(ONE, 3, 2), row(TWO, 1, 0)], {})
        old = build_report(
            organization="Sender",
            contact="tlsrpt@sender.example",
            day=YESTERDAY,
            report_id="id1",
            counters=[row(ONE, 9, 0)],
        )
        now = datetime.now(UTC)
        record = ReportRecord("id1", YESTERDAY, ONE, "<id1@sender.example>", now, compress(to_json(old)), 9, 0)
        await stores.reports.save_report(record, [Delivery("id1", "mailto:a@one.example", DeliveryState.PENDING, now)])
        await stores.policies.close()

    asyncio.run(fill())
    return file


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], config: Path) -> Run:
    """Runs `stsguard report …`: exit code, standard output and standard error."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["report", arguments[0], "--config", str(config), *arguments[1:]], prog_name="stsguard")
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return invoke


def test_build_writes_one_file_a_domain_named_by_rfc8460_5_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code, out, _ = run("build", "--day", "today", "--output", str(tmp_path / "out"))
    assert code == 0
    files = sorted((tmp_path / "out").iterdir())
    assert out.split() == [str(file) for file in files]
    assert [file.name.split("!")[:2] for file in files] == [["sender.example", ONE], ["sender.example", TWO]]
    report = parse_report(files[0].read_bytes())
    assert (report.successes, report.failures) == (3, 2)


def test_build_of_one_domain_or_an_empty_day(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code, out, _ = run(
        "build", "--day", "today", "--domain", "TWO.example.", "--output", str(tmp_path / "out"), "--json"
    )
    assert code == 0
    (file,) = json.loads(out)["files"]
    assert "!two.example!" in file
    code, out, _ = run("build", "--day", "2020-01-01", "--output", str(tmp_path / "out"))
    assert (code, out) == (0, "no session was counted on 2020-01-01\n")


def test_list_and_show(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    assert out.splitlines()[1].split() == [YESTERDAY.isoformat(), ONE, "pending", "9", "0", "id1"]
    assert json.loads(run("list", "--json", "--state", "pending")[1])["reports"][0]["report_id"] == "id1"
    assert run("list", "--state", "sent")[1] == "no report\n"
    code, out, _ = run("show", "id1", "--json")
    shown = json.loads(out)
    assert (code, shown["deliveries"][0]["to"]) == (0, "mailto:a@one.example")
    assert shown["report"]["policies"][0]["summary"]["total-successful-session-count"] == 9
    assert run("show", "id1")[0] == 0
    code, _, err = run("show", "nothing")
    assert (code, err) == (1, "there is no report 'nothing'; stsguard report list shows their ids\n")


def test_send_says_what_could_not_be_sent(run: Run) -> None:
    """Neither resolver nor MTA answer here: the report stays, and says why."""
    code, out, _ = run("send")
    assert code == 1
    assert out.splitlines()[0] == "1 deliveries tried, 1 reports not sent"
    assert "id1 one.example: " in out
    assert "127.0.0.1" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list", "--day", "someday"), "is no day: write it as 2026-01-31"),
        (("list", "--domain", "a..b"), "is not a label"),
        (("build", "--day", "today", "--output", "/nonexistent"), "does not exist"),
    ],
)
def test_wrong_arguments_are_usage_errors(run: Run, arguments: tuple[str, ...], words: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert words in err


def test_a_database_that_cant_be_used_is_exit_3(run: Run, config: Path, tmp_path: Path) -> None:
    (tmp_path / "stsguard.db").write_bytes(b"this is no database, and long enough to be looked at" * 50)
    for leftover in ("stsguard.db-wal", "stsguard.db-shm"):
        (tmp_path / leftover).unlink(missing_ok=True)
    code, _, err = run("list")
    assert code == 3
    assert "the database can't be used" in err
    assert config.exists()


def test_send_needs_a_sender(run: Run, config: Path) -> None:
    config.write_text(config.read_text().replace('from = "tlsrpt@sender.example"', ""))
    code, _, err = run("send")
    assert code == 1
    assert "[reports] from is not set" in err
