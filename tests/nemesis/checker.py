"""Checks the promises against a run. Pure: takes a history, returns violations, each with the events before it.

    I1  every committed sample, and every sample that a resuming client sends again, is transcribed exactly once
    I2  finals never change and never come twice
    I3  the transcript equals that of an undisturbed run
    I4  no session receives another's text
    I5  every session has exactly one terminal event, and no event after it
    I6  slots in use equal live sessions, those in their grace period included, within a second of quiet
    I7  queues, memory and descriptors are bounded
    I8  readiness is reported correctly
    I9  poisonous audio ends its own session, after at most two deaths of workers
    I10 the children of a supervisor that was killed end in time

I1 to I4 of other dialects than the native one are in `heard`.

Faults excuse only two things. A client whose frontend dies is cut; if it cannot resume, only the events it received are
checked. A session may be refused while the pool is not whole, that is, while a process is missing or not registered.
Nothing excuses a wrong text, a lost slot or a second terminal event.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from tests.nemesis.heard import heard
from tests.nemesis.history import (
    GOING_AWAY,
    NATIVE,
    Absence,
    Answered,
    Committed,
    Conversation,
    Cut,
    Ended,
    Event,
    Failed,
    Final,
    History,
    Hung,
    Memory,
    Moved,
    Opened,
    Partial,
    Probe,
    Readied,
    Slots,
    Strike,
)
from tests.nemesis.schedule import (
    BadPeer,
    Delay,
    ExhaustDescriptors,
    Kill,
    KillSupervisor,
    LimitMemory,
    Partition,
    Pause,
    Restart,
    role_of,
)
from tests.nemesis.violation import Violation, broken

INVARIANTS: Mapping[str, str] = {
    "I1": "every sample is transcribed exactly once",
    "I2": "finals never change or repeat",
    "I3": "the transcript equals the undisturbed one",
    "I4": "no session receives another's text",
    "I5": "exactly one terminal event",
    "I6": "slots in use equal live sessions",
    "I7": "queues, memory and descriptors are bounded",
    "I8": "readiness is reported correctly",
    "I9": "poisonous audio ends its own session",
    "I10": "children of a killed supervisor end in time",
}
STORY_S = 30.0
POISONOUS = "poisonous-audio"
"""The error that ends a session with poisonous audio."""
REFUSALS = frozenset({"at-capacity", "no-worker", "no-broker", "overloaded", "going-away"})
"""Errors that a new session may receive while the pool is not whole."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that the promises are checked against. Times are in seconds."""

    quiet_s: float = 1.0
    """Time without faults before slots are compared with sessions."""
    notice_s: float = 0.5
    """Longest time until every process has detected a death."""
    hang_s: float = 2.5
    """Longest time until a hang is detected: a second and a half, and one report."""
    settle_s: float = 2.0
    """Time after the pool is whole again during which faults still excuse."""
    grace_s: float = 30.0
    """Longest time that the slot of a lost client is kept for it."""
    resumes: bool = False
    """Whether clients must be able to resume on another frontend after a death, and to begin there during a drain."""
    chunks_per_session_max: int = 200
    """Most pending chunks of a session: its credit in the fake engine's chunks, and one bundle."""
    rss_mb_max: float = 1024.0
    warm_up_s: float = 20.0
    growth_s_min: float = 40.0
    """Growth is checked only for processes that lived this long after the warm-up."""
    growth_share_max: float = 0.1
    growth_mb_max: float = 6.0
    """Growth up to this many MB is accepted, for runs that are too short to judge a share."""
    descriptors_more_max: int = 2
    cut_s_max: float = 3.0
    """Most speech whose text a client lacks when its connection dies, in a dialect that cannot resume."""
    poison_deaths_max: int = 2
    orphans_s: float = 6.0
    """Longest time until the children of a killed supervisor have ended."""


