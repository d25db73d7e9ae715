"""A frontend's sessions and its registration with the broker."""

from __future__ import annotations

import pytest

from asr_audio.entries import Piece
from asr_frontends import events as e
from asr_frontends.journal import Budget
from asr_frontends.outbox import BUNDLE_S, Command, Deliver, KeepPoison, Pause, SendBundle, ToBroker
from asr_frontends.session import Limits
from asr_frontends.sessions import WITHOUT_BROKER_S, Counts, Sessions
from asr_proto import messages as m
from asr_proto.errors import ServiceError

SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
POOL = m.Pool(1, 2, 2, ("fake",))


@pytest.fixture
def sessions() -> Sessions:
    sessions = Sessions("f", Limits(), Budget(10**8), 0.0)
    assert sessions.tick(0.0) == [ToBroker(m.RegisterFrontend(m.PROTOCOL_VERSION, "f"))]
    sessions.handle(m.Welcome(1, 1.0), (), 0.0)
    sessions.handle(POOL, (), 0.0)
    return sessions


def test_ready_means_a_free_slot_and_a_broker_that_answers(sessions: Sessions) -> None:
    assert sessions.ready(1.0)
    assert not sessions.ready(60.0)
    sessions.handle(m.Pool(1, 2, 0, ("fake",)), (), 60.0)
    assert not sessions.ready(60.0)
    sessions.handle(POOL, (), 61.0)
    assert sessions.ready(61.0)
    sessions.handle(m.Unregistered(), (), 61.0)
    assert not sessions.ready(61.0)


def test_without_a_broker_a_session_is_refused_at_once() -> None:
    sessions = Sessions("f", Limits(), Budget(10**8), 0.0)
    with pytest.raises(ServiceError) as error:
        sessions.start("a", e.Start(), 0.0)
    assert error.value.slug == "no-broker"


def test_soon_after_the_loss_of_a_broker_a_session_waits_for_the_next_one(sessions: Sessions) -> None:
    sessions.handle(m.Unregistered(), (), 1.0)
    assert sessions.start("a", e.Start(), 1.0 + WITHOUT_BROKER_S) == []
    with pytest.raises(ServiceError) as error:
        sessions.start("b", e.Start(), 1.1 + WITHOUT_BROKER_S)
    assert error.value.slug == "no-broker"
    (opened,) = sessions.handle(m.Welcome(2, 1.0), (), 7.0)
    assert isinstance(opened, ToBroker) and opened.message == m.Open("a", 0, "", "")


def test_a_session_that_waits_for_a_broker_is_given_up_in_time(sessions: Sessions) -> None:
    sessions.handle(m.Unregistered(), (), 1.0)
    sessions.start("a", e.Start(), 2.0)
    events = [c.event for c in sessions.tick(12.0) if isinstance(c, Deliver)]
    assert [event.slug for event in events if isinstance(event, e.Error)] == ["no-broker"]


def test_a_broker_that_rejects_this_frontend_is_not_waited_for(sessions: Sessions) -> None:
    sessions.handle(m.Unregistered(), (), 1.0)
    sessions.handle(m.Rejected("version-mismatch", ""), (), 1.0)
    with pytest.raises(ServiceError):
        sessions.start("a", e.Start(), 1.0)


def test_a_full_journal_refuses_new_sessions(sessions: Sessions) -> None:
    sessions.budget.bytes_held = sessions.budget.bytes_max
    with pytest.raises(ServiceError) as error:
        sessions.start("a", e.Start(), 0.0)
    assert error.value.slug == "overloaded"
    sessions.budget.bytes_held = 0


def test_a_slot_for_a_client_that_has_left_is_returned(sessions: Sessions) -> None:
    sessions.start("a", e.Start(), 0.0)
    sessions.client("a", e.Abort(), 0.0)
    assert sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0) == [ToBroker(m.Close(5))]


