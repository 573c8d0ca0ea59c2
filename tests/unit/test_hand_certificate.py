"""What is told of a policy host's certificate that the operator has put there."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stsguard.core.hand_certificate import HandCertificate, absent, judge, unusable
from stsguard.names import Domain
from tests.lab.ca import ThrowAwayCA

HOST = Domain("mta-sts.a.example")
END = datetime(2027, 1, 31, 12, 0, tzinfo=UTC)
BEGIN = END - timedelta(days=90)


def pem(directory: Path, *names: str) -> bytes:
    issued = ThrowAwayCA(directory).issue(names, not_before=BEGIN, not_after=END, san=bool(names))
    return issued.key_file.read_bytes() + issued.chain_file.read_bytes()  # in one file, as some put them


@pytest.mark.parametrize(
    ("left", "problem", "urgent"),
    [
        (timedelta(days=60), "", False),
        (timedelta(days=14, seconds=1), "", False),
        (
            timedelta(days=14),
            "it expires in 14 days, at 2027-01-31 12:00 UTC: put a new one there, else no sender",
            False,
        ),
        (timedelta(days=7, seconds=1), "it expires in 7 days", False),
        (timedelta(days=7), "it expires in 7 days", True),
        (timedelta(days=1), "it expires in a day", True),
        (timedelta(hours=23), "it expires in less than a day", True),
        (timedelta(0), "it has expired, at 2027-01-31 12:00 UTC: no sender fetches the policy", True),
        (timedelta(days=91), "it is not valid before 2026-11-02 12:00 UTC: no sender fetches", True),
    ],
)
def test_it_is_told_14_days_ahead(tmp_path: Path, left: timedelta, problem: str, urgent: bool) -> None:
    found = judge("x.pem", pem(tmp_path, "*.a.example"), HOST, END - left)
    assert (found.file, found.not_after, found.urgent) == ("x.pem", END, urgent)
    assert found.problem.startswith(problem)
    assert bool(found.problem) is bool(problem)


@pytest.mark.parametrize(
    ("names", "has"),
    [
        (("a.example", "*.example"), "'a.example', '*.example'"),
        (("mta-sts.b.example",), "'mta-sts.b.example'"),
        (tuple(f"{number}.example" for number in range(9)), "'4.example'"),
        ((), "no name at all"),
    ],
)
def test_rfc8461_3_3_it_has_to_be_for_the_policy_host(tmp_path: Path, names: tuple[str, ...], has: str) -> None:
    found = judge("x.pem", pem(tmp_path, *names), HOST, BEGIN)
    assert found.urgent
    assert found.problem.startswith("its SAN has ")
    assert f"{has} and not mta-sts.a.example: no sender fetches the policy" in found.problem


def test_what_can_not_be_read_or_is_not_there_is_urgent() -> None:
    assert judge("x.pem", b"rubbish", HOST, END) == HandCertificate(
        "x.pem", None, "it can't be used: the file holds no certificate that can be read", urgent=True
    )
    assert unusable("x.pem", "Permission denied").problem == "it can't be used: Permission denied"
    assert absent("x.pem").urgent
