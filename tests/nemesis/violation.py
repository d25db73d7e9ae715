"""A promise that was broken, with the events that led there. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tests.nemesis.history import Conversation


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    invariant: str
    sentence: str
    story: str = ""

    def __str__(self) -> str:
        return f"{self.invariant} {self.sentence}" + (f"\n{self.story}" if self.story else "")


def broken(invariant: str, conversation: Conversation, sentence: str, index: int | None = None) -> Violation:
    """A violation by a conversation, with its events up to the one with that index."""
    return Violation(invariant, f"{conversation.name}: {sentence}", conversation.story(index))
