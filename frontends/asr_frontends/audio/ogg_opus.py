"""Opus in an Ogg container as a stream of bytes, to PCM16 mono 16 kHz (RFC 3533, RFC 7845). Needs the extra `webrtc`.

Only the first stream of a file is read, mono or stereo. Streams that follow each other (chained) are one audio.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from asr_frontends.audio.resample import Resampler
from asr_proto.audio import from_float32
from asr_proto.errors import AudioError, LimitExceeded

MISSING = "Opus needs the extra: pip install 'asr-pool[webrtc]'"
RATE = 48_000
"""Opus decodes to this rate whatever its input had."""
PACKET_BYTES_MAX = 131_072
FEED_S_MAX = 60
"""Audio that the bytes of one call may decode to: a few bytes of Opus can be long silence."""
PAGE_MAGIC = b"OggS\0"
PAGE_HEADER = struct.Struct("<4sBBqIIIB")
CONTINUED, FIRST = 1, 2


def _load_av() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError:
        return None


av = _load_av()


def available() -> bool:
    """Whether the decoder is installed."""
    return av is not None


class OggPackets:
    """The packets of the pages of an Ogg stream."""

    def __init__(self) -> None:
        self._held = b""
        self._packet = b""

    def feed(self, data: bytes) -> Iterator[tuple[bool, bytes]]:
        """Whether a packet is on a stream's first page, and the packet. Raises AudioError."""
        self._held += data
        at = 0
        while (end := self._page_end(at)) is not None:
            yield from self._page(at, end)
            at = end
        self._held = self._held[at:]

    def _page_end(self, at: int) -> int | None:
        """Where the page at this place ends; None before all of it is there."""
        magic = self._held[at : at + len(PAGE_MAGIC)]
        if magic != PAGE_MAGIC[: len(magic)]:
            raise AudioError("this is no page of an Ogg stream")
        if len(self._held) < at + PAGE_HEADER.size:
            return None
        body = at + PAGE_HEADER.size + self._held[at + PAGE_HEADER.size - 1]
        if len(self._held) < body:
            return None
        end = body + sum(self._held[at + PAGE_HEADER.size : body])
        return end if len(self._held) >= end else None

    def _page(self, at: int, end: int) -> Iterator[tuple[bool, bytes]]:
        _, _, flags, _, _, _, _, segments = PAGE_HEADER.unpack_from(self._held, at)
        body = at + PAGE_HEADER.size + segments
        if not flags & CONTINUED:
            self._packet = b""
        for size in self._held[at + PAGE_HEADER.size : body]:
            self._packet += self._held[body : body + size]
            body += size
            if len(self._packet) > PACKET_BYTES_MAX:
                raise AudioError(f"a packet of an Ogg stream has at most {PACKET_BYTES_MAX} bytes")
            if size < 255:
                packet, self._packet = self._packet, b""
                yield bool(flags & FIRST), packet
        assert body == end


class OggOpus:
    """An Ogg stream of Opus."""

    channels = 0

    def __init__(self) -> None:
        self._packets = OggPackets()
        self._decoder: Any = None
        self._wants_tags = False
        self._samples = 0
        self._resampler = Resampler(RATE)

    @property
    def seconds(self) -> float:
        """Audio so far."""
        return self._samples / RATE

    def feed(self, data: bytes) -> bytes:
        """PCM16 mono 16 kHz of the packets that are whole now. Raises PeerError."""
        pcm: list[bytes] = []
        limit = self._samples + FEED_S_MAX * RATE
        for is_first, packet in self._packets.feed(data):
            if is_first:
                self._open(packet)
            elif self._wants_tags:
                self._wants_tags = False
            else:
                pcm.append(self._decode(packet))
            if self._samples > limit:
                raise LimitExceeded(f"a message of Opus holds more than {FEED_S_MAX} s")
        return self._resampler.feed(b"".join(pcm))

    def end(self) -> bytes:
        """What the resampler still holds; more may follow."""
        return self._resampler.end()

    def _open(self, head: bytes) -> None:
        if head[:8] != b"OpusHead" or len(head) < 19 or head[9] not in (1, 2) or head[18] != 0:
            raise AudioError("the Ogg stream is no mono or stereo Opus")
        self.channels = head[9]
        self._wants_tags = True
        self._decoder = av.CodecContext.create("libopus", "r")
        self._decoder.extradata = head  # from which it also knows what to skip at the start

    def _decode(self, packet: bytes) -> bytes:
        if self._decoder is None:
            raise AudioError("the Ogg stream does not begin with its Opus header")
        if not packet:
            return b""
        try:
            frames = self._decoder.decode(av.Packet(packet))
        except av.FFmpegError as error:
            raise AudioError("a damaged packet of Opus") from error
        return b"".join(self._mono(frame) for frame in frames)

    def _mono(self, frame: Any) -> bytes:
        samples = frame.to_ndarray().reshape(-1, self.channels).mean(axis=1, dtype=np.float32)
        self._samples += len(samples)
        return from_float32(samples / 32768.0).tobytes()
