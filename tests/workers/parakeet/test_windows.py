"""Windows around chunks: each frame is decoded once, with the configured context."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asr_proto.errors import SetupError
from asr_workers.engines.parakeet.windows import (
    FRAME_SAMPLES,
    WINDOW_SAMPLES_MIN,
    Window,
    WindowContext,
    WindowPlace,
    frames_of,
    next_window,
)

contexts = st.builds(WindowContext, st.integers(0, 30), st.integers(1, 12), st.integers(0, 12))


def walk(context: WindowContext, first: int, sample: int, end: int, *, flush: bool = True) -> list[Window]:
    """All windows of audio up to `end`."""
    windows = []
    while window := next_window(context, WindowPlace(sample, first), end, flush=flush):
        windows.append(window)
        sample += window.chunk * FRAME_SAMPLES
    return windows


def test_the_defaults() -> None:
    """Ten seconds, two, two: each second is encoded seven times, and is text after four."""
    context = WindowContext.of(10.0, 2.0, 2.0)
    assert context == WindowContext(125, 25, 25)
    assert (context.encode_factor, context.latency_s) == (7.0, 4.0)


def test_what_the_old_names_mean() -> None:
    """PAR-06. STEP_MS 240 is the chunk, RIGHT_CONTEXT_MS 160 the right context."""
    assert WindowContext.of(10.0, 0.24, 0.16) == WindowContext(125, 3, 2)


@pytest.mark.parametrize("seconds", [(1.0, 0.0, 0.0), (-1.0, 1.0, 1.0), (1.0, 1.0, -0.5), (1.0, 0.03, 0.0)])
def test_windows_that_cannot_be(seconds: tuple[float, float, float]) -> None:
    with pytest.raises(SetupError):
        WindowContext.of(*seconds)


@example(context=WindowContext(0, 1, 0), origin=0, history=0, samples=19 * FRAME_SAMPLES + 160)
@given(context=contexts, origin=st.integers(0, 10**6), history=st.integers(0, 40), samples=st.integers(0, 90_000))
def test_every_frame_is_decoded_once(context: WindowContext, origin: int, history: int, samples: int) -> None:
    """For any length, the chunks have together the frames of the whole audio, unless a window is too short."""
    first, end = origin - history * FRAME_SAMPLES, origin + samples
    windows = walk(context, first, origin, end)
    done = 0
    for number, window in enumerate(windows):
        left = min(context.left, history + done)
        assert window.left == left
        assert window.start == origin + (done - left) * FRAME_SAMPLES
        assert window.start >= first
        done += window.chunk
        last = number == len(windows) - 1
        if not last or window.end != end:
            assert (window.chunk, window.right) == (context.chunk, context.right)
        assert window.end <= end
        assert frames_of(window.end - window.start) == window.left + window.chunk + window.right
    left = min(context.left, history + done)
    assert done == frames_of(samples) or samples + (left - done) * FRAME_SAMPLES < WINDOW_SAMPLES_MIN


@given(context=contexts, samples=st.integers(0, 90_000), step=st.integers(1, 20_000))
def test_windows_do_not_depend_on_how_audio_comes(context: WindowContext, samples: int, step: int) -> None:
    at_once, sample, as_it_comes = walk(context, 0, 0, samples), 0, []
    for end in [*range(0, samples, step), samples]:
        for window in walk(context, 0, sample, end, flush=False):
            as_it_comes.append(window)
            sample += window.chunk * FRAME_SAMPLES
    assert [*as_it_comes, *walk(context, 0, sample, samples)] == at_once


@given(context=contexts, samples=st.integers(0, 90_000))
def test_no_window_needs_dropped_audio(context: WindowContext, samples: int) -> None:
    place = WindowPlace(0, 0)
    while window := next_window(context, place, samples, flush=True):
        assert window.start == place.needed(context)
        place = WindowPlace(place.sample + window.chunk * FRAME_SAMPLES, 0)


@given(context=contexts)
def test_a_window_waits_for_its_right_context(context: WindowContext) -> None:
    complete = (context.chunk + context.right) * FRAME_SAMPLES
    assert next_window(context, WindowPlace(0, 0), complete - 1) is None
    assert next_window(context, WindowPlace(0, 0), complete) == Window(0, complete, 0, context.chunk, context.right)
