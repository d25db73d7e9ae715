"""Tokens of a SentencePiece vocabulary as text and words with times: what greedy engines of such models say.

The text of more tokens begins with the text of fewer (but for a character whose bytes are not all there), so an engine
that only ever appends tokens has partials that only ever grow. It must not know where tokens come from.
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
"""How SentencePiece writes the space before a word."""
WORD_CHARACTERS_MAX = 128
"""What a Word on the wire may hold; a longer one is cut."""


@dataclass(frozen=True, slots=True)
class TokenAt:
    """One token: its id, the session's samples it stands for, and how sure the model was, 0 to 1."""

    id: int
    start_sample: int
    end_sample: int
    confidence: float


class TokenText:
    """Text of tokens. `model` is a serialized SentencePiece model. Raises SetupError when it is none."""

    def __init__(self, model: bytes) -> None:
        self._pieces = _pieces(model)
        self._starts = [WORD_MARK.encode() == piece[: len(WORD_MARK.encode())] for piece in self._pieces]

    def __len__(self) -> int:
        """How many ids there are."""
        return len(self._pieces)

    def piece(self, id: int) -> bytes:
        """UTF-8 of a token; empty for one that says nothing."""
        return self._pieces[id]

    def starts_word(self, id: int) -> bool:
        """Whether this token begins a new word; all others continue the word before."""
        return self._starts[id]

    def text(self, tokens: Sequence[TokenAt]) -> str:
        """Without a space at either end. Incomplete UTF-8 at the end is left out until the rest is there."""
        return self._decoded([token.id for token in tokens])

    def words(self, tokens: Sequence[TokenAt]) -> tuple[Word, ...]:
        """The words of `text(tokens)`, each from its first token's start to its last token's end."""
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
    """The geometric mean of the tokens' confidences, 0 to 1; None without tokens."""
    if not tokens:
        return None
    mean = sum(math.log(max(token.confidence, 1e-9)) for token in tokens) / len(tokens)
    return round(math.exp(mean), 4)


class _Processor(Protocol):
    """What is used of sentencepiece.SentencePieceProcessor, which has no types."""

    def vocab_size(self) -> int: ...
    def id_to_piece(self, id: int) -> str: ...
    def is_byte(self, id: int) -> bool: ...
    def is_control(self, id: int) -> bool: ...
    def is_unknown(self, id: int) -> bool: ...
    def is_unused(self, id: int) -> bool: ...


def _pieces(model: bytes) -> list[bytes]:
    """UTF-8 of each id; empty for those that say nothing."""
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
