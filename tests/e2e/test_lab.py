"""The lab itself: it is closed to the outside, ends with its maker, and its Postfixes follow a policy map."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import VERSIONS
from tests.lab.certificates import CertificateKind
from tests.lab.lab import Lab
from tests.lab.runner import Version
from tests.lab.static_map import StaticMap

pytestmark = pytest.mark.e2e

ENDED_WITHIN_SECONDS = 20.0
_MAKER = """
import sys
from pathlib import Path
from tests.lab.namespace import Namespace, only_child
with Namespace() as namespace, Path("/dev/null").open("wb") as nowhere:
    program = namespace.spawn(["sleep", "3600"], nowhere)
    print(namespace.pid, only_child(program._entered.pid), flush=True)
    sys.stdin.read()
"""


def test_nothing_leaves_the_lab(lab: Lab) -> None:
    interfaces = lab.namespace.run(["ip", "-brief", "link"]).stdout.splitlines()
    assert [line.split()[0] for line in interfaces] == ["lo"]
    for address in ("10.0.0.1", "8.8.8.8", "2606:4700::1111"):
        assert lab.namespace.run(["ip", "route", "get", address], check=False).returncode != 0, address


def test_all_ends_with_a_killed_maker(lab: Lab) -> None:
    del lab  # only so that this is skipped where no lab can be made
    command = [sys.executable, "-c", _MAKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        inside = [int(number) for number in maker.stdout.readline().split()]
        assert len(inside) == 2
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait()
    limit = time.monotonic() + ENDED_WITHIN_SECONDS
    while any(_lives(process) for process in inside):
        assert time.monotonic() < limit, "a process of the namespace outlived its maker"
        time.sleep(0.01)


def _lives(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(frozen=True, slots=True)
class Case:
    """A reply of the map (`{mx}` is the MX host's name), the host's certificate, and how the delivery ends."""

    label: str
    certificate: CertificateKind
    answer: str
    expected: str


CASES = (
    Case("good", CertificateKind.VALID, "OK secure match={mx} servername=hostname", "sent 2.0.0 Verified"),
    Case("wrong", CertificateKind.WRONG_NAME, "OK secure match={mx} servername=hostname", "deferred 4.7.5"),
    Case("temp", CertificateKind.VALID, "TEMP try later", "deferred 4.7.5 None"),
    Case("perm", CertificateKind.VALID, "PERM never", "deferred 4.7.5 None"),
    Case("notfound", CertificateKind.SELF_SIGNED, "NOTFOUND ", "sent 2.0.0 Untrusted"),
    # What our replies avoid: Postfix takes a common name where RFC 8461 §4.2 does not.
    Case("cn", CertificateKind.CN_ONLY, "OK secure match={mx} servername=hostname", "sent 2.0.0 Verified"),
)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.postfix)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_postfix_follows_its_policy_map(lab: Lab, version: Version, case: Case) -> None:
    postfix = lab.postfix[version.postfix]
    domain = f"{case.label}.{version.tag}.static.plain.test"

    async def deliver() -> str:
        static = StaticMap()
        await static.listen(socket=lab.outside(postfix.queue / "stsguard/static.sock"))
        try:
            server = await lab.mx.add(f"mx.{case.label}.{version.tag}.mxplain.test", certificate=case.certificate)
            lab.dns.zones.put(server.hostname, "A", str(server.address))
            lab.dns.zones.put(domain, "MX", f"10 {server.hostname}.")
            await lab.dns.publish()
            static.answers[domain] = case.answer.replace("{mx}", server.hostname)
            outcome = await postfix.deliver(domain)
            return f"{outcome.status} {outcome.dsn} {outcome.tls}"
        finally:
            await static.stop()

    assert lab.call(deliver()).startswith(case.expected)
