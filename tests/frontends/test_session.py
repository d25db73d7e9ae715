"""One session by hand: what it asks of the broker, posts to the worker and says to the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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


class Talk:
    """A session with a hand-turned clock. What it posts to workers is kept apart from its other commands."""

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
        """The lease; as `Sessions` does, ask for another where the session moves."""
        self.core.on_lost(self.now)
        if self.core.state is State.MOVING:
            self.core.open()
        return self.take()

    def say(self, event: e.ClientEvent) -> list[Command]:
        self.core.client(event, self.now)
        return self.take()

    def hear(self, frame: m.FrameOut) -> list[Command]:
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
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    talk.core.check()


def test_audio_before_the_slot_waits_in_the_journal(talk: Talk) -> None:
    (opening,) = talk.open()
    assert isinstance(opening, ToBroker)
    assert opening.message == m.Open("s", 0, "", "")
    assert talk.say(e.Audio(SECOND)) == []
    commands = talk.pin()
    assert events(commands) == [e.Ready("s", "fake", "fake", 960)]
    assert talk.posted() == [m.Audio(1, 0, SECOND)]


def test_frames_keep_their_order_and_place(talk: Talk) -> None:
    talk.pin()
    for event in (e.Audio(SECOND), e.Flush("x"), e.Audio(SECOND), e.Stop()):
        talk.say(event)
    assert talk.posted() == [m.Audio(1, 0, SECOND), m.Flush(1, "x"), m.Audio(1, 16000, SECOND), m.Stop(1)]


@pytest.mark.parametrize("event", [e.Audio(SECOND), e.Flush("x"), e.Stop()])
def test_nothing_follows_the_stop(talk: Talk, event: e.ClientEvent) -> None:
    talk.pin()
    talk.say(e.Stop())
    with pytest.raises(OutOfOrder):
        talk.say(event)


def test_ended_says_goodbye_and_gives_the_lease_back(talk: Talk) -> None:
    talk.pin()
    talk.say(e.Stop())
    commands = talk.hear(m.Ended(1))
    assert ToBroker(m.Close(1)) in commands
    assert events(commands) == [e.Bye()]
    assert talk.core.state is State.ENDED


def test_credit_bounds_what_is_posted_and_what_is_taken() -> None:
    talk = Talk(Limits(credit_s=2.0))
    talk.pin()
    for _ in range(2):
        talk.say(e.Audio(SECOND))
        assert len(talk.posted()) == 1
    assert talk.core.paused
    talk.say(e.Audio(SECOND))
    assert talk.posted() == []
    commands = talk.hear(m.Progress(1, 32000, 16000, None))
    assert len(talk.posted()) == 1
    assert Credit("s") not in commands
    assert Credit("s") in talk.hear(m.Progress(1, 48000, 32000, None))
    assert not talk.core.paused


def test_a_move_replays_from_the_commit_with_marks_in_order(talk: Talk) -> None:
    talk.pin()
    talk.say(e.Audio(SECOND))
    talk.say(e.Flush("x"))
    talk.say(e.Audio(SECOND))
    talk.hear(final(1, 0, 12000))
    commands = talk.lose()
    assert events(commands) == [e.Notice("migrating")]
    opening = commands[-1]
    assert isinstance(opening, ToBroker) and opening.setup is not None
    assert opening.message == m.Open("s", 1, "fake", "")
    assert opening.setup.commit == m.Commit(12000, 1, b"st")
    talk.say(e.Stop())
    talk.posted()
    talk.pin(2, W2)
    assert talk.posted() == [
        m.Audio(2, 12000, SECOND[24000:]),
        m.Flush(2, "x"),
        m.Audio(2, 16000, SECOND),
        m.Stop(2),
    ]


def test_an_answered_flush_is_not_repeated(talk: Talk) -> None:
    talk.pin()
    talk.say(e.Audio(SECOND))
    talk.say(e.Flush("x"))
    talk.hear(final(1, 0, 16000))
    assert events(talk.hear(m.Flushed(1, "x"))) == [m.Flushed(1, "x")]
    talk.lose()
    talk.posted()
    talk.pin(2, W2)
    assert talk.posted() == []


def test_while_moving_audio_is_taken_up_to_the_journals_limit() -> None:
    talk = Talk(Limits(credit_s=1.0, journal_s=3.0))
    talk.pin()
    talk.lose()
    taken = 0
    while not talk.core.paused:
        talk.say(e.Audio(SECOND))
        taken += 1
    assert taken == 3


def test_a_move_is_tried_again_and_given_up_in_the_end() -> None:
    limits = Limits(move_s=5.0, retry_s=0.5, idle_s=100.0)
    talk = Talk(limits)
    talk.pin()
    talk.lose()
    refused = m.Refused("s", 1, "no-worker", "", 1.0)
    assert talk.refuse(refused) == []
    assert [c.message for c in talk.until(0.6) if isinstance(c, ToBroker)] == [m.Open("s", 1, "fake", "")]
    (error,) = events(talk.until(6.0))
    assert isinstance(error, e.Error) and error.slug == "session-lost"


def test_a_new_session_is_refused_at_once(talk: Talk) -> None:
    (error,) = events(talk.refuse(m.Refused("s", 0, "at-capacity", "full", 1.5)))
    assert error == e.Error("at-capacity", "full", 1.5)
    assert error.is_service


def test_no_broker_is_said_after_a_while(talk: Talk) -> None:
    (error,) = events(talk.until(Limits().open_s))
    assert isinstance(error, e.Error) and error.slug == "no-broker"


def test_an_idle_client_is_ended_but_not_while_it_may_not_send() -> None:
    talk = Talk(Limits(idle_s=5.0, credit_s=1.0))
    talk.pin()
    talk.say(e.Audio(SECOND))
    assert talk.core.paused
    assert not any(isinstance(event, e.Error) for event in events(talk.until(20.0)))
    talk.hear(m.Progress(1, 16000, 16000, None))
    assert not talk.core.paused
    talk.say(e.KeepAlive())
    errors = [event for event in events(talk.until(26.0)) if isinstance(event, e.Error)]
    assert [error.slug for error in errors] == ["idle-timeout"]


def test_silence_begins_anew_when_the_client_may_speak_again() -> None:
    """It was ended as idle in the moment its credit came back, for the time it was not read from."""
    talk = Talk(Limits(idle_s=5.0, credit_s=1.0))
    talk.pin()
    talk.say(e.Audio(SECOND))
    assert talk.core.paused
    talk.until(20.0)
    assert Credit("s") in talk.hear(m.Progress(1, 16000, 16000, None))
    assert not any(isinstance(event, e.Error) for event in events(talk.until(24.9)))
    assert any(isinstance(event, e.Error) for event in events(talk.until(25.1)))


def test_progress_is_told_at_least_once_a_second(talk: Talk) -> None:
    talk.pin()
    talk.say(e.Audio(SECOND))
    told = [event for event in events(talk.until(5.0)) if isinstance(event, e.Progress)]
    assert len(told) >= 5


def test_too_many_messages_and_too_long_a_session() -> None:
    talk = Talk(Limits(messages_per_s=3, audio_s=2.0))
    talk.pin()
    with pytest.raises(LimitExceeded) as error:
        for _ in range(4):
            talk.say(e.KeepAlive())
    assert error.value.slug == "rate-limited"
    talk.now = 2.0
    with pytest.raises(LimitExceeded) as error:
        for _ in range(3):
            talk.say(e.Audio(SECOND))
    assert error.value.slug == "session-too-long"


def test_progress_is_asked_for_well_before_the_credit_is_used_up() -> None:
    """A credit of one second and progress once a second would wait for each other."""
    (opening,) = Talk(Limits(credit_s=1.0)).open()
    assert isinstance(opening, ToBroker) and opening.setup is not None
    assert opening.setup.progress_samples == 8000


def test_unanswered_flushes_are_limited(talk: Talk) -> None:
    talk.pin()
    for _ in range(MARKS_MAX):
        assert not talk.core.paused
        talk.say(e.Flush("x"))
    assert talk.core.paused
    assert Credit("s") in talk.hear(m.Flushed(1, "x"))
    assert not talk.core.paused


def test_a_pinned_of_another_epoch_changes_nothing(talk: Talk) -> None:
    assert talk.on_pinned(m.Pinned("s", 4, 9, W2, SPEC)) == []
    assert talk.core.state is State.OPENING


def test_abort_leaves_nothing_behind() -> None:
    talk = Talk(budget=10**6)
    talk.pin()
    talk.say(e.Audio(SECOND))
    assert talk.budget.bytes_held
    assert talk.say(e.Abort()) == [ToBroker(m.Close(1))]
    assert talk.budget.bytes_held == 0


# ---- A frontend that stops ----


def test_a_client_that_can_goes_on_elsewhere() -> None:
    talk = Talk(start=e.Start(resumable=True))
    talk.pin()
    assert talk.leave() == [ToBroker(m.Detach(1)), Deliver("s", e.Bye(e.GOING_AWAY))]
    assert talk.core.state is State.ENDED
    talk.core.check()


def test_another_hears_the_rest_of_what_it_has_said(talk: Talk) -> None:
    talk.pin()
    talk.say(e.Audio(SECOND))
    assert talk.leave() == []
    assert talk.leave() == []
    for event in (e.Audio(SECOND), e.Flush("x"), e.Stop()):  # it does not know
        assert talk.say(event) == []
    assert talk.posted() == [m.Audio(1, 0, SECOND), m.Stop(1)]
    talk.hear(final(1, 0, 16000))
    assert Deliver("s", e.Bye()) in talk.hear(m.Ended(1))


# ---- Clients that come back ----


def resuming(utterance: int = 2) -> Talk:
    return Talk(start=e.Start(resumable=True, resume=e.Resume("s", utterance)))


def test_a_client_comes_back_to_what_the_worker_has_kept() -> None:
    talk = resuming()
    (opening,) = talk.open()
    assert isinstance(opening, ToBroker) and opening.message == m.Resume("s", 2)
    assert talk.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True)) == []
    ready = talk.hear(m.Resumed(9, m.Commit(32000, 2, b"state")))
    assert events(ready) == [e.Ready("s", "fake", "fake", 960, from_sample=32000)]
    (progress,) = events(talk.until(1.0))
    assert isinstance(progress, e.Progress) and progress.committed == 32000  # it never falls
    talk.say(e.Audio(SECOND))
    assert talk.posted() == [m.Audio(9, 32000, SECOND)]
    opening = talk.lose()[-1]
    assert isinstance(opening, ToBroker) and opening.setup is not None
    assert opening.message == m.Open("s", 4, "fake", "", resumable=True)
    assert opening.setup.commit == m.Commit(32000, 2, b"state")


def test_an_answer_from_before_the_client_came_back_is_not_its() -> None:
    """Found by simulation: the lease of the session's last move was taken for the resumed one, which never spoke."""
    talk = resuming()
    assert talk.on_pinned(m.Pinned("s", 1, 7, W1, SPEC)) == []
    assert talk.core.pinned is None


