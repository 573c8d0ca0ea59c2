"""What Postfix 3.10 says of its sessions under our `policy-tlsrpt` replies: the labels that reports begin with."""

import pytest

from tests.e2e.conftest import VERSIONS, Runs
from tests.lab.lab import Lab
from tests.lab.scenarios import BY_NAME

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

POSTFIX_310 = VERSIONS[1]
# policy-type in libtlsrpt's numbers
TLSA, STS, NO_POLICY_FOUND = 1, 2, 9


@pytest.mark.parametrize(
    ("name", "policy_type", "failed"),
    [
        ("enforce-good", STS, 0),
        ("self-signed", STS, 1),
        ("no-starttls", STS, 1),
        ("policy-braces", STS, None),
        ("dane-all-enforce", TLSA, 0),
        ("dane-mismatch-enforce", TLSA, 1),
        ("testing-bad-certificate", NO_POLICY_FOUND, 0),
    ],
)
def test_postfix_labels_its_sessions_as_we_say(
    lab: Lab, runs: Runs, name: str, policy_type: int, failed: int | None
) -> None:
    result = runs.result(BY_NAME[name], POSTFIX_310)
    assert result.agrees, str(result)
    recorder = lab.tlsrpt[POSTFIX_310.postfix]
    if failed is None:  # no MX host was tried
        assert recorder.of_domain(result.domain) == []
        return
    [policy] = lab.call(recorder.first_of_domain(result.domain))["policies"]
    assert (policy["policy-type"], policy["f"]) == (policy_type, failed)
    if policy_type == STS:
        assert policy["policy-domain"] == result.domain
        assert policy["policy-string"][:2] == ["version: STSv1", "mode: enforce"]
        assert policy["mx-host"] == [f"mx1.{name}-310.mxplain.test"]
