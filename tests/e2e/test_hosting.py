"""A domain of our own through its whole life: our outbound daemon and postfix-mta-sts-resolver apply what it serves.

add, testing, enforce, an MX change, retire. Time passes between the steps, by a clock that all of them have; with each
move of it every program is killed by SIGKILL and goes on from what it has stored.
"""

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.lab.hosting import POLICY_HOST, ZONE, Hosting, installed_resolver, mx_records, what_is_missing
from tests.lab.lab import Lab
from tests.lab.lab import what_is_missing as what_the_lab_misses

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

NOT_ENFORCED = "NOTFOUND "


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The lab, without a Postfix."""
    missing = what_the_lab_misses() or what_is_missing()
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with Lab([]) as running:
        yield running


async def whole_life(lab: Lab, resolver: Path) -> None:
    mx = {label: await lab.mx.add(f"{label}.{ZONE}") for label in ("mx1", "mx2")}
    hosting = Hosting(lab, {label: str(server.address) for label, server in mx.items()}, resolver)
    try:
        await hosting.start()
        await _to_testing(hosting)
        await _to_enforce(hosting)
        await _to_another_mx(hosting)
        await _out(hosting)
    finally:
        await hosting.stop()


async def _published(hosting: Hosting) -> bool:
    shown = await hosting.show(ZONE)
    return bool(shown["versions"][-1]["published_at"])


async def _to_testing(hosting: Hosting) -> None:
    await hosting.publish(ZONE, "MX", *mx_records("mx1"))
    await hosting.publish(f"mta-sts.{ZONE}", "A", POLICY_HOST)
    refused = await hosting.domain("mode", ZONE, "enforce", "--confirm", ZONE, check=False)
    assert refused.returncode == 1
    assert "is not hosted here" in refused.stderr
    await hosting.domain("add", ZONE, "--mx-from-dns")
    await hosting.kill_inbound()
    await hosting.until("testing is served and its id published", lambda: _published(hosting))
    served = (await hosting.curl(f"https://mta-sts.{ZONE}/.well-known/mta-sts.txt")).stdout
    assert served.startswith("HTTP/1.1 200")
    assert served.endswith(f"version: STSv1\nmode: testing\nmx: mx1.{ZONE}\nmax_age: 86400\n")
    assert await hosting.ours(ZONE) == NOT_ENFORCED
    assert await hosting.resolver(ZONE) == NOT_ENFORCED
    early = await hosting.domain("mode", ZONE, "enforce", "--confirm", ZONE, check=False)
    assert early.returncode == 1, early
    assert "14 days" in early.stderr + early.stdout


async def _to_enforce(hosting: Hosting) -> None:
    await hosting.days_later(15)

    async def ready() -> bool:
        return (await hosting.domain("readiness", ZONE, check=False)).returncode == 0

    await hosting.until("it is ready to enforce", ready)
    await hosting.domain("mode", ZONE, "enforce", "--confirm", ZONE)
    await hosting.kill_inbound()
    await hosting.until("enforce is served and its id published", lambda: _published(hosting))
    await hosting.days_later(1)

    async def both_enforce() -> bool:
        ours, resolvers = await asyncio.gather(hosting.ours(ZONE), hosting.resolver(ZONE))
        return ours.startswith(f"OK secure match=mx1.{ZONE} ") and resolvers.startswith(f"OK secure match=mx1.{ZONE} ")

    await hosting.until("both apply the policy", both_enforce)


async def _to_another_mx(hosting: Hosting) -> None:
    plan = (await hosting.domain("edit", ZONE, "--add-mx", f"mx2.{ZONE}")).stdout
    assert str(datetime.now(UTC).year) in plan, plan
    await hosting.kill_inbound()
    await hosting.until("the policy with both hosts is published", lambda: _published(hosting))
    await hosting.days_later(8)  # the max_age of 7 days that senders may hold has passed
    await hosting.publish(ZONE, "MX", *mx_records("mx1", "mx2"))

    async def both_know() -> bool:
        ours, resolvers = await asyncio.gather(hosting.ours(ZONE), hosting.resolver(ZONE))
        return all(f"mx2.{ZONE}" in reply and reply.startswith("OK secure") for reply in (ours, resolvers))

    await hosting.until("both permit the new host", both_know)
    early = await hosting.domain("edit", ZONE, "--remove-mx", f"mx1.{ZONE}", check=False)
    assert early.returncode == 1, early
    await hosting.publish(ZONE, "MX", *mx_records("mx2"))

    async def removed() -> bool:
        return (await hosting.domain("edit", ZONE, "--remove-mx", f"mx1.{ZONE}", check=False)).returncode == 0

    await hosting.days_later(1)
    await hosting.until("the old host can go from the policy", removed)
    await hosting.until("the policy without it is published", lambda: _published(hosting))


async def _out(hosting: Hosting) -> None:
    await hosting.domain("retire", ZONE, "--confirm", ZONE)
    await hosting.kill_inbound()
    await hosting.until("none is served and its id published", lambda: _published(hosting))

    async def none_holds() -> bool:
        return await hosting.ours(ZONE) == await hosting.resolver(ZONE) == NOT_ENFORCED

    await hosting.days_later(1)
    await hosting.until("nobody applies it any more", none_holds)
    still = await hosting.curl(f"https://mta-sts.{ZONE}/.well-known/mta-sts.txt")
    assert "mode: none" in still.stdout
    await hosting.days_later(8)

    async def retired() -> bool:
        return bool((await hosting.show(ZONE))["stage"] == "retired")

    async def record_gone() -> bool:
        return "removed" in (await hosting.domain("history", ZONE)).stdout or await retired()

    await hosting.until("the record is removed", record_gone)
    await hosting.days_later(1)
    await hosting.until("it is retired", retired)
    gone = await hosting.curl(f"https://mta-sts.{ZONE}/.well-known/mta-sts.txt")
    assert "mode:" not in gone.stdout
    assert await hosting.ours(ZONE) == await hosting.resolver(ZONE) == NOT_ENFORCED


def test_whole_life_of_a_hosted_domain(lab: Lab) -> None:
    lab.call(whole_life(lab, installed_resolver()), limit_seconds=380)
