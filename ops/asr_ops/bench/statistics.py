"""From what happened in the sessions to the figures of a run. Pure.

    ready_ms           from the start of connecting to `ready`
    first_partial_ms   from the moment the session begins to speak to its first text
    partial_lag_ms     from the departure of the audio up to a partial's `end_s` to that partial's arrival
    final_ms           from the departure of the last frame to the last final (to `end`, if no final was still missing)
    end_ms             from the departure of the last frame to `end`
    rtf                from the moment the session begins to speak to `end`, divided by the audio's length

    refused            sessions that never became ready
    errors             sessions that became ready and did not reach `end`
    lost               sessions that became ready and whose text is not exactly the expected one, where it is known

Lags are counted from when a frame really left, so a late generator does not shorten them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from asr_client.figures import percentile
from asr_ops.bench.schedule import frame_holding
from asr_proto.audio import SAMPLE_RATE

MEASURES = ("ready_ms", "first_partial_ms", "partial_lag_ms", "final_ms", "end_ms", "rtf")


@dataclass(slots=True)
class Session:
    """What happened in one session. Times are seconds of one clock; None is what did not happen."""

    connecting_s: float = 0.0
    ready_s: float | None = None
    engine: str | None = None
    sent_s: array[float] = field(default_factory=lambda: array("d"))
    """When each frame left."""
    partials: list[tuple[float, float]] = field(default_factory=list)
    """Arrival, and the `end_s` that it speaks of."""
    finals: list[tuple[float, str]] = field(default_factory=list)
    """Arrival and text."""
    end_s: float | None = None
    fault: str | None = None
    """Why there is no end."""

    @property
    def text(self) -> str:
        """All that is certain to have been understood."""
        return " ".join(text for _, text in self.finals if text)


@dataclass(frozen=True, slots=True)
class Spread:
    """How values are distributed."""

    count: int
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class SessionFigures:
    """The figures of one session; `exact` is None where the expected text is not known."""

    outcome: str
    """`served`, or why not."""
    exact: bool | None
    ready_ms: float | None
    first_partial_ms: float | None
    partial_lag_ms: tuple[float, ...]
    final_ms: float | None
    end_ms: float | None
    rtf: float | None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many sessions fared how; the classes are explained in the module's docstring."""

    sessions: int
    served: int
    refused: int
    errors: int
    lost: int | None

    @property
    def clean(self) -> bool:
        """Everybody got everything."""
        return self.served == self.sessions and not self.lost


def spread(values: Iterable[float]) -> Spread | None:
    """The distribution, or None of nothing."""
    ranked = sorted(values)
    if not ranked:
        return None
    p50, p90, p95, p99 = (percentile(ranked, q) for q in (0.50, 0.90, 0.95, 0.99))
    return Spread(len(ranked), p50, p90, p95, p99, ranked[-1])


def measure(session: Session, frame_samples: int, expected: str | None) -> SessionFigures:
    """The figures of one session whose frames have that many samples."""
    frame_s, sent = frame_samples / SAMPLE_RATE, session.sent_s
    ready = session.ready_s is not None
    spoken = bool(sent) and ready
    began_s = sent[0] - frame_s if spoken else 0.0
    texts = [arrival for arrival, _ in (*session.partials, *session.finals)]
    served = spoken and session.end_s is not None
    end_s = session.end_s if served else None
    last_s = _last_text(session, sent[-1], end_s) if end_s is not None else None
    return SessionFigures(
        outcome="served" if served else session.fault or "no end",
        exact=None if expected is None or not ready else session.text == expected,
        ready_ms=_ms(session.ready_s, session.connecting_s),
        first_partial_ms=_ms(min(texts), began_s) if spoken and texts else None,
        partial_lag_ms=tuple(_lags(session, frame_samples)) if spoken else (),
        final_ms=_ms(last_s, sent[-1]) if served else None,
        end_ms=_ms(end_s, sent[-1]) if served else None,
        rtf=(end_s - began_s) / (len(sent) * frame_s) if end_s is not None else None,
    )


def count(sessions: Sequence[SessionFigures]) -> Counts:
    """How the sessions fared."""
    ready = [session for session in sessions if session.ready_ms is not None]
    served = sum(session.outcome == "served" for session in sessions)
    known = [session.exact for session in ready if session.exact is not None]
    return Counts(
        sessions=len(sessions),
        served=served,
        refused=len(sessions) - len(ready),
        errors=len(ready) - served,
        lost=known.count(False) if known else None,
    )


def overall(sessions: Sequence[SessionFigures]) -> dict[str, Spread]:
    """The distribution of each measure over all sessions; partial lags of all sessions are taken together."""
    found = {name: spread(_values(sessions, name)) for name in MEASURES}
    return {name: row for name, row in found.items() if row is not None}


def _values(sessions: Sequence[SessionFigures], name: str) -> Iterable[float]:
    if name == "partial_lag_ms":
        return (lag for session in sessions for lag in session.partial_lag_ms)
    return (value for session in sessions if (value := getattr(session, name)) is not None)


def _lags(session: Session, frame_samples: int) -> Iterable[float]:
    for arrival, end_s in session.partials:
        frame = frame_holding(round(end_s * SAMPLE_RATE), frame_samples, len(session.sent_s))
        yield (arrival - session.sent_s[frame]) * 1000


def _last_text(session: Session, last_sent_s: float, end_s: float) -> float:
    """The last final's arrival, if the end of the audio was still waiting for it."""
    last_s = session.finals[-1][0] if session.finals else 0.0
    return last_s if last_s > last_sent_s else end_s


def _ms(later_s: float | None, earlier_s: float) -> float | None:
    return None if later_s is None else (later_s - earlier_s) * 1000
