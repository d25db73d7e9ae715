"""What a session reports, as values: the server's messages (see `asr_dialects.native_events`) and `Reconnected`.

This module must not know about sockets or sessions: it can be used on a recorded conversation.
"""

from __future__ import annotations

from dataclasses import dataclass

from asr_client.errors import ServerError
from asr_dialects import native_events
from asr_dialects.native_events import Ack, End, Failure, Final, Flushed, GoAway, Migrating, Partial, Ready, Word

__all__ = [
    "Ack",
    "End",
    "Event",
    "Final",
    "Flushed",
    "GoAway",
    "Migrating",
    "Partial",
    "Ready",
    "Reconnected",
    "Word",
    "parse",
]


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection had broken `gap_s` ago; the session goes on over another one. Nothing to do, nothing is lost.

    This is no message of the server. `resumed`: the server had kept the session; otherwise it began a new one with the
    audio that was not confirmed, which is shown as the continuation that it is.
    """

    resumed: bool
    gap_s: float


Event = Ready | Partial | Final | Flushed | Ack | Migrating | GoAway | Reconnected | End


def parse(message: str | bytes) -> Event | ServerError | None:
    """The event in one JSON text frame; a ServerError (not raised) for `error`; None for a type that is not known.

    Raises DecodeError for what is not JSON, not an object, or lacks a field of its type.
    """
    event = native_events.parse(message)
    return ServerError(event.code, event.message, event.retry_after_s) if isinstance(event, Failure) else event