def test_a_session_of_a_draining_worker_moves(sessions: Sessions) -> None:
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    commands = sessions.handle(m.Lost(5, m.DRAINS), (), 0.0)
    assert [command.message for command in commands if isinstance(command, ToBroker)] == [m.Open("a", 1, "fake", "")]
    assert sessions.handle(m.Lost(5, m.DRAINS), (), 0.0) == []  # asked again before the broker has the Open


def test_a_session_whose_audio_is_complete_stays_at_its_draining_worker(sessions: Sessions) -> None:
    """It soon ends by itself."""
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    sessions.client("a", e.Stop(), 0.0)
    assert sessions.handle(m.Lost(5, m.DRAINS), (), 0.0) == []


def test_a_session_that_is_being_resumed_stays_at_its_draining_worker(sessions: Sessions) -> None:
    """Its state is at this worker, and the client sends its audio from there on."""
    sessions.start("a", e.Start(resumable=True, resume=e.Resume("a", 0)), 0.0)
    sessions.handle(m.Pinned("a", 1, 5, b"W", SPEC, resumed=True), (), 0.0)
    assert sessions.handle(m.Lost(5, m.DRAINS), (), 0.0) == []


def test_frames_are_bundled_per_worker(sessions: Sessions) -> None:
    for id, lease, worker in (("a", 5, b"W1"), ("b", 6, b"W1"), ("c", 7, b"W2")):
        sessions.start(id, e.Start(), 0.0)
        sessions.handle(m.Pinned(id, 0, lease, worker, SPEC), (), 0.0)
    for id in "abca":
        sessions.client(id, e.Audio(b"\0\0"), 0.0)
    assert sessions.next_deadline() == BUNDLE_S
    first, second = sessions.tick(BUNDLE_S)
    assert isinstance(first, SendBundle) and isinstance(second, SendBundle)
    assert (first.bundle, second.bundle) == (m.Bundle(b"W1", (5, 6)), m.Bundle(b"W2", (7,)))
    assert first.frames == [m.Audio(5, 0, b"\0\0\0\0"), m.Audio(6, 0, b"\0\0")]
    assert sessions.next_deadline() > BUNDLE_S and sessions.flush() == []


def test_a_client_error_ends_only_its_session(sessions: Sessions) -> None:
    for id, lease in (("a", 5), ("b", 6)):
        sessions.start(id, e.Start(), 0.0)
        sessions.handle(m.Pinned(id, 0, lease, b"W", SPEC), (), 0.0)
    commands = sessions.client("a", e.Start(), 0.0)
    assert ToBroker(m.Close(5)) in commands
    errors = [c.event for c in commands if isinstance(c, Deliver)]
    assert isinstance(errors[0], e.Error) and errors[0].slug == "out-of-order"
    assert len(sessions) == 1
    sessions.check()


def test_heartbeats_renew_every_lease(sessions: Sessions) -> None:
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    assert ToBroker(m.FrontendHeartbeat((5,))) in sessions.tick(1.0)


def test_a_frame_under_an_old_lease_is_dropped(sessions: Sessions) -> None:
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    sessions.handle(m.Lost(5, "worker-lost"), (), 0.0)
    sessions.handle(m.Pinned("a", 1, 6, b"W", SPEC), (), 0.0)
    assert sessions.handle(m.Bundle(b"F", (5,)), [m.Partial(5, 0, "ghost", 0, 1)], 0.0) == []


def test_a_frame_under_another_workers_lease_is_dropped(sessions: Sessions) -> None:
    """The broker leaves only the leases of the worker that sent it in the header of a bundle."""
    for id, lease, worker in (("a", 5, b"W1"), ("b", 6, b"W2")):
        sessions.start(id, e.Start(), 0.0)
        sessions.handle(m.Pinned(id, 0, lease, worker, SPEC), (), 0.0)
    forged: list[m.Frame] = [m.Partial(6, 0, "ghost", 0, 1), m.Ended(6), m.Failed(6, "x", "y")]
    assert sessions.handle(m.Bundle(b"F", (5,)), forged, 0.0) == []
    assert sessions.counts.foreign_frames == 3
    sessions.check()
    sessions.handle(m.Bundle(b"F", (5,)), [m.Ended(7)], 0.0)  # of a session that has ended: no offense
    assert sessions.counts.foreign_frames == 3
    assert sessions.handle(m.Bundle(b"F", (6,)), [m.Partial(6, 0, "text", 0, 1)], 0.0) != []


