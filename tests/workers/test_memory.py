"""Free memory as the kernel reports it, read from folders made by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_workers.engines.memory import UNKNOWN, free_bytes, is_out_of_memory

MB = 1_000_000


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with 1,024 MB free, and a process in a control group inside another."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:  1000000 kB\nHugePages_Total:       0\n")
    (proc / "self/cgroup").write_text("0::/workers/first\n")
    return proc


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    groups = tmp_path / "cgroup"
    (groups / "workers/first").mkdir(parents=True)
    return groups


def limited(group: Path, limit: str, current: int, inactive: int) -> None:
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{current}\n")
    (group / "memory.stat").write_text(f"anon 1\nfile 2\nactive_file 3\ninactive_file {inactive}\n")


def test_free_memory_of_the_machine(proc: Path, groups: Path) -> None:
    assert free_bytes(proc, groups) == 1024 * MB


@pytest.mark.parametrize("name", ["workers/first", "workers", "."])
def test_the_page_cache_of_a_group_is_free(proc: Path, groups: Path, name: str) -> None:
    """In its group or one around it: the cache of a file that was read must not count as used memory."""
    limited(groups / name, str(700 * MB), 650 * MB, 400 * MB)
    assert free_bytes(proc, groups) == 450 * MB


def test_the_smallest_limit_counts(proc: Path, groups: Path) -> None:
    limited(groups / "workers/first", "max", 650 * MB, 0)
    assert free_bytes(proc, groups) == 1024 * MB
    limited(groups / "workers", str(9000 * MB), 10 * MB, 0)
    assert free_bytes(proc, groups) == 1024 * MB
    limited(groups, str(100 * MB), 150 * MB, 10 * MB)
    assert free_bytes(proc, groups) == 0


def test_without_any_report_it_is_unknown(tmp_path: Path) -> None:
    assert free_bytes(tmp_path, tmp_path) == UNKNOWN
    assert free_bytes() > 0


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_full_device(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) is full
