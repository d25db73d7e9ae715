"""The worker's outbox: commands in their order, frames in bundles."""

from __future__ import annotations

from asr_proto import messages as m
from asr_proto.wire import FRAMES_MAX
from asr_workers.jobs import CloseSlot
from asr_workers.outbox import Outbox, Quit, Send, WorkerPost

F1, F2 = b"F1", b"F2"


def partial(lease: int, text: str = "one") -> m.Partial:
    return m.Partial(lease, 0, text, 0, 1)


def test_commands_come_in_their_order_and_once() -> None:
    out = Outbox()
    commands = [CloseSlot(1, 0), Send(m.Closed(1)), WorkerPost(1, m.Drain()), Quit("why")]
    for command in commands:
        out.add(command)
    assert out.take() == commands
    assert out.take() == []


def test_frames_are_bundled_by_frontend() -> None:
    """They keep the order in which they were posted. The header names each lease once."""
    out = Outbox()
    out.post(F1, [partial(3), partial(1)])
    out.post(F2, [partial(2)])
    out.post(F1, [partial(3, "two")])
    assert out.bundles(5) == [
        WorkerPost(5, m.Bundle(F1, (3, 1)), [partial(3), partial(1), partial(3, "two")]),
        WorkerPost(5, m.Bundle(F2, (2,)), [partial(2)]),
    ]
    assert out.bundles(5) == []


def test_no_frames_make_no_bundle() -> None:
    out = Outbox()
    out.post(F1, [])
    assert out.bundles(0) == []


def test_a_bundle_has_as_many_frames_as_the_wire_allows() -> None:
    out = Outbox()
    out.post(F1, [partial(lease) for lease in range(1, FRAMES_MAX + 2)])
    first, second = out.bundles(0)
    assert isinstance(first, WorkerPost) and isinstance(second, WorkerPost)
    assert first.frames == [partial(lease) for lease in range(1, FRAMES_MAX + 1)]
    assert second == WorkerPost(0, m.Bundle(F1, (FRAMES_MAX + 1,)), [partial(FRAMES_MAX + 1)])


def test_a_broker_that_is_gone_receives_nothing_more() -> None:
    """The engine must still do its jobs, and other brokers still receive their messages."""
    out = Outbox()
    kept = [CloseSlot(1, 0), WorkerPost(1, m.Vote(0, 0, 0)), Quit()]
    for command in (Send(m.Closed(1)), *kept, Send(m.Drain())):
        out.add(command)
    out.post(F1, [partial(1)])
    out.disconnected()
    assert out.bundles(0) == []
    assert out.take() == kept
