"""Uploads: what is no audio is known before a session is opened, and never waits for ever."""

from __future__ import annotations

import asyncio
import io

import numpy as np
import pytest
import soundfile

from asr_frontends.servers.upload import decode
from asr_proto.errors import AudioError, LimitExceeded


def wav(samples: int, rate: int) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.zeros(samples, np.float32), rate, format="WAV")
    return content.getvalue()


@pytest.mark.parametrize("samples", [1, 5])
def test_a_recording_too_short_for_one_sample_is_refused(samples: int) -> None:
    """It resamples to nothing; asking for its first frame would have waited for ever."""
    with pytest.raises(AudioError):
        asyncio.run(decode(wav(samples, 192_000), 10.0))


@pytest.mark.parametrize("content", [b"", b"RIFF", b"\xff" * 100])
def test_what_is_no_audio_is_refused(content: bytes) -> None:
    with pytest.raises(AudioError):
        asyncio.run(decode(content, 10.0))


def test_too_long_a_recording_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        asyncio.run(decode(wav(16_000 * 3, 16_000), 2.0))


def test_the_frames_are_all_there() -> None:
    duration_s, frames = asyncio.run(decode(wav(24_000, 48_000), 2.0))
    assert duration_s == 0.5
    assert sum(len(frame) for frame in frames) == 16_000
