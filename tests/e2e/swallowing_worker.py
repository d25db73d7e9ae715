"""A bad worker process: it takes every session and its audio, does nothing with it, and reports itself idle.

python -m tests.e2e.swallowing_worker ENDPOINT
"""

from __future__ import annotations

import sys
import time

import zmq

from asr_proto import messages as m
from asr_proto import wire

SPEC = m.Spec("fake", "fake", ("en",), 64, 960, 1.0, "none")
IDLE = m.Load(0, 0, 0.0, 0.0, 0.0, 0.0)


def run(endpoint: str) -> None:
    """Serve until killed."""
    context = zmq.Context[zmq.Socket[bytes]]()
    link = context.socket(zmq.DEALER)
    link.connect(endpoint)
    link.send_multipart(
        [wire.encode(m.RegisterWorker(m.PROTOCOL_VERSION, "a-swallower", SPEC)), wire.encode_hello("bad")]
    )
    beat_at = 0.0
    while True:
        if time.monotonic() >= beat_at:
            link.send(wire.encode(m.WorkerHeartbeat(IDLE)))
            beat_at = time.monotonic() + 0.25
        if link.poll(100):
            message = wire.decode(link.recv_multipart()[0])
            if isinstance(message, m.Welcome | m.Grant):
                print(type(message).__name__, flush=True)
            elif isinstance(message, m.Release):
                link.send(wire.encode(m.Closed(message.lease)))


if __name__ == "__main__":
    run(sys.argv[1])
