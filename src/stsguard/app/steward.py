"""Building the steward of our own domains."""

from stsguard.app.inspecting import build_authority, build_inspector, build_publisher
from stsguard.app.parts import Parts
from stsguard.config.model import Config
from stsguard.inbound.steward import Steward
from stsguard.inbound.steward_steps import StewardSettings
from stsguard.store.stores import Stores


def build_steward(config: Config, parts: Parts, stores: Stores) -> Steward:
    """The steward; without [dns_update] it looks for the records that the operator publishes.

    Raises:
        OperatorError: [network] ca_file or the TSIG key can't be used.
    """
    host = config.policy_host
    return Steward(
        domains=stores.domains,
        findings=stores.findings,
        inspector=build_inspector(config, parts),
        authority=build_authority(config, parts),
        publisher=build_publisher(config, parts.resolver),
        clock=parts.clock,
        settings=StewardSettings(host.max_age_cap_seconds, host.record_ttl_seconds, host.rua),
    )
