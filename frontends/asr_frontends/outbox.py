"""The commands of a frontend's core, and the `Outbox` that collects them in order. The shell performs them. Pure.

All sessions put their commands into the one `Outbox` of their frontend. Frames for a worker wait there for up to
`BUNDLE_S`, so that one bundle carries the frames of all sessions with that worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from asr_audio.entries import Piece
from asr_frontends.events import ServiceEvent
from asr_proto import messages as m

BUNDLE_S = 0.005
"""Longest time that a frame waits for more frames to the same worker."""
JOINED_BYTES_MAX = 8192
"""Largest audio frame to a worker that is joined from smaller ones: a quarter of a second."""


@dataclass(frozen=True, slots=True)
class ToBroker:
    """Send this to the broker that leads. A message about the frontend itself goes to all brokers."""

    message: m.FromFrontend
    setup: m.Setup | None = None


@dataclass(frozen=True, slots=True)
class SendBundle:
    """Send these frames to a worker, through the broker that leads."""

    bundle: m.Bundle
    """Contains the worker's identity, and each lease once."""
    frames: list[m.FrameIn]


@dataclass(frozen=True, slots=True)
class Deliver:
    """Pass this event to the codec of the session's client. After Error or Bye the session is over."""

    session: str
    event: ServiceEvent


@dataclass(frozen=True, slots=True)
class Pause:
    """The client may not send: read nothing from it until a Credit follows."""

    session: str


@dataclass(frozen=True, slots=True)
class Credit:
    """The client may send again."""

    session: str


@dataclass(frozen=True, slots=True)
class KeepPoison:
    """Workers have died at this audio: count it, and keep it if the operator wants that."""

    session: str
    engine: str
    model: str
    deaths: int
    """Number of workers that died."""
    pieces: tuple[Piece, ...]
    """The audio since the last commit."""


Command = ToBroker | SendBundle | Deliver | Pause | Credit | KeepPoison

_lease = attrgetter("lease")


class Outbox:
    """Commands for the shell, and the frames that wait to be bundled. One for all sessions of a frontend."""

    __slots__ = ("_frames", "bundles_at", "commands")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        """The commands since the last `take`, in order. Sessions append Deliver, Pause and Credit directly."""
        self._frames: dict[bytes, list[m.FrameIn]] = {}
        """The frames that wait, by worker."""
        self.bundles_at = float("inf")
        """Time at which the waiting frames must leave; infinity when none waits."""

    def send(self, message: m.FromFrontend, setup: m.Setup | None = None) -> None:
        """Add a message for the broker. Frames that were posted before it leave before it."""
        self.seal()
        self.commands.append(ToBroker(message, setup))

    def post(self, worker: bytes, frame: m.FrameIn, now: float) -> None:
        """Add a frame for a worker to the worker's waiting bundle, or begin one."""
        frames = self._frames.get(worker)
        if frames is not None:
            frames.append(frame)
            return
        self._frames[worker] = [frame]
        if len(self._frames) == 1:
            self.bundles_at = now + BUNDLE_S

    def seal(self) -> None:
        """Turn the waiting frames into commands: one bundle for each worker."""
        waiting, self._frames, self.bundles_at = self._frames, {}, float("inf")
        for worker, frames in waiting.items():
            leases = tuple(dict.fromkeys(map(_lease, frames)))
            whole = frames if len(leases) == len(frames) else joined(frames)
            self.commands.append(SendBundle(m.Bundle(worker, leases), whole))

    def take(self) -> list[Command]:
        """Return the commands since the last call, and remove them."""
        commands, self.commands = self.commands, []
        return commands


def joined(frames: Sequence[m.FrameIn]) -> list[m.FrameIn]:
    """The same frames, with pieces of a session's audio joined that follow each other: a small frame costs no message.

    Frames of one session keep their order.
    """
    result: list[m.FrameIn] = []
    newest: dict[int, int] = {}
    for frame in frames:
        index = newest.get(frame.lease, -1)
        before = result[index] if index >= 0 else None
        if isinstance(frame, m.Audio) and isinstance(before, m.Audio) and _fit(before.pcm, frame.pcm):
            result[index] = m.Audio(frame.lease, before.first_sample, before.pcm + frame.pcm)
        else:
            newest[frame.lease] = len(result)
            result.append(frame)
    return result


def _fit(*pieces: bytes) -> bool:
    return sum(map(len, pieces)) <= JOINED_BYTES_MAX
