"""The audio of a session that is not confirmed yet, with its flushes and its stop. Pure.

A new worker receives the journal again after a move. Entries keep their order: pieces of audio, and marks (flushes and
the stop) between them. A commit removes audio; the answer to a flush removes its mark. All journals of a process share
one Budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

from asr_audio.entries import Entry, Mark, Piece
from asr_proto.audio import BYTES_PER_SAMPLE
from asr_proto.errors import OutOfOrder

JOINED_BYTES_MAX = 640
"""Largest piece that smaller ones are joined to: 20 ms. An entry takes memory that the budget does not count."""


@dataclass(slots=True)
class Budget:
    """The number of bytes that all journals of this process may hold together."""

    bytes_max: int
    bytes_held: int = 0

    @property
    def exhausted(self) -> bool:
        return self.bytes_held >= self.bytes_max


class Journal:
    """The entries since the last commit, and how many of them were posted to the current worker."""

    __slots__ = ("_budget", "_entries", "_posted", "bytes_held", "end_sample", "is_complete", "marks_held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._entries: deque[Entry] = deque()
        self._posted = 0
        self.bytes_held = 0
        self.marks_held = 0
        self.end_sample = 0
        self.is_complete = False
        """Whether the end of audio is marked; nothing may follow it."""

    def begin(self, sample: int) -> None:
        """Begin the audio at `sample`: all audio before it is already confirmed."""
        assert not self._entries
        self.end_sample = sample

    def append(self, pcm: bytes) -> None:
        """Add audio at the end."""
        count = len(pcm)
        self._entries.append(Piece(self.end_sample, pcm))
        self.end_sample += count // BYTES_PER_SAMPLE
        self.bytes_held += count  # `_hold` written out: it would be one more call for each frame
        self._budget.bytes_held += count
        if count < JOINED_BYTES_MAX and self._posted < len(self._entries) - 1:
            self._join(len(self._entries) - 1)

    def mark(self, marker: str | None) -> None:
        """Add a flush at the end, or the stop (None)."""
        self._entries.append(Mark(self.end_sample, marker))
        self.is_complete = marker is None
        self.marks_held += 1

    def take_over(self, entries: Iterable[Entry], end_sample: int, *, is_complete: bool) -> None:
        """Begin with the entries of another journal."""
        assert not self._entries
        self._entries.extend(entries)
        pieces = [entry for entry in self._entries if isinstance(entry, Piece)]
        self._hold(sum(len(piece.pcm) for piece in pieces))
        self.marks_held = len(self._entries) - len(pieces)
        self.end_sample, self.is_complete = end_sample, is_complete

    def next(self, before_sample: int) -> Entry | None:
        """The next entry that was not posted; it counts as posted now.

        None when there is none, or when it is audio that begins at `before_sample` or later.
        """
        if self._posted == len(self._entries):
            return None
        entry = self._entries[self._posted]
        if isinstance(entry, Piece) and entry.first_sample >= before_sample:
            return None
        self._posted += 1
        if isinstance(entry, Piece) and len(entry.pcm) < JOINED_BYTES_MAX and self._posted > 1:
            self._posted -= self._join(self._posted - 1)
        return entry

    @property
    def posted_sample(self) -> int:
        """The end of the posted audio: the current worker can have nothing after this sample."""
        if self._posted == len(self._entries):
            return self.end_sample
        entry = self._entries[self._posted]
        return entry.first_sample if isinstance(entry, Piece) else entry.at_sample

    @property
    def awaits_answer(self) -> bool:
        """Whether everything was posted, and a flush or the stop is not answered yet."""
        return self.marks_held > 0 and self._posted == len(self._entries)

    def rewind(self) -> None:
        """Count all entries as not posted: a new worker has received nothing yet."""
        self._posted = 0

    def trim(self, sample: int) -> None:
        """Remove the audio before `sample`, which is confirmed. Marks stay until they are answered.

        Raises OutOfOrder for audio that was not posted.
        """
        kept: list[Entry] = []
        while self._entries and self._begins_before(self._entries[0], sample):
            entry = self._entries.popleft()
            if isinstance(entry, Piece) and entry.end_sample <= sample:
                self._hold(-len(entry.pcm))
                self._unpost()
            else:
                kept.append(entry)
        self._entries.extendleft(reversed(kept))

    def answered(self, marker: str) -> bool:
        """Remove the oldest posted flush with this marker: it was answered. False if there is none."""
        for index, entry in enumerate(islice(self._entries, self._posted)):
            if isinstance(entry, Mark) and entry.marker == marker:
                del self._entries[index]
                self.marks_held -= 1
                self._unpost()
                return True
        return False

    def clear(self) -> None:
        """Remove everything and return its bytes to the budget."""
        self._hold(-self.bytes_held)
        self._entries.clear()
        self._posted = self.marks_held = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def check(self) -> None:
        """Assert the invariants: pieces without gaps, correct counts of bytes and marks, a valid posted count."""
        pieces = [entry for entry in self._entries if isinstance(entry, Piece)]
        assert all(a.end_sample == b.first_sample for a, b in pairwise(pieces))
        assert not pieces or pieces[-1].end_sample == self.end_sample
        assert self.bytes_held == sum(len(piece.pcm) for piece in pieces)
        assert self.marks_held == len(self._entries) - len(pieces)
        assert 0 <= self._posted <= len(self._entries)

    def _hold(self, count: int) -> None:
        self.bytes_held += count
        self._budget.bytes_held += count

    def _join(self, index: int) -> bool:
        """Join the entry at `index` to the one before, if both are small pieces: whether it has done so."""
        entry, before = self._entries[index], self._entries[index - 1]
        if not (isinstance(entry, Piece) and isinstance(before, Piece)):
            return False
        if len(before.pcm) + len(entry.pcm) > JOINED_BYTES_MAX:
            return False
        self._entries[index - 1] = Piece(before.first_sample, before.pcm + entry.pcm)
        del self._entries[index]
        return True

    def _unpost(self) -> None:
        if not self._posted:
            raise OutOfOrder("a commit of audio that was not sent")
        self._posted -= 1

    @staticmethod
    def _begins_before(entry: Entry, sample: int) -> bool:
        return entry.first_sample < sample if isinstance(entry, Piece) else entry.at_sample <= sample