def test_a_worker_that_dies_before_it_has_answered_ends_the_return() -> None:
    talk = resuming()
    talk.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True))
    (error,) = events(talk.lose())
    assert isinstance(error, e.Error) and error.slug == "resume-unavailable"


def test_only_a_client_that_can_come_back_is_waited_for(talk: Talk) -> None:
    talk.pin()
    assert talk.say(e.Detach()) == [ToBroker(m.Close(1))]


# ---- Long without a commit ----


def test_near_the_journals_limit_a_commit_is_asked_for() -> None:
    """And asked for again, but not with every frame."""
    talk = Talk(Limits(credit_s=100.0, journal_s=4.0))
    talk.pin()
    for _ in range(2):
        talk.say(e.Audio(SECOND))
    assert not any(isinstance(frame, m.Checkpoint) for frame in talk.posted())
    talk.say(e.Audio(b"\0\0"))
    talk.say(e.Audio(b"\0\0"))
    assert talk.posted().count(m.Checkpoint(1)) == 1
    talk.now += 1.0
    talk.say(e.Audio(b"\0\0"))
    assert m.Checkpoint(1) in talk.posted()
    talk.hear(m.Progress(1, 32000, 32000, m.Commit(32000, 0, b"state")))
    talk.now += 1.0
    talk.say(e.Audio(SECOND))
    assert not any(isinstance(frame, m.Checkpoint) for frame in talk.posted())


