"""The engine `fastconformer`: many sessions on one cache-aware streaming model.

The audio of a slot is turned into features when it arrives. When the features fill the model's next chunk, the slot
takes part in the next step. Slots of different ages and look-aheads share steps. Emitted tokens never change, so
partials only grow. The tokens decide where an utterance ends. Then the slot starts with an empty state at a sample of
the session, and another worker can continue from that sample alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from asr_proto.errors import SetupError
from asr_proto.messages import STATE_BYTES_MAX, Spec
from asr_workers.engines.base import Advanced, Chunk, Drained, Engine, Output, SlotOptions, Snapshot
from asr_workers.engines.fastconformer.config import FastConformerConfig
from asr_workers.engines.fastconformer.load import load
from asr_workers.engines.fastconformer.mel import StreamingMel
from asr_workers.engines.fastconformer.sizing import sized
from asr_workers.engines.fastconformer.snapshots import SlotState
from asr_workers.engines.fastconformer.streaming import (
    Emission,
    FeatureChunk,
    Geometry,
    ModelSettings,
    StreamingModel,
)
from asr_workers.engines.held_audio import HeldAudio
from asr_workers.engines.nemo.names import check_language, languages_of, served_name
from asr_workers.engines.transducer.token_text import TokenText
from asr_workers.engines.transducer.token_transcript import TokenTranscript
from asr_workers.engines.transducer.token_utterances import Ending, FrameToken, Utterance, UtteranceRules

FRAME_MS = 80
RIGHT = 1
"""The default look-ahead in encoder frames, where the model was trained with it."""
SNAPSHOT_MARGIN_BYTES = 262_144
"""Most bytes of a snapshot outside of the model's state: audio, features and tokens."""


@dataclass(slots=True)
class _FastConformerSlot:
    transcript: TokenTranscript
    geometry: Geometry
    audio: HeldAudio
    """The audio that may have to be encoded again with an empty state."""
    features: torch.Tensor
    """float32 [frames, mels]: the features that the model has not received yet."""
    flushing: bool = False
    """Whether the utterance ends after these features."""
    snapshot_sample: int = 0
    """The sample of the last snapshot with a state. No later snapshot may lie before it."""

    @property
    def size(self) -> int:
        """Feature frames of the next chunk."""
        return self.geometry.later_frames if self.transcript.utterance.frames else self.geometry.first_frames

    @property
    def ready(self) -> bool:
        """Whether the next chunk is complete."""
        return self.flushing or len(self.features) >= self.size

    def take(self) -> FeatureChunk:
        """The next chunk; with a flush, the last one takes all features that are left."""
        size = self.size
        last = self.flushing and len(self.features) <= size
        chunk = FeatureChunk(self.transcript.slot, self.features[:size], self.geometry.right, last)
        self.features = self.features[size:]
        return chunk


