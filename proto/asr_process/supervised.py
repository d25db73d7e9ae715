"""The child's half of `asr serve`: the orders of its supervisor, and an end when the supervisor ends.

The supervisor holds the child's stdin. A line `stop DRAIN_S END_S` is the order to stop together with the whole pool.
End of file means that the supervisor has ended, for any reason; then the order is ORPHANED. SIGTERM is no order: it
stops one process of a pool that stays. Without ASR_SUPERVISED=1 in the environment this module does nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from asr_process.stopping import ORPHANED, Order, parsed

VARIABLE = "ASR_SUPERVISED"

OnStop = Callable[[Order], None]


class Supervised:
    """Receives the supervisor's order in a thread. A process that does not serve yet ends immediately."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on_stop: OnStop | None = None

    def serve(self, on_stop: OnStop) -> None:
        """From now on, call `on_stop` with the order. It is called in the thread of this object, at most once."""
        with self._lock:
            self._on_stop = on_stop

    def obey(self, order: Order) -> None:
        """Follow an order; exits the process when its time is over."""
        with self._lock:
            on_stop = self._on_stop
            if on_stop is None:
                os._exit(0)
        on_stop(order)
        time.sleep(order.drain_s + order.end_s)
        os._exit(1)


def watch_parent() -> Supervised:
    """Start the thread that waits for the supervisor's order."""
    supervised = Supervised()
    if os.environ.get(VARIABLE) == "1":
        threading.Thread(target=lambda: supervised.obey(_order()), name="watch-parent", daemon=True).start()
    return supervised


def _order() -> Order:
    """Wait for the order on stdin. Lines that are no order are skipped."""
    unread = b""
    try:
        while data := os.read(0, 4096):
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                if order := parsed(line):
                    return order
    except OSError:
        pass  # stdin is closed: this counts as the supervisor's end too
    return ORPHANED
