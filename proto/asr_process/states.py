"""State machines as data: a table of transitions, and the state of one object. Pure.

As in h11's `_state.py`, the table has all transitions of a machine: a pair of state and event without an entry is
forbidden. A forbidden transition is a bug in this project, so its error is not an AsrError. The error has the events
that led to it. `make docs` draws the tables into ARCHITECTURE.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)

STORY_EVENTS_MAX = 12
"""Number of transitions that an object stores for its error."""


class ForbiddenTransition(Exception):
    """An event that the table does not allow in this state."""


@dataclass(frozen=True)
class TransitionTable(Generic[S, E]):
    """Every allowed transition: state -> event -> next state. States without an entry are final."""

    name: str
    initial: S
    transitions: Mapping[S, Mapping[E, S]]

    def mermaid(self) -> str:
        """The table as a Mermaid state diagram: one arrow for each pair of states, with its events."""
        arrows: dict[tuple[S, S], list[str]] = {}
        for state, events in self.transitions.items():
            for event, target in events.items():
                arrows.setdefault((state, target), []).append(event.value)
        lines = ["stateDiagram-v2", f"    [*] --> {self.initial.value}"]
        lines += [f"    {a.value} --> {b.value}: {', '.join(events)}" for (a, b), events in arrows.items()]
        ends = {target for _, target in arrows} - {state for state, events in self.transitions.items() if events}
        lines += [f"    {end.value} --> [*]" for end in sorted(ends, key=lambda state: str(state.value))]
        return "\n".join(lines)


class StateMachine(Generic[S, E]):
    """One object's state. `fire` is the only way to change it."""

    __slots__ = ("_story", "_table", "state")

    def __init__(self, table: TransitionTable[S, E]) -> None:
        self._table, self.state = table, table.initial
        self._story: list[tuple[float, S, E]] = []

    def fire(self, event: E, now: float) -> S:
        """Take the transition of `event`; return the new state. Raises ForbiddenTransition if the table has none."""
        target = self._table.transitions.get(self.state, {}).get(event)
        if target is None:
            raise ForbiddenTransition(
                f"{self._table.name}: {event.value} is not allowed in state {self.state.value}; {self.story()}"
            )
        self._story.append((now, self.state, event))
        if len(self._story) > STORY_EVENTS_MAX:
            del self._story[0]
        self.state = target
        return target

    def can(self, event: E) -> bool:
        """Whether the table allows `event` in this state."""
        return event in self._table.transitions.get(self.state, {})

    def story(self) -> str:
        """The last transitions in their order, for errors and logs."""
        if not self._story:
            return "nothing happened before"
        return "before: " + ", ".join(f"{at:.3f} {state.value} {event.value}" for at, state, event in self._story)
