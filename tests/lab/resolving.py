"""Short ways to ask our resolver something."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stsguard.adapters.resolver import DnsResolver
from stsguard.core.dane import Answer, MxRecord
from stsguard.core.errors import LookupFailed
from stsguard.names import Domain
from tests.lab.nameserver import Handler, Nameserver

NAME = Domain("example.test")


async def ask(
    handler: Handler,
    lookup: Callable[[DnsResolver], Awaitable[Any]],
    *,
    trust_ad: bool = True,
    timeout_seconds: float = 30.0,
) -> Any:
    """What `lookup` gives from one nameserver that answers by `handler`."""
    async with Nameserver(handler) as nameserver:
        return await lookup(DnsResolver([nameserver.address], trust_ad=trust_ad, timeout_seconds=timeout_seconds))


def lookup_mx(resolver: DnsResolver) -> Awaitable[Answer[MxRecord]]:
    """The look-up of a test that is not about one type."""
    return resolver.lookup_mx(NAME)


async def failure(
    handler: Handler, lookup: Callable[[DnsResolver], Awaitable[Any]] = lookup_mx, *, timeout_seconds: float = 30.0
) -> LookupFailed:
    """How `lookup` fails."""
    with pytest.raises(LookupFailed) as caught:
        await ask(handler, lookup, timeout_seconds=timeout_seconds)
    return caught.value
