"""How the interpreter shares its time in a daemon that must come soon: to the datagram socket, whose queue may be full
within half a millisecond, and to Postfix, which waits for an answer."""

import asyncio
import gc
import sys

# Another thread, the store's, may run this long before the event loop has its turn; Python's default is 5 ms, in which
# a hundred datagrams can be lost. A switch costs some microseconds.
SWITCH_SECONDS = 0.0002
# Objects allocated before the youngest are looked at for garbage, and how many of these rounds come before the older
# ones are: a look at all of a hundred thousand cached policies takes a tenth of a second.
GC_THRESHOLDS = (50_000, 20, 100)

REST_SECONDS = 2.0  # after the start, when the store is open and the first look-ups are answered


def prefer_latency() -> None:
    """Set this process up for it, once it has loaded what it needs."""
    sys.setswitchinterval(SWITCH_SECONDS)
    # Not collected before: to find the little garbage there is would take a twentieth of the start.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


async def load_the_rest() -> None:
    """Load in a thread what the first answers do without and some later one needs: it would be kept waiting for it."""
    await asyncio.sleep(REST_SECONDS)
    await asyncio.to_thread(_load_the_rest)


def _load_the_rest() -> None:
    from stsguard.adapters import prometheus
    from stsguard.core import danechain

    del prometheus, danechain
