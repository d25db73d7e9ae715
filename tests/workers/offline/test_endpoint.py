"""Endpointing: where utterances begin and end for given speech probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_workers.engines.offline.endpoint import EndedUtterance, EndpointConfig, Endpointer

CONFIG = EndpointConfig(
    speech_on=0.5,
    speech_off=0.35,
    voiced_windows_min=2,
    preroll_windows=3,
    trail_windows=2,
    silence_windows=5,
    utterance_windows_max=20,
    cut_windows=8,
)
LEVELS = {".": 0.0, "-": 0.4, "#": 0.9, "o": 0.6}
"""A window each: silent, between the thresholds, voiced, voiced but quieter."""

Utterance = tuple[int, int, str]


def listen(endpointer: Endpointer, windows: str, slot: int = 0, first: int = 0) -> list[Utterance]:
    """First window, end and endpoint of each utterance, in windows since the session's start."""
    utterances = []
    for now, window in enumerate(windows, start=first + 1):
        for ended in endpointer.feed(np.array([slot]), np.array([LEVELS[window]], np.float32)):
            utterances.append(absolute(ended, now))
    return utterances


def absolute(ended: EndedUtterance, now: int) -> Utterance:
    return now - ended.start, now - ended.end, ended.endpoint


@pytest.mark.parametrize(
    ("windows", "utterances"),
    [
        ("..........", []),
        ("....#.....", []),  # one voiced window is a click
        ("....-----.....", []),  # between the thresholds nothing begins
        (".....###.....", [(2, 10, "silence")]),  # pre-roll of 3, trail of 2
        ("###.....", [(0, 5, "silence")]),  # no audio before the session's start
        (".....##....##.....", [(2, 15, "silence")]),  # a pause shorter than `silence_windows` is part of it
        (".....##-----##.....", [(2, 16, "silence")]),  # between the thresholds it goes on
        (".....##.....##.....", [(2, 9, "silence"), (9, 16, "silence")]),  # pre-roll ends where the last trail ended
        ("#" * 20, [(0, 19, "length")]),  # nowhere quieter: as late as can be
        ("#" * 16 + "o" + "#" * 3, [(0, 17, "length")]),  # the quietest of the last 8
        ("#" * 15 + "oo" + "#" * 3 + ".....", [(0, 16, "length"), (16, 22, "silence")]),
        ("#" * 16 + "...." + ".....", [(0, 19, "length")]),  # silence after a cut begins nothing
    ],
)
def test_utterances(windows: str, utterances: list[Utterance]) -> None:
    assert listen(Endpointer(CONFIG, 1), windows) == utterances


@pytest.mark.parametrize(
    ("windows", "ended"),
    [
        ("......", None),
        ("....#", None),
        ("....###", EndedUtterance(0, 6, 0, "flush")),
        ("....###...", EndedUtterance(0, 9, 1, "flush")),  # the trail, and no more silence
        ("....###.....", None),  # ended by silence already
    ],
)
def test_flush_ends_the_utterance_and_forgets_everything(windows: str, ended: EndedUtterance | None) -> None:
    endpointer = Endpointer(CONFIG, 1)
    listen(endpointer, windows)
    assert endpointer.flush(0) == ended
    assert endpointer.export(0) == Endpointer(CONFIG, 1).export(0)


def test_the_end_so_far_leaves_out_silence() -> None:
    endpointer = Endpointer(CONFIG, 1)
    listen(endpointer, "....###")
    assert (endpointer.speaking(0), endpointer.held(0), endpointer.end(0)) == (True, 6, 0)
    listen(endpointer, "...")
    assert (endpointer.speaking(0), endpointer.held(0), endpointer.end(0)) == (True, 9, 1)


def test_restore_refuses_other_states() -> None:
    with pytest.raises(ValueError, match="bytes, not 3"):
        Endpointer(CONFIG, 1).restore(0, b"abc")


windows_st = st.lists(st.tuples(st.sampled_from("#o-."), st.integers(1, 25)), min_size=1, max_size=12).map(
    lambda runs: "".join(window * count for window, count in runs)
)


@given(windows_st)
def test_utterances_are_in_order_bounded_and_miss_no_speech(windows: str) -> None:
    endpointer = Endpointer(CONFIG, 1)
    utterances = listen(endpointer, windows)
    if (ended := endpointer.flush(0)) is not None:
        utterances.append(absolute(ended, len(windows)))
    edges = [edge for start, end, _ in utterances for edge in (start, end)]
    assert edges == sorted(edges)
    assert all(0 < end - start <= CONFIG.utterance_windows_max for start, end, _ in utterances)
    covered = {window for start, end, _ in utterances for window in range(start, end)}
    spoken = {at for at in range(len(windows) - 1) if {*windows[at : at + 2]} <= {*"#o"}}
    assert spoken <= covered


@given(windows_st, windows_st)
def test_slots_do_not_see_each_other(one: str, other: str) -> None:
    together = Endpointer(CONFIG, 3)
    found: dict[int, list[Utterance]] = {0: [], 2: []}
    for now, pair in enumerate(zip(one, other, strict=False), start=1):
        speech = np.array([LEVELS[window] for window in pair], np.float32)
        for ended in together.feed(np.array([2, 0]), speech):
            found[ended.slot].append(absolute(ended, now))
    shortest = min(len(one), len(other))
    assert found[2] == listen(Endpointer(CONFIG, 1), one[:shortest])
    assert found[0] == listen(Endpointer(CONFIG, 1), other[:shortest])


@given(windows_st, st.integers(0, 200))
def test_an_exported_state_goes_on_elsewhere(windows: str, at: int) -> None:
    here, there = Endpointer(CONFIG, 1), Endpointer(CONFIG, 2)
    before = listen(here, windows[:at])
    there.restore(1, here.export(0))
    assert listen(there, windows[at:], 1, at) == listen(here, windows[at:], 0, at)
    assert before == listen(Endpointer(CONFIG, 1), windows[:at])


@given(windows_st)
def test_an_idle_slot_holds_no_more_than_the_pre_roll(windows: str) -> None:
    endpointer = Endpointer(CONFIG, 1)
    listen(endpointer, windows)
    held_max = CONFIG.preroll_windows + CONFIG.voiced_windows_min - 1
    assert endpointer.speaking(0) or endpointer.held(0) <= held_max
