"""Status codes and errors of a card."""

from __future__ import annotations

from enum import IntEnum


class CardStatus(IntEnum):
    """Status codes of asr_card.h; codes from 1000 on are the vendor's own."""

    OK = 0
    ARGUMENT = 1
    NO_CARD = 2
    BUSY = 3
    FULL = 4
    STATE = 5
    MODEL = 6
    MEMORY = 7
    CAPACITY = 8
    UNSUPPORTED = 9
    BAD_STATE = 10
    RESET = 11
    ECC = 12
    HEAT = 13
    LINK = 14
    INTERNAL = 15
    COUNT = 900
    """Set by the binding, not by a library: the card completed chunks that were not submitted."""


FOR_GOOD = frozenset(
    {
        CardStatus.ARGUMENT,
        CardStatus.NO_CARD,
        CardStatus.STATE,
        CardStatus.MODEL,
        CardStatus.CAPACITY,
        CardStatus.UNSUPPORTED,
    }
)
"""Permanent errors: another try gives the same result."""


def status_name(code: int) -> str:
    """ "MODEL" for 6; "code 1234" for a vendor's."""
    try:
        return CardStatus(code).name
    except ValueError:
        return f"code {code}"


class CardError(Exception):
    """A call on a card failed. `code` is a CardStatus or a vendor's code; `sentence` explains it."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(f"{sentence} ({status_name(code)})")
        self.code = int(code)
        self.sentence = sentence
