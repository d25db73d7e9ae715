"""A process that speaks the wire and attacks the brokers. `python -m tests.nemesis.bad_peer SIDE SEED ENDPOINT...`.

It has two connections to each broker. One sends garbage, and messages with hostile numbers. The other is registered
like a worker or a frontend, and sends messages about the leases of others, whose numbers it guesses from the broker's
Welcome. A bad worker gives every session back that it gets. The process ends at the end of its stdin, and prints what
it has sent.
"""

from __future__ import annotations

import os
import random
import select
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack
import zmq

from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError

PAUSE_MS, TURN = 10, 10
"""Pause after each turn of attacks, in milliseconds, and attacks in a turn: they are no flood."""
BEAT_S = 0.2
"""Time between two heartbeats of the registered connection, in seconds."""
LEASES_GUESSED = 64
HOSTILE: tuple[Any, ...] = (0, -1, 2**31, 2**40, 2**63 - 1, 2**63, float("nan"), float("inf"), -1e308, 1e308)
SPEC = m.Spec("fake", "fake", ("en",), slots=1, chunk_samples=960, uncommitted_s_max=1.0, device="none")
COMMIT = m.Commit(0, 0, b"")
WORKERS, FRONTENDS = "workers", "frontends"


class BadPeer:
    """One attacker, connected to every broker of the pool."""

    def __init__(self, side: str, seed: int, endpoints: Sequence[str]) -> None:
        self._side, self._drawn = side, random.Random(seed)
        self._context: zmq.Context[Any] = zmq.Context()
        self._registered = [self._connect(endpoint) for endpoint in endpoints]
        self._wild = [self._connect(endpoint) for endpoint in endpoints]
        self._boots: set[int] = set()
        self._own: list[m.Pinned | m.Grant] = []
        self.sent: Counter[str] = Counter()

    def _connect(self, endpoint: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, b"X" + os.urandom(8))
        socket.linger = 0
        socket.connect(endpoint)
        return socket

    def run(self) -> str:
        """Attack until the end of stdin; returns what was sent."""
        attacks = self._attacks()
        self._register()
        beat_at = 0.0
        while not select.select([sys.stdin], [], [], PAUSE_MS / 1000)[0]:
            self._read()
            if time.monotonic() >= beat_at:
                self._beat()
                beat_at = time.monotonic() + BEAT_S
            for attack in self._drawn.choices(attacks, k=TURN):
                attack()
        self._context.destroy(linger=0)
        return ", ".join(f"{count} {name}" for name, count in sorted(self.sent.items()))

    def _attacks(self) -> list[Callable[[], None]]:
        common = [self._garbage, self._hostile_number, self._foreign_lease, self._foreign_body]
        return [*common, self._open] if self._side == FRONTENDS else common

    # ---- Attacks ----

    def _garbage(self) -> None:
        parts = [self._drawn.randbytes(self._drawn.randrange(200)) for _ in range(self._drawn.randrange(1, 5))]
        self._post("garbage", parts, self._wild)

    def _hostile_number(self) -> None:
        """A valid message in which one number is hostile."""
        message = self._drawn.choice(list(self._messages()))
        fields = msgpack.unpackb(wire.encode(message), strict_map_key=False)
        places = list(number_places(fields))
        if not places:
            return
        spoil(fields, self._drawn.choice(places), self._drawn.choice(HOSTILE))
        parts = [_packed(fields), *([wire.encode_setup(_setup())] if isinstance(message, m.Open | m.Resume) else [])]
        self._post("hostile numbers", parts, self._wild)

    def _foreign_lease(self) -> None:
        """A message about a lease that this process does not hold."""
        lease = self._foreign()
        bundle = m.Bundle(b"x", (lease,))
        messages: list[m.Message] = [m.Closed(lease), bundle]
        if self._side == FRONTENDS:
            messages = [m.Close(lease), m.Detach(lease), m.FrontendHeartbeat((lease,)), bundle]
        message = self._drawn.choice(messages)
        body = [wire.encode_frames([])] if message is bundle else []
        self._post("foreign leases", [wire.encode(message), *body])

    def _foreign_body(self) -> None:
        """A bundle with an own lease in its header and with others' leases in its body."""
        if not self._own:
            return
        own = self._drawn.choice(self._own)
        to = own.worker if isinstance(own, m.Pinned) else own.frontend
        frames = list(self._frames(self._foreign()))
        header = m.Bundle(to, (own.lease,))
        self._post("foreign bodies", [wire.encode(header), wire.encode_frames(frames)])

    def _open(self) -> None:
        """Request a session, of which at most two are held."""
        while len(self._own) > 2:
            self._post("closes", [wire.encode(m.Close(self._own.pop(0).lease))])
        message = m.Open(f"bad-{self._drawn.randrange(2**32)}", 0, "", "")
        self._post("opens", [wire.encode(message), wire.encode_setup(_setup())])

    # ---- Pieces ----

    def _register(self) -> None:
        name = f"bad-{self._side[:-1]}"
        message: m.Message = m.RegisterFrontend(m.PROTOCOL_VERSION, name)
        if self._side == WORKERS:
            message = m.RegisterWorker(m.PROTOCOL_VERSION, name, SPEC)
        self._post("registrations", [wire.encode(message), wire.encode_hello(name)])

    def _beat(self) -> None:
        """A heartbeat, without which the brokers forget a peer."""
        beat: m.Message = m.WorkerHeartbeat(m.Load(1, 0, 1.0, 1.0, 0.1, 0.1))
        if self._side == FRONTENDS:
            beat = m.FrontendHeartbeat(tuple(one.lease for one in self._own))
        self._post("heartbeats", [wire.encode(beat)])

    def _messages(self) -> Iterator[m.Message]:
        """A valid message of each kind with numbers in it."""
        if self._side == WORKERS:
            yield m.RegisterWorker(m.PROTOCOL_VERSION, "bad-worker", SPEC)
            yield m.WorkerHeartbeat(m.Load(1, 0, 1.0, 1.0, 0.1, 0.1))
            yield m.Closed(1)
            yield m.Vote(1, 1, 1)
        else:
            yield m.RegisterFrontend(m.PROTOCOL_VERSION, "bad-frontend")
            yield m.Open("bad", 0, "", "")
            yield m.Close(1)
            yield m.Detach(1)
            yield m.Resume("bad", 0)
            yield m.FrontendHeartbeat((1,))
        yield m.Bundle(b"nobody", (1,))

    def _frames(self, lease: int) -> Iterator[m.Frame]:
        if self._side == FRONTENDS:
            yield m.Flush(lease, "foreign")
            yield m.Audio(lease, 0, bytes(1920))
            yield m.Stop(lease)
        else:
            yield m.Final(lease, 0, "foreign words", 0, 16000, "length", None, None, COMMIT)
            yield m.Failed(lease, "internal", "foreign")
            yield m.Ended(lease)

    def _foreign(self) -> int:
        """A guess of another's lease: a broker's leases have its boot number in their upper bits."""
        boot = self._drawn.choice(sorted(self._boots) or [1])
        return boot << 32 | self._drawn.randrange(LEASES_GUESSED)

    def _read(self) -> None:
        for socket in self._wild:
            while socket.poll(0):
                socket.recv_multipart()
        for socket in self._registered:
            while socket.poll(0):
                for part in socket.recv_multipart()[:1]:
                    self._handle(part)

    def _handle(self, part: bytes) -> None:
        try:
            message = wire.decode(part)
        except DecodeError:
            return
        match message:
            case m.Welcome(boot=boot):
                self._boots.add(boot)
            case m.Pinned():
                self._own.append(message)
            case m.Grant(lease=lease):
                self._own = [message]
                self._post("sessions given back", [wire.encode(m.Closed(lease))])
            case m.Unregistered():
                self._register()
            case m.Release(lease=lease):
                self._post("releases", [wire.encode(m.Closed(lease))])

    def _post(self, name: str, parts: list[bytes], sockets: Sequence[zmq.Socket[bytes]] = ()) -> None:
        """Send to every broker, by default as the registered peer."""
        for socket in sockets or self._registered:
            if socket.poll(0, zmq.POLLOUT):
                socket.send_multipart(parts)
                self.sent[name] += 1


def _setup() -> m.Setup:
    return m.Setup("", partials=False, progress_samples=16000, commit=None)


def number_places(fields: Any, place: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """The places of all numbers in nested lists, but not of the tag."""
    for index, value in enumerate(fields):
        here = (*place, index)
        if isinstance(value, list):
            yield from number_places(value, here)
        elif isinstance(value, int | float) and not isinstance(value, bool) and here != (0,):
            yield here


def spoil(fields: Any, place: tuple[int, ...], value: Any) -> None:
    """Put a value into a place of nested lists."""
    for index in place[:-1]:
        fields = fields[index]
    fields[place[-1]] = value


def _packed(fields: Any) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


def main() -> None:
    side, seed, *endpoints = sys.argv[1:]
    print(BadPeer(side, int(seed), endpoints).run())


if __name__ == "__main__":
    main()
