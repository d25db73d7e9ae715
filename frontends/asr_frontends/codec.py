"""The interface of codecs: a codec translates one dialect's frames to events and back. No socket, clock or task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from asr_frontends.events import ClientEvent, ServiceEvent


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection with this WebSocket close code and reason (at most 123 bytes)."""

    code: int
    reason: str = ""

    @classmethod
    def because(cls, code: int, reason: str) -> Close:
        """A close whose reason is cut to what a close frame holds."""
        return cls(code, reason.encode()[:123].decode(errors="ignore"))


@dataclass(frozen=True, slots=True)
class Request:
    """The HTTP request that opens a connection."""

    path: str
    query: str = ""
    """The query string, percent-encoded as received."""
    subprotocols: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """Values by lower-case name."""
    address: str = ""
    """The client's host."""
    unix_ms: int = 0
    """Time of arrival, in milliseconds since 1970; here because a codec has no clock."""


Frame = str | bytes | Close


class Codec(Protocol):
    """One conversation in one dialect. `receive` raises PeerError; the caller answers with `send(Error)` and ends."""

    subprotocol: str | None
    """The subprotocol that the handshake returns to the client; None for none."""
    coalesces: frozenset[type]
    """Types of events whose newest frame may replace an older unsent one when the client reads slowly."""

    def opening(self) -> list[ClientEvent]:
        """The events that the connection itself causes, before any frame."""

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        """The events of one frame of the client. Raises PeerError."""

    def replies(self) -> list[Frame]:
        """Frames that answer the last `receive` immediately, without the service (a pong, a reset)."""

    def tail(self) -> list[ClientEvent]:
        """The audio that the codec still holds, before the session is left: no more frames of the client are read."""

    def send(self, event: ServiceEvent) -> list[Frame]:
        """The frames for the client. A Close is the last one."""


class TrackCodec(Codec, Protocol):
    """A codec whose client may also send its audio on a media track."""

    @property
    def takes_audio(self) -> bool:
        """Whether the codec accepts audio of the track now."""


MakeTrackCodec = Callable[[Request], TrackCodec]
