"""One session: its messages to the broker, its frames to the worker and its events for the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec import structs

from asr_frontends import events as e
from asr_frontends.journal import Budget
from asr_frontends.outbox import Command, Credit, Deliver, Outbox, Pause, SendBundle, ToBroker
from asr_frontends.session import MARKS_MAX, SESSION, Cause, Limits, Session, State
from asr_process.states import ForbiddenTransition
from asr_proto import messages as m
from asr_proto.errors import LimitExceeded, OutOfOrder

SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
SECOND = b"\0\0" * 16000
W1, W2 = b"W1", b"W2"


class SessionDriver:
    """A session with a clock that the test sets. Its frames to workers are separate from its other commands."""

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008 - immutable
        budget: int = 10**8,
        start: e.Start = e.Start(),  # noqa: B008
    ) -> None:
        self.now = 0.0
        self.outbox = Outbox()
        self.budget = Budget(budget)
        self.core = Session("s", start, limits, self.budget, self.outbox, self.now)
        self._posted: list[m.FrameIn] = []

    def open(self) -> list[Command]:
        self.core.open()
        return self.take()

    def on_pinned(self, pinned: m.Pinned) -> list[Command]:
        self.core.on_pinned(pinned, self.now)
        return self.take()

    def pin(self, lease: int = 1, worker: bytes = W1) -> list[Command]:
        return self.on_pinned(m.Pinned("s", self.core.epoch, lease, worker, SPEC))

    def refuse(self, refused: m.Refused) -> list[Command]:
        self.core.on_refused(refused, self.now)
        return self.take()

    def lose(self) -> list[Command]:
        """End the lease. A session that moves requests another one, as in `Sessions`."""
        self.core.on_lost(m.Lost(1, "worker-lost"), self.now)
        if self.core.state is State.MOVING:
            self.core.open()
        return self.take()

    def send(self, event: e.ClientEvent) -> list[Command]:
        self.core.client(event, self.now)
        return self.take()

    def receive(self, frame: m.FrameOut) -> list[Command]:
        self.core.on_frame(frame, self.now)
        return self.take()

    def leave(self) -> list[Command]:
        self.core.leave(self.now)
        return self.take()

    def take(self) -> list[Command]:
        """The commands since the last call, without frames."""
        self.outbox.seal()
        commands = self.outbox.take()
        self._posted += [frame for one in commands if isinstance(one, SendBundle) for frame in one.frames]
        return [command for command in commands if not isinstance(command, SendBundle)]

    def posted(self) -> list[m.FrameIn]:
        """Frames since the last call."""
        frames, self._posted = self._posted, []
        return frames

    def until(self, now: float) -> list[Command]:
        commands: list[Command] = []
        while self.core.next_deadline() <= now:
            self.now = max(self.now, self.core.next_deadline())
            self.core.tick(self.now)
            commands += self.take()
        self.now = now
        return commands


def final(lease: int, utterance: int, samples: int) -> m.Final:
    return m.Final(lease, utterance, "text", 0, samples, "silence", None, None, m.Commit(samples, utterance + 1, b"st"))


def events(commands: list[Command]) -> list[e.ServiceEvent]:
    return [command.event for command in commands if isinstance(command, Deliver)]


@pytest.fixture
def driver() -> Iterator[SessionDriver]:
    driver = SessionDriver()
    yield driver
    driver.core.check()


def test_audio_before_the_slot_waits_in_the_journal(driver: SessionDriver) -> None:
    (opening,) = driver.open()
    assert isinstance(opening, ToBroker)
    assert opening.message == m.Open("s", 0, "", "")
    assert driver.send(e.Audio(SECOND)) == []
    commands = driver.pin()
    assert events(commands) == [e.Ready("s", "fake", "fake", 960)]
    assert driver.posted() == [m.Audio(1, 0, SECOND)]


def test_frames_keep_their_order_and_place(driver: SessionDriver) -> None:
    driver.pin()
    for event in (e.Audio(SECOND), e.Flush("x"), e.Audio(SECOND), e.Stop()):
        driver.send(event)
    assert driver.posted() == [m.Audio(1, 0, SECOND), m.Flush(1, "x"), m.Audio(1, 16000, SECOND), m.Stop(1)]


@pytest.mark.parametrize("event", [e.Audio(SECOND), e.Flush("x"), e.Stop()])
def test_nothing_follows_the_stop(driver: SessionDriver, event: e.ClientEvent) -> None:
    driver.pin()
    driver.send(e.Stop())
    with pytest.raises(OutOfOrder):
        driver.send(event)


def test_ended_delivers_bye_and_returns_the_lease(driver: SessionDriver) -> None:
    driver.pin()
    driver.send(e.Stop())
    commands = driver.receive(m.Ended(1))
    assert ToBroker(m.Close(1)) in commands
    assert events(commands) == [e.Bye()]
    assert driver.core.state is State.ENDED


def test_credit_limits_the_posted_audio_and_then_pauses_the_client() -> None:
    driver = SessionDriver(Limits(credit_s=2.0))
    driver.pin()
    for _ in range(2):
        driver.send(e.Audio(SECOND))
        assert len(driver.posted()) == 1
    assert driver.core.paused
    driver.send(e.Audio(SECOND))
    assert driver.posted() == []
    commands = driver.receive(m.Progress(1, 32000, 16000, None))
    assert len(driver.posted()) == 1
    assert Credit("s") not in commands
    assert Credit("s") in driver.receive(m.Progress(1, 48000, 32000, None))
    assert not driver.core.paused


def test_a_move_replays_from_the_commit_with_marks_in_order(driver: SessionDriver) -> None:
    driver.pin()
    driver.send(e.Audio(SECOND))
    driver.send(e.Flush("x"))
    driver.send(e.Audio(SECOND))
    driver.receive(final(1, 0, 12000))
    commands = driver.lose()
    assert events(commands) == [e.Notice("migrating")]
    opening = commands[-1]
    assert isinstance(opening, ToBroker) and opening.setup is not None
    assert opening.message == m.Open("s", 1, "fake", "")
    assert opening.setup.commit == m.Commit(12000, 1, b"st")
    driver.send(e.Stop())
    driver.posted()
    driver.pin(2, W2)
    assert driver.posted() == [
        m.Audio(2, 12000, SECOND[24000:]),
        m.Flush(2, "x"),
        m.Audio(2, 16000, SECOND),
        m.Stop(2),
    ]


def test_an_answered_flush_is_not_repeated(driver: SessionDriver) -> None:
    driver.pin()
    driver.send(e.Audio(SECOND))
    driver.send(e.Flush("x"))
    driver.receive(final(1, 0, 16000))
    assert events(driver.receive(m.Flushed(1, "x"))) == [m.Flushed(1, "x")]
    driver.lose()
    driver.posted()
    driver.pin(2, W2)
    assert driver.posted() == []


def test_an_answer_that_nobody_asked_for_is_dropped(driver: SessionDriver) -> None:
    """A bad worker's: codecs rely on one answer for each flush."""
    driver.pin()
    assert events(driver.receive(m.Flushed(1, "x"))) == []
    driver.send(e.Flush("x"))
    assert events(driver.receive(m.Flushed(1, "y"))) == []
    assert events(driver.receive(m.Flushed(1, "x"))) == [m.Flushed(1, "x")]
    assert events(driver.receive(m.Flushed(1, "x"))) == []


