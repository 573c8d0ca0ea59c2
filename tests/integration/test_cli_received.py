"""`stsguard received` on a real database with real stored reports: what an admin reads, and exit codes."""

import asyncio
import csv
import gzip
import io
import json
import shutil
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from stsguard.cli.main import main
from stsguard.core.received_record import ReceivedIntake, Signer, Standing
from stsguard.store.stores import Stores, open_stores
from tests.received import detail, document, intake, policy, report_json

NOW = datetime.now(UTC)
DAY = (NOW - timedelta(days=1)).date().isoformat()
BEFORE = (NOW - timedelta(days=2)).date().isoformat()
LONG_AGO = "2020-02-01"
HOSTILE = "=2026\x1b[31m_a.example"
REPORT = report_json(
    policy("a.example", 5120, 3, detail(sessions=2), {**detail("odd\x1b[2J", 1), "failure-reason-code": "=1+1"}),
    report_id=HOSTILE,
    day=DAY,
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Site:
    """A configuration with a database."""

    config: Path

    def run(self, *arguments: str) -> Ended:
        """`stsguard received ARGUMENTS`."""
        out, err = io.TextIOWrapper(io.BytesIO(), newline=""), io.StringIO()
        code = 0
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main(["--config", str(self.config), "received", *arguments], "stsguard")
            except SystemExit as exc:
                code = exc.code if isinstance(exc.code, int) else 1
        out.flush()
        return Ended(code, out.buffer.getvalue().decode(), err.getvalue())  # type: ignore[attr-defined] # BytesIO

    def ok(self, *arguments: str) -> str:
        """What it prints; it has to succeed."""
        ended = self.run(*arguments)
        assert ended.code == 0, ended
        return ended.out

    def json(self, *arguments: str) -> Any:
        """What it prints as JSON."""
        return json.loads(self.ok(*arguments, "--json"))


async def save(stores: Stores) -> None:
    made = [
        document(REPORT),
        document(
            report_json(policy("a.example", 10), policy("x.example", 1000), day=BEFORE),
            reporter="big.example",
            foreign=("x.example",),
        ),
        document(report_json(policy("a.example", 4), day=DAY), standing=Standing.UNSIGNED),
        document(report_json(policy("x.example", 3), day=DAY), foreign=("x.example",)),
        document(report_json(policy("a.example", 7), report_id="r2", day=LONG_AGO)),
        document(report_json(policy("a.example", 8), report_id="r2", day=DAY)),
    ]
    for at, each in enumerate(made):
        octets = REPORT if not at else b"mail %d" % at
        # the first of them came as a plain file, and not as a mail
        await stores.received.save_intakes([intake(each, octets=octets, received_at=NOW)])
    signer = Signer("fail", "sender.example", "s1", "the body hash differs")
    await stores.received.save_intakes(
        [intake(octets=b"rubbish\x1b[2J\r\n", refusals=("no report in the mail",), received_at=NOW, signer=signer)]
    )
    stores.received.now = lambda: NOW - timedelta(days=500)
    await stores.received.save_intakes([intake(octets=b"old", refusals=("x",), received_at=NOW - timedelta(days=500))])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the reports, made once."""
    path = tmp_path_factory.mktemp("filled") / "stsguard.db"

    async def fill() -> None:
        async with opened(f"sqlite:///{path}") as stores:
            await save(stores)

    asyncio.run(fill())
    return path


@pytest.fixture
def site(tmp_path: Path, filled: Path) -> Site:
    """A configuration with a copy of that database."""
    shutil.copy(filled, tmp_path / "stsguard.db")
    config = tmp_path / "stsguard.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/stsguard.db"\n')
    return Site(config)


def test_list_shows_what_counts(site: Site) -> None:
    out = site.ok("list").splitlines()
    assert [line.split()[:7] for line in out] == [
        ["id", "day", "reporter", "domain", "type", "good", "failed"],
        ["6", DAY, "sender.example", "a.example", "sts", "8", "0"],
        ["1", DAY, "sender.example", "a.example", "sts", "5120", "3"],
        ["2", BEFORE, "big.example", "a.example", "sts", "10", "0"],
    ]
    assert "\x1b" not in "".join(out)
    assert out[2].endswith("=2026\\x1b[31m_a.example")
    assert [each["id"] for each in site.json("list", "--since", "2020-01-01")["reports"]] == [6, 1, 2, 5]
    nothing = site.ok("list", "--domain", "b.example", "--days", "7")
    assert nothing.startswith("no counted report since ")
    assert nothing.endswith("; stsguard received summary says what is kept and not counted\n")


def test_filters_choose(site: Site) -> None:
    def ids(*arguments: str) -> list[int]:
        return [each["id"] for each in site.json("list", *arguments)["reports"]]

    assert ids("--reporter", "Big.Example.") == [2]
    assert ids("--until", BEFORE) == [2, 5]
    assert ids("--result-type", "certificate-expired") == [1]
    assert ids("--result-type", "unknown", "--mx", "MX1.a.example") == [1]
    assert ids("--group", "unsigned") == [3]
    assert ids("--group", "foreign", "--domain", "x.example") == [4]
    assert ids("--group", "conflict") == []


def test_list_goes_on_where_it_ended(site: Site) -> None:
    first = site.ok("list", "--limit", "2")
    assert first.splitlines()[-1] == f"there are more: --after {DAY}.1"
    page = site.json("list", "--limit", "2", "--after", f"{DAY}.1")
    assert ([each["id"] for each in page["reports"]], page["next"]) == ([2], None)
    assert site.ok("list", "--after", f"{BEFORE}.2") == "no more\n"
    refused = site.json("list", "--group", "refused", "--since", "2020-01-01", "--limit", "1")
    assert [each["id"] for each in refused["refused"]] == ["i8"]
    again = ("list", "--group", "refused", "--since", "2020-01-01", "--after", str(refused["next"]))
    assert [each["id"] for each in site.json(*again)["refused"]] == ["i7"]


def test_what_was_refused_is_listed_with_the_reason(site: Site) -> None:
    out = site.ok("list", "--group", "refused")
    assert out.splitlines()[1].split()[0] == "i7"
    assert out.splitlines()[1].endswith("no report in the mail")
    assert site.ok("list", "--group", "refused", "--until", "2020-01-01") == "nothing was refused up to 2020-01-01\n"


def test_summary_is_of_sessions_that_count(site: Site) -> None:
    out = site.ok("summary")
    assert out.startswith("5141 sessions since ")
    assert ": 5138 good, 3 failed (0.058 %)\n" in out.partition("\n")[0] + "\n"
    assert [
        line.split() for line in out.splitlines() if line.startswith(("202", "sender", "big", "odd", "unknown"))
    ] == [
        [DAY, "5128", "3", "0.058", "%"],
        [BEFORE, "10", "0"],
        ["sender.example", "5128", "3", "0.058", "%"],
        ["big.example", "10", "0"],
        ["unknown", "1"],
    ]
    apart = out.partition("kept, and not counted")[2].splitlines()[2:]
    assert [line.split() for line in apart] == [["unsigned", "1", "4"], ["foreign", "1", "3"], ["refused", "1"]]
    found = site.json("summary", "--domain", "a.example", "--mx", "mx1.a.example")
    assert (found["successes"], found["failures"]) == (None, 3)
    assert site.ok("summary", "--mx", "mx1.a.example").startswith("3 failed sessions since ")
    assert site.ok("summary", "--until", "2019-12-31") == "no session was reported up to 2019-12-31\n"
    assert "and 1 more" in site.ok("summary", "--top", "1")


def test_show_tells_all_of_a_report(site: Site) -> None:
    out = site.ok("show", "1")
    assert "group         counted: it counts\n" in out
    assert "DKIM        pass, d=sender.example s=s1, aligned\n" in out
    assert "  warning: result-type-unknown: policies[0]: result-type 'odd\\x1b[2J'\n" in out
    assert "=1+1" in out
    assert "\x1b" not in out
    found = site.json("show", "1")
    assert found["report_id"] == HOSTILE
    assert found["policies"][0]["failure_details"][1]["result_type_text"] == "odd\x1b[2J"
    assert "\x1b" not in site.ok("show", "1", "--json")
    assert site.ok("show", HOSTILE) == out
    assert site.json("show", "2")["policies"][1]["foreign"] is True
    assert "not counted: the mail has no valid signature" in site.ok("show", "3")


def test_show_gives_what_came_in_as_it_came(site: Site) -> None:
    assert "DKIM        fail, d=sender.example s=s1: the body hash differs\n" in site.ok("show", "i7")
    assert site.ok("show", "i7", "--raw") == "rubbish\x1b[2J\r\n"
    assert site.ok("show", "1", "--raw").encode() == REPORT
    assert site.json("show", "i1")["reports"] == [1]
    assert site.run("show", "2", "--text").code == 1  # that mail has no report in it


def test_text_of_a_report_is_the_one_it_was_read_from(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.json", report_json(report_id="other"))
        file.writestr("b.json", REPORT)
    for octets in (REPORT, gzip.compress(REPORT), archive.getvalue()):
        came = intake(document(REPORT), octets=octets, received_at=NOW)
        posted = replace(came, arrival=replace(came.arrival, media_type="application/tlsrpt+json"))
        url = f"sqlite:///{tmp_path}/{len(octets)}.db"

        async def store(each: ReceivedIntake = posted, url: str = url) -> None:
            async with opened(url) as stores:
                await stores.received.save_intakes([each])

        asyncio.run(store())
        config = tmp_path / "stsguard.toml"
        config.write_text(f'[store]\nurl = "{url}"\n')
        assert Site(config).ok("show", "1", "--text").encode() == REPORT


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Stores]:
    stores = open_stores(url)
    await stores.policies.open()
    yield stores
    await stores.policies.close()


def test_export_as_csv_is_safe_and_adds_up(site: Site) -> None:
    rows = list(csv.DictReader(io.StringIO(site.ok("export"))))
    assert sum(int(row["successes"]) for row in rows if row["successes"]) == 5138
    assert sum(int(row["failures"]) for row in rows if row["failures"]) == 3
    assert sum(int(row["detail_sessions"]) for row in rows if row["detail_sessions"]) == 3
    (odd,) = [row for row in rows if row["result_type"] == "unknown"]
    assert (odd["failure_reason_code"], odd["result_type_text"]) == ("'=1+1", "odd\\x1b[2J")
    assert odd["report_id"] == "'=2026\\x1b[31m_a.example"
    assert {row["foreign"] for row in rows} == {"no"}
    every = list(csv.DictReader(io.StringIO(site.ok("export", "--group", "all"))))
    assert {row["group"] for row in every} == {"counted", "unsigned", "foreign"}


def test_export_as_json(site: Site, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in site.ok("export", "--format", "jsonl").splitlines()]
    assert [line["id"] for line in lines] == [6, 1, 2]
    assert lines[1]["report_id"] == HOSTILE
    out = tmp_path / "out.json"
    ended = site.run("export", "--format", "json", "--output", str(out), "--reporter", "big.example")
    assert (ended.code, ended.out, ended.err) == (0, "", "1 reports written\n")
    assert [each["id"] for each in json.loads(out.read_text())["reports"]] == [2]
    assert json.loads(site.ok("export", "--format", "json", "--until", "2019-01-01")) == {"reports": []}


def test_export_that_cant_be_written_leaves_nothing(site: Site, tmp_path: Path) -> None:
    ended = site.run("export", "--output", str(tmp_path / "none" / "out.csv"))
    assert ended.code == 1
    assert "out.csv can't be written: No such file or directory" in ended.err


def test_reader_that_has_enough_ends_an_export_quietly(site: Site) -> None:
    command = f"{sys.executable} -m stsguard --config {site.config} received export --format jsonl | true"
    done = run(["sh", "-c", command], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_prune_deletes_what_is_old_and_says_so_before(site: Site) -> None:
    assert "1 mails and files that came before " in site.ok("prune", "--dry-run")
    assert site.json("show", "i8")["id"] == "i8"
    assert site.json("prune")["deleted"] == 1
    assert site.run("show", "i8").code == 1
    assert site.json("prune", "--dry-run") | {"before": ""} == {"before": "", "deleted": 0, "dry_run": True}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "99"), 1, "there is no report '99'; stsguard received list shows their numbers"),
        (("show", "i99"), 1, "there is no report 'i99'"),
        (("show", "r1"), 1, "several reports have this report-id: 4, 3, 2; name one of them by its number"),
        (("show", "i7", "--text"), 1, "i7 is no report; --raw prints what came in"),
        (("show", "1", "--text", "--raw"), 2, "give one of --raw, --text and --json"),
        (("list", "--after", "x"), 2, "'x' is no cursor of a list"),
        (("list", "--group", "refused", "--after", "x"), 2, "'x' is no cursor of this list"),
        (("list", "--group", "refused", "--mx", "mx.a.example"), 2, "--mx says nothing about what could not be read"),
        (("list", "--group", "odd"), 2, "'odd' is not one of"),
        (("list", "--domain", "a b"), 2, "is not a label of a host name"),
        (("list", "--days", "3", "--since", "today"), 2, "give --days, or --since and --until"),
        (("summary", "--since", "2026-01-02", "--until", "2026-01-01"), 2, "--since 2026-01-02 is after --until"),
        (("list", "--result-type", "nonsense"), 2, "'nonsense' is no result-type; there are starttls-not-supported, "),
        (("export", "--since", "soon"), 2, "'soon' is no day: write it as 2026-01-31"),
    ],
)
def test_what_cant_be_done_is_refused_with_the_reason(
    site: Site, arguments: tuple[str, ...], code: int, words: str
) -> None:
    ended = site.run(*arguments)
    assert (ended.code, words in ended.err) == (code, True), ended


def test_filters_stand_in_the_help_in_their_order_and_days_are_taken_as_it_shows_them(site: Site) -> None:
    shown = site.run("list", "--help").out
    assert sorted(shown.index(f"  {name} ") for name in ("--domain", "--since", "--until", "--mx")) == [
        shown.index(f"  {name} ") for name in ("--domain", "--since", "--until", "--mx")
    ]
    assert site.run("list", "--since", "YESTERDAY", "--until", "TODAY").code == 0


def test_database_that_cant_be_used_is_exit_3(tmp_path: Path) -> None:
    config = tmp_path / "stsguard.toml"
    config.write_text('[store]\nurl = "sqlite:////proc/none/stsguard.db"\n')
    for command in (("list",), ("summary",), ("show", "1"), ("export",), ("prune",)):
        ended = Site(config).run(*command)
        assert (ended.code, "the database can't be used: " in ended.err) == (3, True), ended
