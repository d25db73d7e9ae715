"""How many words of a session were lost, doubled or changed. Pure.

With the fake engine, each word stands for exactly 250 ms of audio, and the words of a session are nearly always unique.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from asr_proto.audio import SAMPLE_RATE, Pcm16
from asr_workers.engines.fake import WORD_SAMPLES, word
from tests.nemesis.history import GOING_AWAY, Conversation, Ended, Failed

IN_TRANSIT_S = 1.0
"""Audio that may still be on its way when the server says goodbye without the audio that it read, in seconds."""


@dataclass(frozen=True, slots=True)
class Words:
    """Counts of words. They add up."""

    due: int = 0
    """Words that the client should have received."""
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    """Words in the place of others, or of no audio at all."""

    def __add__(self, other: Words) -> Words:
        return Words(
            self.due + other.due,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.changed + other.changed,
        )

    def per_1000(self, count: int) -> float:
        """A count of these words, of 1,000 due."""
        return 1000 * count / self.due if self.due else 0.0


def compare(expected: Sequence[str], heard: Sequence[str]) -> Words:
    """The difference between two lists of words."""
    lost = doubled = changed = 0
    known = Counter(expected)
    for kind, from_, until, begin, end in SequenceMatcher(None, expected, heard, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        missing, more = until - from_, heard[begin:end]
        again = sum(one in known for one in more)
        others = len(more) - again
        doubled += again
        changed += others
        lost += max(0, missing - others)
    return Words(len(expected), lost, doubled, changed)


def reach(expected: Sequence[str], heard: Sequence[str]) -> int:
    """How many of the expected words lie before the end of what was heard."""
    places = {word: number for number, word in enumerate(expected, 1)}
    return max((places.get(word, 0) for word in heard), default=0)


def due_words(conversation: Conversation) -> int:
    """How many complete words the client should have, by what it was told.

    All words of its audio if it was told that the session is complete; otherwise those of the audio that it had sent.
    An orderly goodbye says how much audio is transcribed, so that the client can send the rest elsewhere, or it need
    not cover audio in transit. A broken connection is no goodbye.
    """
    last = conversation.events[-1] if conversation.events else None
    match last:
        case Ended():
            return -(-conversation.truth.samples // WORD_SAMPLES)
        case Failed(code=code, audio_s=audio_s) if code == GOING_AWAY and audio_s is not None:
            return round(audio_s * SAMPLE_RATE) // WORD_SAMPLES
        case Failed(code=code) if code == GOING_AWAY:
            in_transit = True
        case _:
            in_transit = conversation.said_goodbye
    transit = round(IN_TRANSIT_S * SAMPLE_RATE) if in_transit else 0
    return max(0, conversation.sent_samples - transit) // WORD_SAMPLES


def words_of(conversation: Conversation, pcm: Pcm16, frame_samples: int) -> Words:
    """The words of one session whose audio has no flush in it."""
    expected = [word for utterance in conversation.truth.utterances for word in utterance.text.split()]
    heard = conversation.text().split()
    if heard and heard[-1] in _cut_words(pcm, len(heard) - 1, frame_samples) and heard != expected[: len(heard)]:
        heard.pop()  # the server ended the session in the middle of this word
    due = due_words(conversation)
    found = compare(expected[: max(due, reach(expected, heard))], heard)
    return Words(due, found.lost, found.doubled, found.changed)


def _cut_words(pcm: Pcm16, number: int, frame_samples: int) -> set[str]:
    """The words that audio gives which ends after a frame in the middle of a word."""
    start = number * WORD_SAMPLES
    ends = range(start - start % frame_samples, start + WORD_SAMPLES, frame_samples)
    return {word(pcm[start:end]) for end in ends if end > start}