def test_while_moving_audio_is_taken_up_to_the_journals_limit() -> None:
    driver = SessionDriver(Limits(credit_s=1.0, journal_s=3.0))
    driver.pin()
    driver.lose()
    taken = 0
    while not driver.core.paused:
        driver.send(e.Audio(SECOND))
        taken += 1
    assert taken == 3


def test_a_move_is_tried_again_and_given_up_in_the_end() -> None:
    limits = Limits(move_s=5.0, retry_s=0.5, idle_s=100.0)
    driver = SessionDriver(limits)
    driver.pin()
    driver.lose()
    refused = m.Refused("s", 1, "no-worker", "", 1.0)
    assert driver.refuse(refused) == []
    assert [c.message for c in driver.until(0.6) if isinstance(c, ToBroker)] == [m.Open("s", 1, "fake", "")]
    (error,) = events(driver.until(6.0))
    assert isinstance(error, e.Error) and error.slug == "session-lost"


def test_a_new_session_is_refused_at_once(driver: SessionDriver) -> None:
    (error,) = events(driver.refuse(m.Refused("s", 0, "at-capacity", "full", 1.5)))
    assert error == e.Error("at-capacity", "full", 1.5)
    assert error.is_service


def test_a_session_without_an_answer_ends_with_no_broker(driver: SessionDriver) -> None:
    (error,) = events(driver.until(Limits().open_s))
    assert isinstance(error, e.Error) and error.slug == "no-broker"


