"""Shared by the dialects over HTTP: bodies of limited size, a recording as one session, limits on concurrent work.

A request takes its place before its body is read, and keeps it until its session ends. A body beyond SPOOL_BYTES is
stored on disk, and all bodies share one budget. So clients that never finish their bodies cost little.

It contains no dialect: it raises AsrError, and each dialect makes the response from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, aclosing, contextmanager, nullcontext
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, NoReturn, TypeVar, cast

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from asr_frontends import events as e
from asr_frontends.frontend import Frontend
from asr_frontends.journal import Budget
from asr_frontends.servers.handshake import ADMISSION
from asr_frontends.servers.upload import Upload
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from asr_proto.errors import AsrError, AtCapacity, LimitExceeded, PeerError, ServiceError
from asr_proto.messages import Final

SPOOL_BYTES = 1_048_576
"""Largest part of a body that is held in memory; a longer body is stored on disk."""
WINDOW_S = 10.0
BYTES_PER_S_MIN = 4096
"""Least speed of a body in each WINDOW_S. Recorded speech in any format is faster than real time at this speed."""
PATIENCE_S = 1.0
"""Wait for bytes that have arrived but were not read yet, when a window was too slow: this process may have stalled."""

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


class Body:
    """The body of a request that has its place: limited in size and speed, and counted in the budget of all bodies."""

    def __init__(self, request: Request, budget: Budget, bytes_max: int) -> None:
        """Raises LimitExceeded or ServiceError when the announced length is too much."""
        announced = request.headers.get("content-length", "")
        self._request, self._budget, self._bytes_max = request, budget, bytes_max
        self._received = 0
        self._window_bytes = 0
        self._begin_window()
        self._check(int(announced) if announced.isdecimal() else 0)

    def release(self) -> None:
        """Return the body's bytes to the budget. Called when the body is no longer stored."""
        self._budget.bytes_held -= self._received
        self._received = 0

    async def receive(self) -> Message:
        """The next ASGI message. Raises LimitExceeded, ServiceError (overloaded), or Unauthorized (key-revoked)."""
        message = await self._next()
        if (admission := self._request.scope.get(ADMISSION)) and admission.revoked:
            raise admission.revoked
        count = len(message.get("body", b""))
        self._check(count)
        self._received += count
        self._budget.bytes_held += count
        self._count(count, is_last=not message.get("more_body", False))
        return message

    async def spooled(self) -> BinaryIO:
        """The whole body as a file, which the caller closes. Raises as `receive`, and ClientDisconnect."""
        with ExitStack() as exits:
            file = exits.enter_context(SpooledTemporaryFile(SPOOL_BYTES))
            async for piece in Request(self._request.scope, self.receive).stream():
                file.write(piece)
            file.seek(0)
            exits.pop_all()
        return cast(BinaryIO, file)

    def _check(self, count: int) -> None:
        if self._received + count > self._bytes_max:
            detail = f"the request's body has more than {self._bytes_max} bytes"
            raise LimitExceeded(detail, slug="request-too-large")
        if self._budget.bytes_held + count > self._budget.bytes_max:
            raise ServiceError("too many bytes of uploads are held here", slug="overloaded", retry_after_s=RETRY_S)

    # ---- Speed ----

    async def _next(self) -> Message:
        """The next message. Raises LimitExceeded when a window ends before it comes, with too few bytes."""
        receiving = asyncio.ensure_future(self._request.receive())
        try:
            while not (await asyncio.wait((receiving,), timeout=self._window_left_s()))[0]:
                if self._is_slow():
                    await asyncio.wait((receiving,), timeout=PATIENCE_S)
                    return receiving.result() if receiving.done() else self._fail_as_slow()
                self._begin_window()
            return receiving.result()
        finally:
            receiving.cancel()

    def _count(self, count: int, *, is_last: bool) -> None:
        """Count bytes that came. Raises LimitExceeded when their window is over, with too few bytes."""
        self._window_bytes += count
        if is_last or self._window_left_s() > 0:
            return
        if self._is_slow():
            self._fail_as_slow()
        self._begin_window()

    def _begin_window(self) -> None:
        self._window_at, self._window_bytes = time.monotonic(), 0

    def _window_left_s(self) -> float:
        return max(0.0, self._window_at + WINDOW_S - time.monotonic())

    def _is_slow(self) -> bool:
        return self._window_bytes < WINDOW_S * BYTES_PER_S_MIN

    def _fail_as_slow(self) -> NoReturn:
        raise LimitExceeded(f"the body came slower than {BYTES_PER_S_MIN} bytes per second", slug="idle-timeout")


@contextmanager
def body_of(request: Request, places: Places, budget: Budget, bytes_max: int) -> Iterator[Body]:
    """Hold a place, and the budget of the body, for the block. Raises AtCapacity, LimitExceeded or ServiceError."""
    with places.one():
        body = Body(request, budget, bytes_max)
        try:
            yield body
        finally:
            body.release()


@contextmanager
def ended_when_revoked(request: Request, end: Callable[[PeerError], None]) -> Iterator[None]:
    """Call `end` when the key of the request's client is removed during the block."""
    admission = request.scope.get(ADMISSION)
    with admission.ending(end) if admission else nullcontext():
        yield


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
    request: Request, frontend: Frontend, start: e.Start, frames: Iterator[bytes], transcription: Transcription
) -> AsyncGenerator[Final | None, None]:
    """None when the session has its slot, then each final. Finals are also added to `transcription`. Raises AsrError.

    Closing the generator ends the session.
    """
    upload = Upload()
    with ended_when_revoked(request, lambda error: upload.deliver(e.Error.of(error))):
        events = upload.run(frontend, start, _counted(frames, transcription))
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


async def transcribe(request: Request, frontend: Frontend, start: e.Start, frames: Iterator[bytes]) -> Transcription:
    """Transcribe a whole recording. Raises AsrError."""
    transcription = Transcription()
    async with aclosing(finals(request, frontend, start, frames, transcription)) as results:
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
