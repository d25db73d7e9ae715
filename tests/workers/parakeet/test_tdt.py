"""Batched greedy TDT decoding returns the tokens of NeMo's, for frames in one piece or in many."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

from asr_workers.engines.parakeet.tdt import TdtDecoder, TdtState  # noqa: E402
from tests.workers.nemo.nemo_models import speech_like  # noqa: E402
from tests.workers.parakeet.models import DURATIONS, decode_offline, encode_offline  # noqa: E402

Said = list[tuple[int, int]]


@pytest.fixture(scope="module")
def decoder(reference: Any) -> TdtDecoder:
    return TdtDecoder(
        reference.decoder, reference.joint, DURATIONS, reference.decoder.blank_idx, 3, torch.device("cpu")
    )


@pytest.fixture(scope="module")
def encoded(reference: Any) -> list[torch.Tensor]:
    """Recordings of different lengths."""
    return [encode_offline(reference, speech_like(1.0 + seed / 2, seed)) for seed in range(16)]


@torch.inference_mode()
def decode(decoder: TdtDecoder, pieces: list[torch.Tensor], state: TdtState) -> tuple[list[Said], TdtState]:
    batch = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
    tokens, state = decoder.decode(batch, torch.tensor([len(piece) for piece in pieces]), state)
    return [[(token.id, token.frame) for token in row] for row in tokens], state


def test_a_batch_says_what_nemo_says(reference: Any, decoder: TdtDecoder, encoded: list[torch.Tensor]) -> None:
    """PAR-06. The tokens, their frames, and the number of frames left to skip."""
    rows, state = decode(decoder, encoded, decoder.initial(len(encoded)))
    for row, frames, jump in zip(rows, encoded, state.jump.tolist(), strict=True):
        tokens, places, behind = decode_offline(reference, frames)
        assert row == list(zip(tokens, places, strict=True))
        assert jump == int(behind.time_jumps[0])
    said = [token for row in rows for token, _ in row]
    assert len(said) > 100 and len(set(said)) > 10
    assert any(places.count(place) > 1 for places in ([at for _, at in row] for row in rows) for place in places)


@pytest.mark.parametrize("chunk", [1, 2, 5, 13])
def test_pieces_say_what_the_whole_says(
    reference: Any, decoder: TdtDecoder, encoded: list[torch.Tensor], chunk: int
) -> None:
    """State and skipped frames are carried to the next frames, as in NeMo."""
    state = decoder.initial(len(encoded))
    whole, _ = decode(decoder, encoded, state)
    said: list[Said] = [[] for _ in encoded]
    for begin in range(0, max(map(len, encoded)), chunk):
        rows, state = decode(decoder, [frames[begin : begin + chunk] for frames in encoded], state)
        for all_of_it, row in zip(said, rows, strict=True):
            all_of_it += [(token, begin + place) for token, place in row]
    assert said == whole
    tokens, behind = [], None
    for begin in range(0, len(encoded[-1]), chunk):
        more, _, behind = decode_offline(reference, encoded[-1][begin : begin + chunk], behind)
        tokens += more
    assert [token for token, _ in said[-1]] == tokens


def test_rows_come_and_go(decoder: TdtDecoder, encoded: list[torch.Tensor]) -> None:
    """Rows at different places in one batch have the tokens that each has alone."""
    first = [frames[: 2 + row] for row, frames in enumerate(encoded)]
    rest = [frames[2 + row :] for row, frames in enumerate(encoded)]
    _, state = decode(decoder, first, decoder.initial(len(encoded)))
    together, _ = decode(decoder, rest[::-1], state.rows(range(len(rest))[::-1]))
    alone = [decode(decoder, [frames], state.rows([row]))[0][0] for row, frames in enumerate(rest)]
    assert together == alone[::-1]
    joined = TdtState.joined([state.rows([row]) for row in range(len(rest))])
    assert decode(decoder, rest, joined)[0] == alone


def test_a_state_can_be_decoded_from_twice(decoder: TdtDecoder, encoded: list[torch.Tensor]) -> None:
    """Decoding a partial does not change the state."""
    _, state = decode(decoder, [encoded[3][:7]], decoder.initial(1))
    once = decode(decoder, [encoded[3][7:]], state)[0]
    assert decode(decoder, [encoded[3][7:]], state)[0] == once


def test_confidences_are_probabilities(decoder: TdtDecoder, encoded: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        tokens, _ = decoder.decode(encoded[5][None], torch.tensor([len(encoded[5])]), decoder.initial(1))
    assert tokens[0] and all(0 < token.confidence <= 1 for token in tokens[0])
