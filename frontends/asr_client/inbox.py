"""Events that have arrived and are not read yet.

The session always reads what the server sends, whatever the program does: a program that sends an hour of audio before
it looks at the first event must not stop the server from writing, or both would wait for ever. So events pile up here.
The policy when there are many: a partial that a later one supersedes, and an older ack, are dropped; finals, flushed
markers and the end never are. What stays is bounded by the audio that was sent.
This module must not know about sockets. One event loop, no threads.
"""

from __future__ import annotations

import asyncio
from collections import deque

from asr_client.events import Ack, Event, Partial
from asr_proto.errors import AsrError

PENDING_EVENTS_MAX = 256
"""Pending events from which superseded ones are dropped."""


class Inbox:
    """A queue of events that ends once, in order or with an error."""

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
        """Whether nothing follows what is here."""
        return self._closed

    def put(self, event: Event) -> None:
        """Append; never waits."""
        self._events.append(event)
        if len(self._events) > self._compact_at:
            self._drop_superseded()
        self._changed.set()

    def close(self, failure: AsrError | None = None) -> None:
        """Nothing follows. The first close counts; events that wait can still be had."""
        if not self._closed:
            self._closed = True
            self.failure = failure
        self._changed.set()

    async def get(self) -> Event | None:
        """The next event; after the last one the failure is raised, or None is the answer of an orderly end."""
        while not self._events:
            if self._closed:
                if self.failure is not None:
                    raise self.failure
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()

    def _drop_superseded(self) -> None:
        """Keep the latest partial and the latest ack; wait until the rest has doubled before looking again."""
        kept: deque[Event] = deque()
        seen: set[type] = set()
        for event in reversed(self._events):
            if isinstance(event, Partial | Ack) and type(event) in seen:
                continue
            seen.add(type(event))
            kept.appendleft(event)
        self._events = kept
        self._compact_at = max(PENDING_EVENTS_MAX, 2 * len(kept))
