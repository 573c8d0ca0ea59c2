"""systemd's protocols for services: sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3), without libsystemd.

Started by anything else, every function does nothing. Left out on purpose: storing descriptors, and vsock addresses.
"""

import os
import socket
import time

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
MAX_DESCRIPTORS = 64  # no service has so many sockets: the number is wrong, and closing or taking them would be worse
_ABSTRACT = "@"


def notify(*assignments: str) -> bool:
    """Tell systemd `READY=1`, `STOPPING=1`, `STATUS=…`, `WATCHDOG=1`; several go in one message.

    False where nobody asked to be told, or the message could not be sent: that never stops a service.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", _ABSTRACT)):
        return False
    # A line break in STATUS would start another assignment.
    message = "\n".join(assignment.replace("\n", " ") for assignment in assignments)
    if address.startswith(_ABSTRACT):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # a full queue must not hold up the event loop
            sock.sendto(message.encode(), address)
    except OSError:
        return False
    return True


def notify_reloading() -> bool:
    """Tell systemd that the configuration is being read anew; `READY=1` ends it (Type=notify-reload)."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}")


def listen_fds() -> list[tuple[socket.socket, str]]:
    """The listening sockets that systemd passed, each with its FileDescriptorName= (empty where it has none).

    Asked a second time there are none: the variables are taken out of the environment, so that no child takes them for
    its own. Descriptors that are no sockets are left alone.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal() or int(count) > MAX_DESCRIPTORS:
        return []
    found = []
    for index in range(int(count)):
        descriptor = FIRST_DESCRIPTOR + index
        try:
            os.set_inheritable(descriptor, False)
            listener = socket.socket(fileno=descriptor)
        except OSError:
            continue
        listener.setblocking(False)
        found.append((listener, names[index] if index < len(names) else ""))
    return found


def watchdog_seconds() -> float | None:
    """Within how many seconds systemd wants each `WATCHDOG=1`; None where it does not watch this process."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if pid != str(os.getpid()) or not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1_000_000
