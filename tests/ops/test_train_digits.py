"""The spoken digits of the training scripts: the split, the seeds, and labels that match the audio."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[2] / "ops" / "train"))  # scripts, not a package

import augment
import digits
import voices
from digits import Recording, Strings

RATE_HZ = 16_000


def tone(hertz: float, seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two speakers, ten digits, seven takes at 8 kHz: digit d of take k is 0.2 s of a tone of 200 + 100 d + k Hz."""
    for digit in range(10):
        for speaker in ("ann", "bob"):
            for take in range(7):
                spoken = tone(200 + 100 * digit + take, 0.2, 8000)
                soundfile.write(tmp_path / f"{digit}_{speaker}_{take}.wav", spoken, 8000)
    return tmp_path


def hertz(pcm: np.ndarray) -> float:
    """The strongest frequency."""
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)), 1 << 16))
    return float(np.argmax(spectrum)) * RATE_HZ / (1 << 16)


def take_of(recording: Recording) -> int:
    return round(hertz(recording.pcm)) - 200 - 100 * recording.digit


def row(speakers: int = 2) -> list[Recording]:
    """Recordings without files: digit d is 0.25 s of a tone whose frequency identifies it."""
    return [
        Recording(digit, f"s{who}", tone(300 + 150 * digit + 20 * who, 0.25))
        for digit in range(10)
        for who in range(speakers)
    ]


def test_unseen_recordings_never_train(folder: Path) -> None:
    unseen, others = digits.recordings(folder, unseen=True), digits.recordings(folder, unseen=False)
    assert len(unseen) == 10 * 2 * 5
    assert len(others) == 10 * 2 * 2
    assert {take_of(one) for one in unseen} == set(range(5))
    assert {take_of(one) for one in others} == {5, 6}


def test_recordings_of_some_speakers_at_16_khz(folder: Path) -> None:
    found = digits.recordings(folder, unseen=True, speakers={"bob"})
    assert {one.speaker for one in found} == {"bob"}
    assert {one.digit for one in found} == set(range(10))
    assert all(one.pcm.dtype == np.float32 and abs(len(one.pcm) - 0.2 * RATE_HZ) <= 160 for one in found)


