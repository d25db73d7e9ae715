"""systemd's notification protocol (sd_notify): a process reports that it is ready, its status, and that it is alive.

One datagram per message, to the socket that NOTIFY_SOCKET names. Outside a systemd unit nothing is sent and the
watchdog is never due.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

SEND_S_MAX = 0.5
"""Longest wait for space in systemd's queue, in seconds; then the message is dropped."""


class Unit:
    """Sends this process's notifications to systemd."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._interval_s = _interval_s(environ) if self._address else math.inf
        self.feed_at = math.inf if math.isinf(self._interval_s) else 0.0
        """When to feed the watchdog next, on the clock of `feed`; infinite without a watchdog."""

    def ready(self, status: str) -> None:
        """Report that this process is ready: units that depend on it may start."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={text}")

    def stopping(self, status: str) -> None:
        """Report that this process drains and then ends."""
        self._send("STOPPING=1", f"STATUS={status}")

    def feed(self, now: float) -> bool:
        """Feed the watchdog if half of its interval has passed; returns whether it did. Call it on all progress."""
        if now < self.feed_at:
            return False
        self.feed_at = now + self._interval_s
        self._send("WATCHDOG=1")
        return True

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        # Notifications are optional: if systemd does not receive them, the process continues.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SEND_S_MAX)
            sock.sendto("\n".join(lines).encode(), self._address)


def _address(name: str) -> str | None:
    """The address for a path or for a name in the abstract namespace; None for anything else."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def _interval_s(environ: Mapping[str, str]) -> float:
    """Half of the watchdog's interval, in seconds; infinite if it does not watch this process."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
    if not (usec.isascii() and usec.isdigit()) or int(usec) == 0 or pid != str(os.getpid()):
        return math.inf
    return int(usec) / 2_000_000