class FastConformerEngine(Engine):
    """The engine `fastconformer`. Raises SetupError where it cannot run."""

    def __init__(self, config: FastConformerConfig, load: Callable[[ModelSettings], StreamingModel] = load) -> None:
        self._config = config
        self._languages = languages_of(config.model)
        self._sized = sized(config.settings, config.slots, load, lambda model: _right(model, config.att_context))
        self._model, self._right = self._sized.model, self._sized.right
        self._step_s_p99 = self._sized.warm_up()
        cuts = self._model.bytes_per_slot() + SNAPSHOT_MARGIN_BYTES <= STATE_BYTES_MAX
        self._rules = UtteranceRules.of(config.endpoint_ms, config.utterance_s_max, cuts=cuts)
        self._text = TokenText(self._model.tokenizer)
        self._mel = StreamingMel(self._model.mel, self._sized.slots)
        self._slots: dict[int, _FastConformerSlot] = {}

    @property
    def spec(self) -> Spec:
        longest = max(self._model.rights) + 1
        return Spec(
            engine="fastconformer",
            model=served_name(self._config.model),
            languages=self._languages,
            slots=self._sized.slots,
            chunk_samples=self.chunk_samples(None),
            uncommitted_s_max=self._rules.uncommitted_s_max + longest * FRAME_MS / 1000,
            device=self._config.device,
            step_s_p99=self._step_s_p99,
            checksum=self._model.checksum,
            license=self._model.license or "",
        )

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        check_language(options.language, self._languages)
        assert slot not in self._slots and 0 <= slot < self._sized.slots
        geometry = self._model.geometry(self._right_for(options.look_ahead_ms))
        sample = snapshot.sample if snapshot else 0
        self._model.open(slot)
        self._mel.reset(slot)
        opened = _FastConformerSlot(
            TokenTranscript(slot, options.partials, Utterance(sample)), geometry, HeldAudio(sample), self._no_features()
        )
        if snapshot and snapshot.state:
            self._restore(opened, SlotState.unpacked(snapshot.state))
        self._slots[slot] = opened

    def close(self, slot: int) -> None:
        if self._slots.pop(slot, None) is not None:
            self._model.close(slot)
            self._mel.reset(slot)

    def blocked(self, slot: int) -> bool:
        return self._slots[slot].ready

    def pending(self) -> bool:
        return any(slot.ready for slot in self._slots.values())

    def chunk_samples(self, look_ahead_ms: int | None) -> int:
        """The samples of one chunk with the session's look-ahead. Waiting for more audio would delay its words."""
        return self._model.geometry(self._right_for(look_ahead_ms)).later_frames * self._model.mel.hop_samples

    def snapshot(self, slot: int) -> Advanced | None:
        return Advanced(slot, self._snapshot(self._slots[slot])) if self._rules.cuts else None

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        self._feed(chunks)
        ready = [slot for slot in self._slots.values() if slot.ready]
        features = [slot.take() for slot in ready]
        emissions = self._model.step(features) if features else {}
        outputs: list[Output] = []
        for slot, chunk in zip(ready, features, strict=True):
            tokens = [_frame_token(emission) for emission in emissions.get(chunk.slot, ())]
            outputs += self._flushed(slot, tokens) if chunk.last else self._outputs_of(slot, tokens)
        return outputs

    # ---- Audio ----

    def _feed(self, chunks: Sequence[Chunk]) -> None:
        slots = [self._slots[chunk.slot] for chunk in chunks]
        for slot, chunk in zip(slots, chunks, strict=True):
            assert not slot.flushing, "a slot takes no chunk before its flush is done"
            slot.flushing = chunk.flush
            slot.audio.append(chunk.pcm)
        numbers, flushes = [chunk.slot for chunk in chunks], [chunk.flush for chunk in chunks]
        new = self._mel.feed(numbers, [chunk.pcm for chunk in chunks], flushes)
        for slot, features in zip(slots, new, strict=True):
            slot.features = torch.cat((slot.features, features))

    def _restart(self, slot: _FastConformerSlot, origin: int) -> None:
        """Empty the slot's state, and encode the audio from `origin` on again."""
        number, audio = slot.transcript.slot, slot.audio
        slot.transcript.utterance = Utterance(origin)
        self._model.open(number)
        self._mel.reset(number)
        audio.drop_before(origin)
        pcm = audio.read(origin, audio.end)
        (slot.features,) = self._mel.feed([number], [pcm], [slot.flushing])

    # ---- Text ----

    def _outputs_of(self, slot: _FastConformerSlot, tokens: Sequence[FrameToken]) -> list[Output]:
        transcript = slot.transcript
        outputs: list[Output] = list(transcript.add(tokens, slot.geometry.right + 1))
        ending = transcript.utterance.ending(self._rules, self._text.starts_word)
        if ending is not None and ending.origin is not None:
            self._restart(slot, ending.origin)
        if ending is not None:
            outputs += transcript.final(ending.tokens, ending.endpoint, self._final_snapshot(slot, ending), self._text)
        if tokens:
            outputs += transcript.partial(self._text)
        slot.audio.drop_before(transcript.utterance.needed)
        return outputs

    def _flushed(self, slot: _FastConformerSlot, tokens: Sequence[FrameToken]) -> list[Output]:
        """End the utterance after its last tokens. The model has already wiped the slot."""
        transcript, end = slot.transcript, slot.audio.end
        outputs: list[Output] = list(transcript.add(tokens, 0))
        ended = transcript.utterance.flush(end)
        slot.flushing, slot.audio, transcript.utterance = False, HeldAudio(end), Utterance(end)
        outputs += transcript.final(ended, "flush", Snapshot(end, b""), self._text)
        return [*outputs, Drained(transcript.slot)]

    # ---- Look-ahead ----

    def _right_for(self, look_ahead_ms: int | None) -> int:
        """The longest look-ahead within this time, in encoder frames; the shortest one where none is."""
        if look_ahead_ms is None:
            return self._right
        rights = sorted(self._model.rights)
        return max([right for right in rights if right * FRAME_MS <= look_ahead_ms] or rights[:1])

    # ---- Snapshots ----

    def _final_snapshot(self, slot: _FastConformerSlot, ending: Ending) -> Snapshot:
        """The snapshot of a final. Where the state was emptied, the origin is enough, unless it lies before an earlier
        snapshot."""
        if ending.origin is None or ending.origin < slot.snapshot_sample:
            return replace(self._snapshot(slot), unsaid_sample=ending.committed_sample)
        return Snapshot(ending.origin, b"")

    def _snapshot(self, slot: _FastConformerSlot) -> Snapshot:
        """A snapshot of the slot's complete state."""
        number, audio = slot.transcript.slot, slot.audio
        state = SlotState(
            right=slot.geometry.right,
            utterance=slot.transcript.utterance,
            audio_first=audio.first,
            audio=audio.read(audio.first, audio.end),
            features=slot.features.numpy(),
            mel=self._mel.export(number),
            model=self._model.snapshot(number),
        )
        slot.snapshot_sample = audio.end
        return Snapshot(audio.end, state.packed())

    def _restore(self, slot: _FastConformerSlot, state: SlotState) -> None:
        """Continue from a snapshot's state. Raises BadRequest where it is not of this model."""
        number = slot.transcript.slot
        self._model.restore(number, state.model)
        self._mel.restore(number, state.mel)
        slot.geometry = self._model.geometry(state.right)
        slot.transcript.utterance = state.utterance
        slot.audio = HeldAudio(state.audio_first)
        slot.audio.append(state.audio)
        slot.snapshot_sample = slot.audio.end
        slot.features = torch.from_numpy(state.features)

    def _no_features(self) -> torch.Tensor:
        return torch.empty(0, self._model.mel.mels)


def _frame_token(emission: Emission) -> FrameToken:
    return FrameToken(emission.token, emission.frame, 1, round(emission.confidence, 4))


def _right(model: StreamingModel, att_context: tuple[int, int] | None) -> int:
    """The worker's default look-ahead in encoder frames. Raises SetupError for a context that the model lacks."""
    if att_context is None:
        return RIGHT if RIGHT in model.rights else model.rights[0]
    left, right = att_context
    if left != model.left or right not in model.rights:
        known = ", ".join(f"{model.left},{right}" for right in sorted(model.rights))
        raise SetupError(f"{model.name} was not trained with the context {left},{right}: use one of {known}")
    return right
