"""The policies that are served, in memory: one dictionary by Policy Host, kept up with the database by polling.

Several times a second the store's revision is asked for, which costs one row; only domains that have changed are read.
While the database can't be read everything is served as it was last read: a policy that is there is never taken away by
a fault of ours (RFC 8461 §8.3: a host that stops answering leaves senders with what they hold).
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stsguard.core.errors import StoreUnavailable
from stsguard.core.hosted import HostedDomain, Stage, serialize_policy
from stsguard.discovery.health import PartHealth, PartState
from stsguard.log import logger, outcome
from stsguard.names import Domain, NameInvalid
from stsguard.ports import DomainStore

log = logger(__name__)

POLL_SECONDS = 0.25  # a change is served within a second; most of that is left to a busy machine
RETRY_SECONDS = 1.0
DOMAINS_AT_ONCE = 200  # between two of these, requests have their turn
CACHE_CONTROL = b"public, max-age=60"
# The message that an ASGI application sends: this is the ASGI edge.
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """A policy ready to be sent: the ASGI messages of its responses, which nobody changes."""

    policy_domain: Domain
    host: bytes
    etag: bytes
    start: Message = field(repr=False)
    body: Message = field(repr=False)
    unchanged: Message = field(repr=False)


def render_page(domain: HostedDomain) -> Page:
    """The page that serves the current version.

    Raises:
        NameInvalid: there can't be such a Policy Host, its name being too long.
    """
    version = domain.current
    policy = serialize_policy(version.mode, version.max_age, version.mx_patterns)
    etag = b'"%s"' % hashlib.sha256(policy).hexdigest()[:32].encode("ascii")
    shared = [(b"etag", etag), (b"cache-control", CACHE_CONTROL)]
    # RFC 8461 §3.2: senders should check for text/plain. A charset parameter says nothing of ASCII text, and some
    # senders have compared the whole value.
    content = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(policy)), *shared]
    return Page(
        policy_domain=domain.policy_domain,
        host=domain.policy_host.encode("ascii"),
        etag=etag,
        start={"type": "http.response.start", "status": 200, "headers": content},
        body={"type": "http.response.body", "body": policy},
        unchanged={"type": "http.response.start", "status": 304, "headers": shared},
    )


class Hosting:
    """Every policy that is served. `open_store` opens the database, or looks again whether it can be opened."""

    def __init__(self, store: DomainStore, open_store: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._open_store = open_store
        self._pages: dict[bytes, Page] = {}
        self._revision: int | None = None
        self._problem: str | None = None
        self.loaded = asyncio.Event()

    @property
    def pages(self) -> Mapping[bytes, Page]:
        """The pages by Policy Host, lower case and without final dot; always the same, changing mapping."""
        return self._pages

    def policy_hosts(self) -> Sequence[Domain]:
        """The Policy Hosts that are served, in no order."""
        return [Domain(host.decode("ascii")) for host in self._pages]

    async def run(self) -> None:
        """Follow the database, for ever."""
        while True:
            good = await self.refresh()
            await asyncio.sleep(POLL_SECONDS if good else RETRY_SECONDS)

    async def refresh(self) -> bool:
        """Take over what has changed since the last time; whether the database could be read."""
        try:
            await self._open_store()
            revision = await self._store.revision()
            if revision != self._revision:
                await self._take_over(revision)
        except StoreUnavailable as exc:
            if self._problem is None:
                what = "our domains can't be read, serving what was read before"
                outcome(log, logging.ERROR, what, reason=exc, domains=len(self._pages))
            self._problem = str(exc)
            return False
        if self._problem is not None:
            outcome(log, logging.INFO, "our domains can be read again", domains=len(self._pages))
        self._problem = None
        self.loaded.set()
        return True

    async def _take_over(self, revision: int) -> None:
        # A smaller number than before is another database, restored from a copy: what is not in it is not ours.
        restored = self._revision is None or revision < self._revision
        changed = await self._store.load_domains(0 if restored else self._revision or 0)
        fresh: dict[bytes, Page] = {}
        for count, domain in enumerate(changed, 1):
            self._place(domain, fresh)
            if count % DOMAINS_AT_ONCE == 0:
                await asyncio.sleep(0)
        if restored:
            for host in self._pages.keys() - fresh.keys():
                del self._pages[host]
        self._revision = revision
        outcome(log, logging.INFO, "our domains are read", changed=len(changed), served=len(self._pages))

    def _place(self, domain: HostedDomain, fresh: dict[bytes, Page]) -> None:
        try:
            page = render_page(domain)
        except NameInvalid as exc:
            outcome(log, logging.ERROR, "domain not served", policy_domain=domain.policy_domain, reason=exc)
            return
        if domain.stage is Stage.RETIRED:
            self._pages.pop(page.host, None)
        else:
            self._pages[page.host] = fresh[page.host] = page

    def health(self) -> PartHealth:
        """Whether what is served is what is stored."""
        served = f"{len(self._pages)} domains served"
        if self._problem is not None:
            return PartHealth(PartState.FAILED, f"{served} as last read: {self._problem}")
        return PartHealth(PartState.OK, served if self._revision is not None else "being read")
