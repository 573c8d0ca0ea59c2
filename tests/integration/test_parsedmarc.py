"""Our reports as parsedmarc reads them: the same numbers, as JSON and as mail.

parsedmarc has forty dependencies, so it has a virtual environment of its own, outside the checkout.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from stsguard.core.tlsrpt_mail import build_mail, message_id
from stsguard.core.tlsrpt_report import Report, to_json
from tests.reports import DOMAIN, EXPIRED, NONE_FOUND, STS, TLSA, report, reports, row

TOOLS = Path(__file__).parents[1] / "tools"
REPORT = report(row(STS, 5326, 303, {EXPIRED: 303}), row(TLSA, 12), row(NONE_FOUND, 3))

Reader = Callable[[Sequence[bytes]], list[Any]]

pytestmark = pytest.mark.timeout(600)  # the first run installs


@pytest.fixture(scope="module")
def parsedmarc() -> Reader:
    """Reads reports and mails with parsedmarc."""
    made = subprocess.run(
        [TOOLS / "install-parsedmarc.sh"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable},
    )
    if made.returncode != 0:
        pytest.skip(f"parsedmarc can't be installed: {made.stderr[-300:]}")

    def read(items: Sequence[bytes]) -> list[Any]:
        done = subprocess.run(
            [made.stdout.strip(), TOOLS / "parsedmarc_read.py"],
            input=json.dumps([base64.b64encode(item).decode() for item in items]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, list)
        return found

    return read


def expected(built: Report) -> dict[str, Any]:
    """What parsedmarc is to find in `built`."""
    policies = []
    for result in built.policies:
        policy: dict[str, Any] = {
            "policy_domain": result.policy.policy_domain,
            "policy_type": result.policy.policy_type.value,
            "successful_session_count": result.successes,
            "failed_session_count": result.failures,
        }
        if result.policy.policy_strings:
            policy["policy_strings"] = list(result.policy.policy_strings)
        if result.details:
            policy["failure_details"] = []
        for detail, sessions in result.details:
            fields = {
                "sending_mta_ip": detail.sending_mta_ip,
                "receiving_ip": detail.receiving_ip,
                "receiving_mx_hostname": detail.receiving_mx_hostname,
                "receiving_mx_helo": detail.receiving_mx_helo,
                "failure_reason_code": detail.failure_reason_code,
                "additional_info_uri": detail.additional_information,
            }
            policy["failure_details"].append(
                {
                    "result_type": detail.result_type,
                    "failed_session_count": sessions,
                    **{name: text for name, text in fields.items() if text},
                }
            )
        policies.append(policy)
    return {
        "organization_name": built.organization,
        "begin_date": "2026-11-21T00:00:00Z",
        "end_date": "2026-11-21T23:59:59Z",
        "contact_info": built.contact,
        "report_id": built.report_id,
        "policies": policies,
    }


def mail(built: Report) -> bytes:
    return build_mail(
        built,
        ["reports@example.net"],
        report_domain=DOMAIN,
        sender="noreply@mail.example.com",
        message_id=message_id(built, "mailto:reports@example.net"),
        at=datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC),
    )


def test_the_same_numbers_from_json_and_from_mail(parsedmarc: Reader) -> None:
    assert parsedmarc([to_json(REPORT), mail(REPORT)]) == [expected(REPORT)] * 2


def test_the_same_numbers_from_every_report(parsedmarc: Reader) -> None:
    drawn: list[Report] = []

    @given(reports)
    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def draw(built: Report) -> None:
        drawn.append(built)

    draw()
    assert len(drawn) >= 50
    for found, built in zip(parsedmarc([to_json(built) for built in drawn]), drawn, strict=True):
        assert found == expected(built)
    for found, built in zip(parsedmarc([mail(built) for built in drawn[:20]]), drawn, strict=False):
        assert found == expected(built)
