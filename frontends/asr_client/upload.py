"""From audio to a transcript: send the frames of any source and collect the finals, at the same time.

Both `asr transcribe` and the word error rate measurement use it. This module reads no audio source and shows no events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from asr_client.events import Event, Final, Ready
from asr_client.session import Session


@dataclass(frozen=True, slots=True)
class Transcript:
    """All finals of one session, in order."""

    ready: Ready
    finals: tuple[Final, ...]

    @property
    def text(self) -> str:
        """The words of all utterances, with single spaces between utterances."""
        return " ".join(final.text.strip() for final in self.finals if final.text.strip())


def _ignore(_event: Event) -> None:
    pass


async def upload(
    session: Session, frames: AsyncIterable[bytes], on_event: Callable[[Event], object] = _ignore
) -> Transcript:
    """Send the frames (PCM16LE), stop, and read up to the end; `on_event` is called with every event on arrival.

    Raises the errors of the session and of `frames`; the caller closes the session.
    """
    sending = asyncio.create_task(_send(session, frames))
    reading = asyncio.create_task(_read(session, on_event))
    try:
        _, finals = await asyncio.gather(sending, reading)
    finally:
        sending.cancel()
        reading.cancel()
        await asyncio.gather(sending, reading, return_exceptions=True)
    return Transcript(session.ready, finals)


async def _send(session: Session, frames: AsyncIterable[bytes]) -> None:
    async for frame in frames:
        await session.send(frame)
    await session.stop()


async def _read(session: Session, on_event: Callable[[Event], object]) -> tuple[Final, ...]:
    finals = []
    async for event in session:
        on_event(event)
        if isinstance(event, Final):
            finals.append(event)
    return tuple(finals)


async def paced(frames: Iterable[bytes], frame_s: float, speed: float) -> AsyncIterator[bytes]:
    """Yield the frames at `speed` times real time; 0 does not wait at all. `frame_s` is a frame's length in seconds.

    Each frame's time is counted from the start, so that delays do not add up.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    for number, frame in enumerate(frames, start=1):
        if speed > 0:
            await asyncio.sleep(max(0.0, start + number * frame_s / speed - clock()))
        yield frame
