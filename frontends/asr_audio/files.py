"""Sound files as frames of 16 kHz mono PCM16: WAV, FLAC, MP3, Ogg (Vorbis, Opus), any rate, any number of channels.

A file is decoded while it is sent, one second at a time, so long files need little memory. The content decides the
format, not the file's name.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
import soundfile
import soxr

from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, Float32, from_float32
from asr_proto.errors import AudioError

MISSING_SHARE_MAX = 0.05
"""Share of the announced length that may be missing: lengths of MP3 files are estimates."""

RATE_MIN, RATE_MAX, CHANNELS_MAX = 1_000, 768_000, 64
"""Limits for a header's sample rate (Hz) and channels: the decoder allocates memory by these numbers."""
BLOCK_VALUES_MAX = 4_000_000
"""Samples of all channels decoded at a time."""


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]  # the library is not typed
    """A sound file that is only read forwards.

    The library seeks after each read of a seekable file. An MP3 decoder that seeks loses the bits of the next frames
    (clicks and silence at each block).
    """

    def seekable(self) -> bool:
        return False


class AudioFile:
    """An open sound file: its length is known, its samples are not read yet. Use it in a `with` block."""

    def __init__(self, source: str | Path | bytes | BinaryIO) -> None:
        """Open a path, an open file, or the content itself. The caller closes an open file, after this object.

        Raises AudioError for a source that is missing, empty or no audio.
        """
        self._sound = _opened(source)
        if self._sound.frames == 0:
            self._sound.close()
            raise AudioError("it holds no audio")
        rate, channels = self._sound.samplerate, self._sound.channels
        if not RATE_MIN <= rate <= RATE_MAX or channels > CHANNELS_MAX:
            self._sound.close()
            raise AudioError(f"{rate} Hz with {channels} channels cannot be read")

    @property
    def duration_s(self) -> float:
        """Length in seconds, as the file announces it."""
        return float(self._sound.frames / self._sound.samplerate)

    def frames(self, frame_ms: int) -> Iterator[bytes]:
        """PCM16LE frames, 16 kHz mono, of `frame_ms`; the last may be shorter. Raises AudioError for a damaged file."""
        frame_bytes = SAMPLE_RATE * frame_ms // 1000 * BYTES_PER_SAMPLE
        return _cut((from_float32(samples).tobytes() for samples in self._resampled()), frame_bytes)

    def close(self) -> None:
        """Close the file."""
        self._sound.close()

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _resampled(self) -> Iterator[Float32]:
        resampler = soxr.ResampleStream(self._sound.samplerate, SAMPLE_RATE, num_channels=1, dtype="float32")
        for mono in self._decoded():
            yield resampler.resample_chunk(mono)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _decoded(self) -> Iterator[Float32]:
        """Mono float32 [samples] at the file's rate, at most one second at a time."""
        decoded = 0
        while len(samples := self._read()):
            decoded += len(samples)
            yield samples.mean(axis=1, dtype=np.float32)
        if decoded < self._sound.frames * (1 - MISSING_SHARE_MAX):
            seconds = decoded / self._sound.samplerate
            raise AudioError(f"it is damaged: only {seconds:.1f} of {self.duration_s:.1f} s can be read")

    def _read(self) -> Float32:
        try:
            frames = max(1, min(self._sound.samplerate, BLOCK_VALUES_MAX // self._sound.channels))
            return cast(Float32, self._sound.read(frames, dtype="float32", always_2d=True))
        except soundfile.LibsndfileError as error:
            raise AudioError(f"it is damaged: {_reason(error)}") from error


def _opened(source: str | Path | bytes | BinaryIO) -> soundfile.SoundFile:
    if isinstance(source, str | Path):
        return _open(Path(source))
    return _sound(io.BytesIO(source) if isinstance(source, bytes) else source)


def _open(path: Path) -> soundfile.SoundFile:
    try:
        if path.is_dir():
            raise AudioError("it is a folder")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        empty = os.fstat(descriptor).st_size == 0
    except OSError as error:
        raise AudioError((error.strerror or str(error)).lower()) from error
    if empty:
        os.close(descriptor)
        raise AudioError("it is empty")
    return _sound(descriptor)


def _sound(source: int | BinaryIO) -> soundfile.SoundFile:
    try:
        return _Sequential(source, closefd=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"it is no audio that can be read: {_reason(error)}") from error


def _reason(error: soundfile.LibsndfileError) -> str:
    """The decoder's error text, as the end of a sentence."""
    text = str(error.error_string).strip().removeprefix("Error : ").rstrip(".")
    return text[:1].lower() + text[1:]


def _cut(pieces: Iterable[bytes], frame_bytes: int) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        rest += piece
        whole = len(rest) - len(rest) % frame_bytes
        for start in range(0, whole, frame_bytes):
            yield rest[start : start + frame_bytes]
        rest = rest[whole:]
    if rest:
        yield rest
