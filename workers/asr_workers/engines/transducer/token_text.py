"""Tokens of a SentencePiece vocabulary (Kudo & Richardson 2018, arXiv:1808.06226) as text, and as words with times.

The text equals what SentencePiece decodes, without spaces at its ends. Appending tokens only appends to the text, so an
engine that only appends tokens has partials that only grow. The one exception is a character spelt in bytes: it appears
with its last byte. This module must not know where tokens come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, cast

from asr_proto.errors import SetupError
from asr_proto.messages import Word

WORD_MARK = "\u2581"
"""The character that SentencePiece writes for the space before a word."""
WORD_CHARACTERS_MAX = 128
"""The most characters of a Word on the wire; a longer word is cut."""


@dataclass(frozen=True, slots=True)
class TokenAt:
    """One token, placed in the session."""

    id: int
    start_sample: int
    """The first sample, counted from the start of the session."""
    end_sample: int
    """The sample after the last one."""
    confidence: float
    """0 to 1."""


class TokenText:
    """Turns tokens into text. `model` is a serialized SentencePiece model; SetupError is raised where it is not."""

    def __init__(self, model: bytes) -> None:
        self._pieces = _pieces(model)
        self._starts = [WORD_MARK.encode() == piece[: len(WORD_MARK.encode())] for piece in self._pieces]

    def __len__(self) -> int:
        """Number of token ids."""
        return len(self._pieces)

    def piece(self, id: int) -> bytes:
        """UTF-8 of a token; empty for control, unused and unknown tokens."""
        return self._pieces[id]

    def starts_word(self, id: int) -> bool:
        """Whether this token begins a new word. Every other token continues the word before it."""
        return self._starts[id]

    def text(self, tokens: Sequence[TokenAt]) -> str:
        """The tokens' text, without spaces at its ends. An incomplete UTF-8 character at the end is left out."""
        return self._decoded([token.id for token in tokens])

    def words(self, tokens: Sequence[TokenAt]) -> tuple[Word, ...]:
        """The words of `text(tokens)`, each from its first token's start to its last token's end.

        A word mark without letters after it is no word: `text` keeps its space, so it can have two spaces in a row.
        """
        number = 0
        numbered: list[tuple[int, TokenAt]] = []
        for token in tokens:
            number += self._starts[token.id]
            numbered.append((number, token))
        words = []
        for _, group in groupby(numbered, key=lambda pair: pair[0]):
            members = [token for _, token in group]
            text = self._decoded([token.id for token in members])
            if text:
                span = members[0].start_sample, members[-1].end_sample
                words.append(Word(text[:WORD_CHARACTERS_MAX], *span, confidence(members)))
        return tuple(words)

    def _decoded(self, ids: Sequence[int]) -> str:
        joined = b"".join([self._pieces[id] for id in ids])
        text = joined.decode("utf-8", "replace").rstrip("\ufffd") if joined else ""
        return text.replace(WORD_MARK, " ").strip()


def confidence(tokens: Sequence[TokenAt]) -> float | None:
    """Geometric mean of the tokens' confidences, 0 to 1, to four decimal places; None without tokens."""
    if not tokens:
        return None
    mean = sum(math.log(max(token.confidence, 1e-9)) for token in tokens) / len(tokens)
    return round(math.exp(mean), 4)


class _Processor(Protocol):
    """The methods used here of sentencepiece.SentencePieceProcessor, which has no type annotations."""

    def vocab_size(self) -> int: ...
    def id_to_piece(self, id: int) -> str: ...
    def is_byte(self, id: int) -> bool: ...
    def is_control(self, id: int) -> bool: ...
    def is_unknown(self, id: int) -> bool: ...
    def is_unused(self, id: int) -> bool: ...


def _pieces(model: bytes) -> list[bytes]:
    """UTF-8 of each id; empty for control, unused and unknown tokens."""
    import sentencepiece  # noqa: PLC0415 - only engines with such a vocabulary need it

    try:
        processor = cast(_Processor, sentencepiece.SentencePieceProcessor(model_proto=model))
    except (RuntimeError, TypeError) as error:
        raise SetupError(f"the model's vocabulary is not SentencePiece's: {error}") from error
    return [_piece(processor, id) for id in range(processor.vocab_size())]


def _piece(processor: _Processor, id: int) -> bytes:
    piece = processor.id_to_piece(id)
    if processor.is_control(id) or processor.is_unused(id) or processor.is_unknown(id):
        return b""
    if processor.is_byte(id):
        return bytes([int(piece[3:5], 16)])
    return piece.encode()
