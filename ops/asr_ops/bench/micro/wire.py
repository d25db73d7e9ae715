"""Cost of the wire format: encoding and decoding, per frame in frontends and workers, and per bundle in the broker."""

from __future__ import annotations

from collections.abc import Sequence

from asr_ops.bench.micro.costs import FRAMES_PER_S, PARTIALS_PER_S, Cost, measure
from asr_proto import messages as m
from asr_proto import wire

LEASE = 5 << 32
BUNDLE = 64
TEXT = "the birch canoe slid on the smooth planks"


def costs() -> list[Cost]:
    """Costs of encoding and decoding, for bundles of 64 frames of 64 sessions."""
    leases = range(LEASE, LEASE + BUNDLE)
    speech = m.Commit(320_000, 3, bytes(64))
    short = [m.Audio(lease, 320_000, bytes(640)) for lease in leases]
    long = [m.Audio(lease, 320_000, bytes(3200)) for lease in leases]
    progress = [m.Progress(lease, 320_000, 319_000, None) for lease in leases]
    partials = [m.Partial(lease, 3, TEXT, 300_000, 320_000) for lease in leases]
    finals = [m.Final(lease, 3, TEXT, 300_000, 320_000, "silence", None, None, speech) for lease in leases]
    return [
        *_header(m.Bundle(b"W12345678", tuple(leases))),
        *_both("audio 20 ms", short, FRAMES_PER_S),
        *_both("audio 100 ms", long, FRAMES_PER_S / 5),
        *_both("progress", progress, 1.0),
        *_both("partial", partials, PARTIALS_PER_S),
        *_both("final", finals, 0.2),
    ]


def _header(bundle: m.Bundle) -> list[Cost]:
    """The header's cost, divided among the frames of the bundle."""
    data = wire.encode(bundle)
    return [
        measure("header encode, a frame's part", lambda: wire.encode(bundle), BUNDLE, FRAMES_PER_S),
        measure("header decode, a frame's part", lambda: wire.decode(data), BUNDLE, FRAMES_PER_S),
    ]


def _both(what: str, frames: Sequence[m.Frame], per_s: float) -> list[Cost]:
    data = wire.encode_frames(frames)
    return [
        measure(f"{what} encode", lambda: wire.encode_frames(frames), len(frames), per_s),
        measure(f"{what} decode", lambda: wire.decode_frames(data), len(frames), per_s),
    ]