def test_a_commit_in_the_middle_of_an_utterance_is_not_the_clients(talk: Talk) -> None:
    """Found by simulation: a client that had to begin anew from it lost the words before it that were in no final."""
    talk.pin()
    talk.say(e.Audio(SECOND))
    open_commit = m.Commit(8000, 0, b"words", confirmed=0)
    (progress, *_) = events(talk.hear(m.Progress(1, 16000, 8000, open_commit)))
    assert isinstance(progress, e.Progress) and progress.committed == 0
    opening = talk.lose()[-1]
    assert isinstance(opening, ToBroker) and opening.setup is not None and opening.setup.commit == open_commit


def test_what_was_shown_of_no_words_is_taken_back_after_a_move(talk: Talk) -> None:
    """The next worker hears the same audio and says nothing: the client must not go on showing it."""
    talk.pin()
    talk.say(e.Audio(SECOND))
    shown = m.Partial(1, 0, "who", 0, 4000)
    assert events(talk.hear(shown)) == [shown]
    talk.lose()
    talk.pin(2, W2)
    in_mid_word = m.Commit(8000, 0, b"words", confirmed=0)
    assert not [it for it in events(talk.hear(m.Progress(2, 16000, 8000, in_mid_word))) if isinstance(it, m.Partial)]
    silence = m.Progress(2, 16000, 16000, m.Commit(16000, 0, b"st"))
    assert events(talk.hear(silence))[0] == m.Partial(1, 0, "", 0, 4000)
    assert not [it for it in events(talk.hear(silence)) if isinstance(it, m.Partial)]


