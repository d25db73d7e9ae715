"""The other half of `asr serve`: a child process that does not outlive its supervisor.

The supervisor holds the child's stdin open and never writes to it; end of file means that the supervisor is gone,
however it went. Without ASR_SUPERVISED=1 in the environment nothing here does anything.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

VARIABLE = "ASR_SUPERVISED"
GRACE_S = 10.0
"""How long an orphan has to end in order before it ends at once."""


def stop_in_order() -> None:
    """Treat the supervisor's death like its SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)


def watch_parent(on_gone: Callable[[], None] = stop_in_order) -> None:
    """Call `on_gone` from a thread of its own when the supervisor is gone; GRACE_S later the process ends anyway."""
    if os.environ.get(VARIABLE) == "1":
        threading.Thread(target=_wait_for_end, args=(on_gone,), name="watch-parent", daemon=True).start()


def _wait_for_end(on_gone: Callable[[], None]) -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass  # stdin was closed under us: nobody holds the other end either
    on_gone()
    time.sleep(GRACE_S)
    os._exit(1)
