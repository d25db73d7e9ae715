"""Workers that have died, while it is not known yet what their engines did. Pure.

The end of a connection arrives before the report of the worker's witness. Only the report tells which sessions may have
caused the death. So the Lost of its sessions waits for the report, and at most `WITNESS_S`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from asr_broker.events import ToFrontend
from asr_proto import messages as m

WITNESS_S = 1.0
"""Longest wait for a witness, in seconds. A witness that died with its host reports nothing."""


@dataclass(frozen=True, slots=True)
class Death:
    """The lost leases of one worker, each with the frontend that serves it."""

    peer: bytes
    worker: str
    leases: dict[int, bytes]
    slug: str
    report_by: float = math.inf

    def lost(self, suspects: Iterable[int] = (), *, proven: bool = False) -> list[ToFrontend]:
        """The messages to the frontends. `suspects` are the leases for which the engine worked, of all frontends."""
        suspected = frozenset(suspects)
        return [
            ToFrontend(frontend, m.Lost(lease, self.slug, len(suspected), proven, self.worker))
            if lease in suspected
            else ToFrontend(frontend, m.Lost(lease, self.slug))
            for lease, frontend in self.leases.items()
        ]


class Deaths:
    """The deaths that nobody has reported yet."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, Death] = {}
        """By the identity of the witness."""
        self._leases: set[int] = set()

    def wait(self, witness: bytes, death: Death) -> None:
        """Hold the messages of this death until the witness reports."""
        self._waiting[witness] = death
        self._leases.update(death.leases)

    def reported(self, peer: bytes, suspects: Iterable[int], *, proven: bool) -> list[ToFrontend]:
        """The witness has reported, or the worker's own last message has arrived: the messages to the frontends.

        None for another peer.
        """
        mine = (witness for witness, death in self._waiting.items() if peer in (witness, death.peer))
        death = self._pop(next(mine, b""))
        return death.lost(suspects, proven=proven) if death else []

    def due(self, now: float) -> list[ToFrontend]:
        """The messages of the deaths that no witness has reported in time."""
        late = [witness for witness, death in self._waiting.items() if death.report_by <= now]
        deaths = [death for witness in late if (death := self._pop(witness))]
        return [message for death in deaths for message in death.lost()]

    def next_deadline(self) -> float:
        """When `due` has messages; infinity while none waits."""
        return min((death.report_by for death in self._waiting.values()), default=math.inf)

    def __contains__(self, lease: int) -> bool:
        """Whether the Lost of this lease waits."""
        return lease in self._leases

    def _pop(self, witness: bytes) -> Death | None:
        death = self._waiting.pop(witness, None)
        if death:
            self._leases -= death.leases.keys()
        return death
