"""Parts of the card engine's tests: a vocabulary, a small model, and a fake card whose tokens depend on its audio."""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from asr_proto.audio import Pcm16
from asr_workers.cards import carm
from asr_workers.cards.carm import CarmConfig
from asr_workers.cards.errors import CardError, CardStatus
from asr_workers.cards.library import CardHealth, CardIdentity, CardLibrary, Completions
from asr_workers.engines.base import Chunk, Hypothesis, Output
from asr_workers.engines.card.engine import CardEngine
from asr_workers.engines.card.resets import ResetRule, joined
from asr_workers.engines.transducer.token_text import TokenAt, TokenText

CHUNK = 960
N_CLASSES = 256
WORDS = [first + second for first in "bdfgklmnprstvz" for second in ("a", "e", "i", "o", "u", "ai", "ou")]
SMALL = CarmConfig(240, 32, 1, 1, 2, 16, 1, 32, N_CLASSES, 400)


@cache
def vocabulary() -> bytes:
    """A SentencePiece model of N_CLASSES - 1 pieces: words, syllables and letters."""
    picks = random.Random(1)
    lines = [
        " ".join(picks.choice(WORDS) + picks.choice(["", picks.choice(WORDS)]) for _ in range(8)) for _ in range(900)
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=N_CLASSES - 1, model_type="bpe", minloglevel=2
    )
    return model.getvalue()


@cache
def text() -> TokenText:
    return TokenText(vocabulary())


@cache
def word_tokens() -> list[int]:
    """Ids of tokens that begin a word and have letters."""
    return [id for id in range(len(text())) if text().starts_word(id) and len(text().piece(id)) > 3]


def write_model(path: Path, config: CarmConfig = SMALL, *, seed: int = 4, blank: float = 6.0) -> Path:
    """A compiled model with random weights. `blank` is added to the logit of the blank.

    With the defaults, the 31 s of speechlike(3, 520) have some 70 words, which differ without state resets.
    """
    rng = np.random.default_rng(seed)
    tensors = {
        name: (rng.standard_normal(shape) * (0.5 if len(shape) == 2 else 0.1)).astype(np.float32)
        for name, shape in config.shapes().items()
    }
    tensors["joint_net.2.bias"][-1] += blank
    statistics = np.full(80, -8.0, np.float32), np.full(80, 9.0, np.float32)
    carm.write(path, config, tensors, "fp32", *statistics, vocabulary(), f"seed {seed}")
    return path


def noise(chunks: float, seed: int = 0) -> Pcm16:
    return np.random.default_rng(seed).integers(-9000, 9000, int(chunks * CHUNK)).astype(np.int16)


def hear(engine: CardEngine, slot: int, pcm: Pcm16, *, flush: bool = True) -> list[Output]:
    """Feed all of `pcm` as a worker does: one chunk at a time, each after the outputs of the chunk before it."""
    outputs: list[Output] = []
    chunks = [Chunk(slot, pcm[start : start + CHUNK]) for start in range(0, len(pcm), CHUNK)]
    if flush:
        whole = len(pcm) % CHUNK == 0
        tail = Chunk(slot, pcm[:0] if whole else chunks.pop().pcm, flush=True)
        chunks.append(tail)
    for chunk in chunks:
        outputs += engine.step([chunk], 0.0)
        while slot in engine.in_flight():
            assert engine.pending()
            outputs += engine.step([], 0.0)
    return outputs


def finals(outputs: list[Output]) -> list[Hypothesis]:
    return [output for output in outputs if isinstance(output, Hypothesis) and output.endpoint is not None]


def said(outputs: list[Output]) -> str:
    return " ".join(final.text for final in finals(outputs))


def recognized(model: Path, pcm: Pcm16, *, resets: bool = True) -> str:
    """The text of one run on the simulator, where its segments are decoded one after the other."""
    card = CardLibrary().open(0, "shared=1")
    card.load(model)
    card.open(0)

    def decode(chunk: Pcm16) -> list[int]:
        card.submit([(0, 0, chunk)])
        (completion,) = card.poll(60_000)
        return list(completion.tokens)

    try:
        return offline(pcm, decode, lambda: card.reset(0), resets=resets)
    finally:
        card.close_card()


