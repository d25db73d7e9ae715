"""The engine `parakeet`: Parakeet-TDT over many slots, with a window around each chunk.

The tokens of a chunk never change. Tokens of the right context are only shown in partials. A step encodes the next
windows of the most urgent slots in one batch. The decoder's state is carried from chunk to chunk. At the end of an
utterance the state is emptied, and only the left context is kept.
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
from asr_workers.engines.parakeet.windows import FRAME_SAMPLES, Window, WindowContext, WindowPlace, next_window
from asr_workers.engines.transducer.token_transcript import TokenTranscript
from asr_workers.engines.transducer.token_utterances import FrameToken, Utterance, UtteranceRules

SNAPSHOT_VERSION = 1


@dataclass(slots=True)
class _ParakeetSlot:
    """The state of one session."""

    transcript: TokenTranscript
    audio: HeldAudio
    """The samples from the left context on."""
    state: TdtState
    first: int
    """The first sample that may be left context."""
    flushing: bool = False
    deadline_s: float = 0.0

    @property
    def place(self) -> WindowPlace:
        utterance = self.transcript.utterance
        return WindowPlace(utterance.sample(utterance.frames), self.first)

    def needed(self, context: WindowContext) -> int:
        """The first sample that a later window can begin with, also if the state is emptied at the next ending."""
        place = self.place
        return WindowPlace(min(place.sample, self.transcript.utterance.needed), self.first).needed(context)


class ParakeetEngine(Engine):
    """The engine `parakeet`. Raises SetupError where it cannot run."""

    def __init__(self, config: ParakeetConfig, load: Callable[[ParakeetConfig], ParakeetModel] = ParakeetModel) -> None:
        self._config, self._context = config, config.context
        self._rules = UtteranceRules.of(config.endpoint_ms, config.utterance_s_max)
        torch.set_num_threads(config.threads)
        self._model = load(config)
        self._languages = languages_of(config.model)
        self._slots: dict[int, _ParakeetSlot] = {}
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
            license=self._model.license or "",
            encode_factor=context.encode_factor,
        )

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        check_language(options.language, self._languages)
        assert slot not in self._slots and 0 <= slot < self._config.slots_wanted
        sample = snapshot.sample if snapshot else 0
        utterance, state = Utterance(sample), self._initial
        if snapshot and snapshot.state:
            utterance, state = self._restored(snapshot.state)
        transcript = TokenTranscript(slot, options.partials, utterance)
        self._slots[slot] = _ParakeetSlot(transcript, HeldAudio(sample), state, sample)

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
            assert not slot.flushing, "a slot takes no chunk before its flush is done"
            slot.audio.append(chunk.pcm)
            slot.flushing, slot.deadline_s = chunk.flush, chunk.deadline_s
        outputs = self._decode(self._most_urgent())
        for number, slot in self._slots.items():
            if slot.flushing and self._window(slot) is None:
                outputs += self._flushed(number, slot)
        return outputs

    # ---- Windows ----

    def _window(self, slot: _ParakeetSlot) -> Window | None:
        return next_window(self._context, slot.place, slot.audio.end, flush=slot.flushing)

    def _most_urgent(self) -> list[tuple[_ParakeetSlot, Window]]:
        ready = [(slot, window) for slot in self._slots.values() if (window := self._window(slot)) is not None]
        ready.sort(key=lambda pair: pair[0].deadline_s)
        return ready[: self._batch.windows_max]

    def _decode(self, ready: Sequence[tuple[_ParakeetSlot, Window]]) -> list[Output]:
        if not ready:
            return []
        windows = [window for _, window in ready]
        encoded, frames = self._model.encode([slot.audio.read(window.start, window.end) for slot, window in ready])
        assert frames.tolist() == [window.left + window.chunk + window.right for window in windows]
        decoder, before = self._model.decoder, TdtState.joined([slot.state for slot, _ in ready])
        lefts, chunks = [window.left for window in windows], [window.chunk for window in windows]
        tokens, state = decoder.decode(*_cut(encoded, lefts, chunks), before)
        ahead: list[list[FrameToken]] = [[] for _ in ready]
        rights = [window.right if slot.transcript.partials else 0 for slot, window in ready]
        if any(rights):
            places = [window.left + window.chunk for window in windows]
            ahead, _ = decoder.decode(*_cut(encoded, places, rights), state)
        outputs: list[Output] = []
        for row, (slot, window) in enumerate(ready):
            slot.state = state.rows([row])
            outputs += self._outputs_of(slot, window.chunk, tokens[row], ahead[row])
        return outputs

    def _outputs_of(
        self, slot: _ParakeetSlot, frames: int, tokens: Sequence[FrameToken], ahead: Sequence[FrameToken]
    ) -> list[Output]:
        """Outputs of a window: `tokens` of its chunk are fixed, those `ahead` of it are for a partial only."""
        transcript, text = slot.transcript, self._model.text
        utterance, done = transcript.utterance, transcript.utterance.frames
        outputs: list[Output] = list(transcript.add([_later(token, done) for token in tokens], frames))
        ending = utterance.ending(self._rules, text.starts_word)
        if ending is not None:
            if ending.origin is not None:
                self._restart(slot, ending.origin)
            snapshot = replace(self._snapshot(slot), unsaid_sample=ending.committed_sample)
            outputs += transcript.final(ending.tokens, ending.endpoint, snapshot, text)
        if ending is None or ending.origin is None:
            maybe = [utterance.placed(_later(token, done + frames)) for token in ahead]
            outputs += transcript.partial(text, maybe)
        slot.audio.drop_before(slot.needed(self._context))
        return outputs

    def _restart(self, slot: _ParakeetSlot, origin: int) -> None:
        slot.transcript.utterance, slot.state = Utterance(origin), self._initial
        slot.first = slot.place.needed(self._context)

    def _flushed(self, number: int, slot: _ParakeetSlot) -> list[Output]:
        """End the utterance after all audio was decoded. The next one starts without left context."""
        tokens = slot.transcript.utterance.flush(slot.audio.end)
        slot.flushing, slot.first = False, slot.audio.end
        slot.audio = HeldAudio(slot.first)
        slot.transcript.utterance, slot.state = Utterance(slot.first), self._initial
        final = slot.transcript.final(tokens, "flush", Snapshot(slot.first, b""), self._model.text)
        return [*final, Drained(number)]

    # ---- Snapshots ----

    def _snapshot(self, slot: _ParakeetSlot) -> Snapshot:
        """The slot's snapshot, from the left context on. That audio is encoded again, but not decoded again."""
        state = None if slot.state is self._initial else [_numbers(tensor) for tensor in _tensors(slot.state)]
        fields = [SNAPSHOT_VERSION, self._model.checksum, slot.transcript.utterance.fields(), state]
        return Snapshot(slot.needed(self._context), msgpack.packb(fields))

    def _restored(self, packed: bytes) -> tuple[Utterance, TdtState]:
        """The state of a snapshot. Raises BadRequest where it is not of this engine and model."""
        try:
            version, checksum, fields, state = msgpack.unpackb(packed)
            utterance = Utterance.of(*fields)
            # A snapshot between utterances has no decoder state, so it fits every checkpoint.
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
    """Each row's frames from its place on: [B, longest, D], and the number of valid ones: int64 [B]."""
    device = encoded.device
    index = torch.tensor(places, device=device)[:, None] + torch.arange(max(lengths), device=device)
    rows = torch.arange(len(places), device=device)[:, None]
    return encoded[rows, index.clamp(max=encoded.shape[1] - 1)], torch.tensor(lengths, device=device)


def _later(token: FrameToken, frames: int) -> FrameToken:
    """The token moved by this number of frames."""
    return FrameToken(token.id, token.frame + frames, token.frames, token.confidence)


def _tensors(state: TdtState) -> tuple[torch.Tensor, ...]:
    return state.hidden, state.cell, state.prediction, state.jump


def _numbers(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().float().numpy().tobytes()


def _tensor(data: bytes, like: torch.Tensor) -> torch.Tensor:
    """A tensor like `like` from the bytes of `_numbers`. Raises ValueError where their number is wrong."""
    numbers: Any = np.frombuffer(data, np.float32).reshape(like.shape).copy()
    return torch.from_numpy(numbers).to(like.device, like.dtype)
