"""The engine `card`: a CAIMAN-ASR RNN-T on an accelerator card behind asr_card.h, or on its simulator.

The card decodes; `stream` decides what its tokens mean, and `slots` which audio goes to which of its slots. Chunks of
many steps are in the card at a time: a step submits what is new and collects what has come back. When the card fails or
hangs, the step raises CardFailed: the process ends, its sessions move, and the next process begins with the card's
self-test.
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
from asr_workers.engines.card.slots import CHUNKS_ON_THEIR_WAY_MAX, CardSegment, CardSlots, CardSpeaker
from asr_workers.engines.card.stream import CardStream

POLL_S = 0.002
"""How long a step waits for what comes back: new audio waits no longer for the next one."""


class CardEngine(Engine):
    """See the module's docstring; the interface is engines.base.Engine. Raises SetupError when it cannot serve."""

    def __init__(self, config: CardConfig) -> None:
        made = ready(config)
        self._spec = made.spec
        self._name, self._rule = config.device, config.rule
        self._card, self._text = made.card, made.text
        self._traffic = Traffic[tuple[CardSpeaker, CardSegment]](made.card, config.device, made.tokens_max, made.hang_s)
        self._card_slots = CardSlots(made.card_slots, made.spec.slots)
        self._speakers: dict[int, CardSpeaker] = {}
        self._awaited: set[int] = set()
        """Slots whose last chunk has not been heard yet."""
        self._behind: set[int] = set()
        """Slots with audio that the card has not got yet."""
        self._leaving: list[CardSpeaker] = []
        """Closed while chunks of theirs were on their way."""
        self._outputs: list[Output] = []
        """Of chunks that came back outside of a step."""
        self._waited_s = 0.0

    @property
    def spec(self) -> Spec:
        return self._spec

    # ---- Slots ----

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        if options.language.partition("-")[0].lower() not in ("", "en"):
            raise BadRequest(f"the card's model speaks en, not {options.language[:20]}", slug="unsupported-language")
        export: Callable[[], bytes] = partial(self._export, slot)
        stream = CardStream(slot, self._text, self._rule, export, model=self.spec.checksum, partials=options.partials)
        state = stream.restore(snapshot) if snapshot else b""
        while (card_slot := self._card_slots.take()) is None:
            assert self._leaving
            self._outputs += self._collect(POLL_S)
        with self._calls():
            self._card.open(card_slot)
        if state:
            self._import(card_slot, state)
        self._speakers[slot] = CardSpeaker(slot, stream, self._rule, card_slot, snapshot.sample if snapshot else 0)

    def close(self, slot: int) -> None:
        speaker = self._speakers.pop(slot)
        self._awaited.discard(slot)
        self._behind.discard(slot)
        self._outputs = [output for output in self._outputs if output.slot != slot]
        self._leaving.append(speaker)
        self._let_go()

    def snapshot(self, slot: int) -> Advanced | None:
        speaker = self._speakers[slot]
        if self._rule is None and speaker.is_on_the_way():
            return None
        return Advanced(slot, speaker.stream.snapshot())

    # ---- Steps ----

    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        self._waited_s = 0.0
        for chunk in chunks:
            speaker = self._speakers[chunk.slot]
            if len(chunk.pcm):
                speaker.take(chunk.pcm)
            speaker.flushing = chunk.flush
            self._awaited.add(chunk.slot)
        self._give({*self._behind, *(chunk.slot for chunk in chunks)})
        outputs, self._outputs = self._outputs, []
        outputs += [output for chunk in chunks if not len(chunk.pcm) for output in self._settle(chunk.slot)]
        if self._traffic:
            outputs += self._collect(POLL_S)
        return outputs

    def in_flight(self) -> Collection[int]:
        """Slots whose last chunk is still on its way; what it says comes with a later step."""
        return self._awaited

    def pending(self) -> bool:
        return bool(self._traffic or self._outputs) or any(
            segment.backlog and (segment.card_slot is not None or self._card_slots.spare)
            for number in self._behind
            for segment in self._speakers[number].segments
        )

    def blocked(self, slot: int) -> bool:
        return False

    def release(self) -> None:
        """A card that has failed may refuse even this; the end of the process frees it too."""
        with suppress(CardError):
            self._card.close_card()

    def elective_s(self) -> float:
        """Waiting for the card costs the host nothing; how much the card can do, it has said."""
        return self._waited_s

    # ---- Chunks there ----

    def _give(self, numbers: Iterable[int]) -> None:
        """Give the card what waits in these slots."""
        owners: list[tuple[CardSpeaker, CardSegment]] = []
        slots: list[int] = []
        steps: list[int] = []
        pcm: list[Pcm16] = []
        for number in numbers:
            speaker = self._speakers[number]
            waits = False
            for segment in speaker.segments:
                card_slot = segment.card_slot if segment.card_slot is not None else self._place(segment)
                while segment.backlog and card_slot is not None and segment.given < CHUNKS_ON_THEIR_WAY_MAX:
                    owners.append((speaker, segment))
                    slots.append(card_slot)
                    steps.append(segment.step - segment.first_step + segment.given)
                    pcm.append(segment.backlog.popleft())
                    segment.given += 1
                waits = waits or bool(segment.backlog)
            (self._behind.add if waits else self._behind.discard)(number)
        if owners:
            self._traffic.submit(owners, slots, steps, np.stack(pcm))

    def _place(self, segment: CardSegment) -> int | None:
        """A card slot for an overlap, where there is one."""
        segment.card_slot = self._card_slots.take_spare()
        if segment.card_slot is not None:
            with self._calls():
                self._card.open(segment.card_slot)
        return segment.card_slot

    # ---- And back ----

    def _collect(self, wait_s: float) -> list[Output]:
        """Take what has come back; wait so long for the first."""
        began = time.perf_counter()
        back = self._traffic.poll(wait_s)
        self._waited_s += time.perf_counter() - began
        outputs: list[Output] = []
        for (speaker, segment), decoded in back:
            outputs += self._heard(speaker, segment, decoded)
        self._let_go()
        return outputs

    def _heard(self, speaker: CardSpeaker, segment: CardSegment, decoded: Decoded) -> Sequence[Output]:
        segment.step += 1
        segment.given -= 1
        if self._speakers.get(speaker.slot) is not speaker:
            return ()
        outputs: Sequence[Output] = ()
        if segment is speaker.segments[0]:
            outputs = speaker.stream.decoded(*decoded)
            if speaker.stream.segment != segment.number:
                self._turn(speaker)
        elif not speaker.flushing:
            return ()
        done = self._settle(speaker.slot)
        return [*outputs, *done] if done else outputs

    def _settle(self, slot: int) -> Sequence[Output]:
        """Once all that was taken is heard, and for a flush nothing is on its way, the slot may take more."""
        speaker = self._speakers[slot]
        first = speaker.segments[0]
        if first.backlog or first.given or (speaker.flushing and speaker.is_on_the_way()):
            return ()
        self._awaited.discard(slot)
        return self._flush(speaker) if speaker.flushing else ()

    def _turn(self, speaker: CardSpeaker) -> None:
        """At a seam: the later segment is the one that is heard."""
        over = speaker.turn()
        assert over.card_slot is not None
        segment = speaker.segments[0]
        if segment.card_slot is None:
            segment.card_slot = over.card_slot
            with self._calls():
                self._card.reset(over.card_slot)
        else:
            self._give_spare(over)

    def _flush(self, speaker: CardSpeaker) -> list[Output]:
        first, *overlaps = speaker.segments
        for segment in overlaps:
            self._give_spare(segment)
        assert first.card_slot is not None
        with self._calls():
            self._card.reset(first.card_slot)
        speaker.begin_again()
        self._behind.discard(speaker.slot)
        return [speaker.stream.flush(speaker.end_sample), Drained(speaker.slot)]

    # ---- The card ----

    def _let_go(self) -> None:
        """Free the card slots of sessions that are gone."""
        for speaker in [speaker for speaker in self._leaving if not speaker.is_on_the_way()]:
            self._leaving.remove(speaker)
            first, *overlaps = speaker.segments
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
        card_slot = self._speakers[slot].segments[0].card_slot
        assert card_slot is not None
        with self._calls():
            return self._card.export_state(card_slot)

    def _import(self, card_slot: int, state: bytes) -> None:
        """Raises BadRequest for the state of another model; the card slot is free again then."""
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
        """A card that fails in a call is out of order, too."""
        try:
            yield
        except CardError as error:
            raise CardFailed(f"{self._name} failed: {error}") from error
