"""Shared by the dialects over HTTP: bodies of limited size, a recording as one session, limits on concurrent work.

It contains no dialect: it raises AsrError, and each dialect makes the response from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from asr_frontends import events as e
from asr_frontends.frontend import Frontend
from asr_frontends.servers.upload import Upload
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from asr_proto.errors import AsrError, AtCapacity, LimitExceeded, PeerError, ServiceError
from asr_proto.messages import Final

BODY_WAIT_S = 30.0
"""Longest wait for the next part of a request's body, in seconds."""

RETRY_S = 1.0
"""Time after which a client should try again, where no better value is known."""

T = TypeVar("T")


class Places:
    """Limits how many of one kind run at the same time. A place is returned whether its holder succeeds or fails."""

    def __init__(self, count_max: int, what: str) -> None:
        self.count_max, self._what = count_max, what
        self.taken = 0

    @contextmanager
    def one(self, *, always: bool = False) -> Iterator[None]:
        """Hold a place for the block. Raises AtCapacity when all places are taken, unless `always` is set."""
        if self.taken >= self.count_max and not always:
            detail = f"the maximum of {self.count_max} concurrent {self._what} is reached"
            raise AtCapacity(detail, retry_after_s=RETRY_S)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


# ---- Requests ----


def limited(request: Request, bytes_max: int) -> Receive:
    """The request's `receive`. It raises LimitExceeded when the body exceeds `bytes_max` or stops for BODY_WAIT_S."""
    announced = request.headers.get("content-length", "")
    received = 0

    async def receive() -> Message:
        nonlocal received
        if announced.isdecimal() and int(announced) > bytes_max:
            raise _too_large(bytes_max)
        try:
            async with asyncio.timeout(BODY_WAIT_S):
                message = await request.receive()
        except TimeoutError as error:
            raise LimitExceeded(f"no more of the body came for {BODY_WAIT_S:g} s", slug="idle-timeout") from error
        received += len(message.get("body", b""))
        if received > bytes_max:
            raise _too_large(bytes_max)
        return message

    return receive


def _too_large(bytes_max: int) -> LimitExceeded:
    return LimitExceeded(f"the request's body has more than {bytes_max} bytes", slug="request-too-large")


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body; at most `bytes_max` bytes are held in memory. Raises LimitExceeded, ClientDisconnect."""
    return await Request(request.scope, limited(request, bytes_max)).body()


async def unless_gone(request: Request, work: Coroutine[None, None, T]) -> T:
    """The result of `work`. When the client disconnects first, `work` is cancelled. Raises ClientDisconnect."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# ---- Recordings ----


@dataclass(slots=True)
class Transcription:
    """The finals of a recording so far."""

    finals: list[Final] = field(default_factory=list)
    samples: int = 0
    """16 kHz samples posted."""

    @property
    def text(self) -> str:
        return " ".join(final.text for final in self.finals if final.text.strip())

    @property
    def duration_s(self) -> float:
        return round(self.samples / SAMPLE_RATE, 3)


async def finals(
    frontend: Frontend, start: e.Start, frames: Iterator[bytes], places: Places, transcription: Transcription
) -> AsyncGenerator[Final | None, None]:
    """None when the session has its slot, then each final. Finals are also added to `transcription`. Raises AsrError.

    Closing the generator ends the session.
    """
    with places.one():
        events = Upload().run(frontend, start, _counted(frames, transcription))
        async with aclosing(events):
            async for event in events:
                match event:
                    case e.Ready():
                        yield None
                    case Final():
                        transcription.finals.append(event)
                        yield event
                    case e.Error():
                        raise error_of(event)


async def transcribe(frontend: Frontend, start: e.Start, frames: Iterator[bytes], places: Places) -> Transcription:
    """Transcribe a whole recording. Raises AsrError."""
    transcription = Transcription()
    async with aclosing(finals(frontend, start, frames, places, transcription)) as results:
        await _exhaust(results)
    return transcription


async def _exhaust(results: AsyncIterator[object]) -> None:
    async for _ in results:
        pass


def _counted(frames: Iterator[bytes], transcription: Transcription) -> Iterator[bytes]:
    for frame in frames:
        transcription.samples += len(frame) // BYTES_PER_SAMPLE
        yield frame


def error_of(event: e.Error) -> AsrError:
    """The exception for an Error event."""
    if event.is_service:
        return ServiceError(event.detail, slug=event.slug, retry_after_s=event.retry_after_s)
    return PeerError(event.detail, slug=event.slug)
