"""Records the times of a session's events, for its figures. It contains no message formats."""

from __future__ import annotations

import time
from collections.abc import Callable

from asr_client.figures import Run, Said
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE

OnText = Callable[[str], object]
BYTES_PER_S = SAMPLE_RATE * BYTES_PER_SAMPLE


def ignore(_text: str) -> None:
    """An `on_text` without effect, for callers that need only the figures."""


class Recorder:
    """A stopwatch that starts before the connection is opened, and the texts with their times."""

    def __init__(self, on_text: OnText, clock: Callable[[], float] = time.perf_counter) -> None:
        self._on_text = on_text
        self._clock = clock
        self._started = clock()
        self._bytes = 0
        self._connected_s = 0.0
        self._first_audio_s: float | None = None
        self._last_audio_s = 0.0
        self._final_s = 0.0
        self._said: list[Said] = []
        self.all_sent = False

    def connected(self) -> None:
        self._connected_s = self._now_s()

    def sending(self, frame: bytes) -> None:
        """The frame is about to be sent."""
        self._bytes += len(frame)
        if self._first_audio_s is None:
            self._first_audio_s = self._now_s()

    def sent(self) -> None:
        """The channel has accepted the frame."""
        self._last_audio_s = self._now_s()

    def said(self, text: str) -> None:
        """Record the whole text so far, if it differs from the last one."""
        if text != (self._said[-1].text if self._said else ""):
            self._said.append(Said(self._now_s(), text))
            self._on_text(text)

    def ended(self) -> None:
        """The text is complete."""
        self._final_s = self._now_s()

    def silent_s(self) -> float:
        """Seconds since the last audio was sent."""
        return self._now_s() - self._last_audio_s

    def run(self) -> Run:
        """The times and texts that were recorded."""
        first_audio_s = self._connected_s if self._first_audio_s is None else self._first_audio_s
        return Run(
            audio_s=self._bytes / BYTES_PER_S,
            connected_s=self._connected_s,
            first_audio_s=first_audio_s,
            last_audio_s=max(self._last_audio_s, first_audio_s),
            final_s=self._final_s,
            said=tuple(self._said),
        )

    def _now_s(self) -> float:
        return self._clock() - self._started