def check(history: History, limits: Limits | None = None) -> list[Violation]:
    """All violations, the most serious promises first."""
    limits = limits or Limits()
    words = _sessions_of_words(history.all_conversations())
    found: list[Violation] = []
    for conversation in history.all_conversations():
        if conversation.dialect == NATIVE:
            found += _texts(_before_pool_died(conversation, history), words)
            found += _commits(conversation)
        else:
            found += heard(conversation, words, _lack_s_max(conversation, history, limits))
        found += _ends(conversation, history, limits)
    for rule in (_refusals, _slots, _bounds, _growth, _leaks, _readiness, _poison, _orphans):
        found += rule(history, limits)
    return sorted(found, key=lambda violation: int(violation.invariant[1:]))


# ---- I1 to I4: the received texts ----


def _sessions_of_words(conversations: Iterable[Conversation]) -> dict[str, set[int]]:
    """The sessions whose text contains each word; with the fake engine it is nearly always one session."""
    words: dict[str, set[int]] = {}
    for conversation in conversations:
        for utterance in conversation.truth.utterances:
            for word in utterance.text.split():
                words.setdefault(word, set()).add(conversation.number)
    return words


def _before_pool_died(conversation: Conversation, history: History) -> Conversation:
    """The conversation without its texts after the death of the supervisor, which ends it in the middle of a word."""
    ready_s, over_s = conversation.ready_s, conversation.over_s or history.end_s
    died = [strike.at_s for strike in history.strikes if isinstance(strike.fault, KillSupervisor)]
    hit = [at_s for at_s in died if ready_s is not None and ready_s < at_s < over_s]
    if not hit or conversation.whole:
        return conversation
    kept = [event for event in conversation.events if not isinstance(event, Partial | Final) or event.at_s < hit[0]]
    return replace(conversation, events=kept)


def _texts(conversation: Conversation, words: Mapping[str, set[int]]) -> Iterator[Violation]:
    received: list[Final] = []
    for index, event in enumerate(conversation.events):
        match event:
            case Final():
                yield from _final(conversation, index, event, received, words)
            case Partial():
                yield from _partial(conversation, index, event, len(received), words)
    yield from _markers(conversation)
    expected = conversation.truth.utterances
    if conversation.whole and len(received) < len(expected):
        missing = f"finals {len(received)} to {len(expected) - 1} never came before its end"
        yield broken("I1", conversation, missing)


def _final(
    conversation: Conversation, index: int, final: Final, received: list[Final], words: Mapping[str, set[int]]
) -> Iterator[Violation]:
    """Check one final against its place in the truth; `received` are the finals before it, and it is appended."""
    number, expected = final.utterance, conversation.truth.utterances
    if number < len(received):
        same = (received[number].text, received[number].start_s, received[number].end_s) == (
            final.text,
            final.start_s,
            final.end_s,
        )
        how = "came twice" if same else f"changed from {received[number].text!r} to {final.text!r}"
        yield broken("I2", conversation, f"final {number} {how}", index)
        return
    if number > len(received):
        yield broken("I1", conversation, f"finals {len(received)} to {number - 1} were lost before {number}", index)
        received += [final] * (number - len(received))
    received.append(final)
    if number >= len(expected):
        yield broken("I1", conversation, f"final {number} is of more audio than was sent", index)
        return
    truth = expected[number]
    if (final.start_s, final.end_s) != (truth.start_s, truth.end_s):
        spans = f"[{final.start_s:g}, {final.end_s:g}) s, not [{truth.start_s:g}, {truth.end_s:g}) s"
        yield broken("I1", conversation, f"final {number} is of {spans}", index)
    if final.text != truth.text:
        yield _wrong_text(conversation, index, f"final {number}", final.text, truth.text, words)


def _partial(
    conversation: Conversation, index: int, partial: Partial, finals: int, words: Mapping[str, set[int]]
) -> Iterator[Violation]:
    expected = conversation.truth.utterances
    if not conversation.truth.grows:
        return
    if partial.utterance >= len(expected):
        yield broken("I1", conversation, f"a partial of utterance {partial.utterance}, which does not exist", index)
    elif not f"{expected[partial.utterance].text} ".startswith(f"{partial.text} "):
        truth = expected[partial.utterance].text
        yield _wrong_text(
            conversation, index, f"a partial of utterance {partial.utterance}", partial.text, truth, words
        )
    elif partial.utterance < finals:
        yield broken("I2", conversation, f"a partial of utterance {partial.utterance} after its final", index)


