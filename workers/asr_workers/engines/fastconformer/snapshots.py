"""The complete state of a slot of the fastconformer engine as bytes, so that another worker can continue it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack
import numpy as np
from numpy.typing import NDArray

from asr_proto.audio import Pcm16, to_int16
from asr_proto.errors import BadRequest
from asr_workers.engines.transducer.token_utterances import Utterance

VERSION = 2


@dataclass(frozen=True, slots=True)
class SlotState:
    """The state of a slot between two steps."""

    right: int
    """The session's look-ahead in encoder frames."""
    utterance: Utterance
    audio_first: int
    """The sample with which `audio` begins."""
    audio: Pcm16
    """int16 [samples]: the audio that the engine holds."""
    features: NDArray[np.float32]
    """float32 [frames, mels]: features that the model has not received yet."""
    mel: bytes
    """State of the features, as StreamingMel exports it."""
    model: bytes
    """State of the model, as StreamingModel.snapshot returns it."""

    def packed(self) -> bytes:
        mels = self.features.shape[1]
        pcm, features = self.audio.astype("<i2").tobytes(), self.features.astype("<f4").tobytes()
        fields = [VERSION, self.right, self.utterance.fields(), self.audio_first, pcm, mels, features]
        packed: bytes = msgpack.packb([*fields, self.mel, self.model])
        return packed

    @classmethod
    def unpacked(cls, packed: bytes) -> SlotState:
        """The state of these bytes; `mel` and `model` are not checked. Raises BadRequest."""
        try:
            version, right, utterance, first, pcm, mels, features, mel, model = msgpack.unpackb(packed)
            if version != VERSION:
                raise ValueError(f"unknown version {version}")
            frames = np.frombuffer(features, "<f4").astype(np.float32).reshape(-1, mels)
            return cls(right, Utterance.of(*utterance), first, to_int16(pcm), frames, mel, model)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise BadRequest(f"the snapshot is not of this engine: {error}"[:128], slug="bad-snapshot") from error
