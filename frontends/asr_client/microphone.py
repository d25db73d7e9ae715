"""The microphone as frames of 16 kHz mono PCM16, through the optional extra `mic` (sounddevice over PortAudio).

PortAudio calls back in its own thread; the frames are passed to the event loop and queued there. Speech must not be
lost silently: when the service falls too far behind, recording ends with an error.
This module does not use the frames, and it can be imported without the extra.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import Any

from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import AudioError

BACKLOG_S_MAX = 60.0
"""Longest queue of recorded audio that is not sent yet, in seconds."""


class Microphone:
    """The default microphone of this machine, recording while `frames` is iterated."""

    def __init__(self, frame_ms: int) -> None:
        """Raises AudioError if the extra or the PortAudio library is missing."""
        self._device = _sounddevice()
        self._frame_samples = SAMPLE_RATE * frame_ms // 1000
        self._frames_max = int(BACKLOG_S_MAX * 1000 / frame_ms)
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()

    def stop(self) -> None:
        """End the recording; `frames` still yields the frames recorded so far."""
        self._waiting.put_nowait(None)

    async def frames(self) -> AsyncIterator[bytes]:
        """PCM16LE frames as they are recorded, until `stop`. Raises AudioError without a device or for a backlog."""
        with self._open(asyncio.get_running_loop()):
            while (frame := await self._waiting.get()) is not None:
                if self._waiting.qsize() > self._frames_max:
                    raise AudioError(f"the service is more than {BACKLOG_S_MAX:g} s behind the microphone")
                yield frame

    def _open(self, loop: asyncio.AbstractEventLoop) -> Any:
        def take(recorded: Any, _frames: int, _time: Any, _status: Any) -> None:
            loop.call_soon_threadsafe(self._waiting.put_nowait, bytes(recorded))

        try:
            return self._device.RawInputStream(
                samplerate=SAMPLE_RATE, channels=1, dtype="int16", blocksize=self._frame_samples, callback=take
            )
        except self._device.PortAudioError as error:
            raise AudioError(f"no microphone can be opened: {error}") from error


def _sounddevice() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise AudioError("recording needs the extra 'mic': pip install 'asr-pool[mic]'") from error
    except OSError as error:
        raise AudioError("recording needs the PortAudio library (Debian, Ubuntu: apt install libportaudio2)") from error