def test_every_session_is_opened_again_at_a_new_broker(sessions: Sessions) -> None:
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    commands = sessions.handle(m.Unregistered(), (), 1.0)
    assert [c.event for c in commands if isinstance(c, Deliver)] == [e.Notice()]
    assert sessions.tick(1.0)[-1] == ToBroker(m.RegisterFrontend(m.PROTOCOL_VERSION, "f"))
    (again,) = sessions.handle(m.Welcome(2, 1.0), (), 1.1)
    assert isinstance(again, ToBroker) and again.message == m.Open("a", 1, "fake", "")


def test_a_move_that_was_refused_is_tried_again_in_time(sessions: Sessions) -> None:
    """Found with real processes: a refusal returned no command, so nothing armed the timer of the next try."""
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    sessions.handle(m.Lost(5, "worker-lost"), (), 0.0)
    for _ in range(4):
        sessions.handle(m.Refused("a", 1, "no-worker", "", 2.0), (), sessions.next_deadline())
        now = sessions.next_deadline()
        tries = []
        while not tries and now < 10.0:
            tries = [c for c in sessions.tick(now) if isinstance(c, ToBroker) and isinstance(c.message, m.Open)]
            now = max(now, sessions.next_deadline())
        assert tries and now < 5.0


def test_a_broker_that_falls_silent_loses_its_sessions(sessions: Sessions) -> None:
    """Its socket reports nothing, and a session without credit has no other deadline."""
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    assert Pause("a") in sessions.client("a", e.Audio(b"\0\0" * 16000 * 11), 0.0)
    events: list[object] = []
    while sessions.next_deadline() < 60.0:
        now = sessions.next_deadline()
        events += [c.event for c in sessions.tick(now) if isinstance(c, Deliver)]
    assert e.Notice() in events
    assert isinstance(events[-1], e.Error) and events[-1].slug == "session-lost"
    sessions.check()


def test_a_full_journal_is_not_ready(sessions: Sessions) -> None:
    sessions.budget.bytes_held = sessions.budget.bytes_max
    assert not sessions.ready(0.0)
    sessions.budget.bytes_held = 0


def test_timers_do_not_pile_up(sessions: Sessions) -> None:
    """A heap entry per frame would be 1,500 for each session."""
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    for index in range(1000):
        sessions.client("a", e.Audio(b"\0\0"), index / 50)
        sessions.tick(index / 50)
    assert len(sessions._timers) < 10


def test_a_session_waits_again_for_a_client_whose_return_breaks_off(sessions: Sessions) -> None:
    start = e.Start(resumable=True, resume=e.Resume("a", 0))
    sessions.start("a", start, 0.0)
    sessions.client("a", e.Detach(), 0.0)
    commands = sessions.handle(m.Pinned("a", 1, 5, b"W", SPEC, resumed=True), (), 0.0)
    assert commands == [ToBroker(m.Detach(5))]


def test_a_lease_that_answers_an_earlier_request_is_ignored(sessions: Sessions) -> None:
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    sessions.handle(m.Pinned("a", 0, 6, b"W", SPEC), (), 0.0)
    assert sessions.handle(m.Bundle(b"F", (6,)), [m.Partial(6, 0, "ghost", 0, 1)], 0.0) == []
    assert ToBroker(m.FrontendHeartbeat((5,))) in sessions.tick(1.0)


