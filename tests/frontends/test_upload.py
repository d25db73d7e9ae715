"""Uploads: a file without audio is rejected before a session is opened, and no upload waits for ever."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
import soundfile

from asr_frontends import events as e
from asr_frontends.frontend import Frontend
from asr_frontends.servers.upload import Upload, decode
from asr_proto.errors import AudioError, LimitExceeded


def wav(samples: int, rate: int) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.zeros(samples, np.float32), rate, format="WAV")
    return content.getvalue()


@pytest.mark.parametrize("samples", [1, 5])
def test_a_recording_too_short_for_one_sample_is_refused(samples: int) -> None:
    """It resamples to no sample. Once, reading its first frame waited for ever."""
    with pytest.raises(AudioError):
        asyncio.run(decode(wav(samples, 192_000), 10.0))


@pytest.mark.parametrize("content", [b"", b"RIFF", b"\xff" * 100])
def test_a_file_without_audio_is_refused(content: bytes) -> None:
    with pytest.raises(AudioError):
        asyncio.run(decode(content, 10.0))


def test_too_long_a_recording_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        asyncio.run(decode(wav(16_000 * 3, 16_000), 2.0))


def test_the_frames_are_all_there() -> None:
    duration_s, frames = asyncio.run(decode(wav(24_000, 48_000), 2.0))
    assert duration_s == 0.5
    assert sum(len(frame) for frame in frames) == 16_000


class FakeFrontend:
    """Pauses its client after each piece of audio, and reports each piece to its test."""

    def __init__(self) -> None:
        self.listener: Upload | None = None
        self.is_paused = False
        self.events: asyncio.Queue[e.ClientEvent] = asyncio.Queue()

    def open(self, start: e.Start, listener: Upload) -> str:
        self.listener = listener
        return "s"

    def client(self, id: str, event: e.ClientEvent) -> None:
        assert self.listener is not None
        assert not self.is_paused or isinstance(event, e.Abort), f"{event} without credit"
        if isinstance(event, e.Audio):
            self.is_paused = True
            self.listener.pause()
        self.events.put_nowait(event)

    def credit(self) -> None:
        assert self.listener is not None
        self.is_paused = False
        self.listener.credit()


def test_audio_waits_for_its_credit() -> None:
    async def run() -> None:
        frontend, upload = FakeFrontend(), Upload()
        loop, decoded = asyncio.get_running_loop(), asyncio.Event()

        def frames() -> Iterator[bytes]:
            yield b"a"
            loop.call_soon_threadsafe(decoded.set)
            yield b"b"

        results = upload.run(cast(Frontend, frontend), e.Start(), frames())
        waiting = asyncio.create_task(anext(results))
        assert await frontend.events.get() == e.Audio(b"a")
        await decoded.wait()
        await asyncio.to_thread(lambda: None)  # the feeder has the second piece
        await asyncio.sleep(0)
        frontend.credit()
        assert await frontend.events.get() == e.Audio(b"b")
        frontend.credit()
        assert await frontend.events.get() == e.Stop()
        upload.deliver(e.Bye())
        assert await waiting == e.Bye()
        await results.aclose()
        assert await frontend.events.get() == e.Abort()

    asyncio.run(run())


def test_the_end_waits_for_the_thread_that_reads() -> None:
    """The caller closes the file then: a thread must not read from it any more."""
    steps: list[str] = []

    async def run() -> None:
        reads, may_end = threading.Event(), threading.Event()

        def frames() -> Iterator[bytes]:
            reads.set()
            may_end.wait(30)
            steps.append("read")
            yield b"a"

        results = Upload().run(cast(Frontend, FakeFrontend()), e.Start(), frames())
        waiting = asyncio.create_task(anext(results))
        await asyncio.to_thread(reads.wait)
        waiting.cancel()
        asyncio.get_running_loop().call_later(0.05, may_end.set)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        steps.append("ended")

    asyncio.run(run())
    assert steps == ["read", "ended"]
