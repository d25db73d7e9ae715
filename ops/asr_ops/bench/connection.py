"""One session's socket: it sends frames that are already encoded, and records each message and its arrival time.

Frames are written directly to the socket. The event loop's transport buffers data until the loop runs again, which
costs as much as the sending. The transport is used when the socket accepts no more data, and for TLS.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import cast
from urllib.parse import urlsplit

from asr_dialects.client import parse
from asr_ops.bench import websocket
from asr_ops.bench.dialects import WireDialect
from asr_ops.bench.statistics import SessionRecord
from asr_proto.errors import DecodeError

OPEN_TIMEOUT_S = 30.0
NORMAL = 1000
CLOSE = websocket.encode(websocket.CLOSE, NORMAL.to_bytes(2, "big"))

clock = time.perf_counter


class BenchConnection(asyncio.Protocol):
    """A connection for one session. `over` is done when the session has ended, for any reason."""

    def __init__(self, dialect: WireDialect) -> None:
        self.session = SessionRecord()
        self.takes_audio = False
        """Whether audio may be sent: true from `ready` until the session is over."""
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the session is ready, or over without having been ready."""
        self.over: asyncio.Future[None] = loop.create_future()
        self.writable = asyncio.Event()
        """Set while the transport's write buffer is below its limit."""
        self.writable.set()
        self.transport: asyncio.Transport | None = None
        self._dialect = dialect
        self._descriptor: int | None = None
        """The socket's file descriptor. None with TLS, where the socket cannot be written directly."""
        self._reader = websocket.Reader()
        self._request = b""

    async def open(self, url: str) -> None:
        """Connect and send the handshake. Returns when the session is ready or over."""
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        self._request = websocket.request(parts.netloc.rpartition("@")[2], target)
        self.session.connecting_s = clock()
        secure = parts.scheme == "wss"
        port = parts.port or (443 if secure else 80)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: self, parts.hostname or "", port, ssl=secure or None
                )
                await self.ready
        except TimeoutError:
            self.fail("not ready in time")
        except OSError as error:
            self.fail(error.strerror or str(error))

    # ---- Writing ----

    def write(self, data: bytes) -> None:
        """Send the data now, or when the socket accepts it."""
        assert self.transport is not None
        if self._descriptor is None or self.transport.get_write_buffer_size():
            self.transport.write(data)
            return
        try:
            sent = os.write(self._descriptor, data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the transport gets this error too, and connection_lost reports it
            return
        if sent < len(data):
            self.transport.write(data[sent:])

    def stop(self) -> None:
        """Send the dialect's messages for the end of the audio."""
        self.write(self._dialect.ending)

    def abort(self) -> None:
        """Close the connection without a close frame."""
        self._finish()
        if self.transport is not None:
            self.transport.abort()

    def fail(self, reason: str) -> None:
        """Record why the session failed, unless it is already over. A session that sent no audio counts as refused."""
        if self.session.end_s is None and self.session.fault is None:
            self.session.fault, self.session.fault_s = reason, clock()
            if not self.session.sent_s:
                self.session.ready_s = None
        self._finish()

    def _finish(self) -> None:
        self.takes_audio = False
        self.writable.set()
        for future in (self.ready, self.over):
            if not future.done():
                future.set_result(None)
        if self.transport is not None:
            self.transport.close()

    # ---- Callbacks of the event loop ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it
        if transport.get_extra_info("sslcontext") is None:
            self._descriptor = transport.get_extra_info("socket").fileno()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now, before = clock(), self._reader.status
        try:
            frames = list(self._reader.feed(data))
            if before is None and self._reader.status is not None:
                self._on_status(self._reader.status, now)
            for frame in frames:
                self._on_frame(frame, now)
        except (DecodeError, ValueError, KeyError, IndexError, TypeError) as error:
            self.fail(f"cannot decode the server's data: {error!r}")

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("the connection was lost" if exc is None else f"the connection was lost: {exc}")

    # ---- Reading ----

    def _on_status(self, status: int, now: float) -> None:
        if status != 101:
            self.fail(f"HTTP {status}")
            return
        if self._dialect.opening:
            self.write(self._dialect.opening)
        if not self._dialect.waits_for_ready:
            self._on_ready(now)

    def _on_frame(self, frame: websocket.Frame, now: float) -> None:
        if frame.opcode == websocket.TEXT:
            self._on_text(frame.payload, now)
        elif frame.opcode == websocket.PING:
            self.write(websocket.encode(websocket.PONG, frame.payload))
        elif frame.opcode == websocket.CLOSE:
            self._on_close(frame.payload, now)

    def _on_text(self, payload: bytes, now: float) -> None:
        meaning, session = self._dialect.read(parse(payload)), self.session
        if meaning.end_s is not None or (meaning.text and not meaning.final):
            session.partials.append((now, meaning.end_s))
        if meaning.final and meaning.text is not None:
            session.finals.append((now, meaning.text.strip()))
        if meaning.ready:
            session.engine = meaning.engine
            self._on_ready(now)
        if meaning.error is not None:
            self.fail(meaning.error)
        if meaning.ended:
            self._on_end(now)

    def _on_ready(self, now: float) -> None:
        if not self.ready.done():
            self.session.ready_s = now
            self.takes_audio = True
            self.ready.set_result(None)

    def _on_close(self, payload: bytes, now: float) -> None:
        code = int.from_bytes(payload[:2], "big")
        if code == NORMAL and self._dialect.ends_with_close:
            self._on_end(now)
        else:
            self.fail(f"closed with {code} {payload[2:].decode(errors='replace')}".strip())

    def _on_end(self, now: float) -> None:
        self.session.end_s = now
        self.write(CLOSE)
        self._finish()
