"""The output of the worker's core: messages for brokers, frames for frontends, jobs for the engine. Pure.

All output waits here until the shell takes it, once per turn. Frames are bundled: one message per frontend and turn.
Bundles are sent before everything else. So the last frames of a lease are sent before its slot is closed, and before
Closed.
"""

from __future__ import annotations

from dataclasses import dataclass

from asr_proto import messages as m
from asr_proto.wire import FRAMES_MAX
from asr_workers.jobs import Job


@dataclass(frozen=True, slots=True)
class WorkerPost:
    """Send this message to the broker with the number `link`."""

    link: int
    message: m.FromWorker
    frames: list[m.FrameOut] | None = None
    """The body of a Bundle."""


@dataclass(frozen=True, slots=True)
class Send:
    """A message of the sessions; `WorkerBrokers` decides which of the brokers receive it."""

    message: m.FromWorker


@dataclass(frozen=True, slots=True)
class Quit:
    """End the process: the worker is drained, or a broker rejects it (`detail` has the reason)."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Hang:
    """End the process at once: the engine does not end its job, and no broker counts on this worker."""


Command = WorkerPost | Job | Quit | Hang
"""The commands that the shell performs."""


class Outbox:
    """Commands in their order, and the frames of this turn by frontend."""

    def __init__(self) -> None:
        self._commands: list[Command | Send] = []
        self._frames: dict[bytes, list[m.FrameOut]] = {}

    def add(self, command: Command | Send) -> None:
        """Queue one command."""
        self._commands.append(command)

    def post(self, frontend: bytes, frames: list[m.FrameOut]) -> None:
        """Queue frames for one frontend. The list belongs to the outbox from now on."""
        if frontend in self._frames:
            self._frames[frontend] += frames
        elif frames:
            self._frames[frontend] = frames

    def disconnected(self) -> None:
        """Drop the output for a broker that no longer leads. Jobs stay: the engine must still do them."""
        self._frames.clear()
        self._commands = [command for command in self._commands if not isinstance(command, Send)]

    def bundles(self, link: int) -> list[Command]:
        """One message per frontend with all its frames since the last call; several if they exceed FRAMES_MAX."""
        if not self._frames:
            return []
        waiting, self._frames = self._frames, {}
        return [
            _bundle(link, frontend, frames[start : start + FRAMES_MAX])
            for frontend, frames in waiting.items()
            for start in range(0, len(frames), FRAMES_MAX)
        ]

    def take(self) -> list[Command | Send]:
        """All commands since the last call."""
        commands, self._commands = self._commands, []
        return commands


def _bundle(link: int, frontend: bytes, frames: list[m.FrameOut]) -> WorkerPost:
    return WorkerPost(link, m.Bundle(frontend, tuple(dict.fromkeys([frame.lease for frame in frames]))), frames)