def test_frames_leave_before_the_message_that_follows_them(sessions: Sessions) -> None:
    sessions.start("a", e.Start(resumable=True), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    assert sessions.client("a", e.Audio(b"\0\0"), 0.0) == []
    frames, detach = sessions.client("a", e.Detach(), 0.0)
    assert frames == SendBundle(m.Bundle(b"W", (5,)), [m.Audio(5, 0, b"\0\0")])
    assert detach == ToBroker(m.Detach(5))


def test_the_first_frame_of_a_bundle_sets_its_time(sessions: Sessions) -> None:
    """A later frame, or one for another worker, does not delay it."""
    for id, lease, worker in (("a", 5, b"W1"), ("b", 6, b"W2")):
        sessions.start(id, e.Start(), 0.0)
        sessions.handle(m.Pinned(id, 0, lease, worker, SPEC), (), 0.0)
    for number, id in enumerate("abab"):
        sessions.client(id, e.Audio(b"\0\0"), 0.1 + number / 1000)
    assert sessions.next_deadline() == pytest.approx(0.1 + BUNDLE_S)
    assert sessions.tick(0.1) == []
    assert [type(command) for command in sessions.tick(0.1 + BUNDLE_S)] == [SendBundle, SendBundle]


def test_what_is_counted(sessions: Sessions) -> None:
    for id, lease in (("a", 5), ("b", 6), ("c", 7)):
        sessions.start(id, e.Start(), 0.0)
        sessions.handle(m.Pinned(id, 0, lease, b"W", SPEC), (), 0.0)
    sessions.client("a", e.Audio(b"\0\0" * 320), 0.0)
    final = m.Final(5, 0, "text", 0, 320, "silence", None, None, m.Commit(320, 1, b""))
    sessions.handle(m.Bundle(b"F", (5,)), [final, m.Ended(5)], 0.0)
    sessions.handle(m.Lost(6, "worker-lost"), (), 0.0)
    sessions.fail("b", ServiceError("why", slug="overloaded"), 0.0)
    sessions.client("c", e.Abort(), 0.0)
    assert sessions.counts == Counts(sessions=3, errors=1, moves=1, finals=1, audio_samples=320)
    assert len(sessions) == 0


def test_a_session_that_is_lost_without_a_broker_waits_for_one(sessions: Sessions) -> None:
    """It requests nothing; after the next Welcome it sends its Open."""
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    opening = sessions.handle(m.Lost(5, "worker-lost"), (), 0.0)[-1]
    assert isinstance(opening, ToBroker) and opening.message == m.Open("a", 1, "fake", "")
    sessions.handle(m.Pinned("a", 1, 6, b"W", SPEC), (), 0.0)
    commands = sessions.handle(m.Unregistered(), (), 1.0)
    assert commands == [Deliver("a", e.Notice())]


def test_a_client_that_returned_through_another_frontend(sessions: Sessions) -> None:
    sessions.start("a", e.Start(resumable=True), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    commands = sessions.handle(m.Lost(5, m.RESUMED), (), 1.0)
    errors = [one.event for one in commands if isinstance(one, Deliver)]
    assert isinstance(errors[0], e.Error) and errors[0].slug == "session-lost"
    assert len(sessions) == 0


# ---- A worker that does nothing ----


def answered(sessions: Sessions, begin: float, end: float) -> list[m.FromFrontend]:
    """The messages for the broker, which answers every heartbeat until `end`."""
    commands = []
    for at in range(int(begin), int(end) + 1):
        commands += sessions.handle(POOL, (), float(at))
    return [command.message for command in commands if isinstance(command, ToBroker)]


def stuck(sessions: Sessions) -> None:
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    sessions.client("a", e.Audio(b"\0\0" * 32000), 0.0)


def test_a_session_leaves_a_worker_that_does_nothing(sessions: Sessions) -> None:
    stuck(sessions)
    assert answered(sessions, 1, 6) == []
    assert answered(sessions, 7, 7) == [m.Close(5), m.Open("a", 1, "fake", "", False, b"W")]
    assert sessions.counts.moves == 1
    late = m.Final(5, 0, "late", 0, 960, "silence", None, None, m.Commit(960, 1, b""))
    assert sessions.handle(m.Bundle(b"f", (5,)), [late], 7.0) == []
    sessions.handle(m.Pinned("a", 1, 6, b"W2", SPEC), (), 7.0)
    sessions.check()


def test_time_without_an_answer_of_the_broker_does_not_count(sessions: Sessions) -> None:
    """This process or the broker stood still: the worker's answers may wait behind the first Pool."""
    stuck(sessions)
    assert answered(sessions, 1, 3) == []
    assert answered(sessions, 60, 61) == []
    assert answered(sessions, 62, 63) != []


# ---- Poison ----


def died(lease: int, suspects: int = 1, *, proven: bool = True) -> m.Lost:
    return m.Lost(lease, "worker-lost", suspects, proven, "w1")


def opened(commands: list[Command]) -> list[tuple[m.Open, m.Setup]]:
    found = [(one.message, one.setup) for one in commands if isinstance(one, ToBroker)]
    return [(message, setup) for message, setup in found if isinstance(message, m.Open) and setup is not None]


def test_a_suspect_moves_with_the_audio_under_suspicion(sessions: Sessions) -> None:
    """The model is known to have done 5 samples; 8 were posted to the worker that died."""
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    sessions.client("a", e.Audio(bytes(16)), 0.0)
    sessions.handle(m.Bundle(b"F", (5,)), [m.Progress(5, 8, 5, None)], 0.0)
    ((again, setup),) = opened(sessions.handle(died(5, 7), (), 1.0))
    assert (again.epoch, again.suspected_at, setup.suspicion) == (1, "w1", m.Suspicion(5, 8))
    sessions.handle(m.Pinned("a", 1, 6, b"W", SPEC), (), 1.0)
    sessions.client("a", e.Audio(bytes(16)), 1.0)
    sessions.handle(m.Bundle(b"F", (6,)), [m.Progress(6, 16, 9, None)], 1.0)
    ((later, setup),) = opened(sessions.handle(m.Lost(6, "worker-lost"), (), 2.0))
    assert (later.suspected_at, setup.suspicion) == ("", None), "the second worker has survived that audio"


def test_the_second_death_ends_the_session_and_keeps_its_audio(sessions: Sessions) -> None:
    sessions.start("a", e.Start(), 0.0)
    sessions.handle(m.Pinned("a", 0, 5, b"W", SPEC), (), 0.0)
    sessions.client("a", e.Audio(b"\1\2" * 8), 0.0)
    sessions.handle(died(5, 7), (), 1.0)
    sessions.handle(m.Pinned("a", 1, 6, b"W", SPEC), (), 1.0)
    keep, *_, deliver = sessions.handle(died(6), (), 2.0)
    assert keep == KeepPoison("a", "fake", "fake", 2, (Piece(0, b"\1\2" * 8),))
    assert isinstance(deliver, Deliver) and isinstance(deliver.event, e.Error)
    assert deliver.event.slug == "poisonous-audio" and not deliver.event.is_service
    assert (len(sessions), sessions.counts.poisonous, sessions.budget.bytes_held) == (0, 1, 0)


def test_after_two_deaths_without_proof_the_third_try_waits(sessions: Sessions) -> None:
    """The workers of the first two tries have been started again by then, and others have taken their sessions."""
    sessions.start("a", e.Start(), 0.0)
    for lease, now in ((5, 0.0), (6, 1.0)):
        sessions.handle(m.Pinned("a", lease - 5, lease, b"W", SPEC), (), now)
        tries = opened(sessions.handle(died(lease, proven=False), (), now))
    assert not tries
    assert not opened(sessions.tick(3.9))
    ((third, _),) = opened(sessions.tick(4.0))
    assert third.epoch == 2
