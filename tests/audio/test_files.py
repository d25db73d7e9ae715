"""Decoding sound files: the output is 16 kHz mono PCM16 of the right length and pitch, or one clear error."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_audio.files import AudioFile
from asr_proto.audio import Pcm16, from_float32, to_int16
from asr_proto.errors import AudioError

TONE_HZ = 440.0


def write_tone(path: Path, rate: int, channels: int = 1, seconds: float = 2.0, subtype: str | None = None) -> Path:
    tone = 0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(int(rate * seconds)) / rate)
    soundfile.write(path, np.stack([tone] * channels, axis=1), rate, subtype=subtype)
    return path


def decode(path: Path, frame_ms: int = 100) -> Pcm16:
    with AudioFile(path) as audio:
        return to_int16(b"".join(audio.frames(frame_ms)))


def pitch_hz(pcm: Pcm16) -> float:
    spectrum = np.abs(np.fft.rfft(pcm[2000:-2000].astype(np.float64)))
    return float(np.argmax(spectrum) * 16_000 / (len(pcm) - 4000))


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("a.wav", 16_000, 1, "PCM_16"),
        ("a.wav", 8_000, 1, "ULAW"),
        ("a.wav", 44_100, 2, "PCM_24"),
        ("a.wav", 11_025, 6, "FLOAT"),
        ("a.wav", 192_000, 1, "DOUBLE"),
        ("a.flac", 48_000, 2, None),
        ("a.flac", 22_050, 1, None),
        ("a.ogg", 44_100, 2, "VORBIS"),
        ("a.ogg", 48_000, 1, "OPUS"),
        ("a.mp3", 44_100, 2, None),
        ("a.mp3", 22_050, 1, None),
    ],
)
def test_any_format_rate_and_channels(tmp_path: Path, name: str, rate: int, channels: int, subtype: str | None) -> None:
    pcm = decode(write_tone(tmp_path / name, rate, channels, subtype=subtype))
    assert abs(len(pcm) - 32_000) <= 1_600  # MP3 pads
    assert pitch_hz(pcm) == pytest.approx(TONE_HZ, abs=1.0)
    loudness = np.sqrt(np.mean(pcm[2000:-2000].astype(np.float64) ** 2))
    assert loudness == pytest.approx(0.5 * 32768 / np.sqrt(2), rel=0.05)


def test_sixteen_kilohertz_mono_comes_out_as_it_is(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, 40_001).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    assert np.array_equal(decode(tmp_path / "a.wav", 30), samples)


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.flac"])
def test_decoding_piece_by_piece_gives_what_decoding_at_once_does(tmp_path: Path, name: str) -> None:
    path = write_tone(tmp_path / name, 16_000, seconds=5.0)
    at_once, _ = soundfile.read(path, dtype="float32")
    difference = decode(path).astype(np.int32) - from_float32(at_once)
    assert np.abs(difference).max() <= 1


def test_frames_have_the_asked_length_and_the_last_is_the_rest(tmp_path: Path) -> None:
    with AudioFile(write_tone(tmp_path / "a.wav", 44_100, seconds=1.05)) as audio:
        assert audio.duration_s == pytest.approx(1.05)
        lengths = [len(frame) for frame in audio.frames(20)]
    assert set(lengths[:-1]) == {640}
    assert lengths[-1] == 320


def test_channels_are_averaged_and_loud_sound_is_clipped(tmp_path: Path) -> None:
    left_only = np.stack([np.full(16_000, 0.5), np.zeros(16_000)], axis=1)
    soundfile.write(tmp_path / "left.wav", left_only, 16_000)
    assert decode(tmp_path / "left.wav")[8_000] == pytest.approx(0.25 * 32768, abs=2)
    soundfile.write(tmp_path / "loud.wav", np.full(16_000, 3.0), 16_000, subtype="FLOAT")
    assert decode(tmp_path / "loud.wav").max() == 32767


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    flac = write_tone(tmp_path / "a.flac", 16_000)
    assert len(decode(flac.rename(tmp_path / "a.mp3"))) == 32_000


def broken(tmp_path: Path, case: str) -> Path:
    path = tmp_path / "broken.wav"
    if case == "folder":
        path.mkdir()
    elif case == "no samples":
        soundfile.write(path, np.zeros(0), 16_000)
    elif case == "header only":
        path.write_bytes(write_tone(tmp_path / "whole.wav", 16_000).read_bytes()[:30])
    elif case != "missing":
        path.write_bytes({"empty": b"", "text": b"dear diary\n" * 500, "noise": bytes(range(256)) * 50}[case])
    return path


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("missing", "no such file"),
        ("folder", "it is a folder"),
        ("empty", "it is empty"),
        ("no samples", "it holds no audio"),
        ("text", "it is no audio that can be read: format not recognised"),  # codespell:ignore recognised
        ("noise", "it is no audio that can be read: format not recognised"),  # codespell:ignore recognised
        ("header only", "it is no audio that can be read: error in WAV file"),
    ],
)
def test_what_is_no_audio_says_why(tmp_path: Path, case: str, reason: str) -> None:
    with pytest.raises(AudioError) as caught:
        decode(broken(tmp_path, case))
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.flac", "a.mp3"])
def test_a_file_cut_in_half_is_damaged(tmp_path: Path, name: str) -> None:
    whole = write_tone(tmp_path / name, 44_100, seconds=10.0).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match="it is damaged"):
        decode(tmp_path / name)


@pytest.mark.parametrize(("rate", "channels"), [(2_000_000_000, 1), (999, 1), (16_000, 65)])
def test_what_a_header_claims_is_limited(rate: int, channels: int) -> None:
    """Decoding allocates by the header: a file of two kilobytes could cause gigabytes."""
    block = 2 * channels
    data = bytes(block * 8)
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, channels, rate,
                         min(rate * block, 2**32 - 1), block, 16, b"data", len(data))  # fmt: skip
    with pytest.raises(AudioError):
        AudioFile(header + data)
