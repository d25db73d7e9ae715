"""Ctrl+C and SIGTERM, alike in every process: the first begins an orderly end, another one ends the process at once.

The rule is `asr_process.stopping.StopRequests`. Here are the handlers.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asr_process.stopping import Request, StopRequests

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """A handler of stop signals: it calls `on_first` once. Another signal exits the process, with code 128 + signal."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self._requests = StopRequests()

    def __call__(self, number: int, _frame: object = None) -> None:
        match self._requests.take(time.monotonic()):
            case Request.FIRST:
                self._on_first()
            case Request.AGAIN:
                os._exit(128 + number)


@contextmanager
def stop_signals(on_first: Callable[[], None]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT within the block, in the main thread."""
    handler = StopSignals(on_first)
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
