"""What a codec is: one dialect's frames to events and back. It never sees a socket, a clock or a task."""

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
        """With the reason cut to what a close frame holds."""
        return cls(code, reason.encode()[:123].decode(errors="ignore"))


@dataclass(frozen=True, slots=True)
class Request:
    """The HTTP request that opens a connection."""

    path: str
    query: str = ""
    """Raw, percent-encoded."""
    subprotocols: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    address: str = ""
    """The client's host."""
    unix_ms: int = 0
    """When it came, milliseconds since 1970: a codec has no clock."""


Frame = str | bytes | Close


class Codec(Protocol):
    """One conversation in one dialect. `receive` raises PeerError; the caller answers with `send(Error)` and ends."""

    subprotocol: str | None
    """To echo in the handshake."""
    coalesces: frozenset[type]
    """Events whose newest frame may replace an unsent older one when the client reads slowly."""

    def opening(self) -> list[ClientEvent]:
        """Events that the connection itself means."""

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        """Events of one frame of the client. Raises PeerError."""

    def replies(self) -> list[Frame]:
        """Frames that the last `receive` is answered with at once, whatever the service does (a pong, a reset)."""

    def send(self, event: ServiceEvent) -> list[Frame]:
        """Frames for the client. A Close is the last one."""


class TrackCodec(Codec, Protocol):
    """A codec whose client may send its audio on a media track beside its messages."""

    @property
    def takes_audio(self) -> bool:
        """Whether audio of the track is wanted now."""


MakeTrackCodec = Callable[[Request], TrackCodec]
