"""postfix/: a real Postfix understands the samples, and nothing is left to advise once they are in place."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stsguard.adapters.postfix_conf import read_postfix
from stsguard.core.postfix_advice import advise
from stsguard.core.postfix_facts import PostfixFacts, Validation

SAMPLES = Path(__file__).parents[2] / "postfix"
TLSRPT_MAP = "#smtp_tls_policy_maps = "
BASE_MASTER_CF = "smtp      unix  -       -       y       -       -       smtp\n"


@pytest.fixture
def postconf() -> str:
    found = shutil.which("postconf", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("postconf is not installed")
    return found


def instance(directory: Path, *, map_for_3_10: bool) -> Path:
    """A configuration directory made of the samples. The files get an old date, else Postfix waits for 2 s."""
    (directory / "queue/etc").mkdir(parents=True)
    (directory / "queue/etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    main_cf = (SAMPLES / "main.cf").read_text()
    if map_for_3_10:
        main_cf = main_cf.replace(TLSRPT_MAP, TLSRPT_MAP.removeprefix("#"))  # the later of two lines counts
    (directory / "main.cf").write_text(f"compatibility_level = 3.6\nqueue_directory = {directory}/queue\n{main_cf}")
    (directory / "master.cf").write_text(BASE_MASTER_CF + (SAMPLES / "master.cf").read_text())
    for name in ("main.cf", "master.cf"):
        os.utime(directory / name, (0, 0))
    return directory


def facts_of(directory: Path) -> PostfixFacts:
    return read_postfix(directory, lambda _address: Validation.YES)


@pytest.mark.parametrize("option", ["-n", "-M", "-P"])
def test_postfix_takes_the_samples_without_a_warning(postconf: str, tmp_path: Path, option: str) -> None:
    directory = instance(tmp_path, map_for_3_10=False)
    command = [postconf, "-c", str(directory), option]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env={"LC_ALL": "C"})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("postconf")
def test_the_service_of_master_cf_asks_nobody(tmp_path: Path) -> None:
    services = {service.name: service for service in facts_of(instance(tmp_path, map_for_3_10=False)).services}
    assert services["internal/unix"].overrides == {
        "syslog_name": "postfix/internal",
        "smtp_tls_policy_maps": "",
        "smtp_tls_security_level": "may",
    }


@pytest.mark.usefixtures("postconf")
def test_nothing_is_left_to_advise_with_the_samples_in_place(tmp_path: Path) -> None:
    version = facts_of(instance(tmp_path / "probe", map_for_3_10=False)).version
    directory = instance(tmp_path / "postfix", map_for_3_10=version >= (3, 10, 0))
    (directory / "master.cf").write_text(BASE_MASTER_CF)
    os.utime(directory / "master.cf", (0, 0))
    advice = advise(facts_of(directory))
    assert [setting.line for setting in advice.settings if not setting.optional] == []
    # The copy of resolv.conf in the chroot was made for the test.
    wrong = {finding.code for finding in advice.findings if finding.severity.value != "note"}
    assert wrong <= {"chroot-resolver-stale"}
