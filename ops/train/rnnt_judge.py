"""Word error of an RNN-T on strings of digits: in torch, or compiled on the card simulator."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jiwer
import numpy as np
import sentencepiece
from digits import WORDS, Audio, Strings, recordings

from asr_workers.cards.carm import Precision
from asr_workers.cards.library import Card, CardLibrary
from asr_workers.engines.card.resets import ResetRule, joined
from asr_workers.engines.rnnt.checkpoint import RnntCheckpoint
from asr_workers.engines.rnnt.features import CHUNK_SAMPLES, RATE_HZ, Floats, whole_chunks
from asr_workers.engines.rnnt.model import RnntStream

Tokens = list[tuple[int, int]]
"""(encoder step, token), in the order of emission."""
Recognize = Callable[[Floats], Tokens]


def as_card_input(audio: Audio) -> Floats:
    """Audio as a card gets it: rounded to 16 bit and padded to whole chunks, float32 from -1 to 1."""
    return whole_chunks(np.clip(np.round(audio * 32768), -32768, 32767).astype(np.float32) / 32768)


def in_torch(found: RnntCheckpoint) -> Recognize:
    """Recognize with the reference model in torch."""
    model = found.model()

    def recognize(pcm: Floats) -> Tokens:
        return [(one.step, one.token) for one in RnntStream(model, found.means, found.variances).feed(pcm)]

    return recognize


def on_card(found: RnntCheckpoint, precision: Precision) -> Recognize:
    """Recognize with the card simulator and the model compiled to `precision`."""
    card = CardLibrary(None).open(0, "threads=1")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.carm")
        found.compile(model, precision)
        card.load(model)
    return lambda pcm: _through(card, (pcm * 32768).astype(np.int16).reshape(-1, CHUNK_SAMPLES))


def _through(card: Card, chunks: np.ndarray) -> Tokens:
    card.open(0)
    tokens: Tokens = []
    for tag, chunk in enumerate(chunks):
        card.submit([(0, tag, chunk)])
        for completion in card.poll(10_000):
            tokens += [(completion.step, token) for token in completion.tokens]
    card.close(0)
    return tokens


def with_resets(recognize: Recognize) -> Recognize:
    """Recognize audio of 15 s or more in overlapping segments, each with fresh states (state resets)."""
    rule = ResetRule()

    def in_segments(pcm: Floats) -> Tokens:
        count = len(pcm) // CHUNK_SAMPLES
        if count < rule.segment_steps:
            return recognize(pcm)
        starts = [rule.start(segment) for segment in range(count) if rule.kept_from(segment) < count]
        return joined(
            rule, [recognize(pcm[start * CHUNK_SAMPLES :][: rule.segment_steps * CHUNK_SAMPLES]) for start in starts]
        )

    return in_segments


def word_error(found: RnntCheckpoint, recognize: Recognize, strings: list[tuple[Audio, list[int]]]) -> float:
    """The word error rate in percent."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=found.sentencepiece)
    texts = [pieces.decode([token for _, token in recognize(as_card_input(audio))]) for audio, _ in strings]
    return 100 * jiwer.wer([" ".join(WORDS[digit] for digit in digits) for _, digits in strings], texts)


def long_strings(folder: Path, count: int, seconds: float, seed: int) -> list[tuple[Audio, list[int]]]:
    """`count` rows of clean strings of unseen recordings, each at least `seconds` long and of one speaker in turn."""
    unseen = recordings(folder, unseen=True)
    speakers = sorted({recording.speaker for recording in unseen})
    rows = []
    for number in range(count):
        own = [recording for recording in unseen if recording.speaker == speakers[number % len(speakers)]]
        strings = Strings(own, seed + number, augment=False)
        parts: list[Audio] = []
        spoken: list[int] = []
        while sum(map(len, parts)) < seconds * RATE_HZ:
            audio, digits = next(strings)
            parts.append(audio)
            spoken += digits
        rows.append((np.concatenate(parts), spoken))
    return rows
