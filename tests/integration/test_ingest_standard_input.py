"""`stsguard ingest -`: for a pipe transport of Postfix, which keeps the mail where the report can't be kept."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stsguard.core.arrival import Via
from stsguard.inbound.spool import Spool
from tests.integration.intake_site import IntakeSite, intake_site
from tests.integration.store.test_disk import needs_root
from tests.report_mail import report_mail

EX_TEMPFAIL = 75


@pytest.fixture
def site(tmp_path: Path) -> Iterator[IntakeSite]:
    with intake_site(tmp_path / "site") as made:
        yield made


def spooled(site: IntakeSite) -> Spool:
    spool = Spool(site.spool)
    spool.prepare()
    return spool


def test_standard_input_is_put_into_the_spool_and_nowhere_else(site: IntakeSite) -> None:
    spool = spooled(site)
    done = site.ingest("-", "--recipient", "tls@a.example", "--client", "192.0.2.1", stdin=report_mail())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with spool.reading() as reader:
        (name,) = reader.pending()
        entry = reader.load(name)
    assert entry is not None
    assert (entry.arrival.via, entry.arrival.recipient, entry.arrival.client) == (
        Via.PIPE,
        "tls@a.example",
        "192.0.2.1",
    )
    assert entry.octets == report_mail()
    assert datetime.now(UTC) - entry.arrival.received_at < timedelta(seconds=100)
    assert not (site.directory / "stsguard.db").exists()


def test_standard_input_that_can_t_be_kept_stays_with_the_mta(site: IntakeSite) -> None:
    def refused() -> str:
        done = site.ingest("-", stdin=report_mail())
        assert (done.returncode, done.stdout) == (EX_TEMPFAIL, b"")
        return done.stderr.decode()

    assert refused() == (
        f"the report can't be kept: {site.spool}: No such file or directory; stsguard inbound makes the spool when it "
        "starts\n"
    )
    site.spool.touch()
    assert "Not a directory" in refused()
    site.spool.unlink()
    spooled(site)
    assert site.ingest("-", stdin=b"").returncode == EX_TEMPFAIL
    (site.directory / "stsguard.toml").write_text("[intake]\nspol = 1\n")
    assert "unknown key" in refused()
    assert sorted(path.name for path in site.spool.iterdir()) == []


# As the user of a pipe transport: in the group of the spool, or not; everything is imported before.
AS_NOBODY = """
import os, sys
import stsguard.app.keeping, stsguard.cli.ingest, stsguard.config.load
from stsguard.cli.main import main
os.setgroups([65532] if sys.argv[1] == "member" else [])
os.setgid(65534)
os.setuid(65534)
main(["--config", sys.argv[2], "ingest", "-"])
"""


@needs_root
def test_pipe_transport_needs_no_more_than_the_group_of_the_spool() -> None:
    with tempfile.TemporaryDirectory(prefix="stsguard-") as name:
        public = Path(name)
        public.chmod(0o711)
        config = public / "stsguard.toml"
        config.write_text(f'[intake]\nspool = "{public}/spool"\n')
        spool = Spool(public / "spool")
        spool.prepare()
        os.chown(spool.directory, 65533, 65532)
        spool.directory.chmod(0o3770)

        def deliver(who: str) -> tuple[int, bytes]:
            command = [sys.executable, "-c", AS_NOBODY, who, config]
            done = subprocess.run(command, input=report_mail(), capture_output=True, check=False)
            return done.returncode, done.stderr

        assert deliver("member") == (0, b"")
        assert len(spool.pending()) == 1
        code, told = deliver("stranger")
        assert (code, told) == (
            EX_TEMPFAIL,
            f"the report can't be kept: {spool.directory}: Permission denied\n".encode(),
        )
