"""The requests that wait in a broker: their order, their limits, and a Hypothesis machine against a plain list."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asr_broker import waiting
from asr_broker.events import FromFrontend
from asr_broker.waiting import Waiting
from asr_proto import messages as m

F1, F2 = b"F1", b"F2"


def request(session: str, peer: bytes = F1, epoch: int = 0, model: str = "", body: bytes = b"setup") -> FromFrontend:
    return FromFrontend(peer, m.Open(session, epoch, model, ""), body)


def sessions(requests: list[FromFrontend]) -> list[str]:
    return [one.message.session for one in requests if isinstance(one.message, m.Open | m.Resume)]


def test_returning_sessions_come_before_new_ones() -> None:
    held = Waiting()
    resume = FromFrontend(F1, m.Resume("returns", 0), b"setup")
    for one in (request("a"), request("moves", epoch=3), request("b"), resume):
        assert held.add(one)
    assert sessions(held.take()) == ["moves", "returns", "a", "b"]
    assert len(held) == 0


def test_a_request_precedes_those_for_the_same() -> None:
    held = Waiting()
    assert not held.precedes(request("b"))
    held.add(request("a"))
    assert held.precedes(request("b"))
    assert not held.precedes(request("b", model="other")) and not held.precedes(request("b", epoch=1))
    held.drop(F1)
    assert not held.precedes(request("b"))


def test_the_number_of_requests_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "REQUESTS_MAX", 2)
    held = Waiting()
    assert held.add(request("a")) and held.add(request("b"))
    assert not held.add(request("c"))
    assert held.add(request("a", epoch=1))  # it takes the place of its first request
    assert sessions(held.take()) == ["a", "b"]


def test_the_bytes_of_requests_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BYTES_MAX", 10)
    held = Waiting()
    assert held.add(request("a", body=bytes(6))) and not held.add(request("b", body=bytes(6)))
    assert held.add(request("a", body=bytes(2))) and held.add(request("b", body=bytes(8)))
    held.take()
    assert held.add(request("c", body=bytes(10)))


class WaitingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.held = Waiting()
        self.model: dict[tuple[bytes, str], FromFrontend] = {}

    @rule(
        peer=st.sampled_from([F1, F2]), session=st.sampled_from("abcd"), epoch=st.integers(0, 1), size=st.integers(0, 9)
    )
    def add(self, peer: bytes, session: str, epoch: int, size: int) -> None:
        one = request(session, peer, epoch, body=bytes(size))
        assert self.held.add(one)
        self.model[peer, session] = one

    @rule(peer=st.sampled_from([F1, F2]))
    def drop(self, peer: bytes) -> None:
        self.held.drop(peer)
        self.model = {key: one for key, one in self.model.items() if key[0] != peer}

    @rule()
    def take(self) -> None:
        moving = [one for one in self.model.values() if one.message.epoch]  # type: ignore[union-attr]
        new = [one for one in self.model.values() if not one.message.epoch]  # type: ignore[union-attr]
        assert self.held.take() == [*moving, *new]
        self.model.clear()

    @invariant()
    def holds(self) -> None:
        self.held.check([F1, F2])
        assert len(self.held) == len(self.model)


TestWaiting = WaitingMachine.TestCase
