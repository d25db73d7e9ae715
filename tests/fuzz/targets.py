"""What is fuzzed: each reader of bytes from other processes and clients. A reader may only raise its documented errors.

Each target's `run` makes one case from a random generator. It raises what the reader raised and may not raise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from msgspec import structs

from asr_frontends import events as e
from asr_frontends.codec import Codec
from asr_frontends.dialects.registry import DIALECTS
from asr_frontends.handed import HandedConnection, HandedSession
from asr_frontends.portable import read as read_state
from asr_frontends.servers import frames
from asr_proto import wire
from asr_proto.errors import DecodeError, PeerError
from asr_proto.messages import Flushed
from tests.frontends import golden
from tests.fuzz.mutations import changed, changed_text
from tests.proto.shapes import EXAMPLES, encode, example, on_the_wire, plain

MESSAGE_BYTES_MAX = 1_048_576
FRAMES_MAX = 24
"""Frames of one conversation."""


class Target(Protocol):
    """Something that reads what others send."""

    name: str

    def run(self, random: random.Random) -> int:
        """Run one input, or a conversation of several; returns their number."""


class Reader:
    """A function from bytes to a value."""

    def __init__(
        self, name: str, read: Callable[[bytes], Any], corpus: Sequence[bytes], errors: type[Exception] = DecodeError
    ) -> None:
        self.name, self._read, self._corpus, self._errors = name, read, corpus, errors

    def run(self, random: random.Random) -> int:
        with suppress(self._errors):
            self._read(changed(random.choice(self._corpus), self._corpus, random))
        return 1


class Conversations:
    """A dialect's codec: its recorded conversations with changed requests and frames."""

    def __init__(self, name: str, recordings: Sequence[Path]) -> None:
        self.name = name
        self._recordings = [golden.read(path) for path in recordings]
        self._texts = [str(line["client"]) for one in self._recordings for line in one if "client" in line]
        self._bytes = [
            bytes(data)
            for one in self._recordings
            for line in one
            if "client_hex" in line or "client_pcm" in line
            for data in [golden.frame_in(line)[:4000]]
            if isinstance(data, bytes)
        ]

    def run(self, random: random.Random) -> int:
        recording = random.choice(self._recordings)
        try:
            codec, begun = self._begin(recording, random)
        except PeerError:
            return 1
        if codec is None:
            return 1
        count = 0
        try:
            for count, _ in enumerate(self._events(codec, recording, random, begun=begun), 1):
                if count == FRAMES_MAX:
                    break
        except PeerError as error:
            codec.send(e.Error.of(error))
        codec.state()
        return count + 1

    def _begin(self, recording: Sequence[golden.Line], random: random.Random) -> tuple[Codec | None, bool]:
        """The codec, and whether its session begins at once."""
        (fields,) = [line["request"] for line in recording if "request" in line][:1]
        request = golden.request_in(fields)
        if random.random() < 0.2:
            request = replace(request, query=changed_text(request.query, ["model=x&language=en", "a=%ff"], random))
        codec = golden.codec_for(request)
        return codec, codec is not None and bool(codec.opening())

    def _events(
        self, codec: Codec, recording: Sequence[golden.Line], random: random.Random, *, begun: bool
    ) -> Iterator[None]:
        unanswered: list[str] = []
        for line in recording:
            if "service" in line:
                event = golden.event_in(**line["service"])
                if isinstance(event, Flushed):  # the service answers each flush once
                    answered = [structs.replace(event, marker=marker) for marker in unanswered[:1]]
                    del unanswered[:1]
                else:
                    answered = [event] if begun else []
                for one in answered:
                    codec.send(one)
            elif line.keys() & {"client", "client_hex", "client_pcm"}:
                received = codec.receive(self._frame(golden.frame_in(line), random))
                begun = begun or any(isinstance(event, e.Start) for event in received)
                unanswered += [event.marker for event in received if isinstance(event, e.Flush)]
                codec.replies()
                yield

    def _frame(self, frame: str | bytes, random: random.Random) -> str | bytes:
        if random.random() < 0.3:
            return frame
        if random.random() < 0.1:  # a frame of the other kind
            return random.choice(self._texts or [""]) if isinstance(frame, bytes) else frame.encode()
        if isinstance(frame, str):
            return changed_text(frame, self._texts, random)
        return changed(frame[:4000], self._bytes, random)


def _websocket_frames(data: bytes) -> None:
    """All frames in the bytes. A frame never ends before it begins, or after the bytes."""
    at = 0
    while (found := frames.find(data, at, MESSAGE_BYTES_MAX)) is not None:
        kind, payload, end = found
        if kind == "broken":
            return
        assert at < end <= len(data) and len(payload) < end - at
        at = end


def targets() -> list[Target]:
    """Every target."""
    messages = [encode(cls, plain(example(cls, number))) for cls in on_the_wire() for number in range(EXAMPLES)]
    masked = [bytes((first, 0x80 | size)) + bytes(4 + size) for first in frames.KINDS for size in (0, 5, 125)]
    masked += [b"\x82\xfe" + size.to_bytes(2) + bytes(4 + size) for size in (126, 300)]
    readers = [
        Reader("wire.decode", wire.decode, messages),
        Reader("wire.decode_frames", wire.decode_frames, messages),
        Reader("wire.decode_setup", wire.decode_setup, messages),
        Reader("wire.decode_hello", lambda data: wire.decode_hello([data]), messages),
        Reader("wire.is_exact", wire.is_exact, messages),
        Reader("handed connection", lambda data: read_state(data, HandedConnection), messages),
        Reader("handed session", lambda data: read_state(data, HandedSession), messages),
        Reader("WebSocket frames", _websocket_frames, masked),
    ]
    names = [dialect.name for dialect in DIALECTS if dialect.codec]
    return [*readers, *(Conversations(name, golden.recordings(name)) for name in names)]
