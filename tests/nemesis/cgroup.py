"""A memory limit for one process, by a control group (version 2) of its own.

It needs root, and the memory controller in version 2. The tests of this module use a directory in its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.nemesis.impossible import FaultImpossible

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def limited(pid: int, more_mb: float, root: Path = ROOT) -> Iterator[None]:
    """Limit the process to its memory of now and `more_mb` MB more. Raises FaultImpossible.

    What it takes beyond that is swapped out; where that is impossible, the kernel kills it.
    """
    parent = _group_of(pid, root)
    own = root / f"asr-nemesis-{os.getpid()}-{pid}"
    try:
        most = psutil.Process(pid).memory_info().rss + round(more_mb * 1e6)
        own.mkdir()
        (own / "memory.max").write_text(str(most), encoding="ascii")
        (own / "cgroup.procs").write_text(str(pid), encoding="ascii")
    except (OSError, psutil.Error) as error:
        _remove(own)
        raise FaultImpossible(f"no memory limit for process {pid}: {error}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # the process has died
            (parent / "cgroup.procs").write_text(str(pid), encoding="ascii")
        _remove(own)


def _group_of(pid: int, root: Path) -> Path:
    """The control group of the process. Raises FaultImpossible where the memory controller is not in version 2."""
    try:
        controllers = (root / "cgroup.controllers").read_text(encoding="ascii").split()
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise FaultImpossible("this machine has no control groups of version 2") from error
    if "memory" not in controllers:
        raise FaultImpossible("the control groups of version 2 have no memory controller here")
    return root / next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")


def _remove(group: Path) -> None:
    with suppress(OSError):
        group.rmdir()
