"""Where utterances end, from frames and tokens alone."""

from __future__ import annotations

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from asr_workers.engines.transducer.token_text import TokenAt
from asr_workers.engines.transducer.token_utterances import (
    FRAME_SAMPLES,
    IDLE_FRAMES,
    KEPT_FRAMES,
    PATIENCE_FRAMES,
    Ending,
    FrameToken,
    Utterance,
    UtteranceRules,
)

RULES = UtteranceRules.of(960, 8.0)
steps = st.lists(st.tuples(st.integers(1, 14), st.lists(st.integers(0, 13), max_size=3)), max_size=60)


def begins_word(id: int) -> bool:
    return id % 3 == 0


def add(utterance: Utterance, frames: int, *places: int) -> None:
    """Add a step of `frames` frames, with a token at each of these places in it. A token's id is its frame."""
    first = utterance.frames
    utterance.add([FrameToken(first + place, first + place, 1, 0.5) for place in sorted(places)], frames)


def test_the_rules_in_frames() -> None:
    assert UtteranceRules(12, 100) == RULES
    assert UtteranceRules.of(0, 8.0).silence == 0
    assert UtteranceRules.of(1, 8.0).silence == 1
    assert RULES.uncommitted_s_max == (IDLE_FRAMES + 100 + PATIENCE_FRAMES + 12) * 0.08


def test_silence_after_a_token_ends_it() -> None:
    """The new state begins in the middle of the silence."""
    utterance = Utterance(1000)
    add(utterance, 10, 3)
    add(utterance, 5)
    assert utterance.ending(RULES, begins_word) is None
    add(utterance, 1)
    token = TokenAt(3, 1000 + 3 * FRAME_SAMPLES, 1000 + 4 * FRAME_SAMPLES, 0.5)
    assert utterance.ending(RULES, begins_word) == Ending((token,), "silence", 1000 + 10 * FRAME_SAMPLES)


def test_a_state_without_a_token_is_emptied() -> None:
    """The last frames are encoded again: they may be the beginning of a word."""
    utterance = Utterance(0)
    add(utterance, IDLE_FRAMES - 1)
    assert utterance.ending(RULES, begins_word) is None
    add(utterance, 1)
    assert utterance.ending(RULES, begins_word) == Ending((), None, (IDLE_FRAMES - KEPT_FRAMES) * FRAME_SAMPLES)


def test_a_cut_leaves_the_last_word() -> None:
    utterance = Utterance(0)
    for _ in range(100 + PATIENCE_FRAMES):
        add(utterance, 1, 0)
    ending = utterance.ending(RULES, begins_word)
    assert ending is not None and ending.origin is None and ending.endpoint == "length"
    assert [token.id for token in ending.tokens] == list(range(222))
    assert [token.id for token in utterance.tokens] == [222, 223, 224]
    assert utterance.ending(RULES, begins_word) is None


def test_a_cut_where_no_word_begins() -> None:
    """Languages without spaces."""
    utterance = Utterance(0)
    for _ in range(100 + PATIENCE_FRAMES):
        add(utterance, 1, 0)
    ending = utterance.ending(RULES, lambda id: False)
    assert ending is not None and len(ending.tokens) == 224


@given(steps=steps, cuts=st.booleans(), silence=st.integers(0, 30))
def test_every_token_is_of_one_utterance(steps: list[tuple[int, list[int]]], cuts: bool, silence: int) -> None:
    """An origin lies after the tokens that ended, within the frames, and where the audio is still held."""
    rules = UtteranceRules(silence, 20, cuts)
    utterance, ended, needed = Utterance(0), list[TokenAt](), 0
    tokens = 0
    for frames, places in steps:
        add(utterance, frames, *[place for place in set(places) if place < frames])
        tokens += len({place for place in places if place < frames})
        ending = utterance.ending(rules, begins_word)
        assert utterance.needed >= needed
        if ending is not None:
            ended += ending.tokens
            if ending.origin is not None:
                assert needed <= ending.origin <= utterance.sample(utterance.frames - 1)
                assert not ending.tokens or ending.origin >= ending.tokens[-1].start_sample
                utterance = Utterance(ending.origin)
        needed = utterance.needed
    assert len(ended) + len(utterance.tokens) == tokens


@given(steps=steps)
def test_it_goes_on_from_its_fields(steps: list[tuple[int, list[int]]]) -> None:
    utterance = Utterance(160)
    for frames, places in steps:
        add(utterance, frames, *[place for place in set(places) if place < frames])
    assert Utterance.of(*msgpack.unpackb(msgpack.packb(utterance.fields()))) == utterance