def test_an_idle_client_is_ended_but_not_while_it_may_not_send() -> None:
    driver = SessionDriver(Limits(idle_s=5.0, credit_s=1.0))
    driver.pin()
    driver.send(e.Audio(SECOND))
    assert driver.core.paused
    assert not any(isinstance(event, e.Error) for event in events(driver.until(20.0)))
    driver.receive(m.Progress(1, 16000, 16000, None))
    assert not driver.core.paused
    driver.send(e.KeepAlive())
    errors = [event for event in events(driver.until(26.0)) if isinstance(event, e.Error)]
    assert [error.slug for error in errors] == ["idle-timeout"]


def test_idle_time_begins_again_with_the_credit() -> None:
    """Once, a client ended as idle when its credit returned, because of the time in which it was not read from."""
    driver = SessionDriver(Limits(idle_s=5.0, credit_s=1.0))
    driver.pin()
    driver.send(e.Audio(SECOND))
    assert driver.core.paused
    driver.until(20.0)
    assert Credit("s") in driver.receive(m.Progress(1, 16000, 16000, None))
    assert not any(isinstance(event, e.Error) for event in events(driver.until(24.9)))
    assert any(isinstance(event, e.Error) for event in events(driver.until(25.1)))


def test_progress_is_delivered_at_least_once_a_second(driver: SessionDriver) -> None:
    driver.pin()
    driver.send(e.Audio(SECOND))
    delivered = [event for event in events(driver.until(5.0)) if isinstance(event, e.Progress)]
    assert len(delivered) >= 5


def test_too_long_a_session() -> None:
    driver = SessionDriver(Limits(audio_s=2.0))
    driver.pin()
    with pytest.raises(LimitExceeded) as error:
        for _ in range(3):
            driver.send(e.Audio(SECOND))
    assert error.value.slug == "session-too-long"


def test_progress_is_requested_well_before_the_credit_is_used_up() -> None:
    """A credit of one second and progress once a second would wait for each other."""
    (opening,) = SessionDriver(Limits(credit_s=1.0)).open()
    assert isinstance(opening, ToBroker) and opening.setup is not None
    assert opening.setup.progress_samples == 8000


def test_unanswered_flushes_are_limited(driver: SessionDriver) -> None:
    driver.pin()
    for _ in range(MARKS_MAX):
        assert not driver.core.paused
        driver.send(e.Flush("x"))
    assert driver.core.paused
    assert Credit("s") in driver.receive(m.Flushed(1, "x"))
    assert not driver.core.paused


def test_a_pinned_of_another_epoch_changes_nothing(driver: SessionDriver) -> None:
    assert driver.on_pinned(m.Pinned("s", 4, 9, W2, SPEC)) == []
    assert driver.core.state is State.OPENING


def test_abort_leaves_nothing_behind() -> None:
    driver = SessionDriver(budget=10**6)
    driver.pin()
    driver.send(e.Audio(SECOND))
    assert driver.budget.bytes_held
    assert driver.send(e.Abort()) == [ToBroker(m.Close(1))]
    assert driver.budget.bytes_held == 0


