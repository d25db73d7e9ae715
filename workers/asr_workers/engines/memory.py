"""Memory: what a CPU's processes may still take, and how torch says that a device's is full. It needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

SIGNS = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""Of the allocators of CUDA and MPS and of CUDA itself; of cuBLAS and cuDNN; of the CPU's allocator."""
UNKNOWN = 1 << 62
"""Where nobody says how much there is: more than anything needs."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory did not suffice. Libraries below torch say so in a RuntimeError's text only."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def free_bytes(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Of the machine or, where one has less, of this process's control group or a group around it (version 2)."""
    return min([_machine(proc / "meminfo"), *(_left(group) for group in _groups(proc / "self/cgroup", groups))])


def _machine(meminfo: Path) -> int:
    if not meminfo.exists():
        return UNKNOWN
    return 1024 * _numbers(meminfo)["MemAvailable:"]


def _groups(mine: Path, root: Path) -> Iterator[Path]:
    """From this process's own group up to the highest that can be seen: in a container that is its own."""
    lines = mine.read_text().splitlines() if mine.exists() else []
    name = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    yield from (group for group in (root / name, *(root / name).parents) if group.is_relative_to(root))


def _left(group: Path) -> int:
    """Up to the group's limit. Its idle page cache counts as free, as for Kubernetes: the kernel drops it on demand."""
    limit = group / "memory.max"
    if not limit.exists() or not limit.read_text().strip().isdigit():
        return UNKNOWN
    idle = _numbers(group / "memory.stat").get("inactive_file", 0)
    return max(0, int(limit.read_text()) - max(0, int((group / "memory.current").read_text()) - idle))


def _numbers(table: Path) -> dict[str, int]:
    """The first number of each line by its name."""
    lines = (line.split() for line in table.read_text().splitlines())
    return {name: int(number) for name, number, *_ in lines}
