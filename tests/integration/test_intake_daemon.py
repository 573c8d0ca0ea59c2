"""`stsguard inbound` as a process: what comes into its spool is stored."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stsguard.core.arrival import Arrival, Via
from stsguard.inbound.spool import Spool
from stsguard.store.received_schema import received_daily, received_reports
from tests.integration.intake_daemon import Daemon
from tests.integration.intake_site import intake_site
from tests.report_mail import signed_mail


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with intake_site(tmp_path / "site", addresses=["tls@a.example"]) as site:
        made = Daemon(site)
        made.start()
        yield made
        if made.process.poll() is None:
            made.process.kill()
        made.process.wait()


def test_daemon_stores_what_comes_into_its_spool(daemon: Daemon) -> None:
    site = daemon.site
    daemon.wait(site.spool.exists)
    spool = Spool(site.spool)
    for octets in (signed_mail(), b"Subject: none\r\n\r\n"):
        assert site.ingest("-", stdin=octets).returncode == 0
    daemon.wait(lambda: "received something that is no report" in daemon.log.read_text())
    assert [row["reports"] for row in site.rows(received_daily)] == [1]
    assert spool.pending() == []
    told = daemon.log.read_text()
    assert "info received a report policy_domain=a.example reporter=sender.example" in told
    assert "standing=counted fate=new successes=5 failures=0 via=pipe" in told
    assert daemon.status()["parts"]["intake"] == {
        "state": "ok",
        "detail": "0 received reports wait in the spool; 1 that came since the start had something that is no report, "
        "kept with the reason: stsguard received list --group refused",
    }
    daemon.stop()


def test_daemon_takes_up_what_lay_there_before(daemon: Daemon) -> None:
    daemon.wait(daemon.site.spool.exists)
    daemon.stop()
    Spool(daemon.site.spool).add(Arrival(Via.MILTER, datetime.now(UTC)), signed_mail())
    daemon.start()
    daemon.wait(lambda: "received a report" in daemon.log.read_text())
    daemon.stop()
    assert len(daemon.site.rows(received_reports)) == 1


def test_status_says_which_entries_are_damaged_and_what_to_do(daemon: Daemon) -> None:
    daemon.wait(daemon.site.spool.exists)
    bad = daemon.site.spool / "000000000001-0.milter"
    bad.write_bytes(b"rubbish")
    daemon.wait(lambda: "damaged entry of the spool set aside" in daemon.log.read_text())
    daemon.wait(lambda: daemon.status()["parts"]["intake"]["state"] == "limited")
    assert daemon.status()["parts"]["intake"]["detail"] == (
        f"0 received reports wait in the spool; 1 damaged entry ({daemon.site.spool}/set-aside/{bad.name}): what is "
        "left of the mail begins in the second line (tail -n +2 FILE | stsguard ingest -); then remove the file"
    )
    assert daemon.status()["status"] == "ok"
    (daemon.site.spool / "set-aside" / bad.name).unlink()
    daemon.wait(lambda: daemon.status()["parts"]["intake"]["state"] == "ok")
    daemon.stop()