def _wrong_text(
    conversation: Conversation, index: int, what: str, text: str, truth: str, words: Mapping[str, set[int]]
) -> Violation:
    """The violation for a wrong text: I4 if it is another session's text, otherwise I3."""
    others = Counter(number for word in text.split() for number in words.get(word, ()) if number != conversation.number)
    if others:
        ((owner, _),) = others.most_common(1)
        return broken("I4", conversation, f"{what} is the text of session {owner}: {text!r}", index)
    return broken("I3", conversation, f"{what} is {text!r}, undisturbed it is {truth!r}", index)


def _markers(conversation: Conversation) -> Iterator[Violation]:
    answers = Counter(event.marker for event in conversation.events if isinstance(event, Answered))
    for marker, count in answers.items():
        if marker not in conversation.truth.markers:
            yield broken("I4", conversation, f"an answer to flush {marker!r}, which it never sent")
        elif count > 1:
            yield broken("I2", conversation, f"flush {marker!r} was answered {count} times")
    if conversation.whole and (silent := [one for one in conversation.truth.markers if one not in answers]):
        yield broken("I1", conversation, f"flushes {silent} were never answered")


def _commits(conversation: Conversation) -> Iterator[Violation]:
    """A client drops committed audio: commits never go back, and no resume begins before one."""
    committed = 0
    for index, event in enumerate(conversation.events):
        match event:
            case Committed(samples=samples):
                if not committed <= samples <= conversation.truth.samples:
                    yield broken("I1", conversation, f"the commit went from {committed} to {samples}", index)
                committed = max(committed, samples)
            case Readied(from_sample=start) if start < committed:
                yield broken("I1", conversation, f"asked for sample {start}, {committed} were committed", index)


# ---- I5: the terminal event ----


def _ends(conversation: Conversation, history: History, limits: Limits) -> Iterator[Violation]:
    events = conversation.events
    terminal = [index for index, event in enumerate(events) if _terminal(event, events[index + 1 :])]
    if len(terminal) > 1:
        yield broken("I5", conversation, f"{len(terminal)} terminal events", terminal[1])
    elif terminal and terminal[0] + 1 < len(events):
        after = type(events[terminal[0] + 1]).__name__
        yield broken("I5", conversation, f"{after} after the terminal event", terminal[0] + 1)
    elif not terminal:
        yield from _endless(conversation, history, limits)
    failure = events[-1] if events else None
    if isinstance(failure, Failed) and conversation.ready_s is not None and not _sent_away(failure, history):
        yield broken("I3", conversation, f"failed: {failure.code}: {failure.message}")


def _terminal(event: Event, later: Sequence[Event]) -> bool:
    """Whether the event ends the session: "going-away" does so only for a client that does not resume."""
    resumed = isinstance(event, Failed) and event.code == "going-away" and any(isinstance(one, Opened) for one in later)
    return isinstance(event, Ended | Failed) and not resumed


def _sent_away(failure: Failed, history: History) -> bool:
    struck = history.disturbed(failure.at_s, failure.at_s)
    return failure.code == GOING_AWAY and any(_stops_frontend(strike) for strike in struck)


def _stops_frontend(strike: Strike) -> bool:
    """Whether the fault made a frontend end in order: a client may be told so, or find its connection closed."""
    match strike.fault:
        case Restart(name):
            return role_of(name) == "frontend"
        case KillSupervisor():
            return True
    return False


def _lack_s_max(conversation: Conversation, history: History, limits: Limits) -> float | None:
    """How much speech may lack its text when a session ends early, in seconds; None for any.

    The death of the supervisor is that of the whole pool. Before a cut, another fault may have delayed the text.
    """
    over_s = conversation.over_s or 0.0
    struck = history.disturbed(over_s - limits.cut_s_max, over_s)
    if any(isinstance(one.fault, KillSupervisor) for one in struck):
        return None
    alone = all(isinstance(one.fault, Kill) and role_of(one.fault.name) == "frontend" for one in struck)
    return limits.cut_s_max if alone or conversation.cut is None else None


