"""The intake of received reports, built from the configuration: for `stsguard inbound` and for `stsguard ingest`."""

from datetime import timedelta
from typing import TYPE_CHECKING

from stsguard.adapters.clock import SystemClock
from stsguard.adapters.dkim_verifier import DkimVerifier, TxtLookup
from stsguard.adapters.public_suffix_file import load_public_suffixes
from stsguard.app.key_cache import KeyCache
from stsguard.config.model import Config
from stsguard.core.taking_in import IntakeRules
from stsguard.core.unpack import Limits
from stsguard.inbound.intake import IntakeDrain
from stsguard.inbound.intake_reader import IntakeReader, OurDomains
from stsguard.inbound.spool import Spool

if TYPE_CHECKING:
    from stsguard.store.stores import Stores


def build_spool(config: Config) -> Spool:
    """The spool, for whoever hands in and for who empties it."""
    return Spool(config.intake.spool)


def build_rules(config: Config, ours: frozenset[str] | None = None, *, trust_files: bool = False) -> IntakeRules:
    """What is taken in, and what counts."""
    limits = Limits(config.intake.max_compressed_bytes, config.intake.max_decompressed_bytes)
    return IntakeRules(limits, ours, trust_https=config.intake.trust_https, trust_files=trust_files)


def build_reader(resolver: TxtLookup, rules: IntakeRules) -> IntakeReader:
    """Verifies and reads; keys are looked up by `resolver`, one that can't be had not for each mail."""
    return IntakeReader(DkimVerifier(KeyCache(resolver), load_public_suffixes()), rules)


def build_drain(config: Config, resolver: TxtLookup, stores: "Stores") -> IntakeDrain:
    """What empties the spool of this machine into the database."""
    intake = config.intake
    return IntakeDrain(
        build_spool(config),
        build_reader(resolver, build_rules(config)),
        stores.received,
        OurDomains(stores.domains, intake.domains),
        SystemClock(),
        open_store=stores.received.open,
        expected=bool(intake.addresses or intake.http_path),
        keep=timedelta(seconds=intake.keep_raw_seconds),
    )
