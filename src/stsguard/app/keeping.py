"""Keeping what comes on standard input: loads little, since an MTA starts it for every report."""

from datetime import UTC, datetime

from stsguard.config.model import Config
from stsguard.core.arrival import Arrival, Via, media_type_of
from stsguard.inbound.spool import Spool


def keep_standard_input(config: Config, octets: bytes, *, recipient: str, client: str) -> str:
    """Put what came on standard input into the spool, and nothing else; the name of its entry.

    Raises:
        SpoolFailed: it can't be kept; whoever handed it over has to try again later.
    """
    media_type = media_type_of(octets)
    arrival = Arrival(Via.PIPE, datetime.now(UTC), recipient=recipient, client=client, media_type=media_type)
    return Spool(config.intake.spool).add(arrival, octets)