def _endless(conversation: Conversation, history: History, limits: Limits) -> Iterator[Violation]:
    last = conversation.events[-1] if conversation.events else None
    match last:
        case Cut() if conversation.refused:
            return
        case Cut() if _frontend_died(conversation, history):
            if limits.resumes and conversation.dialect == NATIVE:
                yield broken("I5", conversation, f"could not be resumed: {last.why}")
        case Cut():
            yield broken("I5", conversation, f"cut though no frontend had died: {last.why}")
        case Hung():
            yield broken("I5", conversation, "no terminal event: the server sent nothing more")
        case _:
            yield broken("I5", conversation, "no terminal event before the run was over")


def _frontend_died(conversation: Conversation, history: History) -> bool:
    """Whether a frontend's death or drain explains the cut.

    The sockets of a dead process are reset immediately; a draining process ends some seconds later.
    """
    since = max(index for index, event in enumerate(conversation.events) if isinstance(event, Readied))
    cut = next(event for event in conversation.events[since:] if isinstance(event, Cut))
    if any(isinstance(event, Failed) and event.code == GOING_AWAY for event in conversation.events[since:]):
        return True
    died_s = cut.at_s - cut.silent_s
    return any(_cuts(strike, died_s) for strike in history.disturbed(died_s - 1.0, cut.at_s))


def _cuts(strike: Strike, died_s: float) -> bool:
    """Whether the fault explains a connection that died at that time."""
    match strike.fault:
        case Kill(name):
            return role_of(name) == "frontend" and abs(died_s - strike.at_s) < 1.0
        case LimitMemory(name):
            return role_of(name) == "frontend"
    return _stops_frontend(strike)


def _refusals(history: History, limits: Limits) -> Iterator[Violation]:
    """Sessions refused without a fault: readiness was wrong. With `resumes`, an orderly restart is no excuse."""

    def excuses(strike: Strike) -> bool:
        orderly = limits.resumes and isinstance(strike.fault, Restart)
        return not (orderly or isinstance(strike.fault, BadPeer))

    for conversation in history.conversations:
        refused = conversation.refused
        if refused is None:
            continue
        if conversation.dialect == NATIVE and isinstance(refused, Failed) and refused.code not in REFUSALS:
            yield broken("I3", conversation, f"refused: {refused.code}: {refused.message}")
        elif not [
            strike for strike in history.disturbed(refused.at_s - limits.settle_s, refused.at_s) if excuses(strike)
        ]:
            yield broken("I8", conversation, "refused though the pool could serve it")


# ---- I6: slots ----


def _slots(history: History, limits: Limits) -> Iterator[Violation]:
    """In a quiet second, each session that lives throughout it has a slot, and sessions outside of it have none."""
    yield from _freed(history, limits)
    lives = [life for conversation in history.all_conversations() if (life := _life(conversation, limits))]
    moves = sorted(
        event.at_s for one in history.all_conversations() for event in one.events if isinstance(event, Moved)
    )
    for seen in history.slots:
        begin = seen.asked_s - limits.quiet_s
        # A move without a fault counts too: the old slot is released while the new one is taken.
        if history.disturbed(begin - limits.settle_s, seen.at_s) or _any_in(moves, begin - limits.settle_s, seen.at_s):
            continue
        least = sum(ready <= begin and over >= seen.at_s for _, ready, over, _ in lives)
        most = sum(opened <= seen.at_s and freed >= begin for opened, _, _, freed in lives)
        if not least <= seen.in_use <= most:
            lived = f"{least}" if least == most else f"{least} to {most}"
            sentence = f"at {seen.at_s:.2f} s {seen.in_use} slots are in use, {lived} sessions live"
            yield Violation("I6", sentence, _lately(history, seen.at_s))


def _freed(history: History, limits: Limits) -> Iterator[Violation]:
    """After the last session no slot is in use, except during the grace period of sessions that were cut."""
    over = [
        one.over_s + (limits.grace_s if one.cut else 0.0)
        for one in history.all_conversations()
        if one.over_s is not None
    ]
    due_s = max(over, default=0.0) + limits.quiet_s
    if history.freed_s is None or history.freed_s > due_s:
        when = "never" if history.freed_s is None else f"at {history.freed_s:.2f} s"
        yield Violation("I6", f"the last slot was free {when}, due at {due_s:.2f} s", _lately(history, history.end_s))


