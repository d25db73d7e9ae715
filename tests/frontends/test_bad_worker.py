"""What a bad worker can do with its own session: end it or spoil its text. It harms no neighbor and no frontend."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from asr_frontends import events as e
from asr_frontends.journal import Budget
from asr_frontends.outbox import Command, Deliver
from asr_frontends.session import Limits
from asr_frontends.sessions import Sessions
from asr_proto import messages as m

SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
NUMBERS = st.sampled_from([0, 1, 2, 960, 16_000, 2**31, 2**63 - 1])
LEASES = st.sampled_from([1, 1, 1, 2, 3])
"""1 is the bad worker's, 2 is its neighbor's at another worker."""
WORDS = st.sampled_from(["", "ghost"])
COMMITS = st.builds(m.Commit, NUMBERS, NUMBERS, st.binary(max_size=4), st.none() | NUMBERS)
FRAMES: st.SearchStrategy[m.FrameOut] = st.one_of(
    st.builds(m.Progress, LEASES, NUMBERS, NUMBERS, st.none() | COMMITS),
    st.builds(m.Speech, LEASES, st.just("start"), NUMBERS),
    st.builds(m.Partial, LEASES, NUMBERS, WORDS, NUMBERS, NUMBERS, st.none() | NUMBERS),
    st.builds(m.Final, LEASES, NUMBERS, WORDS, NUMBERS, NUMBERS, st.just("flush"), st.none(), st.none(), COMMITS),
    st.builds(m.Flushed, LEASES, WORDS),
    st.builds(m.Resumed, LEASES, st.none() | COMMITS),
    st.builds(m.Ended, LEASES),
    st.builds(m.Failed, LEASES, WORDS, WORDS),
)


def delivered(commands: list[Command], id: str) -> list[e.ServiceEvent]:
    return [command.event for command in commands if isinstance(command, Deliver) and command.session == id]


@settings(deadline=None)
@given(st.lists(FRAMES | st.none(), max_size=12))
def test_any_frames_of_a_bad_worker(frames: list[m.FrameOut | None]) -> None:
    """None stands for the loss of the bad worker's lease: the session moves."""
    sessions = Sessions("f", Limits(), Budget(10**8), 0.0)
    sessions.handle(m.Welcome(1, 1.0), (), 0.0)
    for id, lease, worker in (("a", 1, b"W1"), ("b", 2, b"W2")):
        sessions.start(id, e.Start(partials=True), 0.0)
        sessions.handle(m.Pinned(id, 0, lease, worker, SPEC), (), 0.0)
        for _ in range(12):  # more than its credit of 10 s: the last entries wait
            sessions.client(id, e.Audio(bytes(32_000)), 0.0)
        sessions.client(id, e.Flush("ghost"), 0.0)
    for epoch, frame in enumerate(frames, 1):
        if frame is not None:
            commands = sessions.handle(m.Bundle(b"F", (1,)), [frame], 0.0)
        else:
            commands = sessions.handle(m.Lost(1, "worker-lost"), (), 0.0)
            commands += sessions.handle(m.Pinned("a", epoch, 1, b"W1", SPEC), (), 0.0)
        assert not delivered(commands, "b")
        sessions.check()
    sessions.tick(0.9)
    assert delivered(sessions.handle(m.Bundle(b"F", (2,)), [m.Partial(2, 0, "text", 0, 960)], 0.0), "b")
    sessions.client("b", e.Stop(), 0.0)
    assert delivered(sessions.handle(m.Bundle(b"F", (2,)), [m.Ended(2)], 0.0), "b") == [e.Bye()]
