"""The audio of one client, in the encoding of the options or the container that its first bytes show."""

from __future__ import annotations

from asr_frontends.audio import ogg_opus
from asr_frontends.audio.wav_stream import ENCODINGS, Layout, SampleStream, SampleStreamState, WavHeader
from asr_frontends.dialects.deepgram.options import OPUS, ListenOptions
from asr_frontends.portable import Portable
from asr_proto.errors import AudioError


class AudioState(Portable):
    """An AudioStream for another process."""

    first: bytes
    header: WavHeader | None
    stream: SampleStreamState | None


class AudioStream:
    """Converts the client's audio: raw samples as in the options, or a container recognized by its first bytes."""

    def __init__(self, options: ListenOptions) -> None:
        self._options = options
        self._stream: SampleStream | ogg_opus.OggOpus | None = None
        self._header: WavHeader | None = None
        self._first = b""
        if options.encoding in ENCODINGS:
            self._stream = SampleStream(Layout(options.encoding, options.rate, options.channels))
        elif options.encoding in OPUS:
            self._stream = ogg_opus.OggOpus()

    @property
    def seconds(self) -> float:
        """Audio so far, in seconds."""
        return self._stream.seconds if self._stream else 0.0

    @property
    def channels(self) -> int:
        """Number of the audio's channels; 0 before the first audio."""
        if isinstance(self._stream, SampleStream):
            return self._stream.layout.channels if self._stream.seconds else 0
        return self._stream.channels if self._stream else 0

    def feed(self, data: bytes) -> bytes:
        """The audio as PCM16 mono 16 kHz. Raises PeerError."""
        if self._stream:
            return self._stream.feed(data)
        if self._header:
            return self._read_header(self._header, data)
        self._first += data
        return self._recognize() if len(self._first) >= 4 else b""

    def end(self) -> bytes:
        """The rest of the audio in the resampler. More bytes may follow."""
        return self._stream.end() if self._stream else b""

    # ---- For another process ----

    def state(self) -> AudioState | None:
        """The state for `restore`; None for Opus, because its decoder's state cannot be read."""
        if isinstance(self._stream, ogg_opus.OggOpus):
            return None
        return AudioState(self._first, self._header, self._stream.state() if self._stream else None)

    def restore(self, state: AudioState) -> None:
        """Continue the audio of another process."""
        self._first, self._header = state.first, state.header
        self._stream = SampleStream.continued(state.stream) if state.stream else None

    # ---- Private ----

    def _recognize(self) -> bytes:
        first, self._first = self._first, b""
        if first[:4] == b"RIFF":
            self._header = WavHeader()
            return self._read_header(self._header, first)
        if first[:4] == b"OggS":
            if not ogg_opus.available():
                raise AudioError(ogg_opus.MISSING)
            self._stream = ogg_opus.OggOpus()
        elif self._options.rate:
            self._stream = SampleStream(Layout("linear16", self._options.rate, self._options.channels))
        else:
            raise AudioError("the audio is no WAV file and no Ogg stream: raw audio needs encoding and sample_rate")
        return self._stream.feed(first)

    def _read_header(self, header: WavHeader, data: bytes) -> bytes:
        start = header.feed(data)
        if start is None:
            return b""
        self._stream = SampleStream(start.layout, start.bytes_max)
        return self._stream.feed(start.samples)
