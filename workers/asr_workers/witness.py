"""The witness of a worker: a small process that outlives it and tells the brokers what the engine did at the end.

A worker that dies by a signal cannot report. So its engine's thread notes in shared memory for which leases it works,
and faulthandler writes its trace of a fatal signal into the witness's stdin. The end of stdin is the end of the worker.
The witness then sends Crashed to every broker of the worker. A trace proves that the process failed by itself. SIGKILL
leaves none, so its victim may be innocent.

The witness connects only then. It ignores SIGTERM and SIGINT, and ends after its report.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import pickle
import secrets
import signal
import subprocess
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

import zmq

from asr_process import curve
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import AsrError

REPORT_MS = 1000
"""Longest time for the report to reach a broker, in milliseconds."""
WORDS = m.LEASES_MAX + 1


class SharedDiary:
    """What the engine does now, in memory that two processes share: a count, and so many leases."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.ftruncate(descriptor, 8 * WORDS)
        self._words = memoryview(mmap.mmap(descriptor, 8 * WORDS)).cast("q")

    def begin(self, leases: Sequence[int]) -> None:
        """The engine works for these leases; of more than m.LEASES_MAX, the first."""
        noted = array("q", leases[: m.LEASES_MAX])
        self._words[1 : len(noted) + 1] = memoryview(noted)
        self._words[0] = len(noted)

    def end(self) -> None:
        """The engine works for no lease."""
        self._words[0] = 0

    def leases(self) -> tuple[int, ...]:
        """The leases for which the engine works."""
        return tuple(self._words[1 : self._words[0] + 1])


class Witness:
    """The worker's end: starts the process, and keeps the diary that it reads."""

    def __init__(self, brokers: Sequence[curve.BrokerAt]) -> None:
        self.identity = b"X" + secrets.token_bytes(8)
        self.diary = SharedDiary(os.memfd_create("asr-diary"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.diary.descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self.diary.descriptor,),
            process_group=0,  # Ctrl+C in a terminal is for the worker, which drains
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._stdout: IO[bytes] = self._process.stdout
        pickle.dump((tuple(brokers), self.identity), self._stdin)
        self._stdin.flush()
        faulthandler.enable(self._stdin)

    def wait(self) -> None:
        """Wait until the process can report. The worker must not get sessions before."""
        self._stdout.read(1)

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """A worker that ends in order has no news for the witness. After a crash the witness reports the end."""
        faulthandler.disable()
        if kind is None or issubclass(kind, AsrError):
            self._process.kill()
        with suppress(OSError):
            self._stdin.close()
        self._stdout.close()
        self._process.wait()
        os.close(self.diary.descriptor)


# ---- The process ----


def main() -> None:
    """Wait for the worker's end, then report."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    diary = SharedDiary(int(sys.argv[1]))
    brokers, identity = pickle.load(sys.stdin.buffer)  # written by the worker that started this process
    os.write(sys.stdout.fileno(), b"!")
    trace = sys.stdin.buffer.read()
    _report(brokers, identity, m.Crashed(diary.leases(), proven=bool(trace)))
    sys.stderr.buffer.write(trace)


def _report(brokers: Sequence[curve.BrokerAt], identity: bytes, crashed: m.Crashed) -> None:
    """Send the message to every broker. Returns when it has arrived, or after REPORT_MS."""
    context: zmq.Context[Any] = zmq.Context()
    for broker in brokers:
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, identity)
        socket.setsockopt(zmq.LINGER, REPORT_MS)
        dialer = curve.Dialer(socket, broker.endpoint, broker.keys)
        socket.send(wire.encode(crashed))
        dialer.close()
        socket.close()
    context.term()


if __name__ == "__main__":
    main()
