"""systemd's notification protocol: a process says when it is ready, how it stands, and that it still moves.

One datagram per message, to the socket that NOTIFY_SOCKET names. Outside a unit of systemd nothing is sent and no
feeding of the watchdog is ever due.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

SEND_S_MAX = 0.5
"""Longest wait for a place in systemd's queue; a message that finds none is dropped."""


class Unit:
    """This process as a unit of systemd."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._interval_s = _interval_s(environ) if self._address else math.inf
        self.feed_at = math.inf if math.isinf(self._interval_s) else 0.0
        """When the watchdog is fed next, on the clock of `feed`; never where nobody watches."""

    def ready(self, status: str) -> None:
        """What depends on this process may start."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def stopping(self, status: str) -> None:
        """This process drains, and then ends."""
        self._send("STOPPING=1", f"STATUS={status}")

    def feed(self, now: float) -> bool:
        """Call it on every progress: feeds the watchdog after half of the time that it allows. Whether it did."""
        if now < self.feed_at:
            return False
        self.feed_at = now + self._interval_s
        self._send("WATCHDOG=1")
        return True

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        # Without systemd, or with one that does not listen any more, clients are served just as well.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SEND_S_MAX)
            sock.sendto("\n".join(lines).encode(), self._address)


def _address(name: str) -> str | None:
    """A path, or a name in the abstract namespace."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def _interval_s(environ: Mapping[str, str]) -> float:
    """Half of what the watchdog allows; infinite where it does not watch this process."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
    if not (usec.isascii() and usec.isdigit()) or int(usec) == 0 or pid != str(os.getpid()):
        return math.inf
    return int(usec) / 2_000_000
