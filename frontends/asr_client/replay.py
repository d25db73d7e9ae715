"""What a session says, kept until the server has confirmed it: what another connection has to be told again. Pure.

Entries stay in their order: audio by position, flushes and the stop between it. A cursor marks what this connection
was told. Audio leaves at commits, a flush when it is answered. Positions are samples of the user's session, at the
client's rate. This module must not know about sockets or messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice, pairwise

from asr_audio.entries import Entry, Mark, Piece
from asr_proto.audio import BYTES_PER_SAMPLE, OddByte


class Replay:
    """`samples_max` bounds the audio kept: beyond it `has_room` is false until the server has confirmed more."""

    def __init__(self, samples_max: int) -> None:
        self.added = 0
        """Entries so far: what was added last is told when `told` has come this far."""
        self.end_sample = 0
        self.committed = 0
        """Audio before it is confirmed, and gone."""
        self._samples_max = samples_max
        self._entries: deque[Entry] = deque()
        self._cursor = 0
        self._from_sample = 0
        """Where this connection began."""
        self._odd = OddByte()

    # ---- What the user says ----

    def add_audio(self, data: bytes) -> None:
        """Audio, of any length: half a sample waits for its other half."""
        if pcm := self._odd.feed(data):
            self._add(Piece(self.end_sample, pcm))
            self.end_sample += len(pcm) // BYTES_PER_SAMPLE

    def add_flush(self, marker: str) -> None:
        """A flush behind the audio so far."""
        self._add(Mark(self.end_sample, marker))

    def add_stop(self) -> None:
        """No more audio."""
        self._add(Mark(self.end_sample, None))

    @property
    def has_room(self) -> bool:
        """Whether more audio may be kept."""
        return self.end_sample - self.committed < self._samples_max

    def _add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.added += 1

    # ---- What the server is told ----

    @property
    def told(self) -> int:
        """How many entries this connection was told, or need not be."""
        return self.added - (len(self._entries) - self._cursor)

    def next(self) -> Entry:
        """The next entry for this connection, now told: there is one while `told` is behind `added`."""
        entry = self._entries[self._cursor]
        self._cursor += 1
        return entry.since(self._from_sample) if isinstance(entry, Piece) else entry

    def begin(self, sample: int) -> None:
        """Another connection: it is told everything from `sample` on. Raises ValueError for what is gone."""
        if sample < self.committed:
            raise ValueError(f"sample {sample} is confirmed and gone")
        self._from_sample = min(sample, self.end_sample)
        behind = (n for n, entry in enumerate(self._entries) if not self._is_skipped(entry))
        self._cursor = next(behind, len(self._entries))

    def forget(self) -> None:
        """Drop what was told: nobody will ask for it."""
        self.committed = self._told_sample()
        for _ in range(self._cursor):
            self._entries.popleft()
        self._cursor = 0

    # ---- What the server answers ----

    def commit(self, sample: int) -> None:
        """Audio before `sample` is confirmed. Flushes stay until they are answered."""
        committed = min(sample, self._told_sample())
        if committed > self.committed:
            self.committed = committed
            self._drop([entry for entry in self._entries if self._is_confirmed(entry)])

    def answered(self, marker: str) -> None:
        """The oldest flush with this marker that this connection was told is answered."""
        told = islice(self._entries, self._cursor)
        is_it = (entry for entry in told if isinstance(entry, Mark) and entry.marker == marker)
        if (mark := next((mark for mark in is_it if not self._is_skipped(mark)), None)) is not None:
            self._drop([mark])

    def passed(self, sample: int) -> list[str]:
        """Flushes before `sample` that need no answer any more, oldest first: they are answered by this call.

        Only those in front of where this connection began: the server had done them, and the answer was lost.
        """
        told = islice(self._entries, self._cursor)
        marks = [mark for mark in told if isinstance(mark, Mark) and self._is_skipped(mark) and mark.at_sample < sample]
        self._drop(marks)
        return [mark.marker for mark in marks if mark.marker is not None]

    def _drop(self, told: Sequence[Entry]) -> None:
        for entry in told:
            self._entries.remove(entry)
        self._cursor -= len(told)

    def check(self) -> None:
        """The invariants."""
        pieces = [entry for entry in self._entries if isinstance(entry, Piece)]
        assert all(a.end_sample == b.first_sample for a, b in pairwise(pieces))
        assert not pieces or (pieces[0].first_sample <= self.committed < pieces[0].end_sample)
        assert (pieces[-1].end_sample if pieces else self.committed) == self.end_sample
        assert 0 <= self._cursor <= len(self._entries)

    def _is_skipped(self, entry: Entry) -> bool:
        """Whether it lies wholly before where this connection began."""
        if isinstance(entry, Piece):
            return entry.end_sample <= self._from_sample
        return entry.at_sample < self._from_sample

    def _is_confirmed(self, entry: Entry) -> bool:
        return isinstance(entry, Piece) and entry.end_sample <= self.committed

    def _told_sample(self) -> int:
        """Up to where the server has audio of this session."""
        if self._cursor == len(self._entries):
            return self.end_sample
        entry = self._entries[self._cursor]
        return max(self._from_sample, entry.first_sample if isinstance(entry, Piece) else entry.at_sample)
