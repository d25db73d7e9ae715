"""Checks what the clients of other dialects than the native one were told. Pure.

Their sessions end with their connection. So the promise has three parts:

- Each text is the beginning of the undisturbed one. Faults of workers and brokers change nothing.
- A session that was told that it is complete has every word, and had sent everything. One that was told that the server
  goes away has every word of the audio that it had sent, but for what was still on its way.
- One whose frontend died lacks at most the words of the last moment, see `Limits.cut_s_max`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from asr_proto.audio import SAMPLE_RATE
from asr_workers.engines.fake import WORD_SAMPLES
from tests.nemesis.history import GOING_AWAY, Conversation, Cut, Ended, Failed, Heard
from tests.nemesis.violation import Violation, broken
from tests.nemesis.words import compare, due_words, reach


def heard(conversation: Conversation, words: Mapping[str, set[int]], lack_s_max: float | None) -> Iterator[Violation]:
    """The violations of one conversation.

    `words`: the sessions whose text contains each word. `cut_s_max`: how much speech, in seconds, a cut may lose; None
    if other faults delayed its text.
    """
    expected = [word for utterance in conversation.truth.utterances for word in utterance.text.split()]
    texts = [(index, event) for index, event in enumerate(conversation.events) if isinstance(event, Heard)]
    for index, event in texts:
        received = event.text.split()
        if event is texts[-1][1] and not conversation.all_sent:
            received = _without_cut_word(received, expected)
        if received != expected[: len(received)]:
            yield _wrong(conversation, index, received, expected, words)
            return
    yield from _missing(conversation, expected, lack_s_max)


def _without_cut_word(received: list[str], expected: Sequence[str]) -> list[str]:
    """A session that ends early ends in the middle of a word, whose text is that of its beginning."""
    return received if received == expected[: len(received)] else received[:-1]


def _wrong(
    conversation: Conversation,
    index: int,
    received: Sequence[str],
    expected: Sequence[str],
    words: Mapping[str, set[int]],
) -> Violation:
    """The violation for a text that is not the beginning of the undisturbed one."""
    here = Counter(number for word in received for number in words.get(word, ()) if number != conversation.number)
    strange = [word for word in received if word not in expected]
    if strange and here:
        owner = here.most_common(1)[0][0]
        return broken("I4", conversation, f"it received words of session {owner}: {strange[:5]}", index)
    found = compare(expected[: reach(expected, received)], received)
    counts = f"{found.lost} words were lost, {found.doubled} doubled, {found.changed} changed"
    invariant = "I2" if found.doubled else "I3" if found.changed else "I1"
    return broken(invariant, conversation, counts, index)


def _missing(conversation: Conversation, expected: Sequence[str], lack_s_max: float | None) -> Iterator[Violation]:
    last = conversation.events[-1] if conversation.events else None
    count = len(conversation.text().split())
    match last:
        case Ended() if not conversation.all_sent:
            sent = conversation.sent_samples // WORD_SAMPLES
            yield broken("I5", conversation, f"ended as if complete after {sent} of {len(expected)} words were sent")
        case Ended() if count < len(expected):
            yield broken("I1", conversation, f"complete without its last {len(expected) - count} words")
        case Failed(code=code) if code == GOING_AWAY and lack_s_max is not None and count < due_words(conversation):
            missing = due_words(conversation) - count
            yield broken("I1", conversation, f"told that the server goes away, without the last {missing} words")
        case Cut() if lack_s_max is not None and conversation.ready_s is not None:
            missing_s = conversation.sent_samples / SAMPLE_RATE - count * WORD_SAMPLES / SAMPLE_RATE
            if missing_s > lack_s_max:
                yield broken("I1", conversation, f"cut without the words of its last {missing_s:.1f} s")