# ---- A frontend that stops ----


def test_a_resumable_client_continues_elsewhere() -> None:
    driver = SessionDriver(start=e.Start(resumable=True))
    driver.pin()
    assert driver.leave() == [ToBroker(m.Detach(1)), Deliver("s", e.Bye(e.GOING_AWAY))]
    assert driver.core.state is State.ENDED
    driver.core.check()


def test_a_client_that_cannot_resume_receives_its_remaining_text(driver: SessionDriver) -> None:
    driver.pin()
    driver.send(e.Audio(SECOND))
    assert driver.leave() == [Pause("s")]
    assert driver.leave() == []
    for event in (e.Audio(SECOND), e.Flush("x"), e.Stop()):  # sent before the client is informed
        assert driver.send(event) == []
    assert driver.posted() == [m.Audio(1, 0, SECOND), m.Stop(1)]
    driver.receive(final(1, 0, 16000))
    assert Deliver("s", e.Bye(e.GOING_AWAY)) in driver.receive(m.Ended(1))


def test_the_remaining_text_comes_from_the_next_worker_when_this_one_dies(driver: SessionDriver) -> None:
    driver.pin()
    driver.send(e.Audio(SECOND))
    driver.leave()
    assert driver.lose() and driver.core.paused
    driver.posted()
    driver.pin(2, W2)
    assert driver.posted() == [m.Audio(2, 0, SECOND), m.Stop(2)]
    assert Deliver("s", e.Bye(e.GOING_AWAY)) in driver.receive(m.Ended(2))


@pytest.mark.parametrize("start", [e.Start(), e.Start(resumable=True)])
def test_a_client_that_has_ended_its_audio_gets_its_normal_end(start: e.Start) -> None:
    driver = SessionDriver(start=start)
    driver.pin()
    driver.send(e.Stop())
    assert driver.leave() == []
    assert Deliver("s", e.Bye()) in driver.receive(m.Ended(1))


def test_an_upload_is_not_cut_short(driver: SessionDriver) -> None:
    driver = SessionDriver(start=e.Start(whole=True))
    driver.pin()
    driver.send(e.Audio(SECOND))
    assert driver.leave() == []
    driver.send(e.Stop())
    assert driver.posted() == [m.Audio(1, 0, SECOND), m.Stop(1)]
    assert Deliver("s", e.Bye()) in driver.receive(m.Ended(1))


def test_no_session_outlives_its_frontend() -> None:
    plain, resumable = SessionDriver(), SessionDriver(start=e.Start(resumable=True))
    for driver in (plain, resumable):
        driver.pin()
        driver.send(e.Stop())
        driver.core.abandon(driver.now)
    going = e.Error(e.GOING_AWAY, "this server is going away")
    assert plain.take() == [ToBroker(m.Close(1)), Deliver("s", going)]
    assert resumable.take() == [ToBroker(m.Detach(1)), Deliver("s", e.Bye(e.GOING_AWAY))]


@pytest.mark.parametrize("state", [State.OPENING, State.MOVING])
def test_a_client_that_can_resume_has_no_normal_end_before_its_own(state: State) -> None:
    """Without a lease nothing can be left for its return: it begins anew elsewhere, with the audio that it keeps."""
    driver = SessionDriver(start=e.Start(resumable=True))
    driver.open()
    if state is State.MOVING:
        driver.pin()
        driver.lose()
    assert driver.core.state is state
    assert driver.leave() == [Deliver("s", e.Bye(e.GOING_AWAY))]


# ---- Clients that return ----


def resuming(utterance: int = 2) -> SessionDriver:
    return SessionDriver(start=e.Start(resumable=True, resume=e.Resume("s", utterance)))


