"""Frames that wait for a bundle: small pieces of audio are joined, and every session's frames keep their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_frontends.outbox import JOINED_BYTES_MAX, Outbox, SendBundle
from asr_proto import messages as m

posts = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 400) | st.sampled_from([-1, -2, 5000])), max_size=60)


@given(posts)
def test_a_bundle_says_the_same_as_its_frames(steps: list[tuple[int, int]]) -> None:
    """Per session: the same audio and marks in the same order, without a gap, in frames of limited size."""
    outbox, posted, samples = Outbox(), [], {1: 0, 2: 0, 3: 0}
    for lease, size in steps:
        frame: m.FrameIn = m.Checkpoint(lease) if size == -2 else m.Flush(lease, "x")
        if size >= 0:
            frame = m.Audio(lease, samples[lease], bytes([len(posted)]) * 2 * size)
            samples[lease] += size
        posted.append(frame)
        outbox.post(b"W", frame, 0.0)
    outbox.seal()
    sent = [frame for command in outbox.take() if isinstance(command, SendBundle) for frame in command.frames]
    for lease in samples:
        assert said(sent, lease) == said(posted, lease)
    joined = [frame for frame in sent if frame not in posted]
    assert all(isinstance(frame, m.Audio) and len(frame.pcm) <= JOINED_BYTES_MAX for frame in joined)


def said(frames: list[m.FrameIn], lease: int) -> list[object]:
    """Every sample with its number, and every other frame."""
    content: list[object] = []
    for frame in frames:
        if frame.lease == lease:
            if isinstance(frame, m.Audio):
                content += [
                    (frame.first_sample + at // 2, frame.pcm[at : at + 2]) for at in range(0, len(frame.pcm), 2)
                ]
            else:
                content.append(frame)
    return content


def test_frames_of_one_sample_become_one_frame() -> None:
    outbox = Outbox()
    for number in range(100):
        outbox.post(b"W", m.Audio(7, number, b"ab"), 0.0)
    outbox.seal()
    assert outbox.take() == [SendBundle(m.Bundle(b"W", (7,)), [m.Audio(7, 0, b"ab" * 100)])]
