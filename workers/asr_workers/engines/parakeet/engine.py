"""The engine `parakeet`: Parakeet-TDT over many slots, by a window around each chunk.

The text of a chunk never changes; what the right context adds to it is only ever a partial. A step encodes the next
windows of the most urgent slots in one batch, wherever each of them is. The decoder's state is carried from chunk to
chunk; at the end of an utterance it begins anew, and only the left context is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack
import numpy as np
import torch

from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import BadRequest
from asr_proto.messages import Spec
from asr_workers.engines.base import Advanced, Chunk, Drained, Engine, Output, SlotOptions, Snapshot
from asr_workers.engines.held_audio import HeldAudio
from asr_workers.engines.nemo.names import check_language, languages_of, served_name
from asr_workers.engines.parakeet.config import ParakeetConfig
from asr_workers.engines.parakeet.model import ParakeetModel
from asr_workers.engines.parakeet.sizing import batch_windows
from asr_workers.engines.parakeet.tdt import TdtState
from asr_workers.engines.parakeet.windows import FRAME_SAMPLES, Place, Window, WindowContext, next_window
from asr_workers.engines.transducer.token_speaker import Speaker
from asr_workers.engines.transducer.token_utterances import Heard, Utterance, UtteranceRules

SNAPSHOT_VERSION = 1


@dataclass(slots=True)
class _Slot:
    """Samples are held from the left context on."""

    speaker: Speaker
    audio: HeldAudio
    state: TdtState
    first: int
    """The first sample that may be left context."""
    flushing: bool = False
    deadline_s: float = 0.0

    @property
    def place(self) -> Place:
        utterance = self.speaker.utterance
        return Place(utterance.sample(utterance.frames), self.first)

    def needed(self, context: WindowContext) -> int:
        """The first sample of the left context of wherever the state may begin anew."""
        place = self.place
        return Place(min(place.sample, self.speaker.utterance.needed), self.first).needed(context)


class ParakeetEngine(Engine):
    """Engine of asr_workers.engines.base. Raises SetupError where it cannot run."""

    def __init__(self, config: ParakeetConfig, load: Callable[[ParakeetConfig], ParakeetModel] = ParakeetModel) -> None:
        self._config, self._context = config, config.context
        self._rules = UtteranceRules.of(config.endpoint_ms, config.utterance_s_max)
        torch.set_num_threads(config.threads)
        self._model = load(config)
        self._languages = languages_of(config.model)
        self._slots: dict[int, _Slot] = {}
        with torch.inference_mode():
            self._initial = self._model.decoder.initial(1)
            self._batch = batch_windows(self._model, self._context, config.slots_wanted)

    @property
    def spec(self) -> Spec:
        context = self._context
        left_s = context.left * FRAME_SAMPLES / SAMPLE_RATE
        return Spec(
            engine="parakeet",
            model=served_name(self._config.model),
            languages=self._languages,
            slots=self._config.slots_wanted,
            chunk_samples=context.chunk * FRAME_SAMPLES,
            uncommitted_s_max=left_s + self._rules.uncommitted_s_max + 2 * context.latency_s,
            device=self._config.device,
            step_s_p99=self._batch.step_s_p99,
            checksum=self._model.checksum,
            license=self._model.licence or "",
            encode_factor=context.encode_factor,
        )

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        check_language(options.language, self._languages)
        assert slot not in self._slots and 0 <= slot < self._config.slots_wanted
        sample = snapshot.sample if snapshot else 0
        utterance, state = Utterance(sample), self._initial
        if snapshot and snapshot.state:
            utterance, state = self._restored(snapshot.state)
        speaker = Speaker(slot, options.partials, utterance)
        self._slots[slot] = _Slot(speaker, HeldAudio(sample), state, sample)

    def close(self, slot: int) -> None:
        self._slots.pop(slot, None)

    def blocked(self, slot: int) -> bool:
        return self._slots[slot].flushing or self._window(self._slots[slot]) is not None

    def pending(self) -> bool:
        return any(slot.flushing or self._window(slot) is not None for slot in self._slots.values())

    def snapshot(self, slot: int) -> Advanced:
        return Advanced(slot, self._snapshot(self._slots[slot]))

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        for chunk in chunks:
            slot = self._slots[chunk.slot]
            assert not slot.flushing, "a slot that drains takes no chunk"
            slot.audio.append(chunk.pcm)
            slot.flushing, slot.deadline_s = chunk.flush, chunk.deadline_s
        outputs = self._decode(self._most_urgent())
        for number, slot in self._slots.items():
            if slot.flushing and self._window(slot) is None:
                outputs += self._flushed(number, slot)
        return outputs

    # ---- Windows ----

    def _window(self, slot: _Slot) -> Window | None:
        return next_window(self._context, slot.place, slot.audio.end, flush=slot.flushing)

    def _most_urgent(self) -> list[tuple[_Slot, Window]]:
        ready = [(slot, window) for slot in self._slots.values() if (window := self._window(slot)) is not None]
        ready.sort(key=lambda pair: pair[0].deadline_s)
        return ready[: self._batch.windows_max]

    def _decode(self, ready: Sequence[tuple[_Slot, Window]]) -> list[Output]:
        if not ready:
            return []
        windows = [window for _, window in ready]
        encoded, frames = self._model.encode([slot.audio.read(window.start, window.end) for slot, window in ready])
        assert frames.tolist() == [window.left + window.chunk + window.right for window in windows]
        decoder, before = self._model.decoder, TdtState.joined([slot.state for slot, _ in ready])
        lefts, chunks = [window.left for window in windows], [window.chunk for window in windows]
        tokens, state = decoder.decode(*_cut(encoded, lefts, chunks), before)
        ahead: list[list[Heard]] = [[] for _ in ready]
        rights = [window.right if slot.speaker.partials else 0 for slot, window in ready]
        if any(rights):
            places = [window.left + window.chunk for window in windows]
            ahead, _ = decoder.decode(*_cut(encoded, places, rights), state)
        outputs: list[Output] = []
        for row, (slot, window) in enumerate(ready):
            slot.state = state.rows([row])
            outputs += self._heard(slot, window.chunk, tokens[row], ahead[row])
        return outputs

    def _heard(self, slot: _Slot, frames: int, tokens: Sequence[Heard], ahead: Sequence[Heard]) -> list[Output]:
        """The chunk's tokens are there for good, those behind it for a partial."""
        speaker, text = slot.speaker, self._model.text
        utterance, done = speaker.utterance, speaker.utterance.frames
        outputs: list[Output] = list(speaker.hear([_later(token, done) for token in tokens], frames))
        ending = utterance.ending(self._rules, text.starts_word)
        if ending is not None:
            if ending.origin is not None:
                self._begin_anew(slot, ending.origin)
            snapshot = replace(self._snapshot(slot), unsaid_sample=ending.said_until)
            outputs += speaker.final(ending.tokens, ending.endpoint, snapshot, text)
        if ending is None or ending.origin is None:
            maybe = [utterance.placed(_later(token, done + frames)) for token in ahead]
            outputs += speaker.partial(text, maybe)
        slot.audio.drop_before(slot.needed(self._context))
        return outputs

    def _begin_anew(self, slot: _Slot, origin: int) -> None:
        slot.speaker.utterance, slot.state = Utterance(origin), self._initial
        slot.first = slot.place.needed(self._context)

    def _flushed(self, number: int, slot: _Slot) -> list[Output]:
        """Everything is decoded: end the utterance. What follows has no left context either."""
        tokens = slot.speaker.utterance.flush(slot.audio.end)
        slot.flushing, slot.first = False, slot.audio.end
        slot.audio = HeldAudio(slot.first)
        slot.speaker.utterance, slot.state = Utterance(slot.first), self._initial
        final = slot.speaker.final(tokens, "flush", Snapshot(slot.first, b""), self._model.text)
        return [*final, Drained(number)]

    # ---- Snapshots ----

    def _snapshot(self, slot: _Slot) -> Snapshot:
        """From the left context on: its audio is heard again, but not decoded."""
        state = None if slot.state is self._initial else [_numbers(tensor) for tensor in _tensors(slot.state)]
        fields = [SNAPSHOT_VERSION, self._model.checksum, slot.speaker.utterance.fields(), state]
        return Snapshot(slot.needed(self._context), msgpack.packb(fields))

    def _restored(self, packed: bytes) -> tuple[Utterance, TdtState]:
        """Raises BadRequest."""
        try:
            version, checksum, fields, state = msgpack.unpackb(packed)
            utterance = Utterance.of(*fields)
            # Between utterances nothing is in it that another checkpoint of the model could not go on from.
            is_of_model = checksum == self._model.checksum or (state is None and not utterance.tokens)
            if version != SNAPSHOT_VERSION or not is_of_model:
                raise ValueError("another version or model")
            return utterance, self._state(state)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise BadRequest(f"the snapshot is not of this engine: {error}"[:128], slug="bad-snapshot") from error

    def _state(self, numbers: list[bytes] | None) -> TdtState:
        if numbers is None:
            return self._initial
        pairs = zip(numbers, _tensors(self._initial), strict=True)
        return TdtState(*[_tensor(data, like) for data, like in pairs])


def _cut(encoded: torch.Tensor, places: Sequence[int], lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's frames from its place on: [B, longest, D], and the lengths [B]."""
    device = encoded.device
    index = torch.tensor(places, device=device)[:, None] + torch.arange(max(lengths), device=device)
    rows = torch.arange(len(places), device=device)[:, None]
    return encoded[rows, index.clamp(max=encoded.shape[1] - 1)], torch.tensor(lengths, device=device)


def _later(token: Heard, frames: int) -> Heard:
    return Heard(token.id, token.frame + frames, token.frames, token.confidence)


def _tensors(state: TdtState) -> tuple[torch.Tensor, ...]:
    return state.hidden, state.cell, state.prediction, state.jump


def _numbers(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().float().numpy().tobytes()


def _tensor(data: bytes, like: torch.Tensor) -> torch.Tensor:
    """Raises ValueError."""
    numbers: Any = np.frombuffer(data, np.float32).reshape(like.shape).copy()
    return torch.from_numpy(numbers).to(like.device, like.dtype)
