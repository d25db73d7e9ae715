"""Computes the figures of a run from the records of its sessions. Pure.

    ready_ms           from the start of connecting to `ready`
    refused_ms         from the start of connecting to the refusal
    first_partial_ms   from the start of the session's audio to its first text
    partial_lag_ms     from sending the audio up to a partial's `end_s` to that partial's arrival
    final_ms           from sending the last frame to the last final (to `end`, if the last final arrived earlier)
    end_ms             from sending the last frame to `end`
    partials           number of partials
    avg_partial_gap_ms mean time from one partial to the next
    rtf, xrt           time from the start of the audio to `end`, divided by the audio's length; and its inverse

    refused            sessions that never became ready
    errors             sessions that became ready and did not reach `end`
    lost               sessions that became ready and whose text is not exactly the expected one, if that is known

Lags are measured from the time at which a frame was really sent, so a late generator does not shorten them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from asr_client.figures import percentile
from asr_ops.bench.schedule import frame_holding
from asr_proto.audio import SAMPLE_RATE

MEASURES = (
    "ready_ms",
    "refused_ms",
    "first_partial_ms",
    "partial_lag_ms",
    "final_ms",
    "end_ms",
    "partials",
    "avg_partial_gap_ms",
    "rtf",
    "xrt",
)


@dataclass(slots=True)
class SessionRecord:
    """The events of one session. Times are seconds of one clock; None: the event did not happen."""

    connecting_s: float = 0.0
    ready_s: float | None = None
    engine: str | None = None
    sent_s: array[float] = field(default_factory=lambda: array("d"))
    """The time at which each frame was sent."""
    partials: list[tuple[float, float | None]] = field(default_factory=list)
    """Arrival of each partial, and the end of the audio that it covers. None if the dialect does not report that."""
    finals: list[tuple[float, str]] = field(default_factory=list)
    """Arrival and text of each final."""
    end_s: float | None = None
    fault: str | None = None
    """Why the session did not reach its end."""
    fault_s: float | None = None
    """The time of the fault."""

    @property
    def text(self) -> str:
        """The texts of all finals."""
        return " ".join(text for _, text in self.finals if text)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, quantiles and maximum of values."""

    count: int
    avg: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class SessionFigures:
    """The figures of one session, as the module's docstring defines them."""

    outcome: str
    """`served`, or the reason why it was not served."""
    exact: bool | None
    """Whether the text is the expected one. None if the expected text is unknown."""
    audio_s: float
    """Seconds of audio that were sent."""
    began_s: float | None
    """The start of its audio, in seconds of the clock that all sessions share."""
    spoken_s: float | None
    """The time at which its last frame was sent."""
    ready_ms: float | None
    refused_ms: float | None
    first_partial_ms: float | None
    partial_lag_ms: tuple[float, ...]
    partial_at_s: tuple[float, ...]
    """Arrival times of the partials of `partial_lag_ms`."""
    final_ms: float | None
    end_ms: float | None
    partials: int | None
    avg_partial_gap_ms: float | None
    rtf: float | None
    xrt: float | None


@dataclass(frozen=True, slots=True)
class SessionCounts:
    """Numbers of sessions by outcome, as the module's docstring defines them."""

    sessions: int
    served: int
    refused: int
    errors: int
    lost: int | None

    @property
    def clean(self) -> bool:
        """Whether every session was served and no text differs from the expected one."""
        return self.served == self.sessions and not self.lost


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all sessions that were served."""

    audio_s: float
    elapsed_s: float
    """Seconds from the start of the first session's audio to the last `end`."""
    min_per_min: float
    """Minutes of audio served per minute."""
    sec_per_min: float


def spread(values: Iterable[float]) -> Spread | None:
    """The distribution of the values; None if there are none."""
    ranked = sorted(values)
    if not ranked:
        return None
    p50, p90, p95, p99 = (percentile(ranked, q) for q in (0.50, 0.90, 0.95, 0.99))
    return Spread(len(ranked), fmean(ranked), p50, p90, p95, p99, ranked[-1])