def test_silence_is_trimmed_and_soft_ends_are_kept() -> None:
    quiet, soft = np.zeros(RATE_HZ // 2, np.float32), tone(500, 0.1) * np.float32(0.05)
    trimmed = digits.trim(np.concatenate([quiet, soft, tone(500, 0.2), soft, quiet]))
    assert 0.4 * RATE_HZ <= len(trimmed) <= 0.5 * RATE_HZ


def test_a_seed_gives_the_same_strings_again() -> None:
    first, again, other = (Strings(row(), seed, voices=row(3)) for seed in (7, 7, 8))
    for _ in range(20):
        (audio, expected), (audio_again, said_again) = next(first), next(again)
        assert expected == said_again
        assert np.array_equal(audio, audio_again)
    assert [next(other)[1] for _ in range(20)] != [next(first)[1] for _ in range(20)]


@pytest.mark.parametrize("most", [1, 4, 10])
def test_strings_are_finite_and_of_every_length(most: int) -> None:
    strings = Strings(row(), 0, voices=row(3), digits_max=most)
    lengths = set()
    for _ in range(150):
        audio, expected = next(strings)
        lengths.add(len(expected))
        assert audio.dtype == np.float32
        assert np.isfinite(audio).all()
        assert 0 < float(np.abs(audio).max()) <= 1.0
        # 0.25 s a digit, at most 0.13 s cut off, the fastest speech 1.33 x 1.07 as fast.
        assert len(audio) >= 0.12 * RATE_HZ * len(expected) / 1.43
    assert lengths == set(range(1, most + 1))


def test_labels_match_the_audio_of_clean_strings() -> None:
    """Between its silences, a clean string contains the unchanged recordings, in the order of its labels."""
    known = row(1)
    strings = Strings(known, 3, digits_max=6, augment=False)
    for _ in range(10):
        audio, expected = next(strings)
        at = 0
        for digit in expected:
            pcm = known[digit].pcm
            inner = pcm[100:-100]  # without the fades of 3 ms
            window = np.lib.stride_tricks.sliding_window_view(audio[at:], len(inner))
            matches = np.flatnonzero((window == inner).all(axis=1))
            assert len(matches)
            at += int(matches[0]) + len(inner)


def test_unaugmented_gaps_are_digital_silence() -> None:
    strings = Strings(row(), 5, augment=False)
    audio, expected = next(strings)
    assert np.count_nonzero(audio) <= 0.25 * RATE_HZ * len(expected)
    assert not audio[: int(0.05 * RATE_HZ)].any()


def test_unseen_strings_are_clean_and_seeded(folder: Path) -> None:
    one, again = (digits.unseen_strings(folder, 5, seed=2, speakers={"ann"}) for _ in range(2))
    assert len(one) == 5
    for (audio, expected), (audio_again, said_again) in zip(one, again, strict=True):
        assert expected == said_again
        assert np.array_equal(audio, audio_again)
        assert not audio[:100].any()


def test_voices_come_from_the_cache_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = [Recording(3, "espeak en-us+f1 50 150", tone(440, 0.1)), Recording(4, "flite slt", tone(880, 0.2))]
    monkeypatch.setattr(voices, "synthesize", lambda: spoken)
    cache = tmp_path / "new" / "voices.npz"
    made = voices.voices(cache)
    monkeypatch.setattr(voices, "synthesize", lambda: pytest.fail("spoken twice"))
    again = voices.voices(cache)
    for found in (made, again):
        assert [(one.digit, one.speaker) for one in found] == [(one.digit, one.speaker) for one in spoken]
        for kept, original in zip(found, spoken, strict=True):
            assert np.allclose(kept.pcm, original.pcm, atol=1e-4)


def test_every_voice_by_rule_has_a_name_of_its_own() -> None:
    names = [name for name, _ in voices._commands()]
    assert len(names) == len(set(names)) > 300


def test_half_of_the_neural_voices_are_native() -> None:
    """A native voice uses one of the first three pronunciations throughout; the others choose one for each word."""
    rng = np.random.default_rng(0)
    native = [[ways[index] for ways in voices._PRONUNCIATIONS] for index in range(3)]
    expected = [voices._pronunciation(rng) for _ in range(400)]
    assert all(word in ways for one in expected for word, ways in zip(one, voices._PRONUNCIATIONS, strict=True))
    assert np.mean([one in native for one in expected]) == pytest.approx(0.5, abs=0.08)


def test_an_engines_frequency_is_the_root_of_its_size() -> None:
    """Sixteen voices have only zero to four, one has the other digits: their frequencies are 4 to 1."""
    many = [Recording(one.digit, f"rule {one.speaker}", one.pcm) for one in row(16) if one.digit < 5]
    few = [Recording(one.digit, "network 1", one.pcm) for one in row(1) if one.digit >= 5]
    strings = Strings(row(1), 0, voices=[*many, *few], voice_share=1.0, digits_max=1, augment=False)
    expected = [next(strings)[1][0] for _ in range(500)]
    # An engine's size is its number of words: 80 and 5.
    assert np.mean(np.array(expected) < 5) == pytest.approx(0.8, abs=0.05)


def test_a_cut_takes_little_from_both_ends_and_leaves_short_sounds_alone() -> None:
    rng = np.random.default_rng(0)
    ramp = np.arange(RATE_HZ // 2, dtype=np.float32)
    for _ in range(20):
        left = augment.cut(ramp, rng)
        assert left[0] <= 0.06 * RATE_HZ and ramp[-1] - left[-1] <= 0.1 * RATE_HZ
        assert np.array_equal(left, ramp[int(left[0]) : int(left[-1]) + 1])
        assert len(augment.cut(ramp[: RATE_HZ // 10], rng)) == RATE_HZ // 10


def test_an_overdriven_sound_has_harmonics_and_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        loud = augment.distort(tone(500, 0.5), rng)
        assert loud.dtype == np.float32 and 0.2 < float(np.abs(loud).max()) < 0.8
        power = np.abs(np.fft.rfft(loud)) ** 2
        shares.append(power[745:755].sum() / power[245:255].sum())
    assert max(shares) > 0.02


def test_speed_moves_length_and_pitch() -> None:
    fast = augment.speed(tone(400, 0.5), 1.25)
    assert len(fast) == round(0.5 * RATE_HZ / 1.25)
    assert hertz(fast) == pytest.approx(500, abs=2)


def test_a_vocal_tract_of_the_same_length_changes_nothing() -> None:
    audio = row()[0].pcm
    assert np.allclose(augment.vocal_tract(audio, 1.0), audio, atol=1e-5)


def test_a_shorter_vocal_tract_keeps_the_pitch_and_lifts_the_formants() -> None:
    """Pulses of 100 Hz through one resonance at 1 kHz: the harmonics stay, and the resonance moves up."""
    rng = np.random.default_rng(0)
    pulses = np.zeros(RATE_HZ, np.float32)
    pulses[::160] = 1
    count = np.arange(200) / RATE_HZ
    audio = np.convolve(pulses, np.exp(-1500 * count) * np.sin(2 * np.pi * 1000 * count))[:RATE_HZ].astype(np.float32)
    audio += rng.standard_normal(RATE_HZ, dtype=np.float32) * np.float32(1e-3)
    assert hertz(audio) == pytest.approx(1000, abs=60)
    moved = hertz(augment.vocal_tract(audio, 1.2))
    assert moved == pytest.approx(1200, abs=110)
    assert abs(moved / 100 - round(moved / 100)) < 0.05


def test_noise_comes_in_the_asked_slope() -> None:
    rng = np.random.default_rng(0)
    levels = []
    for slope in (0.0, 0.5, 1.0):
        power = np.abs(np.fft.rfft(augment.colored(RATE_HZ, rng, slope))) ** 2
        levels.append(float(np.log10(power[4000:4200].mean() / power[400:420].mean())))
    assert all(before - after == pytest.approx(1.0, abs=0.3) for before, after in pairwise(levels))


def test_words_may_repeat_more_often_than_chance_has_it() -> None:
    shares = []
    for repeat_share in (0.0, 0.5):
        strings = Strings(row(), 0, repeat_share=repeat_share, augment=False)
        pairs = [pair for _ in range(200) for pair in pairwise(next(strings)[1])]
        shares.append(sum(first == second for first, second in pairs) / len(pairs))
    assert shares == [pytest.approx(0.1, abs=0.04), pytest.approx(0.55, abs=0.06)]
