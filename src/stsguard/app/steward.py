"""Building the steward of our own domains."""

from stsguard.config.model import Config
from stsguard.inbound.steward import Steward
from stsguard.inbound.steward_steps import StewardSettings
from stsguard.ports import Authority, Clock, Inspector, RecordPublisher
from stsguard.store.stores import Stores


def build_steward(
    config: Config,
    stores: Stores,
    *,
    clock: Clock,
    inspector: Inspector,
    authority: Authority,
    publisher: RecordPublisher | None,
) -> Steward:
    """The steward; `publisher` None where [dns_update] names no server."""
    host = config.policy_host
    settings = StewardSettings(host.max_age_cap_seconds, host.record_ttl_seconds, host.rua)
    return Steward(
        domains=stores.domains,
        findings=stores.findings,
        inspector=inspector,
        authority=authority,
        publisher=publisher,
        clock=clock,
        settings=settings,
    )
