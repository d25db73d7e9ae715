"""What engines that decode whole utterances have in common: where utterances end and how often partials come."""

from __future__ import annotations

from dataclasses import dataclass

import click

from asr_proto.audio import SAMPLE_RATE
from asr_workers.engines.offline.endpoint import EndpointConfig
from asr_workers.engines.options import EngineConfig, option, threads_option

WINDOW_SAMPLES = 512
"""Samples that voice activity detection takes at once: 32 ms."""


def _windows(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / WINDOW_SAMPLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceConfig(EngineConfig):
    """The defaults of the endpointing were tuned on read speech."""

    threads: int = threads_option(1)
    """Per inference. A second one costs twice the CPU time for little wall time."""
    update_ms: int = option(
        500,
        "Shortest time between two partials of a speaker, in milliseconds; longer when the machine cannot keep up.",
        click.IntRange(min=50),
    )
    """A partial is decoded at most once in this time, and once in as much new speech."""
    speech_on: float = 0.5
    speech_off: float = 0.35
    voiced_ms_min: int = 64
    preroll_ms: int = 288
    trail_ms: int = 256
    endpoint_silence_ms: int = 608
    segment_s_max: float = 15.0
    cut_s: float = 4.0
    """A segment that is too long is cut at the quietest place of its last seconds."""
    pad_s: float = 0.25
    """Zeros on both sides of what is decoded: without them the model makes up words at abrupt ends."""

    @property
    def endpointing(self) -> EndpointConfig:
        return EndpointConfig(
            speech_on=self.speech_on,
            speech_off=self.speech_off,
            voiced_windows_min=_windows(self.voiced_ms_min / 1000),
            preroll_windows=_windows(self.preroll_ms / 1000),
            trail_windows=_windows(self.trail_ms / 1000),
            silence_windows=_windows(self.endpoint_silence_ms / 1000),
            utterance_windows_max=_windows(self.segment_s_max),
            cut_windows=_windows(self.cut_s),
        )
