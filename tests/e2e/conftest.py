"""One lab for the session, with both Postfix versions; where it can't be made, the tests skip, but never in CI."""

import os
from collections.abc import Iterator

import pytest

from tests.lab.chroots import BOOKWORM, RELEASES, TRIXIE
from tests.lab.lab import Lab, PostfixPlan, what_is_missing

PLANS = (
    PostfixPlan(
        "pf37",
        BOOKWORM.path,
        policy_map="socketmap:inet:127.0.0.1:8461:policy",
        transports={"static": "socketmap:unix:stsguard/static.sock:policy"},
    ),
    PostfixPlan(
        "pf310",
        TRIXIE.path,
        policy_map="socketmap:unix:stsguard/policy.sock:policy-tlsrpt",
        security_level="dane",
        transports={"static": "socketmap:unix:stsguard/static.sock:policy-tlsrpt"},
    ),
)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The running lab."""
    missing = what_is_missing()
    if not missing and not all(release.ready for release in RELEASES):
        missing = "the lab needs its chroots (python -m tests.lab.chroots prepare)"
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with Lab(PLANS) as running:
        yield running