@pytest.mark.parametrize("ended_by", [m.Partial(1, 0, "", 0, 4000), final(1, 0, 8000)])
def test_what_was_taken_back_or_became_final_is_not_taken_back_again(talk: Talk, ended_by: m.FrameOut) -> None:
    talk.pin()
    talk.say(e.Audio(SECOND))
    talk.hear(m.Partial(1, 0, "who", 0, 4000))
    talk.hear(ended_by)
    told = events(talk.hear(m.Progress(1, 16000, 16000, m.Commit(16000, 1, b"st"))))
    assert not [it for it in told if isinstance(it, m.Partial)]


@pytest.mark.parametrize("event", [e.Audio(SECOND), e.Flush("x"), e.Stop()])
def test_a_client_that_comes_back_waits_for_where_to_go_on(event: e.ClientEvent) -> None:
    """It broke an assertion later, and with it the bundle of every other session on that worker."""
    talk = resuming()
    with pytest.raises(OutOfOrder):
        talk.say(event)
    assert talk.say(e.KeepAlive()) == []


def test_a_worker_that_does_not_say_from_where_ends_the_return() -> None:
    talk = resuming()
    talk.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True))
    (error,) = events(talk.until(20.0))
    assert isinstance(error, e.Error) and error.slug == "resume-unavailable"


def test_a_repeated_final_does_not_take_the_commit_back() -> None:
    """The next move would have begun before the journal."""
    talk = resuming(utterance=0)
    talk.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True))
    talk.hear(m.Resumed(9, m.Commit(40000, 1, b"later")))
    talk.hear(final(9, 0, 16000))
    talk.say(e.Audio(SECOND))
    opening = talk.lose()[-1]
    assert isinstance(opening, ToBroker) and opening.setup is not None
    assert opening.setup.commit == m.Commit(40000, 1, b"later")


def test_moves_without_progress_end(talk: Talk) -> None:
    """A worker that hangs and registers again would take a session for ever."""
    talk.pin()
    for lease in range(2, 50):
        talk.lose()
        talk.until(talk.now + 1.0)
        if talk.core.state is State.ENDED:
            break
        talk.pin(lease)
        talk.until(talk.now + 1.0)
    assert talk.core.state is State.ENDED and talk.now <= Limits().move_s + 3.0


# ---- States ----


def test_a_forbidden_transition_names_what_happened_before(talk: Talk) -> None:
    talk.pin()
    talk.now = 2.0
    talk.lose()
    with pytest.raises(ForbiddenTransition) as error:
        talk.core.fire(Cause.RESUMED, 3.0)
    assert str(error.value) == (
        "session: resumed is not allowed in state moving; before: 0.000 opening pinned, 2.000 active lost"
    )


def test_nothing_follows_the_end() -> None:
    assert State.ENDED not in SESSION.transitions
    talk = Talk()
    talk.pin()
    talk.say(e.Abort())
    for cause in Cause:
        assert not talk.core.can(cause)
    assert talk.say(e.Audio(SECOND)) == talk.hear(final(1, 0, 100)) == talk.lose() == talk.leave() == talk.pin(2) == []
    talk.core.fail(LimitExceeded("why", slug="idle-timeout"), 1.0)
    talk.core.tick(100.0)
    assert talk.take() == [] and talk.core.next_deadline() == float("inf")


