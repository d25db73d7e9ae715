"""Audio of a client as a stream of bytes, raw or in a WAV file: any encoding, rate and channels to PCM16 mono 16 kHz.

However the bytes are cut, the same samples come out: what is not yet a whole sample of all channels waits for the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from asr_frontends.audio.g711 import from_alaw, from_mulaw
from asr_frontends.audio.resample import Resampler
from asr_proto.audio import SAMPLE_RATE, Pcm16, to_int16
from asr_proto.errors import AudioError

RATE_MIN, RATE_MAX = 8_000, 192_000
CHANNELS_MAX = 16
HEADER_BYTES_MAX = 65_536
"""Of a WAV file, up to its samples."""
UNKNOWN_SIZES = (0, 0xFFFFFFFF)
"""What a program writes as the size of its samples while it does not know it yet."""
EXTENSIBLE = 0xFFFE


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
"""By format tag and bits per sample."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a stream of samples is written."""

    encoding: str
    rate: int
    channels: int = 1


class SampleStream:
    """Samples in one layout, at most `bytes_max` bytes of them; what follows is no audio."""

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
        """Audio so far."""
        return self._samples / self.layout.rate

    def feed(self, data: bytes) -> bytes:
        """PCM16 mono 16 kHz of the samples that are whole now."""
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
        """What the resampler still holds; more may follow."""
        return self._resampler.end() if self._resampler else b""

    def _mono(self, samples: Pcm16) -> Pcm16:
        if self.layout.channels == 1:
            return samples
        mean: Pcm16 = np.rint(samples.reshape(-1, self.layout.channels).mean(axis=1)).astype("<i2")
        return mean


@dataclass(frozen=True, slots=True)
class WavStart:
    """What a WAV header said, and the first bytes of the samples."""

    layout: Layout
    bytes_max: int | None
    samples: bytes


class WavHeader:
    """Reads a WAV file's header from a stream: every chunk up to the one that holds the samples."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._at = 12
        self._layout: Layout | None = None

    def feed(self, data: bytes) -> WavStart | None:
        """The whole header once it is there, None before. Raises AudioError."""
        self._held += data
        if len(self._held) >= 12 and (self._held[:4] != b"RIFF" or self._held[8:12] != b"WAVE"):
            raise AudioError("the audio begins like a WAV file but is none")
        while len(self._held) >= self._at + 8:
            name, size = struct.unpack_from("<4sI", self._held, self._at)
            if name == b"data":
                return self._start(size)
            if self._at + 8 + size > HEADER_BYTES_MAX:
                raise AudioError(f"a WAV header has at most {HEADER_BYTES_MAX} bytes")
            if len(self._held) < self._at + 8 + size:
                break
            if name == b"fmt ":
                self._layout = _wav_layout(bytes(self._held[self._at + 8 : self._at + 8 + size]))
            self._at += 8 + size + size % 2
        return None

    def _start(self, size: int) -> WavStart:
        if self._layout is None:
            raise AudioError("the WAV file has samples before their format")
        bytes_max = None if size in UNKNOWN_SIZES else size
        return WavStart(self._layout, bytes_max, bytes(self._held[self._at + 8 :]))


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
