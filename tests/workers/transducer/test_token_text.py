"""Tokens as text and words."""

from __future__ import annotations

import io
import itertools

import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from asr_proto.errors import SetupError
from asr_workers.engines.transducer.token_text import TokenAt, TokenText, confidence
from tests.workers.card.card_parts import N_CLASSES, text, vocabulary

IDS = st.lists(st.integers(3, N_CLASSES - 2), max_size=30)


def tokens(ids: list[int]) -> list[TokenAt]:
    return [TokenAt(id, 100 * place, 100 * place + 100, 0.5) for place, id in enumerate(ids)]


@given(IDS)
def test_text_is_sentencepiece_s(ids: list[int]) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary())
    assert text().text(tokens(ids)) == processor.decode(ids).strip()


@given(IDS)
@example([3, 235, 5])
def test_words_are_those_of_the_text(ids: list[int]) -> None:
    """A word mark alone, as in the example, adds a space to the text and no word."""
    words = text().words(tokens(ids))
    assert [word.text for word in words] == text().text(tokens(ids)).split()
    assert all(word.start_sample < word.end_sample for word in words)
    assert all(word.end_sample <= later.start_sample for word, later in itertools.pairwise(words))


@given(IDS)
def test_text_only_grows(ids: list[int]) -> None:
    texts = [text().text(tokens(ids[:count])) for count in range(len(ids) + 1)]
    assert all(more.startswith(fewer) for fewer, more in itertools.pairwise(texts))


def test_tokens_without_text_are_left_out() -> None:
    """Unknown, begin and end of sentence."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary())
    ids = processor.encode("bada ki")
    assert text().text(tokens([1, *ids, 0, 2])) == "bada ki"


def test_bytes_are_put_together() -> None:
    """A character that the vocabulary lacks is spelt in bytes. It appears in the text with its last byte."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["stra se"] * 99), model_writer=model, vocab_size=266, byte_fallback=True, minloglevel=2
    )
    ids = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).encode("stra\u00dfe")
    pieces = TokenText(model.getvalue())
    assert pieces.text(tokens(ids)) == "stra\u00dfe"
    assert pieces.text(tokens(ids[:-2])) == "stra"


def test_confidence_is_the_geometric_mean() -> None:
    assert confidence([]) is None
    assert confidence([TokenAt(1, 0, 1, 0.25), TokenAt(1, 0, 1, 1.0)]) == 0.5
    assert confidence([TokenAt(1, 0, 1, 0.0)]) == 0.0


def test_a_word_is_not_longer_than_its_message_allows() -> None:
    id = next(id for id in range(3, len(text())) if not text().starts_word(id))
    (word,) = text().words(tokens([id] * 200))
    assert len(word.text) == 128


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(SetupError, match="vocabulary"):
        TokenText(b"nothing of the kind")
