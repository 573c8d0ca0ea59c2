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
    assert daemon.status()["parts"]["intake"] == {"state": "ok", "detail": "0 received reports wait in the spool"}
    daemon.stop()


def test_daemon_takes_up_what_lay_there_before(daemon: Daemon) -> None:
    daemon.wait(daemon.site.spool.exists)
    daemon.stop()
    Spool(daemon.site.spool).add(Arrival(Via.MILTER, datetime.now(UTC)), signed_mail())
    daemon.start()
    daemon.wait(lambda: "received a report" in daemon.log.read_text())
    daemon.stop()
    assert len(daemon.site.rows(received_reports)) == 1