def test_a_client_returns_to_the_state_that_the_worker_has_kept() -> None:
    driver = resuming()
    (opening,) = driver.open()
    assert isinstance(opening, ToBroker) and opening.message == m.Resume("s", 2)
    assert driver.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True)) == []
    ready = driver.receive(m.Resumed(9, m.Commit(32000, 2, b"state")))
    assert events(ready) == [e.Ready("s", "fake", "fake", 960, from_sample=32000)]
    (progress,) = events(driver.until(1.0))
    assert isinstance(progress, e.Progress) and progress.committed == 32000  # never less than before
    driver.send(e.Audio(SECOND))
    assert driver.posted() == [m.Audio(9, 32000, SECOND)]
    opening = driver.lose()[-1]
    assert isinstance(opening, ToBroker) and opening.setup is not None
    assert opening.message == m.Open("s", 4, "fake", "", resumable=True)
    assert opening.setup.commit == m.Commit(32000, 2, b"state")


def test_an_answer_from_before_the_return_is_ignored() -> None:
    """Found by simulation: the lease of the last move was taken for the resumed lease, on which nothing arrived."""
    driver = resuming()
    assert driver.on_pinned(m.Pinned("s", 1, 7, W1, SPEC)) == []
    assert driver.core.pinned is None


def test_a_worker_that_dies_before_it_has_answered_ends_the_return() -> None:
    driver = resuming()
    driver.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True))
    (error,) = events(driver.lose())
    assert isinstance(error, e.Error) and error.slug == "resume-unavailable"


def test_only_a_resumable_session_waits_for_its_client(driver: SessionDriver) -> None:
    driver.pin()
    assert driver.send(e.Detach()) == [ToBroker(m.Close(1))]


# ---- Long without a commit ----


def test_near_the_journals_limit_a_commit_is_requested() -> None:
    """The request is repeated, but not with every frame."""
    driver = SessionDriver(Limits(credit_s=100.0, journal_s=4.0))
    driver.pin()
    for _ in range(2):
        driver.send(e.Audio(SECOND))
    assert not any(isinstance(frame, m.Checkpoint) for frame in driver.posted())
    driver.send(e.Audio(b"\0\0"))
    driver.send(e.Audio(b"\0\0"))
    assert driver.posted().count(m.Checkpoint(1)) == 1
    driver.now += 1.0
    driver.send(e.Audio(b"\0\0"))
    assert m.Checkpoint(1) in driver.posted()
    driver.receive(m.Progress(1, 32000, 32000, m.Commit(32000, 0, b"state")))
    driver.now += 1.0
    driver.send(e.Audio(SECOND))
    assert not any(isinstance(frame, m.Checkpoint) for frame in driver.posted())


def test_a_commit_in_the_middle_of_an_utterance_is_not_the_clients(driver: SessionDriver) -> None:
    """Found by simulation: a client that started again from it lost the words before it that were in no final."""
    driver.pin()
    driver.send(e.Audio(SECOND))
    open_commit = m.Commit(8000, 0, b"words", confirmed=0)
    (progress, *_) = events(driver.receive(m.Progress(1, 16000, 8000, open_commit)))
    assert isinstance(progress, e.Progress) and progress.committed == 0
    opening = driver.lose()[-1]
    assert isinstance(opening, ToBroker) and opening.setup is not None and opening.setup.commit == open_commit


def test_a_partial_that_the_next_worker_does_not_confirm_is_withdrawn(driver: SessionDriver) -> None:
    """The next worker finds no words in the same audio: the client must stop showing the partial."""
    driver.pin()
    driver.send(e.Audio(SECOND))
    shown = m.Partial(1, 0, "who", 0, 4000)
    assert events(driver.receive(shown)) == [shown]
    driver.lose()
    driver.pin(2, W2)
    in_mid_word = m.Commit(8000, 0, b"words", confirmed=0)
    assert not [
        it for it in events(driver.receive(m.Progress(2, 16000, 8000, in_mid_word))) if isinstance(it, m.Partial)
    ]
    silence = m.Progress(2, 16000, 16000, m.Commit(16000, 0, b"st"))
    assert events(driver.receive(silence))[0] == m.Partial(1, 0, "", 0, 4000)
    assert not [it for it in events(driver.receive(silence)) if isinstance(it, m.Partial)]


