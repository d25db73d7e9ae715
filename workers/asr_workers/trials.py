"""The suspects of a worker: sessions under which another worker has died. Pure.

A suspect's chunks go into steps of their own, so that a crash shows whose audio it was. Other sessions go on: between
two trials there is a step for them. An engine may go on with a chunk after the chunk's step. Then a trial begins when
nothing else is left in the engine, and lasts until its own chunk has left it.
"""

from __future__ import annotations

from asr_workers.session import Session


class Trials:
    """The sessions under suspicion, and the one that is tried now."""

    def __init__(self) -> None:
        self.tried: int | None = None
        """The lease whose chunk alone is in the engine."""
        self.is_due = False
        """Whether a trial has precedence over the next step of the others."""
        self._suspects: dict[int, Session] = {}
        """By slot."""
        self._goes_on = False
        """Whether this engine goes on with chunks after their steps."""

    def opened(self, session: Session) -> None:
        """A session has begun here."""
        if session.setup.suspicion is not None:
            self._suspects[session.slot] = session

    def closed(self, session: Session) -> None:
        """A session has ended here."""
        self._suspects.pop(session.slot, None)

    def slots(self) -> set[int]:
        """The slots whose next chunk must be stepped alone."""
        if not self._suspects:
            return set()
        self._suspects = {slot: one for slot, one in self._suspects.items() if not one.is_cleared()}
        return {slot for slot, one in self._suspects.items() if self._goes_on or one.is_suspect()}

    def begin(self, lease: int) -> None:
        """The next step has only a chunk of this lease."""
        self.tried = lease

    def stepped(self, pending: bool) -> None:
        """A step has ended. `pending`: the engine has more work for chunks that it has taken."""
        self._goes_on = self._goes_on or pending
        if self.tried is None:
            self.is_due = True
        elif not pending:
            self.tried, self.is_due = None, False
