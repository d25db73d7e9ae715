"""What happens to a broker's core, and what it wants done: two closed families. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from asr_proto import messages as m

# ---- Events: what happened ----


@dataclass(frozen=True, slots=True)
class FromFrontend:
    peer: bytes
    message: m.FromFrontend
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class FromWorker:
    peer: bytes
    message: m.FromWorker
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The connection of this peer ended, or a message to it could not be queued."""

    peer: bytes


Event = FromFrontend | FromWorker | Gone


# ---- Commands: what the shell must do ----


@dataclass(frozen=True, slots=True)
class ToFrontend:
    peer: bytes
    message: m.FromBroker
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class ToWorker:
    peer: bytes
    message: m.FromBroker
    body: bytes | None = None


Command = ToFrontend | ToWorker