def _any_in(moments: Sequence[float], from_s: float, until_s: float) -> bool:
    """Whether one of the sorted moments lies in that time."""
    after = bisect.bisect_left(moments, from_s)
    return after < len(moments) and moments[after] <= until_s


def _lately(history: History, at_s: float) -> str:
    """The faults and the counts of slots before `at_s`, as text."""
    struck = [f"      {one.at_s:8.3f} s  {one.fault}, whole again at {one.whole_s:.3f} s" for one in history.strikes]
    struck = [line for line, one in zip(struck, history.strikes, strict=True) if at_s - STORY_S <= one.at_s <= at_s]
    slots = [f"{one.at_s:.2f} s {one.in_use}" for one in history.slots if at_s - 5 <= one.at_s <= at_s + 5]
    return "\n".join([*struck, f"      slots in use: {', '.join(slots)}"])


def _life(conversation: Conversation, limits: Limits) -> tuple[float, float, float, float] | None:
    """The times when it was opened, certainly had a slot, was over for its client, and must have freed its slot."""
    if conversation.opened_s is None:
        return None
    over = conversation.over_s if conversation.over_s is not None else float("inf")
    # Between two connections of a client that resumes, the session is in its grace period.
    freed = over + (limits.grace_s if conversation.cut else 0.0)
    ready = conversation.ready_s if conversation.ready_s is not None else float("inf")
    # After its stop, a session may be over for the worker before its client receives `end`.
    stopped = conversation.stopped_s if conversation.stopped_s is not None else over
    return conversation.opened_s, ready, min(over, stopped), freed


# ---- I7: bounds ----


def _bounds(history: History, limits: Limits) -> Iterator[Violation]:
    worst: dict[str, Memory] = {}
    for seen in history.memory:
        if seen.rss_mb > limits.rss_mb_max and seen.rss_mb > worst.get(seen.name, seen).rss_mb - 1e-9:
            worst[seen.name] = seen
    for name, seen in worst.items():
        yield Violation("I7", f"{name} took {seen.rss_mb:.0f} MB at {seen.at_s:.1f} s, more than {limits.rss_mb_max:g}")
    opened = [(one.opened_s, one.over_s) for one in history.all_conversations() if one.opened_s is not None]
    for answer in history.slots:
        live = sum(begin <= answer.at_s and (over is None or over >= answer.asked_s) for begin, over in opened)
        chunks_max = limits.chunks_per_session_max * max(1, live, answer.in_use)
        if answer.pending_chunks > chunks_max:
            yield Violation("I7", f"{answer.pending_chunks} chunks wait at {answer.at_s:.1f} s, more than {chunks_max}")


def _growth(history: History, limits: Limits) -> Iterator[Violation]:
    for (name, pid), seen in lives_of_processes(history.memory).items():
        warm = [one for one in seen if one.at_s >= seen[0].at_s + limits.warm_up_s]
        if not warm or warm[-1].at_s - warm[0].at_s < limits.growth_s_min:
            continue
        before, after = growth_mb(warm)
        if after > before * (1 + limits.growth_share_max) and after > before + limits.growth_mb_max:
            yield Violation("I7", f"{name} (pid {pid}) grew from {before:.1f} to {after:.1f} MB after its warm-up")


def lives_of_processes(memory: Iterable[Memory]) -> dict[tuple[str, int], list[Memory]]:
    """The memory samples of each process, by name and process id."""
    lives: dict[tuple[str, int], list[Memory]] = {}
    for seen in memory:
        lives.setdefault((seen.name, seen.pid), []).append(seen)
    return lives


