"""The shipped digits model recognizes speech: as the reference in torch, and compiled on the card's simulator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
sentencepiece = pytest.importorskip("sentencepiece")

from asr_proto.errors import SetupError  # noqa: E402 (torch may be missing)
from asr_workers.cards.carm import PRECISIONS, Precision  # noqa: E402
from asr_workers.cards.library import Card, CardLibrary  # noqa: E402
from asr_workers.engines.rnnt import checkpoint, features  # noqa: E402
from asr_workers.engines.rnnt.checkpoint import RnntCheckpoint  # noqa: E402
from asr_workers.engines.rnnt.model import RnntEmission, RnntStream  # noqa: E402

ROOT = Path(__file__).parents[3]
CLIPS = ROOT / "tests" / "data" / "digits"
Recognize = Callable[[features.Floats], list[RnntEmission]]


@pytest.fixture(scope="module", name="digits")
def _digits() -> Iterator[RnntCheckpoint]:
    # This network is so small that several threads are slower, especially when other processes use the cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield checkpoint.load(ROOT / "ops" / "models" / "digits-rnnt.pt")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", name="card")
def _card() -> Iterator[Card]:
    try:
        card = CardLibrary(None).open(0, "threads=1")
    except SetupError as error:
        pytest.skip(str(error))
    yield card
    card.close_card()


def _clips() -> list[tuple[features.Floats, str]]:
    rows = [json.loads(line) for line in (CLIPS / "manifest.jsonl").read_text().splitlines()]
    found = []
    for row in rows:
        pcm, rate_hz = soundfile.read(CLIPS / row["path"], dtype="float32")
        assert rate_hz == features.RATE_HZ
        found.append((features.whole_chunks(pcm), row["text"]))
    return found


def _in_torch(digits: RnntCheckpoint) -> Recognize:
    model = digits.model()
    return lambda pcm: RnntStream(model, digits.means, digits.variances).feed(pcm)


def _on_card(card: Card, digits: RnntCheckpoint, precision: Precision, folder: Path) -> Recognize:
    digits.compile(folder / "digits.carm", precision)
    card.load(folder / "digits.carm")

    def recognize(pcm: features.Floats) -> list[RnntEmission]:
        card.open(0)
        heard = []
        for tag, chunk in enumerate((pcm * 32768).astype(np.int16).reshape(-1, features.CHUNK_SAMPLES)):
            card.submit([(0, tag, chunk)])
            (done,) = card.poll(10_000)
            heard += [RnntEmission(*pair, done.step) for pair in zip(done.tokens, done.log_probs, strict=True)]
        card.close(0)
        return heard

    return recognize


def _word_error(digits: RnntCheckpoint, recognize: Recognize) -> float:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=digits.sentencepiece)
    clips = _clips()
    texts = [pieces.decode([one.token for one in recognize(pcm)]) for pcm, _ in clips]
    return float(jiwer.wer([text for _, text in clips], texts))


def test_unseen_recordings_are_recognized(digits: RnntCheckpoint) -> None:
    assert _word_error(digits, _in_torch(digits)) <= 0.03


@pytest.mark.parametrize("precision", PRECISIONS)
def test_unseen_recordings_are_recognized_by_a_card(
    digits: RnntCheckpoint, card: Card, precision: Precision, tmp_path: Path
) -> None:
    assert _word_error(digits, _on_card(card, digits, precision, tmp_path)) <= 0.03


def test_int8_is_within_half_a_point_of_fp32(digits: RnntCheckpoint, card: Card, tmp_path: Path) -> None:
    int8, fp32 = (_word_error(digits, _on_card(card, digits, precision, tmp_path)) for precision in ("int8", "fp32"))
    assert int8 <= fp32 + 0.005


def test_the_card_in_fp32_agrees_with_torch(digits: RnntCheckpoint, card: Card, tmp_path: Path) -> None:
    in_torch, on_card = _in_torch(digits), _on_card(card, digits, "fp32", tmp_path)
    for pcm, _ in _clips()[::4]:
        expected, heard = in_torch(pcm), on_card(pcm)
        assert [(one.token, one.step) for one in heard] == [(one.token, one.step) for one in expected]
        np.testing.assert_allclose(
            [one.log_prob for one in heard], [one.log_prob for one in expected], rtol=1e-3, atol=1e-4
        )
