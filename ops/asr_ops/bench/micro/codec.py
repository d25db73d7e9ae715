"""Cost of each dialect's codec: receiving a 20 ms frame, and sending a partial (or the dialect's equivalent)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from asr_dialects import native
from asr_dialects.client import Message
from asr_dialects.clients import CLIENTS
from asr_frontends import events as e
from asr_frontends.codec import Codec, Request
from asr_frontends.dialects.registry import DIALECTS
from asr_ops.bench.micro.costs import CHUNK_SAMPLES, FRAME_SAMPLES, FRAMES_PER_S, PARTIALS_PER_S, Cost, measure
from asr_proto.messages import Partial

CODECS = {dialect.name: dialect.codec for dialect in DIALECTS if dialect.codec is not None}
RESAMPLED, RATE = "native 44.1 kHz", 44_100
"""The project's own dialect once more, with audio that is resampled."""
NAMES = (*CODECS, RESAMPLED)
BYTES = {RESAMPLED: 1764}
"""Of 20 ms, where they are not 640."""


def costs() -> list[Cost]:
    """Two for each dialect."""
    return [cost for name in NAMES for cost in (_receiving(name), _sending(name))]


def conversation(name: str) -> Codec:
    """One whose session is ready."""
    dialect = "native" if name == RESAMPLED else name
    client = CLIENTS[dialect]
    codec = CODECS[dialect](Request(client.path_for(None), client.query_for(None)))
    codec.opening()
    for message in _first(name):
        codec.receive(message)
    codec.send(e.Ready("session", "fake", "fake", CHUNK_SAMPLES))
    return codec


def _first(name: str) -> list[Message]:
    """What a client sends before its audio."""
    return [native.start({"sample_rate": RATE})] if name == RESAMPLED else CLIENTS[name].opening(None)


def _receiving(name: str) -> Cost:
    codec, frame = conversation(name), bytes(BYTES.get(name, 640))

    def work() -> None:
        codec.receive(frame)
        codec.replies()

    return measure(f"{name} receive", work, 1, FRAMES_PER_S)


def _sending(name: str) -> Cost:
    codec, spoken = conversation(name), _spoken()
    if name == "caiman":  # it has no partials, but a response for every 60 ms of audio
        return measure(f"{name} send", lambda: codec.send(next(spoken)[1]), 1, 1000 / 60)
    return measure(f"{name} send", lambda: codec.send(next(spoken)[0]), 1, PARTIALS_PER_S)


def _spoken() -> Iterator[tuple[Partial, e.Progress]]:
    """Partials with changing texts. A codec may send nothing for an unchanged text."""
    for number in count(1):
        end = number * 3 * FRAME_SAMPLES
        text = f"the birch canoe slid on the smooth planks {number % 100}"
        yield Partial(1, 0, text, 0, end), e.Progress(end, end, end, 0)