@pytest.mark.parametrize("ended_by", [m.Partial(1, 0, "", 0, 4000), final(1, 0, 8000)])
def test_a_partial_that_was_withdrawn_or_became_final_is_not_withdrawn_again(
    driver: SessionDriver, ended_by: m.FrameOut
) -> None:
    driver.pin()
    driver.send(e.Audio(SECOND))
    driver.receive(m.Partial(1, 0, "who", 0, 4000))
    driver.receive(ended_by)
    delivered = events(driver.receive(m.Progress(1, 16000, 16000, m.Commit(16000, 1, b"st"))))
    assert not [it for it in delivered if isinstance(it, m.Partial)]


@pytest.mark.parametrize("event", [e.Audio(SECOND), e.Flush("x"), e.Stop()])
def test_a_returning_client_must_wait_for_its_first_sample(event: e.ClientEvent) -> None:
    """Once, an assertion failed later, and with it the bundle of all sessions on that worker."""
    driver = resuming()
    with pytest.raises(OutOfOrder):
        driver.send(event)
    assert driver.send(e.KeepAlive()) == []


def test_without_the_workers_commit_the_return_fails() -> None:
    driver = resuming()
    driver.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True))
    (error,) = events(driver.until(20.0))
    assert isinstance(error, e.Error) and error.slug == "resume-unavailable"


def test_a_repeated_final_does_not_take_the_commit_back() -> None:
    """Otherwise the next move would begin before the journal."""
    driver = resuming(utterance=0)
    driver.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True))
    driver.receive(m.Resumed(9, m.Commit(40000, 1, b"later")))
    driver.receive(final(9, 0, 16000))
    driver.send(e.Audio(SECOND))
    opening = driver.lose()[-1]
    assert isinstance(opening, ToBroker) and opening.setup is not None
    assert opening.setup.commit == m.Commit(40000, 1, b"later")


def test_moves_without_progress_end(driver: SessionDriver) -> None:
    """Otherwise a worker that hangs and registers again would keep a session for ever."""
    driver.pin()
    for lease in range(2, 50):
        driver.lose()
        driver.until(driver.now + 1.0)
        if driver.core.state is State.ENDED:
            break
        driver.pin(lease)
        driver.until(driver.now + 1.0)
    assert driver.core.state is State.ENDED and driver.now <= Limits().move_s + 3.0


# ---- States ----


def test_a_forbidden_transition_names_what_happened_before(driver: SessionDriver) -> None:
    driver.pin()
    driver.now = 2.0
    driver.lose()
    with pytest.raises(ForbiddenTransition) as error:
        driver.core.fire(Cause.RESUMED, 3.0)
    assert str(error.value) == (
        "session: resumed is not allowed in state moving; before: 0.000 opening pinned, 2.000 active lost"
    )


def test_nothing_follows_the_end() -> None:
    assert State.ENDED not in SESSION.transitions
    driver = SessionDriver()
    driver.pin()
    driver.send(e.Abort())
    for cause in Cause:
        assert not driver.core.can(cause)
    assert (
        driver.send(e.Audio(SECOND))
        == driver.receive(final(1, 0, 100))
        == driver.lose()
        == driver.leave()
        == driver.pin(2)
        == []
    )
    driver.core.fail(LimitExceeded("why", slug="idle-timeout"), 1.0)
    driver.core.tick(100.0)
    assert driver.take() == [] and driver.core.next_deadline() == float("inf")


def test_every_state_ends_by_an_error_or_when_the_client_is_gone() -> None:
    for state in SESSION.transitions:
        assert SESSION.transitions[state][Cause.FAIL] is SESSION.transitions[state][Cause.ABORT] is State.ENDED


