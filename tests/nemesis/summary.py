"""The printed summary of a run. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from asr_client.figures import percentile
from tests.nemesis.checker import INVARIANTS, growth_mb, lives_of_processes
from tests.nemesis.gaps import UNDISTURBED, Gap
from tests.nemesis.history import Final, History, Moved, Opened, Strike
from tests.nemesis.schedule import detail_of, kind_of
from tests.nemesis.violation import Violation

SHOWN_MAX = 5
"""Most violations of one promise that are printed in full."""


def summary(
    history: History,
    violations: Sequence[Violation],
    found: Sequence[Gap],
    lateness_s: Sequence[float],
    log: Sequence[str],
) -> str:
    """The whole summary."""
    parts = (
        _sessions(history),
        _faults(history),
        _gaps(found, history),
        _memory(history),
        _own(lateness_s, log),
        promises(violations),
    )
    return "\n".join("\n".join(part) for part in parts)


def _sessions(history: History) -> Iterator[str]:
    sessions = history.conversations
    finals = sum(isinstance(event, Final) for one in sessions for event in one.events)
    ended = sum(one.whole for one in sessions)
    refused = Counter(getattr(one.refused, "code", "no connection") for one in sessions if one.refused)
    cut = sum(one.cut is not None for one in sessions)
    failed = len(sessions) - ended - refused.total() - cut
    moved = sum(isinstance(event, Moved) for one in sessions for event in one.events)
    resumed = sum(isinstance(event, Opened) and event.resumes for one in sessions for event in one.events)
    why = f" ({', '.join(f'{count} {code}' for code, count in refused.items())})" if refused else ""
    yield (
        f"sessions {len(sessions)}: {ended} whole, {cut} cut with their frontend, {failed} failed, "
        f"{refused.total()} refused{why}"
    )
    audio_s = sum(one.truth.utterances[-1].end_s for one in sessions if one.whole and one.truth.utterances)
    yield f"finals {finals}, moves {moved}, resumed {resumed}, audio of whole sessions {audio_s / 60:.1f} min"
    for why, count in Counter(one.cut.why for one in sessions if one.cut).most_common(SHOWN_MAX):
        yield f"  cut: {count} x {why}"
    served = sum(probe.conversation.whole for probe in history.probes)
    if history.probes:
        yield f"probes {len(history.probes)}, served {served}; looks at readiness {len(history.looks)}"


def _faults(history: History) -> Iterator[str]:
    kinds: dict[str, list[Strike]] = {}
    for strike in history.strikes:
        kinds.setdefault(strike.kind, []).append(strike)
    yield f"faults {len(history.strikes)}: " + (", ".join(f"{kind} {len(all_)}" for kind, all_ in kinds.items()) or "-")
    for strike in history.strikes:
        if strike.said:
            yield f"  {strike.kind} ({detail_of(strike.fault)}) at {strike.at_s:.1f} s: {strike.said}"
    for fault, why in history.skipped:
        yield f"  skipped {kind_of(fault)} ({detail_of(fault)}): {why}"


def _gaps(found: Sequence[Gap], history: History) -> Iterator[str]:
    yield f"{'gaps in speech by fault':<26}{'n':>6}{'moved':>7}{'p50 s':>8}{'p95 s':>8}{'p99 s':>8}{'max s':>8}"
    kinds = dict.fromkeys([*(strike.kind for strike in history.strikes), UNDISTURBED])
    for kind in kinds:
        lengths = [gap.length_s for gap in found if gap.kind == kind]
        moved = sum(gap.moved for gap in found if gap.kind == kind)
        if lengths:
            spread = "".join(f"{percentile(lengths, q):8.2f}" for q in (0.5, 0.95, 0.99, 1.0))
            yield f"  {kind:<24}{len(lengths):>6}{moved:>7}{spread}"


def _memory(history: History) -> Iterator[str]:
    yield f"{'memory':<26}{'first MB':>10}{'last MB':>10}{'most MB':>10}{'growth':>9}"
    for (name, pid), seen in lives_of_processes(history.memory).items():
        if seen[-1].at_s - seen[0].at_s < 0.8 * (history.memory[-1].at_s - history.memory[0].at_s):
            continue  # it was restarted
        before, after = growth_mb(seen[len(seen) // 4 :])
        most = max(one.rss_mb for one in seen)
        yield f"  {f'{name} ({pid})':<24}{before:>10.1f}{after:>10.1f}{most:>10.1f}{100 * (after / before - 1):>8.2f}%"


def _own(lateness_s: Sequence[float], log: Sequence[str]) -> Iterator[str]:
    if lateness_s:
        p99, most = (1000 * percentile(lateness_s, q) for q in (0.99, 1.0))
        yield f"our own loop was late by p99 {p99:.0f} ms, at most {most:.0f} ms"
    tracebacks = [index for index, line in enumerate(log) if line.startswith("Traceback")]
    if tracebacks:
        yield f"tracebacks in the log: {len(tracebacks)}, the first:"
        yield from (f"  | {line}" for line in log[tracebacks[0] : tracebacks[0] + 30])


def promises(violations: Sequence[Violation]) -> Iterator[str]:
    """For each promise, whether it was kept, and its violations."""
    for invariant, what in INVARIANTS.items():
        broken = [violation for violation in violations if violation.invariant == invariant]
        yield f"{invariant} {what}: {'OK' if not broken else f'BROKEN {len(broken)} times'}"
        yield from (f"   {str(violation).removeprefix(invariant + ' ')}" for violation in broken[:SHOWN_MAX])