def measure(session: SessionRecord, frame_samples: int, expected: str | None, pace: float = 1.0) -> SessionFigures:
    """The figures of one session.

    `frame_samples` is the length of its frames, `expected` its text if known, and `pace` the speed of its audio as a
    multiple of real time.
    """
    frame_s, sent = frame_samples / SAMPLE_RATE, session.sent_s
    ready = session.ready_s is not None
    spoken = bool(sent) and ready
    began_s = sent[0] - frame_s / pace if spoken else 0.0
    texts = [arrival for arrival, _ in (*session.partials, *session.finals)]
    served = spoken and session.end_s is not None
    end_s = session.end_s if served else None
    last_s = _last_text(session, sent[-1], end_s) if end_s is not None else None
    lags = list(_lags(session, frame_samples)) if spoken else []
    rtf = (end_s - began_s) / (len(sent) * frame_s) if end_s is not None else None
    return SessionFigures(
        outcome="served" if served else session.fault or "no end",
        exact=None if expected is None or not ready else session.text == expected,
        audio_s=len(sent) * frame_s,
        began_s=began_s if spoken else None,
        spoken_s=sent[-1] if spoken else None,
        ready_ms=_ms(session.ready_s, session.connecting_s),
        refused_ms=None if ready else _ms(session.fault_s, session.connecting_s),
        first_partial_ms=_ms(min(texts), began_s) if spoken and texts else None,
        partial_lag_ms=tuple(lag_ms for _, lag_ms in lags),
        partial_at_s=tuple(arrival for arrival, _ in lags),
        final_ms=_ms(last_s, sent[-1]) if served else None,
        end_ms=_ms(end_s, sent[-1]) if served else None,
        partials=len(session.partials) if served else None,
        avg_partial_gap_ms=_gap_ms([arrival for arrival, _ in session.partials]) if served else None,
        rtf=rtf,
        xrt=1 / rtf if rtf else None,
    )


def count(sessions: Sequence[SessionFigures]) -> SessionCounts:
    """Count the sessions by outcome."""
    ready = [session for session in sessions if session.ready_ms is not None]
    served = sum(session.outcome == "served" for session in sessions)
    known = [session.exact for session in ready if session.exact is not None]
    return SessionCounts(
        sessions=len(sessions),
        served=served,
        refused=len(sessions) - len(ready),
        errors=len(ready) - served,
        lost=known.count(False) if known else None,
    )


def overall(sessions: Sequence[SessionFigures]) -> dict[str, Spread]:
    """The distribution of each measure over all sessions. All partial lags of all sessions form one distribution."""
    found = {name: spread(_values(sessions, name)) for name in MEASURES}
    return {name: row for name, row in found.items() if row is not None}


def totals(sessions: Sequence[SessionFigures]) -> Totals:
    """The totals of the sessions that were served; all zero if none was."""
    spans = [
        (session.began_s, session.spoken_s + session.end_ms / 1000, session.audio_s)
        for session in sessions
        if session.began_s is not None and session.spoken_s is not None and session.end_ms is not None
    ]
    begins, ends, lengths = zip(*spans, strict=True) if spans else ((0.0,), (0.0,), (0.0,))
    audio_s, elapsed_s = sum(lengths), max(ends) - min(begins)
    share = audio_s / elapsed_s if elapsed_s else 0.0
    return Totals(audio_s, elapsed_s, min_per_min=share, sec_per_min=share * 60)


def _values(sessions: Sequence[SessionFigures], name: str) -> Iterable[float]:
    if name == "partial_lag_ms":
        return (lag for session in sessions for lag in session.partial_lag_ms)
    return (value for session in sessions if (value := getattr(session, name)) is not None)


def _lags(session: SessionRecord, frame_samples: int) -> Iterable[tuple[float, float]]:
    """Arrival and lag of each partial."""
    for arrival, end_s in session.partials:
        if end_s is None:
            continue
        frame = frame_holding(round(end_s * SAMPLE_RATE), frame_samples, len(session.sent_s))
        yield arrival, (arrival - session.sent_s[frame]) * 1000


def _last_text(session: SessionRecord, last_sent_s: float, end_s: float) -> float:
    """The last final's arrival if it came after the last frame was sent, or else `end_s`."""
    last_s = session.finals[-1][0] if session.finals else 0.0
    return last_s if last_s > last_sent_s else end_s


def _gap_ms(arrivals: Sequence[float]) -> float | None:
    """The mean time between arrivals in milliseconds: the whole span divided by the number of gaps."""
    return (arrivals[-1] - arrivals[0]) / (len(arrivals) - 1) * 1000 if len(arrivals) > 1 else None


def _ms(later_s: float | None, earlier_s: float) -> float | None:
    return None if later_s is None else (later_s - earlier_s) * 1000
