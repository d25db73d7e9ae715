"""The memory that this process may still take on a CPU, and recognition of torch's out-of-memory errors. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

SIGNS = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""Parts of the texts of out-of-memory errors: of CUDA and MPS and their allocators; of cuBLAS and cuDNN; of the CPU."""
UNKNOWN = 1 << 62
"""Bytes that are taken for free where the system gives no number: more than any model needs."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory did not suffice. Libraries below torch give only a RuntimeError's text."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def free_bytes(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Free bytes: the least of the machine, of this process's control group and of the groups around it (cgroup v2)."""
    return min([_machine(proc / "meminfo"), *(_left(group) for group in _groups(proc / "self/cgroup", groups))])


def _machine(meminfo: Path) -> int:
    if not meminfo.exists():
        return UNKNOWN
    return 1024 * _numbers(meminfo)["MemAvailable:"]


def _groups(mine: Path, root: Path) -> Iterator[Path]:
    """This process's control group and the groups around it, up to the root that is visible here."""
    lines = mine.read_text().splitlines() if mine.exists() else []
    name = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    yield from (group for group in (root / name, *(root / name).parents) if group.is_relative_to(root))


def _left(group: Path) -> int:
    """Free bytes below the group's limit. Inactive page cache counts as free, as in Kubernetes' working set."""
    limit = group / "memory.max"
    if not limit.exists() or not limit.read_text().strip().isdigit():
        return UNKNOWN
    idle = _numbers(group / "memory.stat").get("inactive_file", 0)
    return max(0, int(limit.read_text()) - max(0, int((group / "memory.current").read_text()) - idle))


def _numbers(table: Path) -> dict[str, int]:
    """The first number of each line, by the line's name."""
    lines = (line.split() for line in table.read_text().splitlines())
    return {name: int(number) for name, number, *_ in lines}
