"""Spoken digits for training: recordings, and endless strings of digits made of them and of synthetic voices.

Recordings are WAV files `DIGIT_SPEAKER_TAKE.wav` in one folder, named as in the Free Spoken Digit Dataset. Takes 0 to 4
of every digit and speaker are the *unseen* recordings. They are used only to evaluate a model, never to train one. The
same holds for all recordings of the data set's other speakers.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from augment import RATE_HZ, Audio, add_noise, chance, colored, cut, distort, line, log_uniform, speed, vocal_tract

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
UNSEEN_TAKES = range(5)
TRAINING_SPEAKERS = ("george", "jackson", "lucas", "nicolas")
"""The speakers whose recordings train models."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One spoken digit: the digit from 0 to 9, its speaker, and float32 [n] at 16 kHz."""

    digit: int
    speaker: str
    pcm: Audio


def recordings(directory: Path, unseen: bool, speakers: Collection[str] | None = None) -> list[Recording]:
    """The folder's unseen recordings, or all others; only those of `speakers`, if given. Sorted by file name."""
    found = []
    for path in sorted(directory.glob("*.wav")):
        digit, speaker, take = path.stem.split("_")
        if (int(take) in UNSEEN_TAKES) == unseen and (speakers is None or speaker in speakers):
            found.append(Recording(int(digit), speaker, load(path)))
    return found


def load(path: Path) -> Audio:
    """The first channel of a sound file as float32 [n] at 16 kHz, without silence at both ends."""
    pcm, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return trim(np.asarray(soxr.resample(pcm[:, 0], rate_hz, RATE_HZ), np.float32))


def trim(pcm: Audio, floor_db: float = -40.0, margin_s: float = 0.03) -> Audio:
    """Cut off both ends as far as they stay `floor_db` below the loudest 10 ms.

    A margin is kept, so that soft s and f are not cut.
    """
    hop = RATE_HZ // 100
    power = np.add.reduceat(pcm**2, np.arange(0, len(pcm), hop))
    loud = np.flatnonzero(power > power.max() * 10 ** (floor_db / 10))
    if not len(loud):
        return pcm
    margin = int(margin_s * RATE_HZ)
    return pcm[max(0, loud[0] * hop - margin) : (loud[-1] + 1) * hop + margin]


