"""The garbage collector, told what a server's memory is like: few cycles, and many objects that stay."""

from __future__ import annotations

import gc

THRESHOLDS = (20_000, 20, 50)
"""Objects that a collection waits for (CPython: 700), and how many of one kind come before the next larger kind.

Journals hold tens of thousands of pieces for about a second each. With CPython's numbers, walking through them takes a
tenth of the time of a frontend's sessions, with these half of that.
"""


def settle() -> None:
    """Call it when everything that stays is there: modules, models, sockets."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
