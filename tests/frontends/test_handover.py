"""A session that another frontend continues: what is passed, and that the client cannot see it."""

from __future__ import annotations

import pytest

from asr_frontends import events as e
from asr_frontends.handed import HandedSession
from asr_frontends.journal import Budget
from asr_frontends.outbox import Command, Credit, Deliver, Pause, SendBundle, ToBroker
from asr_frontends.portable import encode, read
from asr_frontends.session import MARKS_MAX, Limits, Session, State
from asr_frontends.sessions import Sessions
from asr_proto import messages as m
from tests.frontends.test_session import SECOND, SPEC, W1, W2, SessionDriver, events, final

MODEL = m.Spec("fake", "the-model", ("en",), 2, 960, 1.0, "none")


def passed(driver: SessionDriver) -> HandedSession:
    """The session's state as the other process reads it."""
    handed = driver.core.hand_over(driver.now)
    assert driver.take() == [], "the lease is left to the other frontend"
    assert driver.core.state is State.ENDED and driver.budget.bytes_held == 0
    return read(encode(handed), HandedSession)


def adopted(handed: HandedSession) -> SessionDriver:
    other = SessionDriver(start=handed.start)
    other.core = Session.adopted(handed, Limits(), other.budget, other.outbox, other.now)
    return other


def test_the_journal_goes_on_from_the_commit() -> None:
    driver = SessionDriver()
    driver.on_pinned(m.Pinned("s", 0, 1, W1, MODEL))
    for event in (e.Audio(SECOND), e.Flush("x"), e.Audio(SECOND), e.Audio(SECOND), e.Flush("y")):
        driver.send(event)
    driver.receive(final(1, 0, 20_000))
    handed = passed(driver)
    other = adopted(handed)
    assert other.open() == [ToBroker(m.Open("s", 1, "the-model", "", False, replaces=1), handed_setup(other))]
    driver.now = 3.0
    assert events(other.on_pinned(m.Pinned("s", 1, 9, W2, MODEL))) == [], "the client received Ready before"
    assert other.posted() == [
        m.Flush(9, "x"),
        m.Audio(9, 20_000, SECOND[8_000:]),
        m.Audio(9, 32_000, SECOND),
        m.Flush(9, "y"),
    ]
    assert other.send(e.Audio(SECOND)) == [] and other.posted() == [m.Audio(9, 48_000, SECOND)]
    other.receive(m.Flushed(9, "x"))
    other.send(e.Stop())
    assert other.posted() == [m.Stop(9)]
    assert Deliver("s", e.Bye()) in other.receive(m.Ended(9))


def test_a_session_under_suspicion_stays_so() -> None:
    """Else each handover would allow its audio to kill more workers."""
    driver = SessionDriver()
    driver.pin()
    driver.send(e.Audio(SECOND))
    driver.core.on_lost(m.Lost(1, "worker-lost", 5, True, "w1"), driver.now)
    driver.take()
    other = adopted(passed(driver))
    assert handed_setup(other).suspicion == m.Suspicion(0, 16_000)
    (request,) = other.open()
    assert isinstance(request, ToBroker) and isinstance(request.message, m.Open)
    assert request.message.suspected_at == "w1"
    other.pin(7)
    other.core.on_lost(m.Lost(7, "worker-lost", 1, True, "w2"), other.now)
    assert other.core.is_poisonous


def handed_setup(driver: SessionDriver) -> m.Setup:
    return driver.core._setup()


def test_an_adopted_session_moves_on_like_any_other() -> None:
    """The lease of before is named in the first request that is granted, and in no later one."""
    driver = SessionDriver()
    driver.pin()
    other = adopted(passed(driver))
    (first,) = other.open()
    (again,) = other.open()
    assert first == again and isinstance(first, ToBroker)
    assert isinstance(first.message, m.Open) and (first.message.epoch, first.message.replaces) == (1, 1)
    other.pin(5)
    *_, moved = other.lose()
    assert isinstance(moved, ToBroker) and moved.message == m.Open("s", 2, "fake", "")


def test_a_session_that_moves_is_handed_over_too() -> None:
    driver = SessionDriver()
    driver.pin()
    driver.send(e.Audio(SECOND))
    driver.lose()
    handed = passed(driver)
    assert (handed.epoch, handed.lease) == (1, 0)
    other = adopted(handed)
    other.pin(7)
    assert other.posted() == [m.Audio(7, 0, SECOND)]


def test_a_session_is_handed_over_again_before_it_has_a_slot() -> None:
    """Its last lease may still exist at the broker, so it is still named."""
    driver = SessionDriver()
    driver.pin(3)
    again = passed(adopted(passed(driver)))
    assert (again.epoch, again.lease) == (1, 3)