class Strings:
    """An endless, seeded iterator of (audio float32 [n] at 16 kHz, its digits).

    A string has 1 to `digits_max` digits, mostly of one speaker, with random gaps. `voices` are synthetic recordings;
    `voice_share` of the strings use them (a separate share, because there are more synthetic than real speakers). The
    first word of a voice's `speaker` is its engine; an engine's frequency is proportional to the square root of its
    number of recordings. `repeat_share` of the digits repeat the digit before, in addition to repetitions by chance.
    Without `augment`, the recordings are only concatenated, with digital silence between them.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        seed: int,
        *,
        voices: Sequence[Recording] = (),
        voice_share: float = 0.4,
        digits_max: int = 10,
        repeat_share: float = 0.0,
        augment: bool = True,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._real, self._engines = _by_speaker(recordings), _by_engine(voices)
        sizes = np.sqrt([len(engine) for engine in self._engines])
        self._engine_shares = sizes / sizes.sum()
        self._all = [*recordings, *voices]
        self._voice_share = voice_share if voices else 0.0
        self._digits_max, self._repeat_share, self._augment = digits_max, repeat_share, augment

    def __iter__(self) -> Iterator[tuple[Audio, list[int]]]:
        return self

    def __next__(self) -> tuple[Audio, list[int]]:
        rng = self._rng
        group = self._real
        if chance(rng, self._voice_share):
            group = self._engines[rng.choice(len(self._engines), p=self._engine_shares)]
        row = self._row(group)
        cut_share = float(rng.choice([0.0, 0.0, 0.2, 0.8]))
        gap_max_s = float(rng.choice([0.08, 0.3, 0.6]))
        parts = [self._pause(0.05, 0.6)]
        for recording in row:
            parts += [self._word(recording.pcm, cut_share), self._pause(0.0, gap_max_s)]
        parts[-1] = self._pause(0.1, 0.6)
        audio = np.concatenate(parts)
        return (self._change(audio) if self._augment else audio), [recording.digit for recording in row]

    def _row(self, group: list[dict[int, list[Recording]]]) -> list[Recording]:
        """Recordings of one speaker. In a tenth of the augmented strings, two speakers alternate at random."""
        rng = self._rng
        speakers = [group[rng.integers(len(group))] for _ in range(2 if self._augment and chance(rng, 0.1) else 1)]
        row: list[Recording] = []
        for _ in range(rng.integers(1, self._digits_max + 1)):
            words = speakers[rng.integers(len(speakers))]
            digit = list(words)[rng.integers(len(words))]
            if self._repeat_share and row and row[-1].digit in words and chance(rng, self._repeat_share):
                digit = row[-1].digit
            takes = words[digit]
            row.append(takes[rng.integers(len(takes))])
        return row

    def _pause(self, least_s: float, most_s: float) -> Audio:
        """Silence. With `augment`, some are long, so that a model learns to emit nothing for seconds."""
        if self._augment and chance(self._rng, 0.03):
            most_s = 3.0
        return np.zeros(int(self._rng.uniform(least_s, most_s) * RATE_HZ), np.float32)

    def _word(self, pcm: Audio, cut_share: float) -> Audio:
        if self._augment:
            if chance(self._rng, cut_share):
                pcm = cut(pcm, self._rng)
            gain = np.float32(10 ** (self._rng.uniform(-4, 4) / 20))
            pcm = speed(pcm, log_uniform(self._rng, 0.93, 1.07)) * gain
        # Fade in and out over 3 ms: an abrupt edge would click.
        ramp = np.ones(len(pcm), np.float32)
        count = min(48, len(pcm) // 2)
        ramp[:count] = np.linspace(0, 1, count)
        ramp[len(pcm) - count :] = np.linspace(1, 0, count)
        return pcm * ramp

    def _change(self, audio: Audio) -> Audio:
        """Change voice, room, line, noise and level of the whole string."""
        rng = self._rng
        if chance(rng, 0.8):
            audio = speed(audio, log_uniform(rng, 0.75, 1.33))
        if chance(rng, 0.6):
            audio = vocal_tract(audio, log_uniform(rng, 0.78, 1.28))
        if chance(rng, 0.2):
            audio = distort(audio, rng)
        if chance(rng, 0.7):
            audio = line(audio, rng)
        if chance(rng, 0.6):
            audio = add_noise(audio, rng, self._babble)
        audio = audio * np.float32(10 ** (rng.uniform(-30, -1) / 20) / max(1e-4, float(np.abs(audio).max())))
        if chance(rng, 0.7):
            # The noise floor of a sound card, so that silence is not all zeros.
            audio = audio + colored(len(audio), rng, 0.0) * np.float32(10 ** (rng.uniform(-96, -60) / 20))
        return audio

    def _babble(self, count: int) -> Audio:
        """Three to six voices at the same time, float32 [count]."""
        rng = self._rng
        mixed = np.zeros(count, np.float32)
        for _ in range(rng.integers(3, 7)):
            at = -int(rng.integers(0, RATE_HZ))
            while at < count:
                pcm = self._all[rng.integers(len(self._all))].pcm
                start, end = max(0, at), min(count, at + len(pcm))
                if end > start:
                    mixed[start:end] += pcm[start - at : end - at]
                at += len(pcm)
        return mixed


def unseen_strings(
    directory: Path, count: int, seed: int, speakers: Collection[str] | None = None, digits_max: int = 10
) -> list[tuple[Audio, list[int]]]:
    """`count` clean strings of unseen recordings, for evaluating a model."""
    strings = Strings(recordings(directory, True, speakers), seed, digits_max=digits_max, augment=False)
    return [next(strings) for _ in range(count)]


def _by_speaker(recordings: Sequence[Recording]) -> list[dict[int, list[Recording]]]:
    speakers: dict[str, dict[int, list[Recording]]] = {}
    for recording in recordings:
        speakers.setdefault(recording.speaker, {}).setdefault(recording.digit, []).append(recording)
    return list(speakers.values())


def _by_engine(voices: Sequence[Recording]) -> list[list[dict[int, list[Recording]]]]:
    engines: dict[str, list[Recording]] = {}
    for voice in voices:
        engines.setdefault(voice.speaker.split()[0], []).append(voice)
    return [_by_speaker(engine) for engine in engines.values()]
