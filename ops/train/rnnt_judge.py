"""Word error of an RNN-T on strings of digits: in torch, or compiled and on the card's simulator."""

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
"""(encoder step, token) in their order."""
Recognise = Callable[[Floats], Tokens]


def as_heard(audio: Audio) -> Floats:
    """Audio as a card gets it: 16-bit samples in whole chunks, float32 in -1..1."""
    return whole_chunks(np.clip(np.round(audio * 32768), -32768, 32767).astype(np.float32) / 32768)


def in_torch(found: RnntCheckpoint) -> Recognise:
    """The reference model."""
    model = found.model()

    def recognise(pcm: Floats) -> Tokens:
        return [(one.step, one.token) for one in RnntStream(model, found.means, found.variances).feed(pcm)]

    return recognise


def on_card(found: RnntCheckpoint, precision: Precision) -> Recognise:
    """The simulator, with the model compiled to `precision`."""
    card = CardLibrary(None).open(0, "threads=1")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.carm")
        found.compile(model, precision)
        card.load(model)
    return lambda pcm: _through(card, (pcm * 32768).astype(np.int16).reshape(-1, CHUNK_SAMPLES))


def _through(card: Card, chunks: np.ndarray) -> Tokens:
    card.open(0)
    heard: Tokens = []
    for tag, chunk in enumerate(chunks):
        card.submit([(0, tag, chunk)])
        for completion in card.poll(10_000):
            heard += [(completion.step, token) for token in completion.tokens]
    card.close(0)
    return heard


def with_resets(recognise: Recognise) -> Recognise:
    """Audio of 15 s or more in overlapping segments that each begin anew."""
    rule = ResetRule()

    def in_segments(pcm: Floats) -> Tokens:
        count = len(pcm) // CHUNK_SAMPLES
        if count < rule.segment_steps:
            return recognise(pcm)
        starts = [rule.start(segment) for segment in range(count) if rule.kept_from(segment) < count]
        return joined(
            rule, [recognise(pcm[start * CHUNK_SAMPLES :][: rule.segment_steps * CHUNK_SAMPLES]) for start in starts]
        )

    return in_segments


def word_error(found: RnntCheckpoint, recognise: Recognise, strings: list[tuple[Audio, list[int]]]) -> float:
    """In percent."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=found.sentencepiece)
    texts = [pieces.decode([token for _, token in recognise(as_heard(audio))]) for audio, _ in strings]
    return 100 * jiwer.wer([" ".join(WORDS[digit] for digit in digits) for _, digits in strings], texts)


def long_strings(folder: Path, count: int, seconds: float, seed: int) -> list[tuple[Audio, list[int]]]:
    """Clean strings of unseen recordings in a row, at least `seconds` long, the speakers taking turns."""
    unseen = recordings(folder, unseen=True)
    speakers = sorted({recording.speaker for recording in unseen})
    rows = []
    for number in range(count):
        own = [recording for recording in unseen if recording.speaker == speakers[number % len(speakers)]]
        strings = Strings(own, seed + number, augment=False)
        parts: list[Audio] = []
        said: list[int] = []
        while sum(map(len, parts)) < seconds * RATE_HZ:
            audio, digits = next(strings)
            parts.append(audio)
            said += digits
        rows.append((np.concatenate(parts), said))
    return rows