def test_every_state_ends_by_an_error_or_when_the_client_is_gone() -> None:
    for state in SESSION.transitions:
        assert SESSION.transitions[state][Cause.FAIL] is SESSION.transitions[state][Cause.ABORT] is State.ENDED


@pytest.mark.parametrize("pinned", [False, True])
def test_a_frontend_that_stops_while_a_client_returns(pinned: bool) -> None:
    """It continues elsewhere: the end of its audio, written here, broke an assertion when the worker answered."""
    talk = resuming()
    if pinned:
        talk.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True))
    detached: list[Command] = [ToBroker(m.Detach(9))] if pinned else []
    assert talk.leave() == [*detached, Deliver("s", e.Bye(e.GOING_AWAY))]
    assert talk.core.state is State.ENDED


def test_a_client_that_is_lost_twice_returns_once() -> None:
    talk = resuming()
    talk.on_pinned(m.Pinned("s", 3, 9, W1, SPEC, resumed=True))
    assert talk.on_pinned(m.Pinned("s", 4, 10, W2, SPEC, resumed=True)) == []
    assert talk.core.pinned is not None and talk.core.pinned.lease == 9
    assert talk.hear(m.Resumed(9, None)) != [] and talk.hear(m.Resumed(9, None)) == []


# ---- Pause and credit ----


def test_pause_and_credit_come_when_the_answer_changes_and_only_then() -> None:
    talk = Talk(Limits(credit_s=2.0))
    talk.pin()
    assert talk.say(e.Audio(SECOND)) == []
    assert talk.say(e.Audio(SECOND)) == [Pause("s")]
    assert talk.say(e.KeepAlive()) == []
    assert Credit("s") in talk.hear(m.Progress(1, 16000, 16000, None))
    assert Credit("s") not in talk.hear(m.Progress(1, 16000, 16000, None))


def test_a_move_returns_the_credit_and_the_new_worker_takes_it() -> None:
    """While it moves, the journal's limit alone counts."""
    talk = Talk(Limits(credit_s=1.0, journal_s=10.0))
    talk.pin()
    assert talk.say(e.Audio(SECOND)) == [Pause("s")]
    assert Credit("s") in talk.lose()
    assert talk.say(e.Audio(SECOND)) == []
    assert talk.pin(2, W2) == [Pause("s")]


def test_a_session_that_ends_returns_its_credit() -> None:
    """Its client's last messages are read: it closes the connection."""
    talk = Talk(Limits(credit_s=1.0))
    talk.pin()
    talk.say(e.Audio(SECOND))
    assert talk.hear(m.Failed(1, "engine-failed", "why")) == [
        ToBroker(m.Close(1)),
        Credit("s"),
        Deliver("s", e.Error("engine-failed", "why")),
    ]


def test_a_budget_that_is_used_up_pauses_each_speaker() -> None:
    talk = Talk(budget=40_000)
    talk.pin()
    assert talk.say(e.Audio(SECOND)) == []
    assert talk.say(e.Audio(SECOND)) == [Pause("s")]
    talk.budget.bytes_held -= 40_000
    assert Credit("s") in talk.until(1.0)
    talk.budget.bytes_held += 40_000


def test_a_client_that_says_nothing_while_it_moves_is_lost_with_its_session() -> None:
    """Not idle: no worker came, and both would end it in the same moment."""
    talk = Talk(Limits(idle_s=30.0, move_s=30.0))
    talk.pin()
    talk.say(e.KeepAlive())
    talk.lose()
    (error,) = events(talk.until(30.0))
    assert isinstance(error, e.Error) and error.slug == "session-lost"


def test_of_two_commits_at_one_sample_the_later_counts(talk: Talk) -> None:
    """A final confirms the words of the commit before it."""
    talk.pin()
    talk.say(e.Audio(SECOND))
    talk.hear(m.Progress(1, 16000, 8000, m.Commit(8000, 0, b"words", confirmed=0)))
    talk.hear(final(1, 0, 8000))
    opening = talk.lose()[-1]
    assert isinstance(opening, ToBroker) and opening.setup is not None
    assert opening.setup.commit == m.Commit(8000, 1, b"st")
