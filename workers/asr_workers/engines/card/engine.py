"""The engine `card`: a CAIMAN-ASR RNN-T on an accelerator card, called through asr_card.h, or on its simulator.

The card decodes. `stream` turns its tokens into outputs, and `slots` decides which audio goes to which card slot. The
card works on chunks of several steps at the same time: a step submits the new chunks and collects finished ones. When
the card fails or hangs, the step raises CardFailed. Then the process ends, its sessions move to other workers, and the
next process starts with the card's self-test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np

from asr_proto.audio import Pcm16
from asr_proto.errors import BadRequest
from asr_proto.messages import Spec
from asr_workers.cards.failure import CardFailed
from asr_workers.cards.library import CardError, CardStatus
from asr_workers.cards.traffic import Decoded, Traffic
from asr_workers.engines.base import Advanced, Chunk, Drained, Engine, Output, SlotOptions, Snapshot
from asr_workers.engines.card.config import CardConfig
from asr_workers.engines.card.setup import ready
from asr_workers.engines.card.slots import CHUNKS_IN_CARD_MAX, CardSegment, CardSession, CardSlots
from asr_workers.engines.card.stream import CardStream

POLL_S = 0.002
"""Longest time that a step waits for finished chunks, in seconds. New audio waits at most as long for the next step."""


class CardEngine(Engine):
    """The engine `card`. Raises SetupError where it can never serve, CardFailed where the card is out of order."""

    def __init__(self, config: CardConfig) -> None:
        made = ready(config)
        self._spec = made.spec
        self._name, self._rule = config.device, config.rule
        self._card, self._text = made.card, made.text
        self._traffic = Traffic[tuple[CardSession, CardSegment]](made.card, config.device, made.tokens_max, made.hang_s)
        self._card_slots = CardSlots(made.card_slots, made.spec.slots)
        self._sessions: dict[int, CardSession] = {}
        self._awaited: set[int] = set()
        """Slots whose last chunk is not decoded yet."""
        self._backlogged: set[int] = set()
        """Slots with audio that was not submitted to the card yet."""
        self._closed: list[CardSession] = []
        """Closed sessions whose chunks the card still has."""
        self._outputs: list[Output] = []
        """Outputs of chunks that were collected outside of a step."""
        self._waited_s = 0.0
        """Seconds that the last step waited for the card."""

    @property
    def spec(self) -> Spec:
        return self._spec

    # ---- Slots ----

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        if options.language.partition("-")[0].lower() not in ("", "en"):
            raise BadRequest(
                f"the card's model recognizes en, not {options.language[:20]}", slug="unsupported-language"
            )
        export: Callable[[], bytes] = partial(self._export, slot)
        stream = CardStream(slot, self._text, self._rule, export, model=self.spec.checksum, partials=options.partials)
        state = stream.restore(snapshot) if snapshot else b""
        while (card_slot := self._card_slots.take()) is None:
            assert self._closed
            self._outputs += self._collect(POLL_S)
        with self._calls():
            self._card.open(card_slot)
        if state:
            self._import(card_slot, state)
        self._sessions[slot] = CardSession(slot, stream, self._rule, card_slot, snapshot.sample if snapshot else 0)

    def close(self, slot: int) -> None:
        session = self._sessions.pop(slot)
        self._awaited.discard(slot)
        self._backlogged.discard(slot)
        self._outputs = [output for output in self._outputs if output.slot != slot]
        self._closed.append(session)
        self._free_closed()

    def snapshot(self, slot: int) -> Advanced | None:
        session = self._sessions[slot]
        if self._rule is None and session.has_chunks_in_card():
            return None
        return Advanced(slot, session.stream.snapshot())

    # ---- Steps ----

    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        self._waited_s = 0.0
        for chunk in chunks:
            session = self._sessions[chunk.slot]
            if len(chunk.pcm):
                session.take(chunk.pcm)
            session.flushing = chunk.flush
            self._awaited.add(chunk.slot)
        self._give({*self._backlogged, *(chunk.slot for chunk in chunks)})
        outputs, self._outputs = self._outputs, []
        outputs += [output for chunk in chunks if not len(chunk.pcm) for output in self._settle(chunk.slot)]
        if self._traffic:
            outputs += self._collect(POLL_S)
        return outputs

    def in_flight(self) -> Collection[int]:
        return self._awaited

    def pending(self) -> bool:
        return bool(self._traffic or self._outputs) or any(
            segment.backlog and (segment.card_slot is not None or self._card_slots.spare)
            for number in self._backlogged
            for segment in self._sessions[number].segments
        )

    def blocked(self, slot: int) -> bool:
        return False

    def release(self) -> None:
        """Close the card. A failed card may refuse that; the end of the process frees it, too."""
        with suppress(CardError):
            self._card.close_card()

    def is_device_failure(self, error: Exception) -> bool:
        return isinstance(error, CardFailed)

    def elective_s(self) -> float:
        """The time of waiting for the card, which is no work of the host. The card's capacity limits its own work."""
        return self._waited_s

    # ---- Chunks to the card ----

    def _give(self, numbers: Iterable[int]) -> None:
        """Submit the waiting chunks of these slots, as many as their card slots may have in the card."""
        owners: list[tuple[CardSession, CardSegment]] = []
        slots: list[int] = []
        steps: list[int] = []
        pcm: list[Pcm16] = []
        for number in numbers:
            session = self._sessions[number]
            waits = False
            for segment in session.segments:
                card_slot = segment.card_slot if segment.card_slot is not None else self._place(segment)
                while segment.backlog and card_slot is not None and segment.given < CHUNKS_IN_CARD_MAX:
                    owners.append((session, segment))
                    slots.append(card_slot)
                    steps.append(segment.step - segment.first_step + segment.given)
                    pcm.append(segment.backlog.popleft())
                    segment.given += 1
                waits = waits or bool(segment.backlog)
            (self._backlogged.add if waits else self._backlogged.discard)(number)
        if owners:
            self._traffic.submit(owners, slots, steps, np.stack(pcm))

    def _place(self, segment: CardSegment) -> int | None:
        """Open a card slot for an overlap; None where none is free."""
        segment.card_slot = self._card_slots.take_spare()
        if segment.card_slot is not None:
            with self._calls():
                self._card.open(segment.card_slot)
        return segment.card_slot

    # ---- Chunks from the card ----

    def _collect(self, wait_s: float) -> list[Output]:
        """Outputs of the chunks that the card has decoded. Waits up to `wait_s` seconds for the first."""
        began = time.perf_counter()
        back = self._traffic.poll(wait_s)
        self._waited_s += time.perf_counter() - began
        outputs: list[Output] = []
        for (session, segment), decoded in back:
            outputs += self._returned(session, segment, decoded)
        self._free_closed()
        return outputs

    def _returned(self, session: CardSession, segment: CardSegment, decoded: Decoded) -> Sequence[Output]:
        """Outputs of one decoded chunk. Those of an overlap and of a closed session are none."""
        segment.step += 1
        segment.given -= 1
        if self._sessions.get(session.slot) is not session:
            return ()
        outputs: Sequence[Output] = ()
        if segment is session.segments[0]:
            outputs = session.stream.decoded(*decoded)
            if session.stream.segment != segment.number:
                self._turn(session)
        elif not session.flushing:
            return ()
        done = self._settle(session.slot)
        return [*outputs, *done] if done else outputs

    def _settle(self, slot: int) -> Sequence[Output]:
        """Let the slot take more once all its chunks are decoded. A flush also waits for the overlap's chunks."""
        session = self._sessions[slot]
        first = session.segments[0]
        if first.backlog or first.given or (session.flushing and session.has_chunks_in_card()):
            return ()
        self._awaited.discard(slot)
        return self._flush(session) if session.flushing else ()

    def _turn(self, session: CardSession) -> None:
        """Continue with the later segment, after a seam."""
        over = session.turn()
        assert over.card_slot is not None
        segment = session.segments[0]
        if segment.card_slot is None:
            segment.card_slot = over.card_slot
            with self._calls():
                self._card.reset(over.card_slot)
        else:
            self._give_spare(over)

    def _flush(self, session: CardSession) -> list[Output]:
        first, *overlaps = session.segments
        for segment in overlaps:
            self._give_spare(segment)
        assert first.card_slot is not None
        with self._calls():
            self._card.reset(first.card_slot)
        session.restart()
        self._backlogged.discard(session.slot)
        return [session.stream.flush(session.end_sample), Drained(session.slot)]

    # ---- The card ----

    def _free_closed(self) -> None:
        """Free the card slots of closed sessions of which the card has no chunks any more."""
        for session in [session for session in self._closed if not session.has_chunks_in_card()]:
            self._closed.remove(session)
            first, *overlaps = session.segments
            for segment in overlaps:
                self._give_spare(segment)
            assert first.card_slot is not None
            with self._calls():
                self._card.close(first.card_slot)
            self._card_slots.give(first.card_slot)

    def _give_spare(self, segment: CardSegment) -> None:
        if segment.card_slot is not None:
            with self._calls():
                self._card.close(segment.card_slot)
            self._card_slots.give_spare(segment.card_slot)

    def _export(self, slot: int) -> bytes:
        card_slot = self._sessions[slot].segments[0].card_slot
        assert card_slot is not None
        with self._calls():
            return self._card.export_state(card_slot)

    def _import(self, card_slot: int, state: bytes) -> None:
        """Import a card's state. Raises BadRequest for that of another model, and frees the card slot then."""
        with self._calls():
            try:
                self._card.import_state(card_slot, state)
            except CardError as error:
                if error.code != CardStatus.BAD_STATE:
                    raise
                self._card.close(card_slot)
                self._card_slots.give(card_slot)
                raise BadRequest(f"the snapshot is not of this card's model: {error}", slug="bad-snapshot") from error

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Turns an error of a call to the card into CardFailed."""
        try:
            yield
        except CardError as error:
            raise CardFailed(f"{self._name} failed: {error}") from error
