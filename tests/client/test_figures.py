"""The figures of a session, computed from its events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_client.figures import Run, Said, figures, percentile

RUN = Run(
    audio_s=4.0,
    connected_s=0.1,
    first_audio_s=0.2,
    last_audio_s=4.2,
    final_s=5.0,
    said=(Said(1.2, "a"), Said(2.2, "a b"), Said(4.8, "a b c")),
)


def test_every_figure_of_a_session() -> None:
    """YAP-18, YAP-19, PAR-14: wall, audio, RTF, xRT, time to first word, partials, gaps, finalize, delta to audio."""
    found = figures(RUN)
    assert (found.wall_s, found.audio_s) == (5.0, 4.0)
    assert found.rtf == 1.25
    assert found.xrt == 0.8
    assert found.ttfw_s == pytest.approx(1.0)
    assert found.partials == 3
    assert found.avg_partial_gap_ms == pytest.approx(1800)
    assert found.send_duration_s == pytest.approx(4.0)
    assert found.post_send_final_s == pytest.approx(0.8)
    assert found.finalize_ms == pytest.approx(800)
    assert found.delta_to_audio_ms == pytest.approx(1000)
    assert RUN.text == "a b c"


def test_a_silent_session_has_no_first_word() -> None:
    found = figures(Run(0.0, 0.1, 0.1, 0.1, 0.0, ()))
    assert (found.rtf, found.xrt, found.ttfw_s, found.avg_partial_gap_ms) == (None, None, None, None)
    assert found.partials == 0


def test_white_space_is_no_word() -> None:
    run = Run(1.0, 0.0, 0.0, 1.0, 2.0, (Said(0.5, " "), Said(0.9, " a")))
    assert figures(run).ttfw_s == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("values", "q", "value"),
    [([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0, 2.0], 0.5, 1.0), ([5.0], 0.95, 5.0), ([*range(21)], 0.95, 19), ([2, 1], 1, 2)],
)
def test_a_percentile_is_one_of_the_values(values: list[float], q: float, value: float) -> None:
    """Index round(q * (n - 1)), as in the five systems' benches."""
    assert percentile(values, q) == value


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.floats(0, 1))
def test_percentiles_stay_within_the_values(values: list[float], q: float) -> None:
    assert min(values) <= percentile(values, q) <= max(values)


@pytest.mark.parametrize(("values", "q"), [([], 0.5), ([1.0], 1.1), ([1.0], -0.1)])
def test_a_percentile_needs_values_and_a_share(values: list[float], q: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile(values, q)