def offline(pcm: Pcm16, decode: Callable[[Pcm16], list[int]], reset: Callable[[], None], *, resets: bool) -> str:
    """The text of one run: each segment is decoded as a whole, then the segments are joined."""
    padded = np.concatenate([pcm, np.zeros(-len(pcm) % CHUNK, np.int16)]).reshape(-1, CHUNK)
    rule = ResetRule() if resets else ResetRule(segment_steps=1 << 30, overlap_steps=0)
    segments = []
    for number in range(len(padded) // rule.hop_steps + 1):
        reset()
        audio = padded[rule.start(number) : rule.end(number)]
        segments.append([(step, token) for step, chunk in enumerate(audio) for token in decode(chunk)])
    return text().text([TokenAt(token, 0, 1, 1.0) for _, token in joined(rule, segments)])


def spoken(history: int, pcm: Pcm16) -> tuple[int, list[int]]:
    """The fake model: its next state, and the tokens of a chunk. Its state depends on all earlier chunks."""
    history = zlib.crc32(pcm.tobytes(), history)
    if history % 5:
        return history, []
    return history, [word_tokens()[history // 7 % len(word_tokens())] for _ in range(1 + history % 2)]


class FakeCard:
    """A small fake card. `trouble` makes its next submit fail: with a status, or by hang, drop, twice, step.

    With a `seed` completions come late, some at a time, in order only within a slot.
    """

    def __init__(self, capacity: int = 20, slots_max: int = 40, seed: int | None = None) -> None:
        self.capacity, self.slots_max = capacity, slots_max
        self._random = random.Random(seed) if seed is not None else None
        self.open_slots: dict[int, tuple[int, int]] = {}
        """History and steps."""
        self.reserved = 0
        self.trouble: int | str = 0
        self.is_physical = False
        self._done: list[tuple[int, int, int, int, list[int]]] = []
        self.largest_submit = 0

    def identity(self) -> CardIdentity:
        return CardIdentity("fake-1", "1", "1.0", "fake", self.is_physical, self.capacity, self.slots_max, 40.0, "none")

    def health(self) -> CardHealth:
        return CardHealth(40.0, True, 0, 0, 0, 0, 0)

    def load(self, model: Path) -> None:
        assert model.exists()

    def slots(self, count: int) -> None:
        assert count <= self.slots_max
        self.reserved = count

    def open(self, slot: int) -> None:
        assert slot < self.reserved and slot not in self.open_slots
        self.open_slots[slot] = (0, 0)

    def close(self, slot: int) -> None:
        self._check_idle(slot)
        del self.open_slots[slot]

    def reset(self, slot: int) -> None:
        self._check_idle(slot)
        assert slot in self.open_slots
        self.open_slots[slot] = (0, 0)

    def _check_idle(self, slot: int) -> None:
        if any(done[0] == slot for done in self._done):
            raise CardError(CardStatus.BUSY, "the slot has chunks on their way")

    def export_state(self, slot: int) -> bytes:
        self._check_idle(slot)
        history, steps = self.open_slots[slot]
        return history.to_bytes(4, "little") + steps.to_bytes(4, "little")

    def import_state(self, slot: int, state: bytes) -> None:
        if len(state) != 8:
            raise CardError(CardStatus.BAD_STATE, "not of this model")
        self.open_slots[slot] = (int.from_bytes(state[:4], "little"), int.from_bytes(state[4:], "little"))

    def submit_arrays(self, slots: NDArray[np.integer], tags: NDArray[np.integer], pcm: NDArray[np.int16]) -> None:
        self.largest_submit = max(self.largest_submit, len(slots))
        for slot, tag, chunk in zip(slots.tolist(), tags.tolist(), pcm, strict=True):
            history, steps = self.open_slots[slot]
            history, tokens = spoken(history, chunk)
            self.open_slots[slot] = (history, steps + 1)
            self._done.append((slot, tag, steps, 0, tokens))
        self._go_wrong()

    def _go_wrong(self) -> None:
        trouble, self.trouble = self.trouble, 0
        if not trouble:
            return
        slot, tag, step, _, tokens = self._done.pop()
        if trouble == "hang":
            self._done.clear()
        elif trouble == "twice":
            self._done.append(self._done[0])
        elif trouble == "step":
            self._done.append((slot, tag, step + 1, 0, tokens))
        elif isinstance(trouble, int):
            self._done.append((slot, tag, step, trouble, []))

    def poll_arrays(self, timeout_ms: int) -> Completions:
        done = self._due()
        counts = [len(tokens) for *_, tokens in done]
        tokens = [token for *_, tokens in done for token in tokens]
        return Completions(
            slots=np.array([item[0] for item in done], np.uint32),
            tags=np.array([item[1] for item in done], np.uint64),
            steps=np.array([item[2] for item in done], np.uint64),
            status=np.array([item[3] for item in done], np.int32),
            token_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            tokens=np.array(tokens, np.uint32),
            log_probs=np.full(len(tokens), -0.1, np.float32),
            packets=np.zeros(0, np.void),
            packet_offsets=np.zeros(len(done) + 1, np.int64),
        )

    def _due(self) -> list[tuple[int, int, int, int, list[int]]]:
        if self._random is None:
            due, self._done = self._done[::-1], []
            return sorted(due, key=lambda done: done[2])
        held: set[int] = set()
        due = []
        for done in self._done:
            if done[0] in held or self._random.random() < 0.4:
                held.add(done[0])
            else:
                due.append(done)
        self._done = [done for done in self._done if done not in due]
        return due

    def close_card(self) -> None:
        self.open_slots.clear()
