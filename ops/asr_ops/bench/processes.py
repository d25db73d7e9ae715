"""CPU time and memory of the server's processes, of the load generators and of this process, from psutil.

RSS counts a shared page in every process. PSS divides a shared page among its processes, so only PSS can be added up.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from asr_proto.errors import SetupError

ROLES = {
    "asr_broker.cli": "broker",
    "asr_workers.cli": "worker",
    "asr_workers.witness": "witness",
    "asr_frontends.cli": "frontend",
}
"""The role of each module that runs as a process."""
NAME_OPTION = "--name="


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    name: str
    cpu_s: float
    rss_bytes: int
    pss_bytes: int


@dataclass(frozen=True, slots=True)
class UsageSnapshot:
    """CPU and memory of the server's processes, CPU of the bench and of the whole machine, at one moment."""

    at_s: float
    server: dict[int, Sample]
    """The server's processes by process id."""
    own_cpu_s: float
    """CPU seconds of this process and of the load generators."""
    machine_cpu_s: float
    """CPU seconds of all processes on the machine."""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU and memory of one server process while audio was sent."""

    name: str
    cpu_s: float
    cores: float
    rss_mb: float
    pss_mb: float
    session_kb: float
    """Growth of PSS since before the first session, in kilobytes per session."""


def psutil() -> Any:
    """The module psutil. Raises SetupError if it is not installed."""
    try:
        return import_module("psutil")
    except ImportError as error:
        raise SetupError("asr bench needs psutil, of the extra 'dev': pip install 'asr-pool[dev]'") from error


def snapshot(root: int | None, generators: Sequence[int], at_s: float) -> UsageSnapshot:
    """Read CPU and memory now.

    `root` is the process id of `asr serve`, or None if the bench did not start the server. `generators` are the process
    ids of the load generators, whose CPU time counts as the bench's own.
    """
    times = psutil().cpu_times()
    machine = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    own = [psutil().Process(pid).cpu_times() for pid in (os.getpid(), *generators)]
    return UsageSnapshot(at_s, _server(root), sum(one.user + one.system for one in own), machine)


def usage(
    idle: UsageSnapshot, begin: UsageSnapshot, memory: UsageSnapshot, end: UsageSnapshot, sessions: int
) -> list[Usage]:
    """CPU and memory of each server process: CPU from `begin` to `end`, memory growth from `idle` to `memory`."""
    return [_usage(pid, idle, begin, memory, end, sessions) for pid in end.server if pid in begin.server]


def others_cores(begin: UsageSnapshot, end: UsageSnapshot) -> float:
    """Cores kept busy, on average, by neither the server nor the bench. Valid only if the bench started the server."""
    ours = end.own_cpu_s - begin.own_cpu_s + sum(cpu_s for cpu_s in _server_cpu(begin, end))
    return max(0.0, (end.machine_cpu_s - begin.machine_cpu_s - ours) / (end.at_s - begin.at_s))


def machine() -> dict[str, object]:
    """The machine's CPU, cores, memory, system, Python version and load, for the report."""
    library = psutil()
    return {
        "cpu": _cpu_model(),
        "cores": library.cpu_count(),
        "memory_gb": round(library.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(library.getloadavg()[0], 2),
    }


def role(command: Sequence[str]) -> str:
    """A process's name from its command line: its --name, or else its role, or else `serve`."""
    names = [word.removeprefix(NAME_OPTION) for word in command if word.startswith(NAME_OPTION)]
    roles = [ROLES[word] for word in command if word in ROLES]
    return next(iter(names + roles), "serve")


def _server(root: int | None) -> dict[int, Sample]:
    if root is None:
        return {}
    library = psutil()
    found = {}
    top = library.Process(root)
    for process in (top, *top.children(recursive=True)):
        try:
            found[process.pid] = _sample(process)
        except library.NoSuchProcess:  # it ended in the meantime
            continue
    return found


def _sample(process: Any) -> Sample:
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_full_info()
        return Sample(role(process.cmdline()), times.user + times.system, memory.rss, getattr(memory, "pss", 0))


def _usage(
    pid: int, idle: UsageSnapshot, begin: UsageSnapshot, memory: UsageSnapshot, end: UsageSnapshot, sessions: int
) -> Usage:
    cpu_s = end.server[pid].cpu_s - begin.server[pid].cpu_s
    held = memory.server.get(pid, end.server[pid])
    before = idle.server.get(pid, held)
    return Usage(
        name=held.name,
        cpu_s=cpu_s,
        cores=cpu_s / (end.at_s - begin.at_s),
        rss_mb=held.rss_bytes / 1e6,
        pss_mb=held.pss_bytes / 1e6,
        session_kb=(held.pss_bytes - before.pss_bytes) / 1e3 / sessions,
    )


def _server_cpu(begin: UsageSnapshot, end: UsageSnapshot) -> list[float]:
    return [end.server[pid].cpu_s - begin.server[pid].cpu_s for pid in end.server if pid in begin.server]


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            return next(found, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()
