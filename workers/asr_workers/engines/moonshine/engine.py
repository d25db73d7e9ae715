"""The embedded engine: Moonshine tiny English on the CPU, after voice activity detection.

A step decodes one utterance, and a step with live audio decodes no partial. A decode takes a core for longer than the
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
from asr_workers.engines.offline.utterance_engine import (
    CHUNK_SAMPLES,
    UNCOMMITTED_S_MARGIN,
    DecodeRequest,
    UtteranceEngine,
)

STEP_S_P99 = 1.0
"""Seconds to decode the longest utterance on a slow core."""


class MoonshineEngine(UtteranceEngine):
    """The embedded engine. Raises SetupError where the package with the model is missing."""

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
        self._model.decode(np.zeros(SAMPLE_RATE, np.int16))  # the first decode is slow, so no session gets it

    def _decode(self, requests: Sequence[DecodeRequest]) -> list[list[int]]:
        return [self._model.decode(request.pcm, request.draft) for request in requests]

    def _text(self, tokens: Sequence[int]) -> str:
        return self._model.text(tokens)
