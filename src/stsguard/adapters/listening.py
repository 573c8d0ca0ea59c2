"""Listening sockets: TCP and unix, by address of the configuration.

A unix socket left over by a daemon that was killed is taken over; one that somebody still answers on is not.
"""

import errno
import os
import socket
import stat
from ipaddress import ip_address
from pathlib import Path

from stsguard.core.errors import ListenFailed

BACKLOG = 1024  # a Postfix with hundreds of smtp(8) processes connects at once after a restart


def listen_inet(host: str, port: int) -> socket.socket:
    """A TCP socket that listens at an address of this machine.

    Raises:
        ListenFailed: with the address and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        where = f"inet:[{host}]:{port}" if ":" in host else f"inet:{host}:{port}"
        raise ListenFailed(f"can't listen at {where}: {_inet_hint(exc, port)}") from exc
    return listener


def listen_unix(path: Path, mode: int) -> socket.socket:
    """A unix stream socket at `path` with access `mode`, in a directory that is there.

    Raises:
        ListenFailed: with the path and what to do.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        old = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise ListenFailed(f"can't listen at unix:{path}: {_hint(exc, path)}") from exc
    return listener


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenFailed(f"can't listen at unix:{path}: there is a file in the way that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # nobody answers: left over by a daemon that was killed
            return
    raise ListenFailed(f"can't listen at unix:{path}: another program listens there, perhaps stsguard already runs")


def _inet_hint(exc: OSError, port: int) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return "another program listens there"
        case errno.EACCES | errno.EPERM if port < 1024:
            return "ports below 1024 need CAP_NET_BIND_SERVICE, which the systemd unit gives; or name another port"
        case _:
            return exc.strerror or str(exc)


def _hint(exc: OSError, path: Path) -> str:
    match exc.errno:
        case errno.ENOENT:
            return f"the directory {path.parent} does not exist"
        case errno.EACCES | errno.EPERM:
            return f"no permission to make it in {path.parent}; check the directory's owner and mode"
        case _:
            return exc.strerror or str(exc)


def beyond_loopback(host: str) -> bool:
    """Whether a TCP listener at `host` can be reached from other machines."""
    return not ip_address(host).is_loopback
