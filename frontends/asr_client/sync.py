"""The session of `session.py` for programs without asyncio: every method blocks.

    with connect("ws://127.0.0.1:8000") as session:
        session.send(pcm)
        session.stop()
        for event in session:
            print(event)

The session runs on an event loop in a separate thread. So events are received while the program does other things,
and one thread may send while another iterates. This module contains nothing about the dialect.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from asr_client.events import Event, Ready
from asr_client.session import RESUME_S, Session
from asr_client.session import connect as connect_async
from asr_proto.audio import SAMPLE_RATE

T = TypeVar("T")


@contextmanager
def connect(
    url: str,
    *,
    model: str | None = None,
    language: str | None = None,
    sample_rate: int = SAMPLE_RATE,
    partials: bool = True,
    look_ahead_ms: int | None = None,
    api_key: str | None = None,
    open_timeout_s: float = 10.0,
    ready_timeout_s: float = 30.0,
    resume_s: float = RESUME_S,
) -> Iterator[SyncSession]:
    """Open a session and wait until it is ready; parameters and errors as in `asr_client.connect`."""
    opening = connect_async(
        url,
        model=model,
        language=language,
        sample_rate=sample_rate,
        partials=partials,
        look_ahead_ms=look_ahead_ms,
        api_key=api_key,
        open_timeout_s=open_timeout_s,
        ready_timeout_s=ready_timeout_s,
        resume_s=resume_s,
    )
    with _LoopThread() as loop:
        session = loop.call(opening.__aenter__())
        try:
            yield SyncSession(session, loop)
        finally:
            loop.call(opening.__aexit__(None, None, None))


class SyncSession:
    """An open session with blocking methods; iterate over it for its events. Errors are those of `Session`."""

    def __init__(self, session: Session, loop: _LoopThread) -> None:
        self._session = session
        self._loop = loop

    @property
    def ready(self) -> Ready:
        """The server's answer to `start`."""
        return self._session.ready

    def send(self, pcm: bytes | bytearray | memoryview) -> None:
        """Send audio: PCM16LE mono at the session's sample rate, any length. Blocks while the server is behind."""
        self._loop.call(self._session.send(pcm))

    def flush(self, marker: str) -> None:
        """End the utterance here; `Flushed(marker)` follows all text of the audio sent so far."""
        self._loop.call(self._session.flush(marker))

    def keepalive(self) -> None:
        """Keep the session open while there is no audio to send."""
        self._loop.call(self._session.keepalive())

    def stop(self) -> None:
        """End the audio: the remaining finals follow, then End."""
        self._loop.call(self._session.stop())

    def close(self) -> None:
        """Close the connection, also before the end."""
        self._loop.call(self._session.close())

    def __iter__(self) -> SyncSession:
        return self

    def __next__(self) -> Event:
        event = self._loop.call(self._session.receive())
        if event is None:
            raise StopIteration
        return event


class _LoopThread:
    """An event loop in a thread, for the length of a `with` block."""

    def __enter__(self) -> _LoopThread:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="asr-client", daemon=True)
        self._thread.start()
        return self

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine on the loop and wait for it; an interrupted wait (Ctrl+C) cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call(_cancel_the_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_the_others() -> None:
    """Cancel the tasks that interrupted calls have left on this loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