@pytest.mark.parametrize("start", [e.Start(), e.Start(resumable=True, resume=e.Resume("s", 2))])
def test_a_session_that_begins_waits_for_its_slot(start: e.Start) -> None:
    driver = SessionDriver(start=start)
    assert not driver.core.may_be_handed_over
    driver.on_pinned(m.Pinned("s", 0, 9, W1, SPEC, resumed=start.resume is not None))
    if start.resume:
        assert not driver.core.may_be_handed_over
        driver.receive(m.Resumed(9, None))
    assert driver.core.may_be_handed_over
    handed = passed(driver)
    assert handed.start.resume is None and handed.start.resumable == start.resumable
    other = adopted(handed)
    assert other.core.state is State.MOVING


def test_an_upload_stays() -> None:
    driver = SessionDriver(start=e.Start(whole=True))
    driver.pin()
    assert not driver.core.may_be_handed_over


def test_a_session_whose_audio_this_frontend_has_ended_stays() -> None:
    """The other one would not know that the client's later frames are no error."""
    driver = SessionDriver()
    driver.pin()
    driver.leave()
    assert not driver.core.may_be_handed_over


def test_a_client_that_may_not_send_is_paused_again() -> None:
    driver = SessionDriver()
    driver.pin()
    for _ in range(MARKS_MAX):
        driver.send(e.Flush("x"))
    assert driver.core.paused
    other = adopted(passed(driver))
    assert other.take() == [Pause("s")]
    other.pin(2)
    assert Credit("s") in other.receive(m.Flushed(2, "x"))


def test_a_partial_without_a_final_is_taken_back_by_the_next_frontend() -> None:
    driver = SessionDriver()
    driver.pin()
    driver.send(e.Audio(SECOND))
    partial = m.Partial(1, 0, "maybe", 0, 8_000)
    driver.receive(partial)
    other = adopted(passed(driver))
    other.pin(2)
    commands = other.receive(m.Progress(2, 16_000, 16_000, m.Commit(9_000, 0, b"")))
    assert events(commands)[0] == m.Partial(1, 0, "", 0, 8_000)


# ---- All sessions of a frontend ----


class Frontend:
    """The sessions of a frontend that its broker has welcomed."""

    def __init__(self, boot: int | None = 7) -> None:
        self.budget = Budget(10**8)
        self.core = Sessions("f", Limits(), self.budget, 0.0)
        if boot:
            self.receive(m.Welcome(boot, 0.5))

    def receive(self, message: m.FromBroker, *frames: m.Frame) -> list[Command]:
        return [c for c in self.core.handle(message, frames, 0.0) if not isinstance(c, SendBundle)]

    def active(self) -> HandedSession:
        """A session with audio, handed over."""
        self.core.start("s", e.Start(), 0.0)
        self.receive(m.Pinned("s", 0, 1, W1, SPEC))
        self.core.client("s", e.Audio(SECOND), 0.0)
        handed = self.core.hand_over("s", 0.0)
        assert handed is not None
        self.core.check()
        return handed


def test_nothing_of_the_old_lease_has_an_effect_any_more() -> None:
    giver = Frontend()
    giver.active()
    assert len(giver.core) == 0 and giver.core.counts.handed_over == 1 and giver.budget.bytes_held == 0
    assert giver.receive(m.Bundle(b"F", (1,)), final(1, 0, 100), m.Ended(1)) == []
    assert giver.receive(m.Lost(1, m.RESUMED)) == giver.receive(m.Stale(1)) == []
    assert giver.core.hand_over("s", 0.0) is None


def test_a_frontend_without_a_broker_requests_the_slot_when_it_has_one() -> None:
    handed, taker = Frontend().active(), Frontend(boot=None)
    assert taker.core.adopt(handed, 0.0) == []
    commands = taker.receive(m.Welcome(8, 0.5))
    assert [type(c.message) for c in commands if isinstance(c, ToBroker)] == [m.Open]
    taker.core.check()


def test_a_session_that_nobody_takes_goes_on_here() -> None:
    giver = Frontend()
    handed = giver.active()
    *_, request = giver.core.adopt(handed, 0.0)
    assert isinstance(request, ToBroker) and isinstance(request.message, m.Open) and request.message.replaces == 1
    assert giver.receive(m.Pinned("s", 1, 2, W1, SPEC)) == []
    assert Deliver("s", e.Bye()) in giver.receive(m.Bundle(b"F", (2,)), m.Ended(2))


def test_a_refused_slot_is_requested_again() -> None:
    taker = Frontend()
    taker.core.adopt(Frontend().active(), 0.0)
    assert taker.receive(m.Refused("s", 1, "at-capacity", "full", 1.0)) == []
    commands = taker.core.tick(Limits().retry_s)
    assert [c.message.replaces for c in commands if isinstance(c, ToBroker) and isinstance(c.message, m.Open)] == [1]