def growth_mb(seen: Sequence[Memory]) -> tuple[float, float]:
    """The medians of the first and the last quarter of the samples, in MB."""
    quarter = max(1, len(seen) // 4)
    return median(one.rss_mb for one in seen[:quarter]), median(one.rss_mb for one in seen[-quarter:])


def _leaks(history: History, limits: Limits) -> Iterator[Violation]:
    for name, after in history.rested.items():
        before = history.resting.get(name, after)
        if after > before + limits.descriptors_more_max:
            yield Violation("I7", f"{name} holds {after} descriptors after the last session, {before} before the first")


# ---- I8: readiness ----


def _readiness(history: History, limits: Limits) -> Iterator[Violation]:
    yield from _probes(history, limits)
    for begin, end in [*no_worker_running(history.absences, history.workers), *no_worker_registered(history.slots)]:
        lies = [look for look in history.looks if look.ready and begin + limits.notice_s < look.at_s < end]
        if lies:
            when = f"{lies[0].at_s:.2f} s"
            yield Violation("I8", f"{lies[0].frontend} is ready at {when}, no worker from {begin:.2f} to {end:.2f} s")
    for look in history.looks:
        if look.ready is False and not history.disturbed(look.at_s - limits.settle_s, look.at_s):
            yield Violation("I8", f"{look.frontend} is not ready at {look.at_s:.2f} s though the pool is whole")


def _probes(history: History, limits: Limits) -> Iterator[Violation]:
    for probe in history.probes:
        if probe.conversation.whole:
            continue
        until = probe.conversation.over_s or history.end_s
        if not any(_unsettled(strike, probe, until, limits) for strike in history.strikes):
            sentence = f"{probe.frontend} was ready at {probe.at_s:.2f} s, and its session was not served"
            yield broken("I8", probe.conversation, sentence)


def _unsettled(strike: Strike, probe: Probe, until_s: float, limits: Limits) -> bool:
    """Whether the fault happened during the probe, or so shortly before that it need not be detected yet."""
    match strike.fault:
        case Kill():
            spans = [(strike.at_s, strike.at_s + limits.notice_s)]
        case Pause() | Partition():
            unknown = min(strike.at_s + limits.hang_s + limits.notice_s, strike.released_s)
            spans = [(strike.at_s, unknown), (strike.released_s, strike.released_s + limits.notice_s)]
        case Delay() | ExhaustDescriptors() | Restart():
            spans = [(strike.at_s, strike.released_s + limits.notice_s)]
        case _:
            spans = [(strike.at_s, strike.whole_s + limits.notice_s)]
    return any(begin <= until_s and end >= probe.at_s for begin, end in spans)


def no_worker_running(absences: Sequence[Absence], workers: int) -> list[tuple[float, float]]:
    """The spans of time in which no worker process was running."""
    gone = [one for one in absences if role_of(one.name) == "worker"]
    edges = sorted({edge for one in gone for edge in (one.from_s, one.until_s)})
    spans = []
    for begin, end in itertools.pairwise(edges):
        missing = {one.name for one in gone if one.from_s <= begin and one.until_s >= end}
        if workers and len(missing) == workers:
            spans.append((begin, end))
    return spans


def no_worker_registered(answers: Sequence[Slots]) -> list[tuple[float, float]]:
    """The spans of time in which no worker was registered, according to two consecutive answers of the broker."""
    spans: list[tuple[float, float]] = []
    for one, other in itertools.pairwise(answers):
        if one.workers or other.workers:
            continue
        begin = spans.pop()[0] if spans and spans[-1][1] == one.asked_s else one.at_s
        spans.append((begin, other.asked_s))
    return spans


# ---- I9 and I10: poison, and the supervisor ----


def _poison(history: History, limits: Limits) -> Iterator[Violation]:
    for one in history.poisoned:
        others = [strike for strike in history.disturbed(one.strike.at_s, one.strike.whole_s) if strike != one.strike]
        if others:
            continue  # whose deaths were counted too
        if one.deaths > limits.poison_deaths_max or one.end != POISONOUS:
            yield Violation("I9", f"poison at {one.strike.at_s:.2f} s: {one.end} after {one.deaths} deaths of workers")


def _orphans(history: History, limits: Limits) -> Iterator[Violation]:
    for strike in history.strikes:
        took_s = strike.released_s - strike.at_s
        if isinstance(strike.fault, KillSupervisor) and took_s > limits.orphans_s:
            yield Violation("I10", f"children ended {took_s:.1f} s after their supervisor, at {strike.at_s:.2f} s")