@pytest.mark.parametrize("pinned", [False, True])
def test_a_frontend_that_stops_while_a_client_returns(pinned: bool) -> None:
    """The client continues elsewhere. Once, this frontend ended the audio; the worker's answer failed an assertion."""
    driver = resuming()
    if pinned:
        driver.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True))
    detached: list[Command] = [ToBroker(m.Detach(9))] if pinned else []
    assert driver.leave() == [*detached, Deliver("s", e.Bye(e.GOING_AWAY))]
    assert driver.core.state is State.ENDED


def test_a_client_that_is_lost_twice_returns_once() -> None:
    driver = resuming()
    driver.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True))
    assert driver.on_pinned(m.Pinned("s", 4, 10, W2, SPEC, resumed=True)) == []
    assert driver.core.pinned is not None and driver.core.pinned.lease == 9
    assert driver.receive(m.Resumed(9, None)) != [] and driver.receive(m.Resumed(9, None)) == []


# ---- Pause and credit ----


def test_pause_and_credit_alternate() -> None:
    driver = SessionDriver(Limits(credit_s=2.0))
    driver.pin()
    assert driver.send(e.Audio(SECOND)) == []
    assert driver.send(e.Audio(SECOND)) == [Pause("s")]
    assert driver.send(e.KeepAlive()) == []
    assert Credit("s") in driver.receive(m.Progress(1, 16000, 16000, None))
    assert Credit("s") not in driver.receive(m.Progress(1, 16000, 16000, None))


def test_a_move_returns_the_credit_and_the_new_worker_takes_it() -> None:
    """During a move only the journal's limit counts."""
    driver = SessionDriver(Limits(credit_s=1.0, journal_s=10.0))
    driver.pin()
    assert driver.send(e.Audio(SECOND)) == [Pause("s")]
    assert Credit("s") in driver.lose()
    assert driver.send(e.Audio(SECOND)) == []
    assert driver.pin(2, W2) == [Pause("s")]


def test_a_session_that_ends_returns_its_credit() -> None:
    """The client's last messages are read, since its connection is closed."""
    driver = SessionDriver(Limits(credit_s=1.0))
    driver.pin()
    driver.send(e.Audio(SECOND))
    assert driver.receive(m.Failed(1, "engine-failed", "why")) == [
        ToBroker(m.Close(1)),
        Credit("s"),
        Deliver("s", e.Error("engine-failed", "why")),
    ]


def test_a_used_up_budget_pauses_each_client() -> None:
    driver = SessionDriver(budget=40_000)
    driver.pin()
    assert driver.send(e.Audio(SECOND)) == []
    assert driver.send(e.Audio(SECOND)) == [Pause("s")]
    driver.budget.bytes_held -= 40_000
    assert Credit("s") in driver.until(1.0)
    driver.budget.bytes_held += 40_000


def test_a_silent_client_of_a_failed_move_ends_with_session_lost() -> None:
    """Both limits are reached at the same time; the error must be the failed move, not the idle client."""
    driver = SessionDriver(Limits(idle_s=30.0, move_s=30.0))
    driver.pin()
    driver.send(e.KeepAlive())
    driver.lose()
    (error,) = events(driver.until(30.0))
    assert isinstance(error, e.Error) and error.slug == "session-lost"


def test_of_two_commits_at_one_sample_the_later_counts(driver: SessionDriver) -> None:
    """A final confirms the words of the previous commit."""
    driver.pin()
    driver.send(e.Audio(SECOND))
    driver.receive(m.Progress(1, 16000, 8000, m.Commit(8000, 0, b"words", confirmed=0)))
    driver.receive(final(1, 0, 8000))
    opening = driver.lose()[-1]
    assert isinstance(opening, ToBroker) and opening.setup is not None
    assert opening.setup.commit == m.Commit(8000, 1, b"st")


# ---- A worker that does nothing ----


def watch(driver: SessionDriver, *answered_s: float, busy: tuple[bytes, ...] = ()) -> list[Command]:
    for at in answered_s:
        driver.core.watch(at, busy, driver.now)
    return driver.take()


