"""The embedded engine: Moonshine tiny English on the CPU, behind voice activity detection.

One utterance is decoded per step, and partials only in steps without live audio: a decode takes a core for longer than
chunks of many sessions may wait.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asr_proto.audio import SAMPLE_RATE
from asr_proto.messages import Spec
from asr_workers.engines.moonshine.config import SLOTS_CPU, MoonshineConfig
from asr_workers.engines.moonshine.model import MoonshineModel, session_options
from asr_workers.engines.offline.decode_queue import BatchLimits
from asr_workers.engines.offline.utterance_engine import CHUNK_SAMPLES, UNCOMMITTED_S_MARGIN, Asked, UtteranceEngine

STEP_S_P99 = 1.0
"""A final of the longest utterance, on a slow core."""


class MoonshineEngine(UtteranceEngine):
    """Engine of asr_workers.engines.base. Raises SetupError where the model's package is missing."""

    def __init__(self, config: MoonshineConfig) -> None:
        options = session_options(config.threads)
        self._model = MoonshineModel(options, config.pad_s)
        spec = Spec(
            engine="moonshine",
            model="moonshine-tiny-en",
            languages=("en",),
            slots=config.slots or SLOTS_CPU,
            chunk_samples=CHUNK_SAMPLES,
            uncommitted_s_max=config.segment_s_max + UNCOMMITTED_S_MARGIN,
            device="cpu",
            step_s_p99=STEP_S_P99,
            checksum=self._model.checksum,
            license="MIT",
        )
        super().__init__(config, spec, options, BatchLimits())
        self._model.decode(np.zeros(SAMPLE_RATE, np.int16))  # the first decode is slow: not a session's

    def _decode(self, asked: Sequence[Asked]) -> list[list[int]]:
        return [self._model.decode(one.pcm, one.draft) for one in asked]

    def _text(self, tokens: Sequence[int]) -> str:
        return self._model.text(tokens)
