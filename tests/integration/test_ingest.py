"""`stsguard ingest`: every form in which reports lie about, standing, exit codes, and what becomes of what is none."""

import asyncio
import gzip
import io
import json
import mailbox
import os
import pty
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dns.rcode
import pytest

from stsguard.app import ingest_readers
from stsguard.app.ingest_items import Item, items_in
from stsguard.app.ingest_readers import ReaderProcess, read_chunks
from stsguard.app.intake import build_rules
from stsguard.config.load import load
from stsguard.core.tlsrpt_report_received import MAX_POLICIES
from stsguard.inbound.spool import SET_ASIDE
from stsguard.store.received_schema import received_daily, received_intakes, received_reports
from tests.integration.intake_site import STSGUARD, IntakeSite, intake_site, keys, maildir
from tests.integration.store.test_disk import needs_root
from tests.lab.nameserver import respond
from tests.received import archive_of, detail, policy, report_json
from tests.report_mail import report_mail, signed_mail

MANY = 450
DMARC = b'<?xml version="1.0"?>\n<feedback><report_metadata/></feedback>\n'


@pytest.fixture
def site(tmp_path: Path) -> Iterator[IntakeSite]:
    with intake_site(tmp_path / "site") as made:
        yield made


def numbered(number: int) -> bytes:
    return report_json(policy(successes=number), report_id=f"r{number}")


def as_mbox(path: Path, mails: list[bytes]) -> Path:
    made = mailbox.mbox(path, create=True)
    for mail in mails:
        made.add(mail.replace(b"\r\n", b"\n"))
    made.close()
    return path


def test_maildir_is_taken_in_and_moved_to_cur(site: IntakeSite, tmp_path: Path) -> None:
    box = maildir(tmp_path / "mail", [signed_mail(numbered(number)) for number in range(3)])
    before = datetime.now(UTC)
    assert site.take_in(box)["new"] == 3
    assert list((box / "new").iterdir()) == []
    assert sorted(path.name for path in (box / "cur").iterdir()) == [f"177242000{n}.M{n}.host:2," for n in range(3)]
    assert site.take_in(box)["items"] == 0
    assert site.take_in(box / "cur") == site.take_in(box / "cur")  # known by now, whatever they are called
    (counted,) = site.rows(received_daily)
    assert (counted["reporter"], counted["reports"], counted["successes"]) == ("sender.example", 3, 0 + 1 + 2)
    (first, *_) = site.rows(received_intakes)
    assert (first["via"], first["dkim_status"], first["from_address"]) == ("file", "pass", "noreply@sender.example")
    assert abs(first["received_at"] / 1e6 - before.timestamp()) < 100  # when the file was written


def test_maildir_below_a_directory_is_found_with_its_folders(site: IntakeSite, tmp_path: Path) -> None:
    maildir(tmp_path / "users" / "tls", [signed_mail(numbered(1))])
    maildir(tmp_path / "users" / "tls" / ".Reports", [signed_mail(numbered(2))])
    assert site.take_in(tmp_path / "users")["new"] == 2


