"""Cost of each dialect's codec: receiving a 20 ms frame, and sending a partial (or the dialect's equivalent)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from asr_frontends import events as e
from asr_frontends.codec import Codec, Request
from asr_frontends.codecs import amira, caiman, deepgram, native, parakeet, yap
from asr_frontends.codecs.moonshine import MoonshineCodec
from asr_ops.bench.micro.costs import CHUNK_SAMPLES, FRAME_SAMPLES, FRAMES_PER_S, PARTIALS_PER_S, Cost, measure
from asr_proto.messages import Partial

LINEAR = "encoding=linear16&sample_rate=16000&interim_results=true"
INIT = '{"op":"init","sid":"s","sr":16000}'
DIALECTS: dict[str, tuple[Callable[[], Codec], str | None]] = {
    "native": (lambda: native.NativeCodec(Request(native.PATH)), '{"type":"start"}'),
    "native 44.1 kHz": (lambda: native.NativeCodec(Request(native.PATH)), '{"type":"start","sample_rate":44100}'),
    "caiman": (lambda: caiman.CaimanCodec(Request(caiman.PATH)), None),
    "yap": (lambda: yap.YapCodec(Request(yap.PATH)), INIT),
    "parakeet": (lambda: parakeet.ParakeetCodec(Request(parakeet.PATH)), None),
    "moonshine": (lambda: MoonshineCodec(Request("/webrtc")), INIT),
    "amira": (lambda: amira.AmiraCodec(Request("/v2/decode/stream/amira")), None),
    "deepgram": (lambda: deepgram.DeepgramCodec(Request(deepgram.PATH, LINEAR)), None),
}
"""For each dialect, how to make its codec, and the client's first message."""
BYTES = {"native 44.1 kHz": 1764}
"""Bytes in 20 ms of audio, if they are not 640."""


def costs() -> list[Cost]:
    """Two costs for each dialect: receiving and sending."""
    return [cost for name in DIALECTS for cost in (_receiving(name), _sending(name))]


def conversation(name: str) -> Codec:
    """A codec whose session is ready."""
    make, first = DIALECTS[name]
    codec = make()
    codec.opening()
    if first is not None:
        codec.receive(first)
    codec.send(e.Ready("session", "fake", "fake", CHUNK_SAMPLES))
    return codec


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
