"""What leaves the core of a frontend, and the one way out: commands in their order, performed by the shell. Pure.

A session puts its commands into the `Outbox` of its frontend. Frames for a worker wait there for up to `BUNDLE_S`, so
that one bundle carries the frames of all sessions with that worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from asr_frontends.events import ServiceEvent
from asr_proto import messages as m

BUNDLE_S = 0.005
"""Longest time that a frame waits for others to the same worker."""


@dataclass(frozen=True, slots=True)
class ToBroker:
    """Send this to the broker that leads, or to all brokers where it is about the frontend itself."""

    message: m.FromFrontend
    setup: m.Setup | None = None


@dataclass(frozen=True, slots=True)
class SendBundle:
    """Send these frames to a worker, through the broker that leads."""

    bundle: m.Bundle
    """Names the worker, and each lease once."""
    frames: list[m.FrameIn]


@dataclass(frozen=True, slots=True)
class Deliver:
    """An event for the codec of this session's client. After Error or Bye the session is over."""

    session: str
    event: ServiceEvent


@dataclass(frozen=True, slots=True)
class Pause:
    """The client may not send: read nothing more from it until its Credit follows."""

    session: str


@dataclass(frozen=True, slots=True)
class Credit:
    """The client may send again."""

    session: str


Command = ToBroker | SendBundle | Deliver | Pause | Credit

_lease = attrgetter("lease")


class Outbox:
    """Commands for the shell, and the frames that wait to be bundled. One for all sessions of a frontend."""

    __slots__ = ("_frames", "bundles_at", "commands")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        """Those that nobody has taken yet, in their order. What is for a client is appended here."""
        self._frames: dict[bytes, list[m.FrameIn]] = {}
        self.bundles_at = float("inf")
        """When the frames that wait must leave; infinity when none waits."""

    def ask(self, message: m.FromFrontend, setup: m.Setup | None = None) -> None:
        """A message for the broker. Frames that were posted before leave before it."""
        self.seal()
        self.commands.append(ToBroker(message, setup))

    def post(self, worker: bytes, frame: m.FrameIn, now: float) -> None:
        """A frame for a worker: into the bundle that waits for it, or into a new one."""
        frames = self._frames.get(worker)
        if frames is not None:
            frames.append(frame)
            return
        self._frames[worker] = [frame]
        if len(self._frames) == 1:
            self.bundles_at = now + BUNDLE_S

    def seal(self) -> None:
        """The frames that wait become commands: one for each worker."""
        waiting, self._frames, self.bundles_at = self._frames, {}, float("inf")
        for worker, frames in waiting.items():
            bundle = m.Bundle(worker, tuple(dict.fromkeys(map(_lease, frames))))
            self.commands.append(SendBundle(bundle, frames))

    def take(self) -> list[Command]:
        """The commands since the last call."""
        commands, self.commands = self.commands, []
        return commands
