"""The options of a run, their check, and the audio that its sessions send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asr_client.dialects import DIALECTS
from asr_ops import wer
from asr_ops.bench import audio, schedule
from asr_proto.audio import Pcm16
from asr_proto.errors import SetupError

FAKE = "fake"
VISITS_S = 3.0
"""Longest time that a churn connection holds a slot, in seconds, including opening and closing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The command line, checked."""

    url: str | None = None
    secure: bool = False
    path: str | None = None
    dialect: str = "native"
    engine: str = FAKE
    sessions: int = 100
    """Number of sessions at the same time."""
    total: int | None = None
    duration_s: float = 10.0
    frame_ms: int = 100
    pace: float = 1.0
    file: Path | None = None
    tone: bool = False
    pauses: bool = False
    start: schedule.StartPattern = "random"
    ramp_s: float = 0.0
    churn_per_s: float = 0.0
    flood: int = 0
    processes: int = 1
    seed: int = 1
    serve_arg: tuple[str, ...] = ()

    @property
    def rounds(self) -> list[int]:
        """The number of sessions in each round: `total` sessions, at most `sessions` a round."""
        full, rest = divmod(self.total or self.sessions, self.sessions)
        return [self.sessions] * full + [rest] * bool(rest)

    @property
    def slots(self) -> int:
        """Most sessions at the same time, including the disturbing connections."""
        return self.sessions + self.flood + round(self.churn_per_s * VISITS_S)

    @property
    def frames(self) -> int:
        """Frames of each session."""
        return max(1, round(self.duration_s * 1000 / self.frame_ms))

    @property
    def shape(self) -> str:
        """Description of what differs from the default load; empty for the default."""
        found = {
            f"at {self.pace:g} times real time": self.pace != 1,
            "with pauses": self.pauses,
            f"ramp of {self.ramp_s:g} s": self.ramp_s,
            f"{self.total} in rounds": self.total is not None,
            f"churn of {self.churn_per_s:g}/s": self.churn_per_s,
            f"flood of {self.flood}": self.flood,
        }
        return ", ".join(words for words, applies in found.items() if applies)


def check(options: BenchOptions, *, find_max: bool) -> None:
    """Raises SetupError for options that contradict each other or the dialect."""
    dialect = DIALECTS[options.dialect]
    if options.total is not None and find_max:
        raise SetupError("--n sets the number of sessions, --find-max searches for it: give one of them")
    if options.frame_ms < (least := dialect.frame_ms(options.frame_ms, options.pace)):
        raise SetupError(f"{options.dialect} limits messages per second: it needs --frame-ms {least} or more here")
    if dialect.channel == "webrtc" and (options.churn_per_s or options.flood):
        raise SetupError(f"--churn and --flood use WebSockets only, not {options.dialect}'s WebRTC")


def ring(options: BenchOptions) -> audio.Ring:
    """The audio that the sessions send. Raises SetupError or AudioError if it cannot be read."""
    samples = _samples(options)
    return audio.ring(audio.with_pauses(samples, options.seed) if options.pauses else samples, options.frame_ms)


def _samples(options: BenchOptions) -> Pcm16:
    if options.file is not None:
        return audio.recording(options.file)
    if options.tone:
        return audio.tone()
    if options.engine == FAKE:
        return audio.noise()
    clips = wer.two_cities()
    if not clips:
        raise SetupError("the package moonshine-voice, whose sample would be sent, is missing: give --file")
    return audio.recording(clips[0].path)


def audio_of(options: BenchOptions) -> str:
    """The audio's name for the report."""
    if options.file is not None:
        return str(options.file)
    return "tone" if options.tone else "noise" if options.engine == FAKE else wer.TWO_CITIES
