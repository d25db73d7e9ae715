"""Cost of the frontend's pure `Sessions`: a client's frame, and a worker's partial with progress (an answer)."""

from __future__ import annotations

from asr_frontends import events as e
from asr_frontends.journal import Budget
from asr_frontends.outbox import SendBundle
from asr_frontends.session import Limits
from asr_frontends.sessions import Sessions
from asr_ops.bench.micro.costs import FRAME_SAMPLES, FRAMES_PER_S, PARTIALS_PER_S, ROUNDS, Cost, Laps
from asr_proto import messages as m

SESSIONS = (100, 500, 2000)
FRAMES_PER_PROGRESS = 5
"""Frames between two commits. Frequent commits keep the journal short, as in a conversation of short utterances."""


def costs() -> list[Cost]:
    """Costs of a frame and of an answer, with bundles for 8 workers."""
    return [cost for sessions in SESSIONS for cost in _sessions(sessions)]


def _sessions(count: int) -> list[Cost]:
    laps, frontend = Laps(), full(count)
    frame, answer = f"frontend, a frame, {count} sessions", f"frontend, an answer, {count} sessions"
    audio = e.Audio(bytes(2 * FRAME_SAMPLES))

    def receive() -> None:
        for id in range(count):
            frontend.client(str(id), audio, now)
        for command in frontend.flush():
            assert isinstance(command, SendBundle) and command.bundle.leases

    for number in range(1, FRAMES_PER_PROGRESS * (ROUNDS + 1) + 1):
        now = number * 0.02
        laps.lap(frame, count, receive)
        if number % FRAMES_PER_PROGRESS == 0:
            answers = _answers(count, number * FRAME_SAMPLES)
            laps.lap(answer, count, lambda: frontend.handle(m.Bundle(b"F", ()), answers, now))  # noqa: B023 - runs immediately
    return [laps.cost(frame, FRAMES_PER_S), laps.cost(answer, PARTIALS_PER_S)]


def _answers(count: int, samples: int) -> list[m.Frame]:
    """The workers' partial and progress for all audio so far, for each session."""
    return [
        frame
        for lease in range(1, count + 1)
        for frame in (
            m.Partial(lease, 0, "the birch canoe slid", 0, samples),
            m.Progress(lease, samples, samples, m.Commit(samples, 1, b"")),
        )
    ]


def full(count: int) -> Sessions:
    """A frontend with that many pinned sessions; the ids are "0" and so on, the leases count from 1."""
    spec = m.Spec("fake", "fake", ("en",), count, 960, 1.0, "none")
    frontend = Sessions("f", Limits(), Budget(1 << 30), 0.0)
    frontend.handle(m.Welcome(1, 1.0), (), 0.0)
    for id in range(count):
        frontend.start(str(id), e.Start(), 0.0)
        frontend.handle(m.Pinned(str(id), 0, id + 1, b"W%d" % (id % 8), spec), (), 0.0)
    return frontend
