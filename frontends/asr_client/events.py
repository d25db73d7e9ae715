"""The events of a session, as values: the server's messages (see `asr_dialects.native_events`) and `Reconnected`.

The parser needs no socket and no session, so it also reads a recorded conversation.
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
    """The connection broke `gap_s` seconds ago; the session continues over a new one, and nothing is lost.

    Not a message of the server; the program need not react. `resumed`: the server had kept the session. Otherwise the
    client began a new one with the unconfirmed audio, and its results continue the numbers of the old one.
    """

    resumed: bool
    gap_s: float


Event = Ready | Partial | Final | Flushed | Ack | Migrating | GoAway | Reconnected | End


def parse(message: str | bytes) -> Event | ServerError | None:
    """The event in one JSON text frame; a ServerError (returned, not raised) for `error`; None for an unknown type.

    Raises DecodeError for a frame that is not JSON, is no object, or lacks a required field.
    """
    event = native_events.parse(message)
    return ServerError(event.code, event.message, event.retry_after_s) if isinstance(event, Failure) else event
