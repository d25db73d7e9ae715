"""A CardStream turns decoded steps, with tokens written by hand, into partials, finals and snapshots."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_proto.errors import BadRequest
from asr_proto.messages import STATE_BYTES_MAX, State
from asr_workers.engines.base import Advanced, Hypothesis, Output, Snapshot
from asr_workers.engines.card.resets import ResetRule
from asr_workers.engines.card.setup import STATE_ROOM
from asr_workers.engines.card.stream import (
    ADVANCE_STEPS,
    PAUSE_STEPS,
    STEP_SAMPLES,
    UTTERANCE_STEPS,
    UTTERANCE_TOKENS_MAX,
    CardStream,
)
from tests.workers.card.card_parts import finals, said, text, word_tokens

RULE = ResetRule()
SLOT = 2


def stream(
    rule: ResetRule | None = None, *, partials: bool = True, state: bytes = b"card", model: str = "0123456789abcdef"
) -> CardStream:
    return CardStream(SLOT, text(), rule, lambda: state, model=model, partials=partials)


def decode(it: CardStream, steps: Sequence[Sequence[int]]) -> list[Output]:
    return [output for tokens in steps for output in it.decoded(list(tokens), [-0.1] * len(tokens))]


def word(number: int) -> int:
    return word_tokens()[number]


def name(*numbers: int) -> str:
    return " ".join(text().piece(word(number)).decode()[1:] for number in numbers)


def silence(steps: int) -> list[list[int]]:
    return [[]] * steps


def test_a_partial_grows_and_a_pause_ends_it() -> None:
    outputs = decode(stream(), [[], [word(1)], [], [word(2)], *silence(PAUSE_STEPS)])
    first, second, final = outputs
    assert (first, second) == (
        Hypothesis(SLOT, name(1), STEP_SAMPLES, 2 * STEP_SAMPLES, stable=len(name(1))),
        Hypothesis(SLOT, name(1, 2), STEP_SAMPLES, 4 * STEP_SAMPLES, stable=len(name(1, 2))),
    )
    assert isinstance(final, Hypothesis)
    assert (final.text, final.endpoint, final.end_sample) == (name(1, 2), "silence", 4 * STEP_SAMPLES)
    assert final.confidence == pytest.approx(0.9048)
    assert final.words is not None and [spoken.text for spoken in final.words] == [name(1), name(2)]
    assert [(spoken.start_sample, spoken.end_sample) for spoken in final.words] == [(960, 1920), (2880, 3840)]


def test_a_shorter_pause_ends_nothing() -> None:
    outputs = decode(stream(), [[word(1)], *silence(PAUSE_STEPS - 1), [word(2)], *silence(PAUSE_STEPS)])
    assert [final.text for final in finals(outputs)] == [name(1, 2)]


def test_partials_only_for_whom_they_are() -> None:
    outputs = decode(stream(partials=False), [[word(1)], [word(2)], *silence(PAUSE_STEPS)])
    assert len(outputs) == 1


def test_a_long_utterance_ends_before_a_word() -> None:
    """The last word may still grow."""
    steps = [[word(step % 9)] if step % 5 == 0 else [] for step in range(UTTERANCE_STEPS + 1)]
    *partials, final, rest = decode(stream(), steps)
    assert isinstance(final, Hypothesis) and isinstance(rest, Hypothesis)
    assert final.endpoint == "length"
    assert final.end_sample == (UTTERANCE_STEPS - 4) * STEP_SAMPLES
    assert final.snapshot is not None and final.snapshot.unsaid_sample == final.end_sample
    assert rest.endpoint is None and rest.start_sample == UTTERANCE_STEPS * STEP_SAMPLES
    assert all(isinstance(output, Hypothesis) and output.endpoint is None for output in partials)


def test_a_long_word_is_not_cut() -> None:
    inner = next(id for id in range(3, len(text())) if not text().starts_word(id))
    steps = [[word(0)], *[[inner] if step % 5 == 0 else [] for step in range(UTTERANCE_STEPS + 20)]]
    assert not finals(decode(stream(), steps))


def test_a_babbling_model_has_finals_of_limited_size() -> None:
    inner = next(id for id in range(3, len(text())) if not text().starts_word(id))
    outputs = decode(stream(), [[inner] * 30] * 40)
    assert outputs and len(finals(outputs)) >= 40 * 30 // (UTTERANCE_TOKENS_MAX + 30)
    assert all(final.words is not None and len(final.words[0].text) <= 128 for final in finals(outputs))


def test_the_largest_state_fits_a_commit() -> None:
    """With the last token of the longest vocabulary, late in a long session."""
    it = stream(RULE)
    it.begin(1 << 30)
    decode(it, [[word(0)] * 30] * (UTTERANCE_TOKENS_MAX // 30 - 1))
    assert len(it.snapshot().state) * 1.2 < STATE_ROOM < STATE_BYTES_MAX
    assert State.__metadata__[0].max_length == STATE_BYTES_MAX  # type: ignore[attr-defined]


def test_a_flush_ends_the_run() -> None:
    it = stream(RULE)
    decode(it, [[word(1)], [word(2)]])
    final = it.flush(1500)
    assert isinstance(final, Hypothesis)
    assert (final.endpoint, final.text, final.end_sample) == ("flush", name(1, 2), 1500)
    assert final.snapshot == Snapshot(1500, b"")
    (partial,) = decode(it, [[word(3)]])
    assert partial == Hypothesis(SLOT, name(3), 1500, 1500 + STEP_SAMPLES, stable=len(name(3)))


def test_a_flush_of_silence_moves_the_snapshot() -> None:
    it = stream(RULE)
    decode(it, silence(3))
    assert it.flush(2880) == Advanced(SLOT, Snapshot(2880, b""))


# ---- Snapshots ----


def test_a_silent_slot_is_snapshot() -> None:
    """Snapshots come at each seam with state resets, and every 15 s without them."""
    for it, step in ((stream(RULE), RULE.end(0)), (stream(), ADVANCE_STEPS)):
        outputs = decode(it, silence(step + 1))
        (advanced,) = outputs
        assert isinstance(advanced, Advanced)
        assert advanced.snapshot.sample == (RULE.start(1) if it.segment else ADVANCE_STEPS) * STEP_SAMPLES


def test_a_snapshot_with_resets_lies_where_its_segment_began() -> None:
    it = stream(RULE)
    (final,) = finals(decode(it, [*silence(230), [word(1)], *silence(PAUSE_STEPS)]))
    assert final.snapshot is not None and final.snapshot.sample == 0
    (final,) = finals(decode(it, [*silence(30), [word(2)], *silence(PAUSE_STEPS)]))
    assert final.snapshot is not None and final.snapshot.sample == RULE.start(1) * STEP_SAMPLES


def test_a_snapshot_without_resets_has_the_card_s_state() -> None:
    it = stream(state=b"of the card")
    decode(it, [[word(1)], []])
    snapshot = it.snapshot()
    assert snapshot.sample == 2 * STEP_SAMPLES
    other = stream()
    assert other.restore(snapshot) == b"of the card"
    assert said(decode(other, silence(PAUSE_STEPS))) == name(1)


STEPS = st.lists(
    st.sampled_from([()] * 30 + [(0,), (1, 2)]).map(lambda numbers: [word(number) for number in numbers]),
    min_size=1,
    max_size=700,
)


@given(st.data(), st.booleans())
def test_whoever_continues_says_the_same(data: st.DataObject, resets: bool) -> None:
    """After a checkpoint at any step, or after the last snapshot, the outputs are those of the undisturbed stream."""
    rule = RULE if resets else None
    steps = data.draw(STEPS)
    cut = data.draw(st.integers(0, len(steps)))
    undisturbed = stream(rule)
    before = decode(undisturbed, steps[:cut])
    asked = undisturbed.snapshot()
    after = decode(undisturbed, steps[cut:])
    given_out = [place for place, output in enumerate(before) if _is_for_good(output)]
    if given_out and data.draw(st.booleans()):
        last = before[given_out[-1]]
        assert isinstance(last, Advanced | Hypothesis) and last.snapshot is not None
        snapshot = last.snapshot
    else:
        snapshot = asked
    other = stream(rule)
    other.restore(snapshot)
    repeated = decode(other, steps[snapshot.sample // STEP_SAMPLES :])
    assert [output for output in repeated if _is_for_good(output)] == [out for out in after if _is_for_good(out)]


def _is_for_good(output: Output) -> bool:
    return not isinstance(output, Hypothesis) or output.endpoint is not None


@given(STEPS)
def test_finals_are_in_order(steps: list[list[int]]) -> None:
    spans = [(final.start_sample, final.end_sample) for final in finals(decode(stream(RULE), steps))]
    assert all(start < end for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@given(STEPS, st.integers(0, 699))
def test_a_segment_that_lags_says_the_same(steps: list[list[int]], lag: int) -> None:
    """At a seam the later segment may have decoded a part of the overlap only, or nothing. No token comes twice."""
    prompt, late = stream(RULE), stream(RULE)
    expected = decode(prompt, steps)
    outputs: list[Output] = []
    number = 0
    while number < len(steps):
        segment = late.segment
        outputs += decode(late, [steps[number]])
        number += 1
        if late.segment != segment:
            back = min(lag, RULE.overlap_steps)
            late.lag(number - back)
            number -= back
    assert outputs == expected


def test_what_is_no_snapshot_is_refused() -> None:
    good = stream(RULE).snapshot()
    fields = msgpack.unpackb(good.state)
    bad = [b"x", b"\xc1", msgpack.packb([1, *fields[1:]]), msgpack.packb(fields[:-1]), msgpack.packb(7)]
    bad += [msgpack.packb([*fields[:8], [[100_000, 0, 960, 0.5]], b""]), msgpack.packb([*fields[:-1], 5])]
    for state in bad:
        with pytest.raises(BadRequest) as refused:
            stream(RULE).restore(Snapshot(0, state))
        assert refused.value.slug == "bad-snapshot"
    with pytest.raises(BadRequest, match="resets its state"):
        stream().restore(good)
    with pytest.raises(BadRequest, match="another model than fedc"):
        stream(RULE, model="fedc").restore(good)
