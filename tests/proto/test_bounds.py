"""No number on the wire harms the process that reads it. By reflection: a new message or field is covered at once.

Each numeric field of each message is replaced by each of NUMBERS. Either decoding rejects the message, or the pure core
that reads it goes on: no exception, no long step, little memory.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_origin

import msgpack
import pytest

from asr_broker.events import FromFrontend, FromWorker
from asr_frontends import events as e
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError
from tests.proto import shapes
from tests.sim.simulator import QUIET, Client, World

NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63, 0.0, 1e300, float("nan"), float("inf"), float("-inf"))
STEP_S_MAX = 1.0
MEMORY_BYTES_MAX = 32 * 2**20
FRONTEND_READS = (m.Welcome, m.Standby, m.Pinned, m.Refused, m.Lost, m.Pool, m.Stale, m.Rejected, m.Unregistered)
BROKER_READS = (*m.FromFrontend.__args__, *m.FromWorker.__args__)
ONLY_SHOWN = (m.Status, m.StatusRequest, m.Hello)
"""Read by `asr status` and by the check of versions, which only compares and prints."""

Path = tuple[int, ...]
"""The way to a number in the plain array of a message."""


class Credulous(Client):
    """A client that accepts any text."""

    def deliver(self, event: e.ServiceEvent) -> None: ...


class Pool:
    """A whole pool in virtual time: one session speaks, and one resumable session waits for its client."""

    def __init__(self) -> None:
        self.world = World(1, QUIET, workers=1, frontends=1)
        self.client = self.world.add_client("c", 4.0, 100, 1.0, at=1.0)
        self.world.run(2.0)
        self.frontend, self.worker = self.world.frontends[0], self.world.workers[0]
        broker = self.world.brokers[0]
        assert broker is not None
        self.broker = broker
        (self.lease,) = broker.core.leases.values()
        self.frontend.clients[self.client.session] = Credulous("c", self.client.samples, 1600, 1.0, can_resume=True)

    def live(self, message: Any) -> Any:
        """The message about the session that speaks, so that it is not ignored."""
        lease = self.lease.lease
        known = {"lease": lease, "from_lease": lease, "leases": (lease,), "session": self.client.session}
        known |= {"frontend": self.frontend.identity, "worker": self.worker.identity, "model": "", "language": ""}
        known |= {"epoch": self.lease.epoch + isinstance(message, m.Open), "slot": 1, "boot": self.broker.core.boot}
        if isinstance(message, m.Grant | m.Transfer):
            known["lease"] = lease + 9
        if isinstance(message, m.Transfer):
            known["slot"] = self.lease.slot
        if isinstance(message, m.Lost):
            known["worker"] = self.worker.name
        if isinstance(message, m.Setup):
            known["commit"] = m.Commit(3200, 1, b"", 1600)
        if isinstance(message, m.Bundle):
            known["to"] = self.worker.identity
        fields = {name: value for name, value in known.items() if name in message.__struct_fields__}
        return type(message)(**{name: getattr(message, name) for name in message.__struct_fields__} | fields)

    def receive(self, cls: shapes.Cls, data: bytes) -> None:
        """Give the bytes to the process that reads them, and let the pool run on."""
        self._deliver(cls, data)
        self.world.run(self.world.now + 1.5)

    def _deliver(self, cls: shapes.Cls, data: bytes) -> None:
        setup = wire.encode_setup(m.Setup("", True, 16000, None))
        lease = self.lease.lease
        if cls is m.Setup:
            grant = m.Grant((self.broker.core.boot << 32) + 99, 2, "other", self.frontend.identity)
            self.worker.from_broker(0, [wire.encode(grant), data])
        elif cls in m.FrameIn.__args__:
            self.worker.from_broker(0, [wire.encode(m.Bundle(self.worker.identity, (lease,))), data])
        elif cls in m.FrameOut.__args__:
            self.frontend.from_broker(0, [wire.encode(m.Bundle(self.frontend.identity, (lease,))), data])
        elif cls in BROKER_READS:
            side = FromFrontend if cls in m.FromFrontend.__args__ else FromWorker
            peer = self.frontend if side is FromFrontend else self.worker
            self.broker.receive(peer.identity, side, [data, setup])
        elif cls in FRONTEND_READS:
            self.frontend.from_broker(0, [data])
            if cls not in (m.Pinned, m.Refused, m.Pool):
                self.worker.from_broker(0, [data])
        else:
            self.worker.from_broker(0, [data, setup])


def numbers(annotation: Any, value: Any, path: Path = ()) -> Iterator[Path]:
    """The ways to all numbers in a plain value."""
    inner, _ = shapes.bare(annotation)
    if inner in (int, float):
        yield path
    elif get_origin(inner) is tuple:
        for place, entry in enumerate(value):
            yield from numbers(shapes.item(inner), entry, (*path, place))
    elif shapes.item(inner) is not None and value is not None:
        yield from numbers(shapes.item(inner), value, path)
    elif shapes.is_class(inner):
        yield from _numbers_of(inner, value, path)


def _numbers_of(cls: shapes.Cls, array: list[Any], path: Path = ()) -> Iterator[Path]:
    head = 0 if shapes.tag(cls) is None else 1
    for place, annotation in enumerate(shapes.annotations(cls).values(), head):
        yield from numbers(annotation, array[place], (*path, place))


def replaced(array: Any, path: Path, number: Any) -> Any:
    """The plain array with this number at the end of the path."""
    if not path:
        return number
    return [replaced(entry, path[1:], number) if place == path[0] else entry for place, entry in enumerate(array)]


def richest(cls: shapes.Cls) -> Any:
    """The example of a class that has the most numbers: with optional parts and items in its arrays."""
    examples = [shapes.example(cls, number) for number in range(3 * shapes.EXAMPLES)]
    return max(examples, key=lambda one: len(list(_numbers_of(cls, shapes.plain(one)))))


def is_rejected(cls: shapes.Cls, data: bytes) -> bool:
    try:
        return shapes.decode(cls, data) is None
    except DecodeError:
        return True


READ = [cls for cls in shapes.on_the_wire() if cls not in ONLY_SHOWN]


@pytest.mark.parametrize("cls", READ, ids=lambda cls: cls.__name__)
def test_no_number_harms_its_reader(cls: shapes.Cls) -> None:
    for number in NUMBERS:
        pool = Pool()
        array = shapes.plain(pool.live(richest(cls)))
        assert not is_rejected(cls, shapes.encode(cls, array))
        for path in _numbers_of(cls, array):
            data = _packed(cls, replaced(array, path, number))
            if data is not None and not is_rejected(cls, data):
                within_limits(partial(Pool().receive, cls, data), (cls, path, number))


def _packed(cls: shapes.Cls, array: Any) -> bytes | None:
    try:
        return shapes.encode(cls, array)
    except (OverflowError, msgpack.PackOverflowError):
        return None


def within_limits(act: Callable[[], None], case: Any) -> None:
    tracemalloc.start()
    started = time.process_time()
    try:
        act()
        assert time.process_time() - started < STEP_S_MAX, case
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES_MAX, case
    except Exception as error:
        error.add_note(f"after {case}")
        raise
    finally:
        tracemalloc.stop()


def test_every_class_with_numbers_is_read_by_a_core() -> None:
    assert set(READ) | set(ONLY_SHOWN) >= set(shapes.on_the_wire())
    assert {cls for cls in READ if list(_numbers_of(cls, shapes.plain(richest(cls))))} > {m.RegisterWorker, m.Setup}


@pytest.mark.parametrize("slots", [0, 4097, 10**9, 2**40])
def test_a_worker_has_a_plausible_number_of_slots(slots: int) -> None:
    array = replaced(shapes.plain(shapes.example(m.RegisterWorker, 1)), (3, 3), slots)
    with pytest.raises(DecodeError, match=r"\[3\]\[3\]"):
        wire.decode(msgpack.packb(array))


def test_every_number_that_a_client_names_fits_the_wire() -> None:
    """Native clients name how many finals they have and how long the model may wait."""
    assert shapes.bare(shapes.annotations(m.Resume)["utterance"])[1].le == m.SAMPLES_MAX
    assert e.Start().progress_samples <= m.SAMPLES_MAX
