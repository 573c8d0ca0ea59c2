"""How the interpreter shares its time in a daemon that must come soon: to the datagram socket, whose queue may be full
within half a millisecond, and to Postfix, which waits for an answer."""

import gc
import sys

# Another thread, the store's, may run this long before the event loop has its turn; Python's default is 5 ms, in which
# a hundred datagrams can be lost. A switch costs some microseconds.
SWITCH_SECONDS = 0.0002
# Objects allocated before the youngest are looked at for garbage, and how many of these rounds come before the older
# ones are. All that is new is looked at twice, however it is cut up; a thousand take half a millisecond, and 50,000
# a fortieth of a second. A look at all of a hundred thousand cached domains takes a second, so it all but never comes.
GC_THRESHOLDS = (1_000, 5, 20_000)


def prefer_latency() -> None:
    """Set this process up for it, once it has loaded what it needs."""
    sys.setswitchinterval(SWITCH_SECONDS)
    # Not collected before: to find the little garbage there is would take a twentieth of the start.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()
