"""`kill -9` of the daemon and of `stsguard ingest` at random moments: every report is stored once, none is lost."""

import random
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from stsguard.core.arrival import Arrival, Via
from stsguard.inbound.spool import SET_ASIDE, Spool
from stsguard.store.received_schema import received_daily, received_intakes, received_policies, received_reports
from tests.integration.intake_daemon import Daemon
from tests.integration.intake_site import STSGUARD, intake_site, maildir
from tests.received import policy, report_json
from tests.report_mail import signed_mail

REPORTS = 1000
KILLS = {"sqlite": 50, "postgresql": 16}
FIRST_SECONDS, SECOND_SECONDS = (0.3, 1.3), (0.0, 0.5)  # it takes most of one to start: many are killed at work
SEED = 8460


def test_every_report_is_stored_once_whoever_is_killed(tmp_path: Path, url: str) -> None:
    draw = random.Random(SEED)
    mails = [signed_mail(report_json(policy(successes=n), report_id=f"r{n}")) for n in range(REPORTS)]
    rounds = KILLS[url.partition(":")[0]] // 2
    with intake_site(tmp_path / "site", url=url, addresses=["tls@a.example"]) as site:
        daemon, box = Daemon(site), maildir(tmp_path / "mail", [])
        spool = Spool(site.spool)
        spool.prepare()
        for turn in range(rounds):
            for number in range(turn, REPORTS, rounds):
                if number % 2:
                    spool.add(Arrival(Via.MILTER, datetime.now(UTC)), mails[number])
                else:
                    (box / "new" / str(number)).write_bytes(mails[number])
            ingest = subprocess.Popen(
                [str(STSGUARD), "ingest", *site.options, str(box)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            killed = draw.sample([ingest, daemon.start()], 2)
            for process, seconds in zip(killed, (FIRST_SECONDS, SECOND_SECONDS), strict=True):
                time.sleep(draw.uniform(*seconds))
                process.kill()
            ingest.wait()
            daemon.process.wait()
        site.take_in(box)
        daemon.start()
        daemon.wait(lambda: not spool.pending())
        daemon.stop()
        assert list((box / "new").iterdir()) == []
        assert not (site.spool / SET_ASIDE).exists()
        reports = site.rows(received_reports)
        assert sorted(row["report_id"] for row in reports) == sorted(f"r{number}" for number in range(REPORTS))
        assert {(row["standing"], row["conflict"], row["duplicates"]) for row in reports} == {("counted", False, 0)}
        assert len(site.rows(received_intakes)) == len(site.rows(received_policies)) == REPORTS
        (counted,) = site.rows(received_daily)
        assert (counted["reports"], counted["successes"]) == (REPORTS, sum(range(REPORTS)))
