"""Socket guard: with this folder on PYTHONPATH a Python process is offline.

Python imports `sitecustomize` at start, so the guard also holds in the kernels and
the commands that the tests start. ``SRDD_SOCKETS=local`` (the default) lets through
what stays on the machine, which Jupyter kernels need; ``SRDD_SOCKETS=none`` refuses
every connection.
"""

import os
import socket
from typing import Any

LOCAL_HOSTS = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0"}


class Offline(OSError):
    """Raised instead of a connection."""


def allowed(family: int, host: object) -> bool:
    """Whether a connection to `host` may pass."""
    if os.environ.get("SRDD_SOCKETS", "local") == "none":
        return False
    unix = family == getattr(socket, "AF_UNIX", None)
    return unix or host is None or host in LOCAL_HOSTS


def guard() -> None:
    """Replace the calls of `socket` that reach out; a second call changes nothing."""
    if getattr(socket, "srdd_guard", False):
        return
    socket.srdd_guard = True  # type: ignore[attr-defined]
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    getaddrinfo = socket.getaddrinfo

    def check(family: int, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if not allowed(family, host):
            raise Offline(f"offline: connection to {address!r} refused by the guard")

    def checked_connect(self: socket.socket, address: Any) -> None:
        check(self.family, address)
        connect(self, address)

    def checked_connect_ex(self: socket.socket, address: Any) -> int:
        check(self.family, address)
        return connect_ex(self, address)

    def checked_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        check(socket.AF_INET, (host,))
        return getaddrinfo(host, *args, **kwargs)

    socket.socket.connect = checked_connect  # type: ignore[method-assign]
    socket.socket.connect_ex = checked_connect_ex  # type: ignore[method-assign]
    socket.getaddrinfo = checked_getaddrinfo


guard()