def speaking(seconds: int = 2, spec: m.Spec = SPEC) -> SessionDriver:
    driver = SessionDriver()
    driver.open()
    driver.on_pinned(m.Pinned("s", 0, 1, W1, spec))
    driver.send(e.Audio(SECOND * seconds))
    return driver


def test_a_worker_that_takes_audio_and_does_nothing_loses_the_session() -> None:
    driver = speaking()
    assert watch(driver, 1.0, 2.0, 6.0) == []
    assert watch(driver, 6.1) == [ToBroker(m.Close(1)), Deliver("s", e.Notice())]
    assert driver.core.state is State.MOVING
    (opening,) = driver.open()
    assert isinstance(opening, ToBroker) and opening.message == m.Open("s", 1, "fake", "", False, W1)
    driver.pin(2, W2)
    assert [type(frame) for frame in driver.posted()][-1] is m.Audio
    driver.core.check()


@pytest.mark.parametrize("step_s, busy, stays_s, leaves_s", [(1.0, (), 6.0, 6.1), (0.1, (W1,), 30.0, 30.1)])
def test_slow_engines_and_busy_workers_have_more_time(
    step_s: float, busy: tuple[bytes, ...], stays_s: float, leaves_s: float
) -> None:
    driver = speaking(spec=structs.replace(SPEC, step_s_p99=step_s))
    assert watch(driver, 0.0, stays_s, busy=busy) == []
    assert watch(driver, leaves_s, busy=busy)


@pytest.mark.parametrize(
    "answer",
    [
        m.Progress(1, 32000, 16000, None),
        m.Partial(1, 0, "text", 0, 960),
        final(1, 0, 960),
        m.Flushed(1, "x"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_worker_that_works_keeps_the_session(answer: m.FrameOut) -> None:
    driver = speaking(seconds=4)
    watch(driver, 0.0)
    driver.receive(answer)
    assert watch(driver, 100.0) == []
    assert watch(driver, 106.0) != []


def test_a_report_of_received_audio_is_no_work() -> None:
    driver = speaking()
    watch(driver, 0.0)
    driver.receive(m.Progress(1, 32000, 0, None))
    assert watch(driver, 5.1)


def test_less_than_a_chunk_is_no_work() -> None:
    """A worker reports every second of audio, and takes 960 samples at once."""
    driver = SessionDriver()
    driver.open()
    driver.pin()
    driver.send(e.Audio(b"\0\0" * 16959))
    assert watch(driver, 0.0, 100.0) == []
    driver.send(e.Audio(b"\0\0"))
    assert watch(driver, 200.0, 205.1)


def test_an_unanswered_flush_is_work() -> None:
    driver = SessionDriver()
    driver.open()
    driver.pin()
    driver.send(e.Flush("x"))
    assert watch(driver, 0.0, 5.1)


IMPOSSIBLE = [
    m.Progress(1, 32001, 0, None),
    m.Progress(1, 16000, 16001, None),
    m.Progress(1, 32000, 0, m.Commit(32001, 0, b"")),
    final(1, 0, 32001),
    final(1, 0, m.SAMPLES_MAX),
]


@pytest.mark.parametrize("frame", IMPOSSIBLE, ids=str)
def test_a_worker_that_reports_audio_that_was_not_sent_loses_the_session(frame: m.FrameOut) -> None:
    driver = speaking()
    assert driver.receive(frame) == [ToBroker(m.Close(1)), Deliver("s", e.Notice())]
    driver.open()
    driver.pin(2, W2)
    assert driver.receive(final(2, 0, 32000)) != []
    driver.core.check()


def test_a_flush_that_was_not_posted_is_not_answered() -> None:
    driver = SessionDriver(Limits(credit_s=1.0))
    driver.open()
    driver.pin()
    for _ in range(3):
        driver.send(e.Audio(SECOND))
    driver.send(e.Flush("x"))
    driver.receive(m.Flushed(1, "x"))
    driver.core.check()
