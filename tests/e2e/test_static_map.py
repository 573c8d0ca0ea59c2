"""The lab itself: what Postfix of either version does under fixed answers, without our daemon."""

import pytest

from tests.lab.certificates import CertificateKind
from tests.lab.lab import Lab
from tests.lab.static_map import StaticMap

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("version", ["pf37", "pf310"])
def test_secure_delivers_to_a_valid_certificate_and_defers_a_wrong_one(lab: Lab, version: str) -> None:
    postfix = lab.postfix[version]

    async def deliver() -> list[str]:
        static = StaticMap()
        await static.listen(socket=lab.outside(postfix.queue / "stsguard/static.sock"))
        try:
            outcomes = []
            for kind in (CertificateKind.VALID, CertificateKind.WRONG_NAME):
                domain = f"{kind}.{version}.static.plain.test"
                server = await lab.mx.add(f"mx.{kind}.{version}.mxplain.test", certificate=kind)
                lab.dns.zones.put(server.hostname, "A", str(server.address))
                lab.dns.zones.put(domain, "MX", f"10 {server.hostname}.")
                await lab.dns.publish()
                static.answers[domain] = f"OK secure match={server.hostname} servername=hostname"
                outcome = await postfix.deliver(domain)
                outcomes.append(f"{outcome.status} {outcome.dsn}")
            return outcomes
        finally:
            await static.stop()

    assert lab.call(deliver()) == ["sent 2.0.0", "deferred 4.7.5"]
