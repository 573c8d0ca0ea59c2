"""Watches the certificates of our policy hosts that the operator puts there, since nobody renews them for him.

They are looked at once a minute, as `adapters.tls_certificates` presents them. What is wrong is logged when it is first
seen, and once a day as the end comes nearer; `stsguard status` and `stsguard domain show` say it at any time.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from datetime import datetime

from stsguard.core.hand_certificate import HandCertificate, absent, judge, unusable
from stsguard.discovery.health import PartHealth, PartState
from stsguard.log import logger, outcome
from stsguard.names import Domain
from stsguard.ports import Clock
from stsguard.ports.certificates import HandCertificateFiles

log = logger(__name__)

LOOK_SECONDS = 60.0
SHOWN = 3


def look_at(files: HandCertificateFiles, policy_host: Domain, now: datetime) -> HandCertificate | None:
    """The certificate of a host as its files are now; None where there is none and somebody else gets it."""
    file = str(files.file(policy_host))
    try:
        pem = files.load(policy_host)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        return unusable(file, getattr(exc, "reason", None) or getattr(exc, "strerror", None) or str(exc))
    if pem is None:
        return absent(file) if files.required else None
    return judge(file, pem, policy_host, now)


class HandCertificateWatch:
    """Looks at the certificates of `policy_hosts`, those that are served now."""

    def __init__(
        self, files: HandCertificateFiles, policy_hosts: Callable[[], Collection[Domain]], clock: Clock
    ) -> None:
        self._files = files
        self._policy_hosts = policy_hosts
        self._clock = clock
        self._found: dict[Domain, HandCertificate] = {}

    async def run(self) -> None:
        """Look at them, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look at all of them now."""
        hosts, now = sorted(self._policy_hosts()), self._clock.now()
        looked = await asyncio.to_thread(lambda: [(host, look_at(self._files, host, now)) for host in hosts])
        found = {host: certificate for host, certificate in looked if certificate is not None}
        for host, certificate in found.items():
            before = self._found.get(host)
            if certificate.problem and (before is None or before.problem != certificate.problem):
                level = logging.ERROR if certificate.urgent else logging.WARNING
                outcome(
                    log,
                    level,
                    "certificate put there by hand needs attention",
                    policy_host=host,
                    file=certificate.file,
                    problem=certificate.problem,
                )
        self._found = found

    def health(self) -> PartHealth:
        """Which of them senders refuse, or soon will."""
        bad = sorted((each for each in self._found.values() if each.problem), key=lambda each: not each.urgent)
        if not bad:
            number = len(self._found)
            return PartHealth(PartState.OK, f"{number} put there by hand" if number else "none is put there by hand")
        shown = "; ".join(f"{each.file}: {each.problem}" for each in bad[:SHOWN])
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        return PartHealth(PartState.FAILED if bad[0].urgent else PartState.LIMITED, shown + more)
