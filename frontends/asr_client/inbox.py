"""The queue of received events that the program has not read yet.

The session always reads what the server sends. A program may send an hour of audio before it reads the first event;
if the session did not read meanwhile, server and client would wait for each other for ever. So events collect here.
When there are many, superseded partials and older acks are dropped; finals, flushed markers and the end are never
dropped. The rest is bounded by the amount of audio sent.
This module uses no sockets. One event loop, no threads.
"""

from __future__ import annotations

import asyncio
from collections import deque

from asr_client.events import Ack, Event, Partial
from asr_proto.errors import AsrError

PENDING_EVENTS_MAX = 256
"""Number of unread events above which superseded ones are dropped."""


class Inbox:
    """A queue of events that is closed once, normally or with an error."""

    def __init__(self) -> None:
        self.failure: AsrError | None = None
        self._events: deque[Event] = deque()
        self._compact_at = PENDING_EVENTS_MAX
        self._closed = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._events)

    @property
    def is_closed(self) -> bool:
        """Whether no more events will be added."""
        return self._closed

    def put(self, event: Event) -> None:
        """Append an event; never waits."""
        self._events.append(event)
        if len(self._events) > self._compact_at:
            self._drop_superseded()
        self._changed.set()

    def close(self, failure: AsrError | None = None) -> None:
        """Add no more events. The first call counts; events in the queue can still be read."""
        if not self._closed:
            self._closed = True
            self.failure = failure
        self._changed.set()

    async def get(self) -> Event | None:
        """The next event; None after the last one of a session that ended normally. Otherwise raises the failure."""
        while not self._events:
            if self._closed:
                if self.failure is not None:
                    raise self.failure
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()

    def _drop_superseded(self) -> None:
        """Keep only the latest partial and the latest ack; do this again when the queue has doubled."""
        kept: deque[Event] = deque()
        seen: set[type] = set()
        for event in reversed(self._events):
            if isinstance(event, Partial | Ack) and type(event) in seen:
                continue
            seen.add(type(event))
            kept.appendleft(event)
        self._events = kept
        self._compact_at = max(PENDING_EVENTS_MAX, 2 * len(kept))
