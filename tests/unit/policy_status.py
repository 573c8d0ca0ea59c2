"""What the policy cache says of a domain, for its tests."""

from stsguard.core.tlspolicy import StsStatus
from stsguard.discovery.policy_entry import PolicyEntry
from stsguard.names import Domain
from tests.unit.fakes import World

NAME = Domain("example.com")


async def status(world: World, name: str = NAME, wait_seconds: float = 10.0) -> StsStatus:
    return (await world.cache.state(Domain(name), wait_seconds)).state.status


def entry_of(world: World, name: str = NAME) -> PolicyEntry:
    entry = world.cache.entry(Domain(name))
    assert entry is not None
    return entry
