"""What the client sends, kept until the server confirms it: a new connection sends it again. Pure.

Entries stay in order: audio with its position, and flushes and the stop between. A cursor separates the entries sent on
this connection from the others. A commit removes audio; the answer to a flush removes the flush. Positions are
samples of the user's session, at the client's rate. This module uses no sockets and no messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice, pairwise

from asr_audio.entries import Entry, Mark, Piece
from asr_proto.audio import BYTES_PER_SAMPLE, OddByte


class Replay:
    """`samples_max` bounds the kept audio: above it `has_room` is false until the server confirms more."""

    def __init__(self, samples_max: int) -> None:
        self.added = 0
        """Number of entries added so far: the last one is sent when `sent` equals this number."""
        self.end_sample = 0
        self.committed = 0
        """Audio before this sample is confirmed and removed."""
        self._samples_max = samples_max
        self._entries: deque[Entry] = deque()
        self._cursor = 0
        self._from_sample = 0
        """First sample sent on this connection."""
        self._odd = OddByte()

    # ---- From the user ----

    def add_audio(self, data: bytes) -> None:
        """Add PCM16LE audio of any length: half a sample waits for its other half."""
        if pcm := self._odd.feed(data):
            self._add(Piece(self.end_sample, pcm))
            self.end_sample += len(pcm) // BYTES_PER_SAMPLE

    def add_flush(self, marker: str) -> None:
        """Add a flush after the audio so far."""
        self._add(Mark(self.end_sample, marker))

    def add_stop(self) -> None:
        """Add the end of audio."""
        self._add(Mark(self.end_sample, None))

    @property
    def has_room(self) -> bool:
        """Whether more audio may be added."""
        return self.end_sample - self.committed < self._samples_max

    def _add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.added += 1

    # ---- To the server ----

    @property
    def sent(self) -> int:
        """How many entries this connection has sent or need not send."""
        return self.added - (len(self._entries) - self._cursor)

    def next(self) -> Entry:
        """The next entry to send; it then counts as sent. There is one while `sent` is less than `added`."""
        entry = self._entries[self._cursor]
        self._cursor += 1
        return entry.since(self._from_sample) if isinstance(entry, Piece) else entry

    def begin(self, sample: int) -> None:
        """Begin a new connection, which sends everything from `sample` on. Raises ValueError for removed audio."""
        if sample < self.committed:
            raise ValueError(f"sample {sample} is confirmed and gone")
        self._from_sample = min(sample, self.end_sample)
        remaining = (n for n, entry in enumerate(self._entries) if not self._is_skipped(entry))
        self._cursor = next(remaining, len(self._entries))

    def forget(self) -> None:
        """Remove all sent entries: without resuming, they are never sent again."""
        self.committed = self._sent_sample()
        for _ in range(self._cursor):
            self._entries.popleft()
        self._cursor = 0

    # ---- From the server ----

    def commit(self, sample: int) -> None:
        """Remove the audio before `sample`, which is confirmed. Flushes stay until they are answered."""
        committed = min(sample, self._sent_sample())
        if committed > self.committed:
            self.committed = committed
            self._drop([entry for entry in self._entries if self._is_confirmed(entry)])

    def answered(self, marker: str) -> None:
        """Remove the oldest flush with this marker that was sent on this connection: it is answered."""
        sent = islice(self._entries, self._cursor)
        marks = (entry for entry in sent if isinstance(entry, Mark) and entry.marker == marker)
        if (mark := next((mark for mark in marks if not self._is_skipped(mark)), None)) is not None:
            self._drop([mark])

    def passed(self, sample: int) -> list[str]:
        """Remove flushes before `sample` whose answer was lost, and return their markers, oldest first.

        These are flushes before this connection's first sample: the server had completed them.
        """
        sent = islice(self._entries, self._cursor)
        marks = [mark for mark in sent if isinstance(mark, Mark) and self._is_skipped(mark) and mark.at_sample < sample]
        self._drop(marks)
        return [mark.marker for mark in marks if mark.marker is not None]

    def _drop(self, sent: Sequence[Entry]) -> None:
        for entry in sent:
            self._entries.remove(entry)
        self._cursor -= len(sent)

    def check(self) -> None:
        """Assert the invariants."""
        pieces = [entry for entry in self._entries if isinstance(entry, Piece)]
        assert all(a.end_sample == b.first_sample for a, b in pairwise(pieces))
        assert not pieces or (pieces[0].first_sample <= self.committed < pieces[0].end_sample)
        assert (pieces[-1].end_sample if pieces else self.committed) == self.end_sample
        assert 0 <= self._cursor <= len(self._entries)

    def _is_skipped(self, entry: Entry) -> bool:
        """Whether the entry lies completely before this connection's first sample."""
        if isinstance(entry, Piece):
            return entry.end_sample <= self._from_sample
        return entry.at_sample < self._from_sample

    def _is_confirmed(self, entry: Entry) -> bool:
        return isinstance(entry, Piece) and entry.end_sample <= self.committed

    def _sent_sample(self) -> int:
        """The end of the audio that the server has received, in samples."""
        if self._cursor == len(self._entries):
            return self.end_sample
        entry = self._entries[self._cursor]
        return max(self._from_sample, entry.first_sample if isinstance(entry, Piece) else entry.at_sample)
