"""Whether the audio of a session kills workers. Pure.

A session is under suspicion from the death of a worker whose engine was working for it, until another worker has
survived all audio that the dead worker had. Two such deaths make the audio poisonous, if the engine was working for
this session alone at the last one, and the engine is known to have failed. A process that was killed from outside may
have died beside innocent audio. Then a third death is needed.
"""

from __future__ import annotations

from asr_proto import messages as m

DEATHS_PROVEN = 2
DEATHS_UNPROVEN = 3


class Suspect:
    """The suspicion against one session."""

    __slots__ = ("_from", "_until", "deaths", "is_poisonous", "worker")

    def __init__(self) -> None:
        self.deaths = 0
        """Number of workers that have died at this audio; 0 without suspicion."""
        self.worker = ""
        """Name of the worker that died last."""
        self.is_poisonous = False
        """Whether the audio must not be given to another worker."""
        self._from = self._until = 0

    def lost(self, lost: m.Lost, done: int, posted: int) -> None:
        """A lease has ended. The worker had `done` samples behind it, and had received up to `posted`."""
        if not lost.suspects:
            return
        self._from = min(self._from, done) if self.deaths else done
        self._until = max(self._until, posted)
        self.deaths += 1
        self.worker = lost.worker or "unknown"
        needed = DEATHS_PROVEN if lost.proven else DEATHS_UNPROVEN
        self.is_poisonous = lost.suspects == 1 and self.deaths >= needed

    def adopt(self, suspicion: m.Suspicion | None, deaths: int, worker: str) -> None:
        """Continue the suspicion of another process."""
        if suspicion is not None:
            self._from, self._until = suspicion.from_sample, suspicion.until_sample
            self.deaths, self.worker = deaths, worker

    def survived(self, done: int) -> None:
        """A worker has `done` samples behind it."""
        if self.deaths and done > self._until:
            self.deaths, self.worker, self._until = 0, "", 0

    @property
    def is_dangerous(self) -> bool:
        """Whether two workers have died, and this audio is probably the cause."""
        return self.deaths >= DEATHS_PROVEN

    def setup(self) -> m.Suspicion | None:
        """The audio under suspicion, for the next worker; None without suspicion."""
        return m.Suspicion(self._from, self._until) if self.deaths else None
