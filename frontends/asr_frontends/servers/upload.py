"""A whole recording as one session, for the dialects over HTTP. Its audio is sent as fast as its credit allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from itertools import chain

from asr_audio.files import AudioFile
from asr_frontends import events as e
from asr_frontends.frontend import Frontend
from asr_proto.errors import AudioError, LimitExceeded

FRAME_MS = 1000


class Upload:
    """Sends one recording to a session and receives the session's events."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[e.ServiceEvent | None] = asyncio.Queue()
        self._may_send = asyncio.Event()
        self._may_send.set()

    def deliver(self, event: e.ServiceEvent) -> None:
        self._events.put_nowait(event)

    def pause(self) -> None:
        self._may_send.clear()

    def credit(self) -> None:
        self._may_send.set()

    def leave(self) -> None:
        """Nothing is held: an upload is never cut short."""

    async def run(
        self, frontend: Frontend, start: e.Start, frames: Iterator[bytes]
    ) -> AsyncGenerator[e.ServiceEvent, None]:
        """The events up to Bye or Error. Raises ServiceError when no session can be opened, PeerError from `frames`."""
        session = frontend.open(start, self)
        feeder = asyncio.create_task(self._feed(frontend, session, frames))
        feeder.add_done_callback(self._fed)
        try:
            while True:
                event = await self._events.get()
                if event is None:
                    await feeder
                    continue
                yield event
                if isinstance(event, e.Bye | e.Error):
                    return
        finally:
            feeder.cancel()
            frontend.client(session, e.Abort())

    def _fed(self, feeder: asyncio.Task[None]) -> None:
        """Wake `run` when the frames have raised an error."""
        if not feeder.cancelled() and feeder.exception() is not None:
            self._events.put_nowait(None)

    async def _feed(self, frontend: Frontend, session: str, frames: Iterator[bytes]) -> None:
        while frame := await asyncio.to_thread(next, frames, b""):
            await self._may_send.wait()
            frontend.client(session, e.Audio(frame))
        frontend.client(session, e.Stop())


async def decode(content: bytes, seconds_max: float) -> tuple[float, Iterator[bytes]]:
    """Duration in seconds and PCM16 frames of an audio file's content, decoded in a thread. Raises PeerError.

    The first frame is decoded here, so that a file without audio is rejected before a session is opened.
    """
    return await asyncio.to_thread(_decode, content, seconds_max)


def _decode(content: bytes, seconds_max: float) -> tuple[float, Iterator[bytes]]:
    file = AudioFile(content)
    if file.duration_s > seconds_max:
        raise LimitExceeded(f"{file.duration_s:.1f} s of audio exceed {seconds_max:g} s", slug="audio-too-long")
    frames = file.frames(FRAME_MS)
    first = next(frames, b"")
    if not first:
        raise AudioError("it holds no audio")
    return file.duration_s, chain((first,), frames)