def test_every_form_is_read(site: IntakeSite, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.json", numbered(4))
        file.writestr("b.json", numbered(5))
    (given / "1.json").write_bytes(numbered(1))
    (given / "2.json.gz").write_bytes(gzip.compress(numbered(2)))
    (given / "3.eml").write_bytes(signed_mail(numbered(3)))
    (given / "4.zip").write_bytes(archive.getvalue())
    as_mbox(given / "5.mbox", [signed_mail(numbered(6)), signed_mail(numbered(7))])
    (given / "no-name").write_bytes(signed_mail(numbered(8)))
    (given / "README.txt").write_text("These are the reports of March.\n")
    (given / ".hidden.json").write_bytes(numbered(9))
    found = site.take_in(given)
    assert (found["items"], found["new"], found["not_counted"], found["refused"]) == (7, 8, 4, 0)
    standing = {row["report_id"]: row["standing"] for row in site.rows(received_reports)}
    vouched = ("r3", "r6", "r7", "r8")
    assert standing == {f"r{n}": "counted" if f"r{n}" in vouched else "unvouched" for n in range(1, 9)}


def test_operator_may_vouch_for_files(site: IntakeSite, tmp_path: Path) -> None:
    (tmp_path / "0.json").write_bytes(numbered(0))
    told = site.ingest(tmp_path / "0.json")
    assert told.stdout.startswith(b"1 taken in: 1 new report, 0 duplicates, 1 of them not counted")
    assert b"Report files that you vouch for count with --trusted" in told.stderr
    (tmp_path / "1.json").write_bytes(numbered(1))
    assert site.take_in(tmp_path / "1.json")["not_counted"] == 1
    assert site.rows(received_daily) == []
    assert site.take_in("--trusted", tmp_path / "1.json") | {"problems": []} == {
        "items": 1,
        "new": 1,
        "duplicates": 0,
        "conflicts": 0,
        "not_counted": 0,
        "known": 0,
        "refused": 0,
        "waiting_for_key": 0,
        "unreadable": 0,
        "problems": [],
    }
    assert [row["reporter"] for row in site.rows(received_daily)] == ["sender.example"]


def test_mbox_keeps_signatures_whole_and_knows_when_each_mail_came(tmp_path: Path, site: IntakeSite) -> None:
    mail = signed_mail(numbered(1))
    path = tmp_path / "box"
    from_line = b"From tls@sender.example Mon Mar  2 03:10:06 2026\n"
    quoted = mail.replace(b"\r\n", b"\n")
    path.write_bytes(from_line + quoted + b"\n" + b"From nobody\n" + quoted + b"\n")
    problems: list[tuple[str, str]] = []
    first, second = items_in(path, lambda *told: problems.append(told))
    assert (first.octets, first.received_at) == (quoted, datetime(2026, 3, 2, 3, 10, 6, tzinfo=UTC))
    assert second.octets == quoted
    assert second.received_at == datetime.fromtimestamp(path.stat().st_mtime, UTC)
    assert problems == []
    assert site.take_in(path)["new"] == 1
    assert [row["dkim_status"] for row in site.rows(received_intakes)] == ["pass"]


def test_what_is_no_report_is_kept_with_its_reason_and_told(site: IntakeSite, tmp_path: Path) -> None:
    (tmp_path / "spam.eml").write_bytes(b"Subject: hello\x1b[31m\r\n\r\nbuy\r\n")
    (tmp_path / "bad.json").write_bytes(b'{"organization-name": "x')
    done = site.ingest(tmp_path / "spam.eml", tmp_path / "bad.json")
    assert done.returncode == 1
    told = done.stderr.decode()
    assert "spam.eml: no report in the mail" in told
    assert "bad.json: " in told
    assert done.stdout == b"2 taken in: 0 new reports, 0 duplicates, 2 with something that is no report (kept)\n"
    kept = site.rows(received_intakes)
    assert [(row["refused"], row["reports"]) for row in kept] == [(True, 0), (True, 0)]
    assert zlib.decompress(kept[0]["raw"]) == b"Subject: hello\x1b[31m\r\n\r\nbuy\r\n"


NO_REPORTS = {
    "page.html": (b"<!DOCTYPE html>\n<html></html>", "neither a mail nor a report: it is an HTML page"),
    "logo.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "neither a mail nor a report: it is a PNG image"),
    "nothing.json": (b"", "neither a mail nor a report: it is empty"),
    "package.json": (b'{"name": "x"}', "JSON, but no TLS report: it has neither policies nor a date-range"),
    "dmarc.xml": (DMARC, "neither a mail nor a report: it is a DMARC aggregate report (RFC 7489)"),
    "dmarc.xml.gz": (gzip.compress(DMARC), "neither JSON, gzip nor zip: it is a DMARC aggregate report (RFC 7489)"),
    "dmarc.zip": (archive_of(DMARC), "neither JSON, gzip nor zip: it is a DMARC aggregate report (RFC 7489)"),
}


def test_file_that_is_no_report_is_told_for_what_it_is_and_kept(site: IntakeSite, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in NO_REPORTS]
    for path, (octets, _) in zip(paths, NO_REPORTS.values(), strict=True):
        path.write_bytes(octets)
    reasons = [f"{path}: {reason}" for path, (_, reason) in zip(paths, NO_REPORTS.values(), strict=True)]
    found = site.take_in(*paths, code=1)
    assert (found["items"], found["refused"], found["unreadable"], found["new"]) == (len(paths), len(paths), 0, 0)
    assert found["problems"] == reasons
    assert sorted(zlib.decompress(row["raw"]) for row in site.rows(received_intakes)) == sorted(
        octets for octets, _ in NO_REPORTS.values()
    )
    told = site.ingest(*paths).stderr.decode().splitlines()
    assert told[:-1] == reasons
    assert told[-1] == "What is no report is kept with its reason: stsguard received list --group refused"


def test_problems_that_are_not_shown_are_counted(site: IntakeSite, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.json" for number in range(25)]
    for number, path in enumerate(paths):
        path.write_bytes(b"[%d]" % number)
    assert "and 5 more\n" in site.ingest(*paths).stderr.decode()


def test_foreign_domains_are_those_that_are_not_listed(tmp_path: Path) -> None:
    with intake_site(tmp_path / "site", domains=["a.example"]) as site:
        content = report_json(policy("mx.a.example"), policy("z.example"))
        (tmp_path / "1.eml").write_bytes(signed_mail(content))
        site.take_in(tmp_path / "1.eml")
        assert [row["policy_domain"] for row in site.rows(received_daily)] == ["mx.a.example"]


def test_key_that_can_t_be_looked_up_is_tried_again(tmp_path: Path) -> None:
    answers = keys()
    down = True

    def handler(query: object, over_tcp: bool) -> object:
        return [respond(query, rcode=dns.rcode.SERVFAIL)] if down else answers(query, over_tcp)  # type: ignore[arg-type] # one of the two it is

    with intake_site(tmp_path / "site", handler=handler) as site:  # type: ignore[arg-type] # as above
        box = maildir(tmp_path / "mail", [signed_mail(numbered(number)) for number in range(2)])
        found = site.take_in(box)
        assert (found["new"], found["not_counted"], found["waiting_for_key"]) == (2, 2, 2)
        assert b"stsguard ingest --again" in site.ingest("--again").stderr
        down = False
        found = site.take_in("--again")
        assert (found["new"], found["not_counted"], found["waiting_for_key"]) == (2, 0, 0)
        assert site.take_in("--again")["items"] == 0
        assert [row["reports"] for row in site.rows(received_daily)] == [2]
        assert [row["standing"] for row in site.rows(received_reports)] == ["counted", "counted"]


def test_verdict_of_the_day_it_came_is_kept_when_the_key_is_gone(tmp_path: Path) -> None:
    answers = keys()
    gone = False

    def handler(query: object, over_tcp: bool) -> object:
        return [respond(query, rcode=dns.rcode.NXDOMAIN)] if gone else answers(query, over_tcp)  # type: ignore[arg-type] # one of the two it is

    with intake_site(tmp_path / "site", handler=handler) as site:  # type: ignore[arg-type] # as above
        broken = maildir(tmp_path / "mail", [signed_mail(b"{]")])
        assert site.take_in(broken, code=1)["refused"] == 1
        (row,) = site.rows(received_intakes)
        assert (row["dkim_status"], row["aligned"]) == ("pass", True)
        gone = True
        site.take_in("--again", code=1)
        (row,) = site.rows(received_intakes)
        assert (row["dkim_status"], row["aligned"], row["dkim_domain"]) == ("pass", True, "sender.example")


def test_many_are_read_by_processes_beside(site: IntakeSite, tmp_path: Path) -> None:
    mails = [signed_mail(numbered(number)) for number in range(MANY)]
    box = maildir(tmp_path / "mail", [*mails, b"Subject: none\r\n\r\n"])
    found = site.take_in(box, code=1)
    assert (found["items"], found["new"], found["refused"]) == (MANY + 1, MANY, 1)
    assert list((box / "new").iterdir()) == []
    (counted,) = site.rows(received_daily)
    assert (counted["reports"], counted["successes"]) == (MANY, sum(range(MANY)))


MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


def test_largest_reports_and_bombs_one_after_the_other_take_bounded_memory(site: IntakeSite, tmp_path: Path) -> None:
    details = [detail(mx=f"mx{number}.a.example") for number in range(2)]
    policies = [policy(f"d{number}.a.example", 1, 2, *details) for number in range(MAX_POLICIES)]
    mails = [report_mail(report_json(*policies, report_id=f"r{number}")) for number in range(4)]
    mails += [report_mail(b'{"%d": "' % number + b"x" * 19_000_000 + b'"}') for number in range(4)]
    box = maildir(tmp_path / "mail", mails)
    command = [sys.executable, "-c", MEASURED, STSGUARD, "ingest", *site.options, box]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    code, megabytes = map(int, told.split())
    assert (code, len(site.rows(received_reports))) == (1, 4)
    assert megabytes < 300


def test_database_that_can_t_be_used_leaves_everything_where_it_was(tmp_path: Path) -> None:
    with intake_site(tmp_path / "site", url=f"sqlite:///{tmp_path}/missing/stsguard.db") as site:
        box = maildir(tmp_path / "mail", [signed_mail(numbered(1))])
        done = site.ingest(box)
        assert done.returncode == 3
        assert b"missing does not exist; what is not stored is where it was" in done.stderr
        assert len(list((box / "new").iterdir())) == 1


def test_database_that_fails_in_the_middle_of_many_ends_all_processes(site: IntakeSite, tmp_path: Path) -> None:
    box = maildir(tmp_path / "mail", [signed_mail(numbered(number)) for number in range(MANY)])
    site.make_database()
    database = site.directory / "stsguard.db"
    subprocess.run([sys.executable, "-c", _BREAK, str(database)], check=True)
    done = site.ingest(box)
    assert done.returncode == 3, done.stderr
    assert b"refused by the test" in done.stderr
    assert len(list((box / "new").iterdir())) == MANY


_BREAK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute(
    "CREATE TRIGGER no BEFORE INSERT ON received_intakes BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
)
"""


def test_one_that_the_database_does_not_take_does_not_stop_the_others(site: IntakeSite, tmp_path: Path) -> None:
    site.make_database()
    script = _BREAK.replace("BEFORE INSERT ON received_intakes", "BEFORE INSERT ON received_reports").replace(
        "BEGIN SELECT", "WHEN NEW.report_id = 'r1' BEGIN SELECT"
    )
    subprocess.run([sys.executable, "-c", script, site.directory / "stsguard.db"], check=True)
    box = maildir(tmp_path / "mail", [signed_mail(numbered(number)) for number in range(3)])
    found = site.take_in(box, code=1)
    assert (found["new"], found["refused"]) == (2, 1)
    assert "the database does not take it: " in found["problems"][0]
    assert [row["reports"] for row in site.rows(received_daily)] == [2]


def test_path_that_is_not_there_says_so(site: IntakeSite, tmp_path: Path) -> None:
    done = site.ingest(tmp_path / "nothing")
    assert (done.returncode, done.stderr.decode()) == (1, f"{tmp_path}/nothing: No such file or directory\n")
    assert done.stdout == b"0 taken in: 0 new reports, 0 duplicates, 1 not readable\n"
    assert site.ingest().returncode == 2
    assert site.ingest("--again", tmp_path).returncode == 2
    assert site.ingest("-", tmp_path).returncode == 2


def test_paths_that_cant_be_read_keep_no_others_back(site: IntakeSite, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number, name in enumerate(("a.eml", "c.eml")):
        (many / name).write_bytes(signed_mail(numbered(number)))
    (many / "b").mkdir()
    (many / "b" / "inside.eml").symlink_to(many / "b" / "inside.eml")  # a loop: no user can read it
    (many / "bb.eml").symlink_to("nowhere")  # what is below a directory and no file is passed over
    last = tmp_path / "last.eml"
    last.write_bytes(signed_mail(numbered(2)))
    os.mkfifo(tmp_path / "pipe")
    found = site.take_in(tmp_path / "nothing", many, tmp_path / "pipe", tmp_path / "none", last, code=1)
    assert (found["new"], found["items"], found["unreadable"]) == (3, 3, 3)
    assert found["problems"] == [
        f"{tmp_path}/nothing: No such file or directory",
        f"{tmp_path}/pipe: not a regular file; - takes in standard input",
        f"{tmp_path}/none: No such file or directory",
    ]


@needs_root
def test_file_in_a_directory_that_is_not_for_this_user_keeps_no_others_back(tmp_path: Path) -> None:
    for number, name in enumerate(("a.eml", "c.eml")):
        (tmp_path / name).write_bytes(numbered(number))
    (tmp_path / "b.eml").touch(mode=0o000)
    (tmp_path / "b").mkdir(mode=0o700)
    script = """if True:
        import os, sys
        from pathlib import Path
        from stsguard.app.ingest_items import items_in
        os.chdir(sys.argv[1])  # the directories above are not for nobody
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        told = []
        print(*(str(item.path) for item in items_in(Path("."), lambda *each: told.append(each))))
        print(told)
        """
    tmp_path.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [
        "a.eml c.eml",
        "[('b', 'Permission denied'), ('b.eml', 'Permission denied')]",
    ]


def test_standard_input_as_a_path_is_refused(site: IntakeSite) -> None:
    done = site.ingest("/dev/stdin", stdin=report_mail())
    assert (done.returncode, done.stderr) == (1, b"/dev/stdin: not a regular file; - takes in standard input\n")


def test_bar_is_shown_on_a_terminal_only(site: IntakeSite, tmp_path: Path) -> None:
    box = maildir(tmp_path / "mail", [b"Subject: %d\r\n\r\n" % number for number in range(60)])
    parent, child = pty.openpty()
    command = [str(Path(sys.executable).with_name("stsguard")), "ingest", *site.options, str(box)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=child) as process:
        os.close(child)
        shown = b""
        try:
            while octets := os.read(parent, 65_536):
                shown += octets
        except OSError:
            pass  # its other end is closed
        process.wait(60)
    os.close(parent)
    assert b"taking in" in shown
    assert b"100%" in shown
    assert b"taking in" not in site.ingest(box / "cur").stderr


# The processes beside


POISON = """
import os
from stsguard.app import ingest_reading, ingest_worker
read = ingest_reading.ItemReader.read
async def fatal(self, item):
    if "poison" in item.label:
        os._exit(9)
    return await read(self, item)
ingest_reading.ItemReader.read = fatal
ingest_worker.main()
"""


async def test_mail_that_kills_its_reader_is_refused_and_no_other_is_lost(
    site: IntakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_readers, "COMMAND", (sys.executable, "-c", POISON))
    items = []
    for name in ("1", "2", "poison", "4"):
        path = tmp_path / name
        path.write_bytes(signed_mail(numbered(1)))
        items.append(Item(path, str(path)))
    config = load(site.directory / "stsguard.toml")
    found: ingest_readers.FoundQueue = asyncio.Queue()
    await read_chunks(config, build_rules(config), iter([items]), found)
    reasons: dict[str, tuple[str, ...]] = {}
    while not found.empty():
        for item, read in found.get_nowait():
            assert read.intake is not None
            reasons[item.path.name] = read.intake.refusals
    assert reasons == {"1": (), "2": (), "poison": ("the process that read it died",), "4": ()}


async def test_reader_ends_with_the_command(site: IntakeSite, tmp_path: Path) -> None:
    config = load(site.directory / "stsguard.toml")
    reader = ReaderProcess(config, build_rules(config))
    (tmp_path / "1.json").write_bytes(numbered(1))
    (read,) = await reader.read_some([Item(tmp_path / "1.json", "1.json")])
    assert read.intake is not None
    assert len(read.intake.documents) == 1
    assert await reader.read_some([Item(tmp_path / "2.json", "2.json")]) == [
        type(read)(None, "No such file or directory")
    ]
    await reader.close()
    await reader.close()


def test_json_output_is_one_object(site: IntakeSite, tmp_path: Path) -> None:
    done = site.ingest("--json", tmp_path / "nothing")
    assert (done.returncode, json.loads(done.stdout)["problems"]) == (
        1,
        [f"{tmp_path}/nothing: No such file or directory"],
    )
    assert not (site.spool / SET_ASIDE).exists()


def test_mbox_takes_no_memory_for_each_of_its_lines(tmp_path: Path) -> None:
    box = tmp_path / "box.mbox"
    box.write_bytes(b"From x Mon Mar  2 03:10:06 2026\n" + b"x\n" * 1_000_000)
    tracemalloc.start()
    try:
        (item,) = items_in(box, lambda *_: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert item.octets is not None
    assert len(item.octets) == 2_000_000
    assert peak < 12_000_000
