"""Endpointing by voice activity: where utterances begin and end, from speech probabilities alone. Pure.

The rule of two thresholds (hysteresis), with a shortest voiced time, a shortest silence and padding on both sides, is
that of Silero VAD's `get_speech_timestamps`. The cut of long utterances at their quietest place is this project's.

State is kept in arrays over slots, because this runs once for each 32 ms window of every session. Places are counted in
windows *before now*, never as absolute positions, so that the state of a slot can continue in another process. This
module must not know samples, models or sessions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr_proto.messages import EndpointKind

Slots = NDArray[np.intp]
"""The slots of a batch, each at most once: [B]."""
Speech = NDArray[np.float32]
"""The probability that a window of each slot is speech, 0 to 1: [B]."""


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """The settings of the endpointing: thresholds are probabilities, all other values are numbers of windows."""

    speech_on: float
    """A window with at least this probability is voiced."""
    speech_off: float
    """A window with a lower probability is silent. A window between both thresholds continues an utterance, but begins
    none."""
    voiced_windows_min: int
    """Voiced windows in a row that begin an utterance."""
    preroll_windows: int
    """Audio before the first voiced window that belongs to the utterance."""
    trail_windows: int
    """Audio after the last window that was not silent that belongs to the utterance."""
    silence_windows: int
    """Silent windows in a row that end an utterance."""
    utterance_windows_max: int
    """The length at which an utterance is cut."""
    cut_windows: int
    """A cut is made within this many last windows."""

    def __post_init__(self) -> None:
        assert 0 < self.speech_off <= self.speech_on < 1
        assert self.voiced_windows_min > 0
        assert 0 <= self.trail_windows < self.silence_windows
        assert 2 <= self.cut_windows < self.utterance_windows_max - self.preroll_windows


@dataclass(frozen=True, slots=True)
class EndedUtterance:
    """The utterance of a slot that ended: from `start` to `end`, both in windows before now."""

    slot: int
    start: int
    end: int
    endpoint: EndpointKind


class Endpointer:
    """Endpointing of all slots. A slot is idle, or speaking while an utterance is in progress."""

    def __init__(self, config: EndpointConfig, slots: int) -> None:
        self.config = config
        self._dtype = np.dtype(
            [
                ("speaking", "?"),
                ("voiced", "<i4"),  # voiced windows in a row, up to now
                ("silent", "<i4"),  # silent windows in a row, up to now
                ("held", "<i4"),  # windows up to now that belong, or may belong, to the current or next utterance
                ("windows", "<u4"),  # windows since the reset: modulo cut_windows, the next place in `recent`
                ("recent", "<f4", (config.cut_windows,)),  # ring of the latest probabilities
            ]
        )
        self._state = np.zeros(slots, self._dtype)

    def reset(self, slot: int) -> None:
        """Set the slot to idle, without any windows."""
        self._state[slot] = np.zeros((), self._dtype)

    def speaking(self, slot: int) -> bool:
        """Whether an utterance of the slot is in progress."""
        return bool(self._state["speaking"][slot])

    def held(self, slot: int) -> int:
        """Number of last windows that are still needed: the utterance so far or, when idle, the next one's pre-roll."""
        return int(self._state["held"][slot])

    def end(self, slot: int) -> int:
        """The end of the utterance in progress if no more speech comes, in windows before now."""
        return max(int(self._state["silent"][slot]) - self.config.trail_windows, 0)

    def feed(self, slots: Slots, speech: Speech) -> list[EndedUtterance]:
        """Take one window of each of these slots. Returns the utterances that end with it, at most one per slot."""
        self._count(slots, speech)
        speaking, silent, held = (self._state[name][slots] for name in ("speaking", "silent", "held"))
        fell_silent = speaking & (silent >= self.config.silence_windows)
        too_long = speaking & ~fell_silent & (held >= self.config.utterance_windows_max)
        ended = [self._fall_silent(slot) for slot in slots[fell_silent].tolist()]
        return ended + [self._cut(slot) for slot in slots[too_long].tolist()]

    def flush(self, slot: int) -> EndedUtterance | None:
        """End the utterance in progress here, if there is one, and reset the slot."""
        ended = EndedUtterance(slot, self.held(slot), self.end(slot), "flush") if self.speaking(slot) else None
        self.reset(slot)
        return ended

    def export(self, slot: int) -> bytes:
        """The state of a slot, `state_bytes` long."""
        exported: bytes = self._state[slot].tobytes()
        return exported

    def restore(self, slot: int, exported: bytes) -> None:
        """Continue from an exported state. Raises ValueError where its length is wrong."""
        if len(exported) != self.state_bytes:
            raise ValueError(f"an endpointer's state has {self.state_bytes} bytes, not {len(exported)}")
        self._state[slot] = np.frombuffer(exported, self._dtype)[0]

    @property
    def state_bytes(self) -> int:
        """Bytes of one slot's state."""
        return self._dtype.itemsize

    def _count(self, slots: Slots, speech: Speech) -> None:
        config, state = self.config, self._state
        state["recent"][slots, state["windows"][slots] % config.cut_windows] = speech
        state["windows"][slots] += 1
        voiced = np.where(speech >= config.speech_on, state["voiced"][slots] + 1, 0)
        silent = np.where(speech < config.speech_off, state["silent"][slots] + 1, 0)
        speaking = state["speaking"][slots] | (voiced >= config.voiced_windows_min)
        held = state["held"][slots] + 1
        held = np.where(speaking, held, np.minimum(held, config.preroll_windows + voiced))
        for name, values in (("voiced", voiced), ("silent", silent), ("speaking", speaking), ("held", held)):
            state[name][slots] = values

    def _fall_silent(self, slot: int) -> EndedUtterance:
        ended = EndedUtterance(slot, self.held(slot), self.end(slot), "silence")
        self._go_on(slot, ended.end, speaking=False)
        return ended

    def _cut(self, slot: int) -> EndedUtterance:
        """End at the quietest place of the last `cut_windows`. The windows after it begin the next utterance."""
        recent = self._latest(slot)
        between_windows = recent[:-1] + recent[1:]
        after = 1 + int(np.argmin(between_windows[::-1]))  # the latest of equally quiet places
        ended = EndedUtterance(slot, self.held(slot), after, "length")
        self._go_on(slot, after, speaking=bool((recent[-after:] >= self.config.speech_off).any()))
        return ended

    def _go_on(self, slot: int, windows: int, *, speaking: bool) -> None:
        """Keep only the latest `windows` for the next utterance."""
        state = self._state
        state["speaking"][slot] = speaking
        state["held"][slot] = windows if speaking else min(windows, self.config.preroll_windows)

    def _latest(self, slot: int) -> Speech:
        """The latest probabilities of a slot, oldest first: [cut_windows]."""
        at = int(self._state["windows"][slot]) % self.config.cut_windows
        latest: Speech = np.roll(self._state["recent"][slot], -at)
        return latest
