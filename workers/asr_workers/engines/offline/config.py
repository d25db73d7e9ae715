"""Settings shared by engines that decode whole utterances: endpointing and the rate of partials."""

from __future__ import annotations

from dataclasses import dataclass

import click

from asr_proto.audio import SAMPLE_RATE
from asr_workers.engines.offline.endpoint import EndpointConfig
from asr_workers.engines.options import EngineConfig, option, threads_option

WINDOW_SAMPLES = 512
"""Samples of one window of voice activity detection: 32 ms."""


def _windows(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / WINDOW_SAMPLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceConfig(EngineConfig):
    """Base of their configurations. The defaults of the endpointing were tuned on read speech."""

    threads: int = threads_option(1)
    """CPU threads of one inference. A second thread doubles the CPU time and saves little wall time."""
    update_ms: int = option(
        500,
        "Shortest time between two partials of a session, in milliseconds. It grows when the machine cannot keep up.",
        click.IntRange(min=50),
    )
    """A partial is decoded after at least this time, and after at least this much new speech."""
    speech_on: float = 0.5
    """Speech probability from which on a window is voiced."""
    speech_off: float = 0.35
    """Speech probability below which a window is silent."""
    voiced_ms_min: int = 64
    """Voiced audio that begins an utterance, in milliseconds."""
    preroll_ms: int = 288
    """Audio before the first voiced window that belongs to the utterance, in milliseconds."""
    trail_ms: int = 256
    """Audio after the last window that was not silent that belongs to the utterance, in milliseconds."""
    endpoint_silence_ms: int = 608
    """Silence that ends an utterance, in milliseconds."""
    segment_s_max: float = 15.0
    """Longest utterance, in seconds. A longer one is cut."""
    cut_s: float = 4.0
    """A cut is made at the quietest place in this many last seconds."""
    pad_s: float = 0.25
    """Seconds of zeros added on both sides before decoding. Without them the model invents words at abrupt ends."""

    @property
    def endpointing(self) -> EndpointConfig:
        """The settings of the endpointing, in windows."""
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
