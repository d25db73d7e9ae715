"""The requirements of asr_card.h, tested on the simulator and on any vendor's adapter."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from asr_workers.cards import abi
from asr_workers.cards.library import Card, CardError, CardStatus, Completion
from tests.cards.conftest import Subject
from tests.cards.reference import speechlike

PATIENCE_MS = 30_000
"""Longest wait of a test for a chunk, in seconds."""
CHUNKS = 12

Pcm = NDArray[np.int16]


def collected(card: Card, count: int) -> list[Completion]:
    """The next `count` completions."""
    completions: list[Completion] = []
    while len(completions) < count:
        more = card.poll(PATIENCE_MS)
        assert more, "the card completes nothing"
        completions += more
    assert len(completions) == count
    return completions


def decoded(card: Card, slot: int, chunks: Sequence[Pcm]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """The tokens and log-probabilities of a slot for these chunks, one after the other."""
    results = []
    for tag, pcm in enumerate(chunks):
        card.submit([(slot, tag, pcm)])
        (completion,) = collected(card, 1)
        assert (completion.slot, completion.tag, completion.status) == (slot, tag, 0)
        results.append((completion.tokens, completion.log_probs))
    return results


def code_of(error: pytest.ExceptionInfo[CardError]) -> int:
    assert error.value.sentence
    return error.value.code


# Cards


def test_cards_are_counted_and_known(subject: Subject) -> None:
    count = subject.library.count()
    assert count > subject.index
    identities = [subject.library.identity(index) for index in range(count)]
    assert len({identity.id for identity in identities}) == count
    for identity in identities:
        assert identity.id and identity.serial and identity.firmware and identity.name and identity.link
        assert 0 < identity.capacity <= identity.slots_max
        assert -40 < identity.temperature_c < 125


def test_a_card_that_is_not_there(subject: Subject) -> None:
    with pytest.raises(CardError) as error:
        subject.library.identity(subject.library.count())
    assert code_of(error) == CardStatus.NO_CARD
    with pytest.raises(CardError) as error:
        subject.library.open(subject.library.count())
    assert code_of(error) == CardStatus.NO_CARD


def test_one_card_for_one_holder(subject: Subject, card: Card) -> None:
    with pytest.raises(CardError) as error:
        subject.library.open(subject.index)
    assert code_of(error) == CardStatus.BUSY
    card.close_card()
    subject.library.open(subject.index).close_card()


def test_an_unknown_option_is_refused(subject: Subject) -> None:
    with pytest.raises(CardError) as error:
        subject.library.open(subject.index, "flavor=plum")
    assert code_of(error) == CardStatus.ARGUMENT


def test_an_open_card_is_the_one_that_was_counted(subject: Subject, card: Card) -> None:
    identity = card.identity()
    listed = subject.library.identity(subject.index)
    assert (identity.id, identity.serial, identity.is_physical) == (listed.id, listed.serial, listed.is_physical)
    assert 0 < identity.capacity <= identity.slots_max


def test_calls_after_close_are_refused(card: Card) -> None:
    card.close_card()
    card.close_card()
    for call in (card.identity, card.health, lambda: card.poll(0), lambda: card.open(0)):
        with pytest.raises(CardError) as error:
            call()
        assert code_of(error) == CardStatus.STATE


# Models


def test_a_model_that_is_none(subject: Subject, tmp_path: Path) -> None:
    image = subject.model.read_bytes()
    bad = {
        "missing": None,
        "empty": b"",
        "zip": b"PK\x03\x04" + bytes(4096),
        "short": image[: len(image) // 2],
        "long": image + bytes(64),
        "version": image[:8] + b"\x07\0\0\0" + image[12:],
        "damaged": image[: len(image) // 2] + bytes([image[len(image) // 2] ^ 1]) + image[len(image) // 2 + 1 :],
    }
    card = subject.library.open(subject.index, subject.options)
    for name, content in bad.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CardError) as error:
            card.load(path)
        assert code_of(error) == CardStatus.MODEL
    card.load(subject.model)
    card.open(0)
    assert len(decoded(card, 0, speechlike(1, 1))) == 1
    card.close_card()


def test_no_model_while_slots_are_open(subject: Subject, card: Card) -> None:
    card.open(0)
    with pytest.raises(CardError) as error:
        card.load(subject.model)
    assert code_of(error) == CardStatus.STATE
    card.close(0)
    card.load(subject.model)


def test_a_card_that_loads_is_busy_but_healthy(subject: Subject, card: Card) -> None:
    loading = threading.Thread(target=card.load, args=(subject.model,))
    loading.start()
    while loading.is_alive():
        assert card.health().is_ok
        try:
            card.identity()
        except CardError as error:
            assert error.code == CardStatus.BUSY
    loading.join()
    card.open(0)
    assert len(decoded(card, 0, speechlike(1, 1))) == 1


# Slots


def test_slots_open_once_and_close_once(card: Card) -> None:
    card.slots(4)
    card.open(3)
    for call, code in (
        (lambda: card.open(3), CardStatus.STATE),
        (lambda: card.open(4), CardStatus.CAPACITY),
        (lambda: card.close(2), CardStatus.STATE),
        (lambda: card.reset(2), CardStatus.STATE),
        (lambda: card.close(4), CardStatus.ARGUMENT),
        (lambda: card.slots(2), CardStatus.STATE),
    ):
        with pytest.raises(CardError) as error:
            call()
        assert code_of(error) == code
    card.close(3)
    card.open(3)


def test_no_more_slots_than_there_are(card: Card) -> None:
    with pytest.raises(CardError) as error:
        card.slots(card.identity().slots_max + 1)
    assert code_of(error) == CardStatus.CAPACITY


def test_a_reused_slot_remembers_nothing(card: Card) -> None:
    chunks = speechlike(3, CHUNKS)
    card.open(0)
    first = decoded(card, 0, chunks)
    card.close(0)
    card.open(0)
    assert decoded(card, 0, chunks) == first


# Chunks


def test_every_chunk_is_completed_once_and_in_its_slot_s_order(card: Card) -> None:
    slots = list(range(7))
    for slot in slots:
        card.open(slot)
    for tag in range(4):
        card.submit([(slot, 100 * slot + tag, pcm) for slot, pcm in zip(slots, speechlike(tag, 7), strict=True)])
    completions = collected(card, 28)
    assert card.poll(0) == []
    for slot in slots:
        of_slot = [completion for completion in completions if completion.slot == slot]
        assert [completion.tag for completion in of_slot] == [100 * slot + tag for tag in range(4)]
        assert [completion.step for completion in of_slot] == [0, 1, 2, 3]
        assert all(completion.status == 0 for completion in of_slot)


def test_neighbors_change_nothing(card: Card) -> None:
    """The same audio, alone and beside other slots that open and close."""
    chunks = speechlike(3, CHUNKS)
    card.open(0)
    alone = decoded(card, 0, chunks)
    card.reset(0)
    together = []
    for slot in range(1, 20):
        card.open(slot)
    for tag, pcm in enumerate(chunks):
        others = [(slot, tag, other) for slot, other in zip(range(1, 2 + tag), speechlike(tag, CHUNKS), strict=False)]
        card.submit([*others[:3], (0, tag, pcm), *others[3:]])
        mine = [completion for completion in collected(card, len(others) + 1) if completion.slot == 0]
        together += [(completion.tokens, completion.log_probs) for completion in mine]
    assert together == alone


def test_what_a_completion_says(card: Card) -> None:
    card.open(0)
    for tokens, log_probs in decoded(card, 0, speechlike(3, CHUNKS)):
        assert len(tokens) == len(log_probs) <= 30
        assert all(log_prob <= 0 for log_prob in log_probs)


def test_tokens_lie_in_the_order_of_the_completions(card: Card) -> None:
    """Many completions in one poll: each has its own tokens. The binding rejects offsets that leave gaps."""
    slots = np.arange(8)
    of_slots = [speechlike(seed, CHUNKS) for seed in range(8)]
    alone = []
    for slot, chunks in enumerate(of_slots):
        card.open(slot)
        alone.append(decoded(card, slot, chunks))
        card.reset(slot)
    for tag in range(CHUNKS):
        card.submit_arrays(slots, np.full(8, tag), np.stack([chunks[tag] for chunks in of_slots]))
        for completion in collected(card, 8):
            assert (completion.tokens, completion.log_probs) == alone[completion.slot][tag]
    assert any(tokens for results in alone for tokens, _ in results)


def test_reset_begins_anew(card: Card) -> None:
    chunks = speechlike(3, CHUNKS)
    card.open(0)
    first = decoded(card, 0, chunks)
    card.reset(0)
    assert decoded(card, 0, chunks) == first


def test_the_last_chunk_resets_by_itself(card: Card) -> None:
    chunks = speechlike(3, CHUNKS)
    card.open(0)
    first = decoded(card, 0, chunks)
    card.reset(0)
    slot, last = np.zeros(1, np.uint32), np.ones(1, np.bool_)
    for tag, pcm in enumerate(chunks):
        card.submit_arrays(slot, np.array([tag]), pcm[None], last if tag == CHUNKS - 1 else None)
        collected(card, 1)
    assert decoded(card, 0, chunks) == first


def test_all_chunks_of_a_submit_or_none(card: Card) -> None:
    pcm = speechlike(1, 1)[0]
    card.open(0)
    with pytest.raises(CardError) as error:
        card.submit([(0, 1, pcm), (1, 2, pcm)])
    assert code_of(error) == CardStatus.STATE
    with pytest.raises(CardError) as error:
        card.submit([(0, 1, pcm), (1 << 20, 2, pcm)])
    assert code_of(error) == CardStatus.ARGUMENT
    assert card.poll(0) == []
    card.close(0)


def test_a_slot_takes_eight_chunks_ahead_at_least(card: Card) -> None:
    chunks = speechlike(3, 8)
    card.open(0)
    card.submit([(0, tag, pcm) for tag, pcm in enumerate(chunks)])
    ahead = [(completion.tokens, completion.log_probs) for completion in collected(card, 8)]
    card.reset(0)
    assert decoded(card, 0, chunks) == ahead


def test_a_slot_that_is_full_says_so(card: Card) -> None:
    """Without a poll the queue must become full."""
    pcm = speechlike(1, 1)[0]
    card.open(0)
    taken = 0
    with pytest.raises(CardError) as error:
        while taken < 100_000:
            card.submit([(0, taken, pcm)])
            taken += 1
    assert code_of(error) == CardStatus.FULL
    assert [completion.tag for completion in collected(card, taken)] == list(range(taken))


def test_a_slot_in_flight_is_busy(card: Card) -> None:
    card.open(0)
    card.submit([(0, 1, speechlike(1, 1)[0])])
    for call in (lambda: card.close(0), lambda: card.reset(0), lambda: card.export_state(0)):
        with pytest.raises(CardError) as error:
            call()
        assert code_of(error) == CardStatus.BUSY
    collected(card, 1)
    card.close(0)


def test_a_poll_with_nothing_to_come_ends(card: Card) -> None:
    assert card.poll(0) == []
    assert card.poll(20) == []


def test_a_poll_wakes_for_a_chunk_of_another_thread(card: Card) -> None:
    card.open(0)
    polled: list[Completion] = []
    waiting = threading.Thread(target=lambda: polled.extend(card.poll(PATIENCE_MS)))
    waiting.start()
    card.submit([(0, 7, speechlike(1, 1)[0])])
    waiting.join(PATIENCE_MS / 1000)
    assert [completion.tag for completion in polled] == [7]


def test_a_closed_card_drops_what_is_in_flight(subject: Subject) -> None:
    card = subject.opened()
    for slot in range(8):
        card.open(slot)
    card.submit([(slot, 0, pcm) for slot, pcm in enumerate(speechlike(1, 8))])
    card.close_card()
    subject.opened().close_card()


def test_features_instead_of_samples(card: Card) -> None:
    card.open(0)
    try:
        card.submit_features(np.zeros(1, np.uint32), np.array([5]), np.zeros((1, 6, 80), np.float32))
    except CardError as error:
        if error.code == CardStatus.UNSUPPORTED:
            pytest.skip("the card takes no features")
        raise
    (completion,) = collected(card, 1)
    assert (completion.tag, completion.status) == (5, 0)


# States


def test_a_state_continues_elsewhere(card: Card) -> None:
    """The first half in one slot, the second in another: the result is the same as in one slot."""
    chunks = speechlike(3, CHUNKS)
    card.open(0)
    whole = decoded(card, 0, chunks)
    card.reset(0)
    before = decoded(card, 0, chunks[:5])
    state = card.export_state(0)
    card.open(1)
    decoded(card, 1, speechlike(9, 3))
    card.import_state(1, state)
    card.submit([(1, 55, chunks[5])])
    (completion,) = collected(card, 1)
    assert completion.step == 5
    after = [(completion.tokens, completion.log_probs), *decoded(card, 1, chunks[6:])]
    assert before + after == whole


def test_a_bad_state_is_refused(card: Card) -> None:
    card.open(0)
    decoded(card, 0, speechlike(3, 2))
    state = card.export_state(0)
    damaged = state[:-1] + bytes([state[-1] ^ 1])
    for bad in (b"", state[: len(state) // 2], state + b"\0", bytes(len(state)), damaged):
        with pytest.raises(CardError) as error:
            card.import_state(0, bad)
        assert code_of(error) == CardStatus.BAD_STATE
    assert card.export_state(0) == state


# Health and packets


def test_health_counts(card: Card) -> None:
    card.open(0)
    before = card.health()
    decoded(card, 0, speechlike(3, 3))
    after = card.health()
    assert after.is_ok
    assert after.completed == before.completed + 3
    assert (after.errors, after.ecc_errors, after.resets) == (before.errors, before.ecc_errors, before.resets)


def test_packets_hold_the_token(subject: Subject) -> None:
    """CAI-50: the 8 x 32 form of the logits; its largest value is the token that was decoded."""
    if "timing" in subject.options:
        pytest.skip("a card that only keeps time has no logits")
    card = subject.opened("top_k=1")
    card.open(0)
    has_token = False
    for tag, pcm in enumerate(speechlike(3, 40)):
        card.submit([(0, tag, pcm)])
        completions = card.poll_arrays(PATIENCE_MS)
        tokens = completions.tokens.tolist()
        evaluations = min(len(tokens) + 1, 30)
        packets = completions.packets.reshape(evaluations, -1)
        assert packets.dtype == abi.PACKET
        classes = packets.shape[1] * 256
        best = [_class_of(evaluation) for evaluation in packets]
        assert best[: len(tokens)] == tokens
        assert len(tokens) == 30 or best[-1] == classes - 1
        has_token = has_token or bool(tokens)
    assert has_token
    card.close_card()


def _class_of(packets: NDArray[np.void]) -> int:
    packet, place = np.unravel_index(packets["value"].argmax(), packets["value"].shape)
    return int(256 * packet + 32 * packets["which"][packet, place] + place)
