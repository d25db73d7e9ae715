"""The child's half of `asr serve`: a child process that does not outlive its supervisor.

The supervisor holds the child's stdin open and never writes to it. End of file means that the supervisor has ended, for
any reason. Without ASR_SUPERVISED=1 in the environment this module does nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

VARIABLE = "ASR_SUPERVISED"
GRACE_S = 10.0
"""Longest time for an orderly end after the supervisor's death, in seconds; then the process exits immediately."""


def stop_in_order() -> None:
    """End in order: send SIGTERM to this process, as the supervisor does."""
    os.kill(os.getpid(), signal.SIGTERM)


def watch_parent(on_gone: Callable[[], None] = stop_in_order) -> None:
    """Start a thread that calls `on_gone` when the supervisor has ended; GRACE_S later it ends the process."""
    if os.environ.get(VARIABLE) == "1":
        threading.Thread(target=_wait_for_end, args=(on_gone,), name="watch-parent", daemon=True).start()


def _wait_for_end(on_gone: Callable[[], None]) -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass  # stdin is closed: this counts as the supervisor's end too
    on_gone()
    time.sleep(GRACE_S)
    os._exit(1)
