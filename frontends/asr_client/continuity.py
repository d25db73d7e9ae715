"""One session for the user, over several connections and, if the server lost its session, several server sessions.

It keeps what must be sent again (`Replay`) and shifts the numbers in the server's messages, so that times, samples,
utterances and sequence numbers continue. Pure: no sockets, no clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from asr_client.errors import ConnectionLost
from asr_client.events import Ack, End, Event, Final, Flushed, Partial, Ready, Word
from asr_client.replay import Replay
from asr_dialects import native
from asr_proto.errors import DecodeError

Hypothesis = TypeVar("Hypothesis", Partial, Final)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Offsets from the server's numbers to those of the user's session. `seq` changes with every connection."""

    sample: int = 0
    utterance: int = 0
    seq: int = 0


class Continuity:
    """`sample_rate` is that of the client's audio, in Hz; at most `kept_s` seconds of it are kept, see `Replay`."""

    def __init__(self, sample_rate: int, kept_s: float) -> None:
        self.replay = Replay(int(kept_s * sample_rate))
        self.finals = 0
        self._rate = sample_rate
        self._session: str | None = None
        """Id of the server's session that can be resumed."""
        self._origin = _Origin()
        self._seq = 0
        self._has_commits = True
        """False after a final without `committed`: it is then unknown which audio must be sent again."""

    # ---- Connections ----

    def resume(self) -> native.Resume | None:
        """The field `resume` of `start`; None to begin a new session."""
        if self._session is None:
            return None
        return {"session": self._session, "finals": self.finals - self._origin.utterance}

    def lost(self) -> None:
        """The server has lost the session: the next connection begins a new one."""
        self._session = None

    def begin(self, ready: Ready) -> bool:
        """Set where this connection's audio begins. Returns whether the server resumed its session.

        A server that does not support `resume` begins a new session instead. Raises ConnectionLost if the audio to
        repeat is unknown, DecodeError if the server requests audio that it has confirmed before.
        """
        self._session = ready.session
        if ready.from_sample is None:
            self._begin_anew()
            return False
        self._origin = replace(self._origin, seq=self._seq)
        self._begin_at(self._origin.sample + ready.from_sample)
        return True

    def _begin_anew(self) -> None:
        if not self._has_commits:
            raise ConnectionLost("the session could not be resumed, and the server did not report what to repeat")
        self._origin = _Origin(self.replay.committed, self.finals, self._seq)
        self._begin_at(self.replay.committed)

    def _begin_at(self, sample: int) -> None:
        try:
            self.replay.begin(sample)
        except ValueError as error:
            raise DecodeError(f"the server requests audio that it had confirmed: {error}") from None

    # ---- Events ----

    def received(self, event: Event) -> list[Event]:
        """The events for the user that a server message causes. Raises DecodeError for a final out of order."""
        match event:
            case Partial():
                return [self._shifted(event)]
            case Final():
                return self._on_final(self._shifted(event))
            case Ack():
                return self._on_ack(event)
            case Flushed():
                self.replay.answered(event.marker)
                return [*self._passed(self.replay.end_sample), event]
            case End():
                return [*self._passed(self.replay.end_sample), event]
        return [event]

    def _on_final(self, final: Final) -> list[Event]:
        if final.utterance != self.finals:
            raise DecodeError(f"the server sent the final of utterance {final.utterance}, {self.finals} is next")
        self.finals += 1
        self._has_commits = final.committed is not None
        before = self._passed(final.committed or 0)
        self.replay.commit(final.committed or 0)
        return [*before, final]

    def _on_ack(self, ack: Ack) -> list[Event]:
        shifted = Ack(ack.samples + self._origin.sample, ack.committed + self._origin.sample)
        self._has_commits = True
        before = self._passed(shifted.committed)
        self.replay.commit(shifted.committed)
        return [*before, shifted]

    def _passed(self, sample: int) -> list[Event]:
        return [Flushed(marker) for marker in self.replay.passed(sample)]

    # ---- Shifting ----

    def _shifted(self, event: Hypothesis) -> Hypothesis:
        origin, self._seq = self._origin, self._origin.seq + event.seq + 1
        if origin == _Origin():
            return event
        more: dict[str, Any] = {}
        if isinstance(event, Final) and event.committed is not None:
            more["committed"] = event.committed + origin.sample
        return replace(
            event,
            seq=event.seq + origin.seq,
            utterance=event.utterance + origin.utterance,
            start_s=self._later(event.start_s),
            end_s=self._later(event.end_s),
            words=tuple(self._later_word(word) for word in event.words),
            **more,
        )

    def _later_word(self, word: Word) -> Word:
        return replace(word, start_s=self._later(word.start_s), end_s=self._later(word.end_s))

    def _later(self, time_s: float) -> float:
        return round(time_s + self._origin.sample / self._rate, 3)
