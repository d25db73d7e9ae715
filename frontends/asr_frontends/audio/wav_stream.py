"""A client's stream of bytes, raw samples or a WAV file, to PCM16 mono 16 kHz.

The samples do not depend on how the bytes are cut: a sample that is not complete for all channels waits for the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from asr_frontends.audio.g711 import from_alaw, from_mulaw
from asr_frontends.audio.resample import Resampler, ResamplerState
from asr_frontends.portable import Portable
from asr_proto.audio import SAMPLE_RATE, Pcm16, to_int16
from asr_proto.errors import AudioError

RATE_MIN, RATE_MAX = 8_000, 192_000
CHANNELS_MAX = 16
HEADER_BYTES_MAX = 65_536
"""Largest header of a WAV file, up to its samples."""
UNKNOWN_SIZES = (0, 0xFFFFFFFF)
"""Sizes that programs write into the header of a WAV file whose length is not known yet."""
EXTENSIBLE = 0xFFFE
"""Format tag of WAVE_FORMAT_EXTENSIBLE: the real tag is in the extension."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one sample of one channel is written."""

    sample_bytes: int
    decode: Callable[[bytes], Pcm16]


ENCODINGS = {
    "linear16": Encoding(2, to_int16),
    "mulaw": Encoding(1, from_mulaw),
    "alaw": Encoding(1, from_alaw),
}
WAV_ENCODINGS = {(1, 16): "linear16", (6, 8): "alaw", (7, 8): "mulaw"}
"""Names of encodings by format tag and bits per sample."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Encoding, sample rate in Hz, and number of interleaved channels of a stream."""

    encoding: str
    rate: int
    channels: int = 1


class SampleStreamState(Portable):
    """A SampleStream for another process."""

    layout: Layout
    left: int | None
    carry: bytes
    samples: int
    resampler: ResamplerState | None


class SampleStream:
    """Converts samples of one layout. Bytes after the first `bytes_max` are not audio and are dropped."""

    def __init__(self, layout: Layout, bytes_max: int | None = None) -> None:
        encoding = ENCODINGS[layout.encoding]
        self.layout = layout
        self._decode, self._frame_bytes = encoding.decode, encoding.sample_bytes * layout.channels
        self._left = bytes_max
        self._carry = b""
        self._samples = 0
        self._resampler = Resampler(layout.rate) if layout.rate != SAMPLE_RATE else None

    @property
    def seconds(self) -> float:
        """Audio so far, in seconds."""
        return self._samples / self.layout.rate

    def feed(self, data: bytes) -> bytes:
        """PCM16 mono 16 kHz of the samples that are complete now."""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        data = self._carry + data
        whole = len(data) - len(data) % self._frame_bytes
        self._carry = data[whole:]
        pcm = self._mono(self._decode(data[:whole]))
        self._samples += len(pcm)
        return self._resampler.feed(pcm.tobytes()) if self._resampler else pcm.tobytes()

    def end(self) -> bytes:
        """The rest of the audio in the resampler. More bytes may follow."""
        return self._resampler.end() if self._resampler else b""

    def state(self) -> SampleStreamState:
        """The state from which `continued` continues the stream."""
        resampler = self._resampler.state() if self._resampler else None
        return SampleStreamState(self.layout, self._left, self._carry, self._samples, resampler)

    @classmethod
    def continued(cls, state: SampleStreamState) -> SampleStream:
        """The stream of another process."""
        stream = cls(state.layout, state.left)
        stream._carry, stream._samples = state.carry, state.samples
        stream._resampler = Resampler.continued(state.resampler) if state.resampler else None
        return stream

    def _mono(self, samples: Pcm16) -> Pcm16:
        if self.layout.channels == 1:
            return samples
        mean: Pcm16 = np.rint(samples.reshape(-1, self.layout.channels).mean(axis=1)).astype("<i2")
        return mean


@dataclass(frozen=True, slots=True)
class WavStart:
    """The contents of a WAV header, and the first bytes of the samples."""

    layout: Layout
    bytes_max: int | None
    samples: bytes


class WavHeader(Portable):
    """Reads a WAV file's header from a stream: every RIFF chunk up to `data`, which holds the samples."""

    held: bytearray = msgspec.field(default_factory=bytearray)
    at: int = 12
    layout: Layout | None = None

    def feed(self, data: bytes) -> WavStart | None:
        """The header once it is complete, None before. Raises AudioError."""
        self.held += data
        if len(self.held) >= 12 and (self.held[:4] != b"RIFF" or self.held[8:12] != b"WAVE"):
            raise AudioError("the audio begins like a WAV file but is not one")
        while len(self.held) >= self.at + 8:
            name, size = struct.unpack_from("<4sI", self.held, self.at)
            if name == b"data":
                return self._start(size)
            if self.at + 8 + size > HEADER_BYTES_MAX:
                raise AudioError(f"a WAV header has at most {HEADER_BYTES_MAX} bytes")
            if len(self.held) < self.at + 8 + size:
                break
            if name == b"fmt ":
                self.layout = _wav_layout(bytes(self.held[self.at + 8 : self.at + 8 + size]))
            self.at += 8 + size + size % 2
        return None

    def _start(self, size: int) -> WavStart:
        if self.layout is None:
            raise AudioError("the WAV file has its samples before their format")
        bytes_max = None if size in UNKNOWN_SIZES else size
        return WavStart(self.layout, bytes_max, bytes(self.held[self.at + 8 :]))


def _wav_layout(fmt: bytes) -> Layout:
    if len(fmt) < 16:
        raise AudioError("the WAV file's format is cut short")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", fmt)
    if tag == EXTENSIBLE and len(fmt) >= 26:
        (tag,) = struct.unpack_from("<H", fmt, 24)
    encoding = WAV_ENCODINGS.get((tag, bits))
    if encoding is None:
        raise AudioError(f"the samples of a WAV file are 16-bit PCM, mu-law or A-law, not {bits} bits of format {tag}")
    if not RATE_MIN <= rate <= RATE_MAX or not 1 <= channels <= CHANNELS_MAX:
        raise AudioError(f"a WAV file of {rate} Hz and {channels} channels cannot be read")
    return Layout(encoding, rate, channels)
