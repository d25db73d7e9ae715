"""What a bad frontend can do with its own session: end it. It harms no neighbor and no worker."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from asr_proto import messages as m
from asr_workers.engines.base import Chunk
from asr_workers.jobs import RunStep, SlotOpened
from asr_workers.outbox import WorkerPost
from asr_workers.sessions import Sessions

CHUNK = 960
SPEC = m.Spec("fake", "fake", ("en",), 4, CHUNK, 1.0, "none")
NUMBERS = st.sampled_from([0, 1, CHUNK - 1, CHUNK, 2**31, 2**63 - 1])
LEASES = st.sampled_from([1, 1, 1, 2, 3])
"""1 is the bad frontend's, 2 is its neighbor's at another frontend."""
FRAMES: st.SearchStrategy[m.Frame] = st.one_of(
    st.builds(m.Audio, LEASES, NUMBERS, st.sampled_from([b"", b"\0", bytes(2), bytes(2 * CHUNK)])),
    st.builds(m.Flush, LEASES, st.sampled_from(["", "x"])),
    st.builds(m.Checkpoint, LEASES),
    st.builds(m.Stop, LEASES),
    st.builds(m.Ended, LEASES),
)


@settings(deadline=None)
@given(st.lists(FRAMES, max_size=20))
def test_any_frames_of_a_bad_frontend(frames: list[m.Frame]) -> None:
    core = Sessions("w", SPEC, 0.0)
    core.handle(m.Welcome(1, 1.0), None, (), 0.0)
    setup = m.Setup("en", True, CHUNK, None, progress_taken=True)
    for lease, frontend in ((1, b"F1"), (2, b"F2")):
        core.handle(m.Grant(lease, lease, "s", frontend), setup, (), 0.0)
        core.answered(SlotOpened(lease, lease))
    for frame in frames:
        core.handle(m.Bundle(b"W", (1,)), None, [frame], 0.0)
        core.check()
    posts = [one for one in core.outbox.bundles(0) if isinstance(one, WorkerPost)]
    assert not [one for one in posts if isinstance(one.message, m.Bundle) and one.message.to == b"F2"]
    assert all(chunk.slot == 1 for chunk in _next_chunks(core))
    core.handle(m.Bundle(b"W", (2,)), None, [m.Audio(2, 0, bytes(2 * CHUNK))], 0.0)
    (post,) = core.outbox.bundles(0)
    assert isinstance(post, WorkerPost) and post.frames == [m.Progress(2, CHUNK, 0, None)]


def _next_chunks(core: Sessions) -> list[Chunk]:
    core.step()
    return [chunk for job in core.outbox.take() if isinstance(job, RunStep) for chunk in job.chunks]
