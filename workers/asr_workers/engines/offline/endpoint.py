"""Where utterances begin and end, from speech probabilities alone.

State is kept as arrays over slots, because this runs once per 32 ms window of every session. Places are counted in
windows *before now*, never as absolute positions: so the state of a slot can move to another process and go on there.
This module must not know samples, models or sessions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr_proto.messages import EndpointKind

Slots = NDArray[np.intp]
"""Shape [B]: the slots of a batch, each at most once."""
Speech = NDArray[np.float32]
"""Shape [B]: the probability that a window of each slot is speech."""


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """Thresholds are probabilities, everything else counts windows."""

    speech_on: float
    """A window at least this likely to be speech is voiced."""
    speech_off: float
    """A window less likely than this is silent; between the two, an utterance goes on but none begins."""
    voiced_windows_min: int
    """Voiced windows in a row that begin an utterance."""
    preroll_windows: int
    """Audio before the first voiced window that belongs to the utterance."""
    trail_windows: int
    """Audio after the last window that was not silent that belongs to the utterance."""
    silence_windows: int
    """Silent windows in a row that end an utterance."""
    utterance_windows_max: int
    """An utterance of this length is cut."""
    cut_windows: int
    """How far back a cut may lie."""

    def __post_init__(self) -> None:
        assert 0 < self.speech_off <= self.speech_on < 1
        assert self.voiced_windows_min > 0
        assert 0 <= self.trail_windows < self.silence_windows
        assert 2 <= self.cut_windows < self.utterance_windows_max - self.preroll_windows


@dataclass(frozen=True, slots=True)
class Ended:
    """An utterance of a slot from `start` to `end`, both in windows before now."""

    slot: int
    start: int
    end: int
    endpoint: EndpointKind


class Endpointer:
    """Endpointing of all slots. A slot is either idle or speaking (an utterance is in progress)."""

    def __init__(self, config: EndpointConfig, slots: int) -> None:
        self.config = config
        self._dtype = np.dtype(
            [
                ("speaking", "?"),
                ("voiced", "<i4"),  # voiced windows in a row, up to now
                ("silent", "<i4"),  # silent windows in a row, up to now
                ("held", "<i4"),  # windows up to now that the utterance, or the next one, may consist of
                ("heard", "<u4"),  # windows heard, the place in `recent`
                ("recent", "<f4", (config.cut_windows,)),  # ring of the latest probabilities
            ]
        )
        self._state = np.zeros(slots, self._dtype)

    def reset(self, slot: int) -> None:
        """The slot is idle and has heard nothing."""
        self._state[slot] = np.zeros((), self._dtype)

    def speaking(self, slot: int) -> bool:
        return bool(self._state["speaking"][slot])

    def held(self, slot: int) -> int:
        """Windows before now that are still needed: the utterance so far or, when idle, the pre-roll of the next."""
        return int(self._state["held"][slot])

    def end(self, slot: int) -> int:
        """Where the utterance in progress would end if no more speech came, in windows before now."""
        return max(int(self._state["silent"][slot]) - self.config.trail_windows, 0)

    def feed(self, slots: Slots, speech: Speech) -> list[Ended]:
        """Hear one window of each of these slots; the utterances that end with it, at most one per slot."""
        self._hear(slots, speech)
        speaking, silent, held = (self._state[name][slots] for name in ("speaking", "silent", "held"))
        fell_silent = speaking & (silent >= self.config.silence_windows)
        too_long = speaking & ~fell_silent & (held >= self.config.utterance_windows_max)
        ended = [self._fall_silent(slot) for slot in slots[fell_silent].tolist()]
        return ended + [self._cut(slot) for slot in slots[too_long].tolist()]

    def flush(self, slot: int) -> Ended | None:
        """End the utterance in progress, if any, here; then forget everything."""
        ended = Ended(slot, self.held(slot), self.end(slot), "flush") if self.speaking(slot) else None
        self.reset(slot)
        return ended

    def export(self, slot: int) -> bytes:
        """The state of a slot, of `state_bytes`."""
        exported: bytes = self._state[slot].tobytes()
        return exported

    def restore(self, slot: int, exported: bytes) -> None:
        """Go on from an exported state. Raises ValueError."""
        if len(exported) != self.state_bytes:
            raise ValueError(f"an endpointer's state has {self.state_bytes} bytes, not {len(exported)}")
        self._state[slot] = np.frombuffer(exported, self._dtype)[0]

    @property
    def state_bytes(self) -> int:
        return self._dtype.itemsize

    def _hear(self, slots: Slots, speech: Speech) -> None:
        config, state = self.config, self._state
        state["recent"][slots, state["heard"][slots] % config.cut_windows] = speech
        state["heard"][slots] += 1
        voiced = np.where(speech >= config.speech_on, state["voiced"][slots] + 1, 0)
        silent = np.where(speech < config.speech_off, state["silent"][slots] + 1, 0)
        speaking = state["speaking"][slots] | (voiced >= config.voiced_windows_min)
        held = state["held"][slots] + 1
        held = np.where(speaking, held, np.minimum(held, config.preroll_windows + voiced))
        for name, values in (("voiced", voiced), ("silent", silent), ("speaking", speaking), ("held", held)):
            state[name][slots] = values

    def _fall_silent(self, slot: int) -> Ended:
        ended = Ended(slot, self.held(slot), self.end(slot), "silence")
        self._go_on(slot, ended.end, speaking=False)
        return ended

    def _cut(self, slot: int) -> Ended:
        """End at the quietest place of the last `cut_windows`; what came after it begins the next utterance."""
        recent = self._latest(slot)
        between_windows = recent[:-1] + recent[1:]
        after = 1 + int(np.argmin(between_windows[::-1]))  # the latest of equals
        ended = Ended(slot, self.held(slot), after, "length")
        self._go_on(slot, after, speaking=bool((recent[-after:] >= self.config.speech_off).any()))
        return ended

    def _go_on(self, slot: int, windows: int, *, speaking: bool) -> None:
        """Only the latest `windows` are left for what follows an utterance."""
        state = self._state
        state["speaking"][slot] = speaking
        state["held"][slot] = windows if speaking else min(windows, self.config.preroll_windows)

    def _latest(self, slot: int) -> Speech:
        """The latest probabilities of a slot, oldest first: [cut_windows]."""
        at = int(self._state["heard"][slot]) % self.config.cut_windows
        latest: Speech = np.roll(self._state["recent"][slot], -at)
        return latest
