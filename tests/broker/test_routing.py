"""The routing core: lists of commands for lists of events, and a Hypothesis machine over its invariants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from msgspec import structs

from asr_broker.events import Command, FromFrontend, FromWorker, Gone, ToFrontend, ToWorker
from asr_broker.peers import NO_LOAD, LeaseState, Timing
from asr_broker.routing import Routing
from asr_proto import messages as m

BOOT = 7
SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
F1, F2, W1, W2 = b"F1", b"F2", b"W1", b"W2"


class Broker:
    """The core with a clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.core = Routing(BOOT, self.now)

    def frontend(self, peer: bytes, message: m.FromFrontend, body: bytes | None = None) -> list[Command]:
        return self.core.handle(FromFrontend(peer, message, body), self.now)

    def worker(self, peer: bytes, message: m.FromWorker, body: bytes | None = None) -> list[Command]:
        return self.core.handle(FromWorker(peer, message, body), self.now)

    def gone(self, peer: bytes) -> list[Command]:
        return self.core.handle(Gone(peer), self.now)

    def register(self, *peers: bytes, spec: m.Spec = SPEC) -> None:
        for peer in peers:
            if peer.startswith(b"F"):
                self.frontend(peer, m.RegisterFrontend(m.PROTOCOL_VERSION, peer.decode()))
            else:
                self.worker(peer, m.RegisterWorker(m.PROTOCOL_VERSION, peer.decode(), spec))

    def open(
        self, session: str, peer: bytes = F1, epoch: int = 0, model: str = "", language: str = ""
    ) -> list[Command]:
        return self.frontend(peer, m.Open(session, epoch, model, language), b"setup")

    def pin(self, session: str, peer: bytes = F1, epoch: int = 0) -> m.Pinned:
        pinned = [c.message for c in self.open(session, peer, epoch) if isinstance(c.message, m.Pinned)]
        assert pinned, "no slot"
        return pinned[0]

    def advance(self, seconds: float, load: m.Load | None = NO_LOAD) -> list[Command]:
        """Let time pass; the workers report `load` meanwhile, or nothing if it is None."""
        commands: list[Command] = []
        end = self.now + seconds
        while self.core.next_deadline() <= end:
            self.now = max(self.now, self.core.next_deadline())
            for peer in list(self.core.workers) if load else []:
                commands += self.worker(peer, m.WorkerHeartbeat(load))
            commands += self.core.tick(self.now)
        self.now = end
        return commands


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    broker.register(F1, W1)
    yield broker
    broker.core.check()


def lease(number: int) -> int:
    return (BOOT << 32) + number


def test_open_grants_a_slot_and_notifies_both_sides(broker: Broker) -> None:
    commands = broker.open("s")
    assert commands == [
        ToWorker(W1, m.Grant(lease(1), 0, "s", F1), b"setup"),
        ToFrontend(F1, m.Pinned("s", 0, lease(1), W1, SPEC)),
    ]


def test_open_repeated_is_answered_and_granted_once(broker: Broker) -> None:
    pinned = broker.pin("s")
    assert broker.open("s") == [ToFrontend(F1, pinned)]


def test_a_higher_epoch_releases_the_older_lease(broker: Broker) -> None:
    old = broker.pin("s")
    commands = broker.open("s", epoch=1)
    assert commands[0] == ToWorker(W1, m.Release(old.lease))
    assert commands[1] == ToWorker(W1, m.Grant(lease(2), 1, "s", F1), b"setup")


@pytest.mark.parametrize(
    ("model", "language", "slug"),
    [("other", "", "unknown-model"), ("", "de", "unsupported-language"), ("fake", "fr-CA", "unsupported-language")],
)
def test_refusals_that_no_retry_helps(broker: Broker, model: str, language: str, slug: str) -> None:
    (command,) = broker.open("s", model=model, language=language)
    assert isinstance(command.message, m.Refused)
    assert (command.message.slug, command.message.retry_after_s) == (slug, 0.0)


@pytest.mark.parametrize("language", ["", "en", "en-GB", "EN-us"])
def test_regional_languages_are_served_by_their_language(broker: Broker, language: str) -> None:
    assert any(isinstance(c.message, m.Pinned) for c in broker.open("s", language=language))


def test_a_full_pool_refuses_with_a_hint(broker: Broker) -> None:
    broker.pin("a")
    broker.pin("b")
    (command,) = broker.open("c")
    assert isinstance(command.message, m.Refused)
    assert command.message.slug == "at-capacity"
    assert command.message.retry_after_s > 0


def test_no_worker_is_not_at_capacity() -> None:
    broker = Broker()
    broker.register(F1)
    (command,) = broker.open("s")
    assert isinstance(command.message, m.Refused)
    assert command.message.slug == "no-worker"


def test_a_slot_is_free_only_after_closed(broker: Broker) -> None:
    """The next user of a slot must find it wiped."""
    pinned = broker.pin("a")
    broker.pin("b")
    assert broker.frontend(F1, m.Close(pinned.lease)) == [ToWorker(W1, m.Release(pinned.lease))]
    assert isinstance(broker.open("c")[0].message, m.Refused)
    broker.worker(W1, m.Closed(pinned.lease))
    assert broker.pin("c").lease == lease(3)


def test_release_is_repeated_until_closed(broker: Broker) -> None:
    """Found by simulation: a lost Closed would leak the slot."""
    pinned = broker.pin("a")
    broker.frontend(F1, m.Close(pinned.lease))
    assert broker.advance(3.0).count(ToWorker(W1, m.Release(pinned.lease))) >= 2
    broker.worker(W1, m.Closed(pinned.lease))
    assert broker.advance(3.0) == []


def test_a_stale_closed_changes_nothing(broker: Broker) -> None:
    pinned = broker.pin("a")
    broker.worker(W1, m.Closed(pinned.lease + 5))
    broker.register(W2)
    broker.worker(W2, m.Closed(pinned.lease))
    assert pinned.lease in broker.core.leases


def test_an_unrenewed_lease_ends(broker: Broker) -> None:
    """Found by simulation: a lost Close would leak the slot."""
    pinned = broker.pin("a")
    commands = broker.advance(Timing().lease_s + 1)
    assert ToFrontend(F1, m.Lost(pinned.lease, "lease-expired")) in commands
    assert ToWorker(W1, m.Release(pinned.lease)) in commands


def test_heartbeats_renew(broker: Broker) -> None:
    pinned = broker.pin("a")
    for _ in range(30):
        broker.advance(1.0)
        (answer,) = broker.frontend(F1, m.FrontendHeartbeat((pinned.lease,)))
        assert isinstance(answer.message, m.Pool)
    assert pinned.lease in broker.core.leases


def test_an_unknown_lease_in_a_heartbeat_is_stale(broker: Broker) -> None:
    broker.register(F2)
    pinned = broker.pin("a")
    assert ToFrontend(F2, m.Stale(pinned.lease)) in broker.frontend(F2, m.FrontendHeartbeat((pinned.lease,)))


def test_a_dead_worker_loses_its_leases_at_once(broker: Broker) -> None:
    pinned = broker.pin("a")
    commands = broker.gone(W1)
    assert ToFrontend(F1, m.Lost(pinned.lease, "worker-lost")) in commands
    assert ToWorker(W1, m.Unregistered()) in commands
    assert broker.core.workers == {}


STUCK = m.Load(steps=7, pending_chunks=1, step_ms_p50=0.0, step_ms_p99=0.0, busy=1.0, real_time_factor=0.0)


@pytest.mark.parametrize(
    ("load", "after_s"),
    [(STUCK, Timing().hang_s), (None, Timing().silent_s)],
    ids=["work and no step", "silent"],
)
def test_a_worker_that_hangs_is_evicted(broker: Broker, load: m.Load | None, after_s: float) -> None:
    """Its sessions would wait for ever, and it would get new ones."""
    pinned = broker.pin("a")
    commands: list[Command] = []
    while broker.core.workers and broker.now < 30.0:
        broker.frontend(F1, m.FrontendHeartbeat((pinned.lease,)))
        commands += broker.advance(1.0, load)
    assert ToFrontend(F1, m.Lost(pinned.lease, "worker-hangs")) in commands
    assert ToWorker(W1, m.Unregistered()) in commands
    assert after_s <= broker.now <= after_s + 1.5


def test_a_stopped_worker_with_work_is_evicted_without_a_report(broker: Broker) -> None:
    """A bundle that was forwarded to it and not answered counts as work."""
    pinned = broker.pin("a")
    broker.frontend(F1, m.Bundle(W1, (pinned.lease,)), b"audio")
    broker.advance(Timing().hang_s - 0.1, None)
    assert W1 in broker.core.workers
    assert ToFrontend(F1, m.Lost(pinned.lease, "worker-hangs")) in broker.advance(0.6, None)


def test_a_broker_that_stalled_evicts_no_peer(broker: Broker) -> None:
    """The messages that its peers sent meanwhile are not read yet."""
    pinned = broker.pin("a")
    broker.frontend(F1, m.Bundle(W1, (pinned.lease,)), b"audio")
    broker.now += 20.0
    broker.core.tick(broker.now)
    assert W1 in broker.core.workers and pinned.lease in broker.core.leases
    broker.advance(Timing().hang_s + 0.5, STUCK)
    assert W1 not in broker.core.workers


def test_an_engine_with_long_steps_has_more_time(broker: Broker) -> None:
    broker.gone(W1)
    broker.register(W2, spec=structs.replace(SPEC, step_s_p99=1.0))
    pinned = broker.pin("a")
    broker.frontend(F1, m.Bundle(W2, (pinned.lease,)), b"audio")
    broker.advance(3.9, None)
    assert W2 in broker.core.workers
    broker.advance(0.6, None)
    assert W2 not in broker.core.workers


def test_a_silent_worker_is_offered_no_session(broker: Broker) -> None:
    """Its free slots do not count as free, so that readiness is true."""
    commands = broker.advance(3.0, None)
    assert ToFrontend(F1, m.Pool(0, 0, 0, ())) in commands
    (refused,) = broker.open("a")
    assert isinstance(refused.message, m.Refused) and refused.message.slug == "no-worker"
    commands = broker.advance(0.5)
    assert ToFrontend(F1, m.Pool(1, 2, 2, ("fake",))) in commands
    broker.pin("a")


# ---- Workers that are busy ----


def load(busy: float, chunk_ms: float, late_ms: float = 0.0) -> m.Load:
    return m.Load(1, 0, 1.0, 1.0, busy, 0.0, chunk_ms, late_ms)


@pytest.fixture
def roomy(broker: Broker) -> Broker:
    """One worker with more slots than it can serve, and chunks of 60 ms."""
    broker.gone(W1)
    broker.register(W2, spec=structs.replace(SPEC, slots=20))
    return broker


def test_what_chunks_cost_limits_the_sessions(roomy: Broker) -> None:
    """At 5 of 60 ms for each chunk, eight sessions fit without waiting."""
    for session in "abcd":
        roomy.pin(session)
    roomy.advance(1.0, load(busy=0.4, chunk_ms=5.0))
    for session in "efgh":
        roomy.pin(session)
    (refused,) = roomy.open("i")
    assert isinstance(refused.message, m.Refused)
    assert refused.message.slug == "at-capacity" and refused.message.retry_after_s > 0
    (pool,) = [c.message for c in roomy.frontend(F1, m.FrontendHeartbeat(())) if isinstance(c.message, m.Pool)]
    assert pool.slots_free == 0
    assert any(isinstance(c.message, m.Pinned) for c in roomy.open("j", epoch=1)), "it was let in elsewhere, long ago"


def test_a_worker_that_is_always_stepping_is_not_full(roomy: Broker) -> None:
    """A worker whose step takes the same time for one chunk and for twenty is always busy, and still has room."""
    roomy.pin("a")
    roomy.advance(1.0, load(busy=1.0, chunk_ms=0.05))
    for session in "bcdefghijklmnopqrst":
        roomy.pin(session)


def test_chunks_that_wait_keep_new_sessions_out(roomy: Broker) -> None:
    roomy.pin("a")
    roomy.advance(1.0, load(busy=0.2, chunk_ms=0.0, late_ms=300.0))
    assert isinstance(roomy.open("b")[0].message, m.Refused)
    roomy.advance(1.0, load(busy=0.2, chunk_ms=0.0, late_ms=3.0))
    roomy.pin("b")


def test_an_old_high_cost_of_a_chunk_fades(roomy: Broker) -> None:
    """Found by simulation: a worker whose steps were slow for a while was never offered a session again."""
    roomy.pin("a")
    roomy.advance(1.0, load(busy=1.0, chunk_ms=120.0))
    roomy.frontend(F1, m.FrontendHeartbeat((lease(1),)))
    assert isinstance(roomy.open("b")[0].message, m.Refused)
    for _ in range(120):
        roomy.advance(1.0, load(busy=0.1, chunk_ms=2.0))
        roomy.frontend(F1, m.FrontendHeartbeat((lease(1),)))
    roomy.pin("b")


def test_an_empty_worker_takes_a_session_at_any_cost_of_a_chunk(roomy: Broker) -> None:
    roomy.pin("a")
    roomy.advance(1.0, load(busy=1.0, chunk_ms=120.0))
    roomy.frontend(F1, m.Close(lease(1)))
    roomy.worker(W2, m.Closed(lease(1)))
    roomy.pin("b")


# ---- Clients that come back ----


def resumable(broker: Broker, session: str = "a", peer: bytes = F1) -> m.Pinned:
    commands = broker.frontend(peer, m.Open(session, 0, "", "", resumable=True), b"setup")
    (pinned,) = [command.message for command in commands if isinstance(command.message, m.Pinned)]
    return pinned


def resumed(broker: Broker, before: m.Pinned, peer: bytes) -> m.Pinned:
    """Resume the session; return the new lease. The worker receives Transfer for the slot of the old one."""
    commands = broker.frontend(peer, m.Resume("a", 3), b"setup again")
    (pinned,) = [command.message for command in commands if isinstance(command.message, m.Pinned)]
    assert pinned.resumed and pinned.epoch == before.epoch + 1 and pinned.lease != before.lease
    transfer = m.Transfer(before.lease, pinned.lease, 0, "a", peer, 3)
    assert ToWorker(W1, transfer, b"setup again") in commands
    assert set(broker.core.leases) == {pinned.lease}
    broker.core.check()
    return pinned


def test_a_detached_session_is_resumed_by_any_frontend(broker: Broker) -> None:
    broker.register(F2)
    pinned = resumable(broker)
    assert broker.frontend(F1, m.Detach(pinned.lease)) == []
    bundle = m.Bundle(F1, (pinned.lease,))
    assert ToWorker(W1, m.Stale(pinned.lease)) not in broker.worker(W1, bundle, b"finals")  # it keeps them
    resumed(broker, pinned, F2)


def test_a_dead_frontends_session_is_resumed_by_another(broker: Broker) -> None:
    broker.register(F2)
    pinned = resumable(broker)
    assert ToWorker(W1, m.Release(pinned.lease)) not in broker.gone(F1)
    resumed(broker, pinned, F2)


def test_a_close_that_the_end_of_its_connection_overtook(broker: Broker) -> None:
    """Seen on a busy machine: a frontend's last session held its slot for the whole grace period."""
    pinned = resumable(broker)
    broker.gone(F1)
    assert ToWorker(W1, m.Release(pinned.lease)) in broker.frontend(F1, m.Close(pinned.lease))
    broker.register(F1)
    assert broker.frontend(F2, m.Close(resumable(broker, "b").lease)) == [ToFrontend(F2, m.Unregistered())]


def test_a_client_that_comes_back_before_its_old_connection_ended(broker: Broker) -> None:
    """Its old connection is half open: the frontend that holds it receives Lost."""
    broker.register(F2)
    pinned = resumable(broker)
    commands = broker.frontend(F2, m.Resume("a", 0), b"setup")
    assert ToFrontend(F1, m.Lost(pinned.lease, m.RESUMED)) in commands
    assert broker.frontend(F1, m.Close(pinned.lease)) == []


def test_a_detached_session_yields_its_slot_to_a_new_one(broker: Broker) -> None:
    """The session that was detached first yields first, and only when no slot is free."""
    gone = [resumable(broker, session) for session in "ab"]
    for pinned in gone:
        broker.frontend(F1, m.Detach(pinned.lease))
    commands = broker.open("c")
    assert [command.message for command in commands[:2]] == [
        m.Release(gone[0].lease),
        m.Grant(lease(3), 0, "c", F1),
    ]
    assert broker.worker(W1, m.Closed(gone[0].lease)) == []
    broker.core.check()
    broker.pin("d")
    (refused,) = broker.open("e")
    assert isinstance(refused.message, m.Refused) and refused.message.slug == "at-capacity"


def test_a_frontend_that_still_moves_a_session_resumed_elsewhere(broker: Broker) -> None:
    """Found by simulation: the frontend got a second lease of the session, and the next Resume continued that one."""
    broker.register(F2)
    pinned = resumable(broker)
    broker.frontend(F2, m.Resume("a", 0), b"setup")
    (refused,) = broker.frontend(F1, m.Open("a", pinned.epoch + 1, "", "", resumable=True), b"setup")
    assert isinstance(refused.message, m.Refused) and refused.message.slug == m.RESUMED


def test_a_session_has_one_lease_wherever_it_is_opened(broker: Broker) -> None:
    """After a restart of the broker the older of two frontends may open first; an evicted frontend may come back."""
    broker.register(F2)
    older = resumable(broker)
    commands = broker.frontend(F2, m.Open("a", 2, "", "", resumable=True), b"setup")
    assert ToFrontend(F1, m.Lost(older.lease, m.RESUMED)) in commands
    assert ToWorker(W1, m.Release(older.lease)) in commands
    broker.gone(F2)
    broker.register(F2)
    broker.worker(W1, m.Closed(older.lease))
    commands = broker.frontend(F2, m.Open("a", 3, "", "", resumable=True), b"setup")
    assert [type(command.message) for command in commands] == [m.Release, m.Grant, m.Pinned]


def test_a_session_that_is_not_resumed_ends(broker: Broker) -> None:
    pinned = resumable(broker)
    broker.frontend(F1, m.Detach(pinned.lease))
    broker.advance(Timing().grace_s - 1.0)
    assert pinned.lease in broker.core.leases
    assert ToWorker(W1, m.Release(pinned.lease)) in broker.advance(2.0)
    (refused,) = broker.frontend(F1, m.Resume("a", 0), b"setup")
    assert isinstance(refused.message, m.Refused) and refused.message.slug == "resume-unavailable"


def test_other_sessions_do_not_wait(broker: Broker) -> None:
    """A client that cannot come back keeps no slot."""
    pinned = broker.pin("a")
    broker.frontend(F1, m.Detach(pinned.lease))
    assert broker.core.leases[pinned.lease].state is LeaseState.PINNED
    (refused,) = broker.frontend(F1, m.Resume("a", 0), b"setup")
    assert isinstance(refused.message, m.Refused)
    assert ToWorker(W1, m.Release(pinned.lease)) in broker.gone(F1)


def test_with_its_worker_a_waiting_session_is_lost(broker: Broker) -> None:
    broker.register(F2)
    resumable(broker)
    broker.gone(F1)
    broker.gone(W1)
    (refused,) = broker.frontend(F2, m.Resume("a", 0), b"setup")
    assert isinstance(refused.message, m.Refused) and refused.message.slug == "resume-unavailable"


# ---- Which peer may change a lease ----


def counts(broker: Broker) -> tuple[int, int]:
    return broker.core.counts.lost, broker.core.counts.stale


def state(broker: Broker, pinned: m.Pinned) -> LeaseState:
    return broker.core.leases[pinned.lease].state


def test_a_detached_session_waits_for_the_grace_period(broker: Broker) -> None:
    pinned = resumable(broker)
    broker.frontend(F1, m.Detach(pinned.lease))
    assert ToFrontend(F1, m.Lost(pinned.lease, "lease-expired")) not in broker.advance(Timing().grace_s - 0.5)
    assert state(broker, pinned) is LeaseState.DETACHED
    commands = broker.advance(1.0)
    assert state(broker, pinned) is LeaseState.RELEASING
    assert ToFrontend(F1, m.Lost(pinned.lease, "lease-expired")) not in commands
    assert counts(broker) == (1, 0)


def test_only_its_frontend_detaches_a_session(broker: Broker) -> None:
    broker.register(F2)
    pinned = resumable(broker)
    broker.frontend(F2, m.Detach(pinned.lease))
    assert state(broker, pinned) is LeaseState.RESUMABLE


def test_a_lease_that_is_being_released_is_not_renewed(broker: Broker) -> None:
    pinned = broker.pin("a")
    broker.frontend(F1, m.Close(pinned.lease))
    due_at = broker.core.leases[pinned.lease].due_at
    assert ToFrontend(F1, m.Stale(pinned.lease)) in broker.frontend(F1, m.FrontendHeartbeat((pinned.lease,)))
    assert broker.core.leases[pinned.lease].due_at == due_at


def test_a_frontend_that_resumes_its_own_session_does_not_lose_it(broker: Broker) -> None:
    pinned = resumable(broker)
    commands = broker.frontend(F1, m.Resume("a", 0), b"setup")
    assert [type(command.message) for command in commands] == [m.Transfer, m.Pinned]
    assert pinned.lease not in broker.core.leases


def test_with_a_worker_only_leases_in_use_are_lost(broker: Broker) -> None:
    """One is being released, one is detached and has no frontend to notify, one is served."""
    broker.register(W2, spec=structs.replace(SPEC, slots=3))
    broker.gone(W1)
    released, detached = broker.pin("r"), resumable(broker, "d")
    served = broker.pin("s")
    broker.frontend(F1, m.Close(released.lease))
    broker.frontend(F1, m.Detach(detached.lease))
    lost = [command for command in broker.gone(W2) if isinstance(command.message, m.Lost)]
    assert lost == [ToFrontend(F1, m.Lost(served.lease, "worker-lost"))]
    assert counts(broker) == (2, 0)
    assert broker.core.status(0.0).lost_total == 2


def test_the_slots_of_detached_sessions_are_announced_as_free(broker: Broker) -> None:
    pinned = resumable(broker)
    broker.pin("b")
    broker.frontend(F1, m.Detach(pinned.lease))
    assert broker.frontend(F1, m.FrontendHeartbeat(())) == [ToFrontend(F1, m.Pool(1, 2, 1, ("fake",)))]


def test_more_work_does_not_excuse_a_worker_that_hangs(broker: Broker) -> None:
    pinned = broker.pin("a")
    for _ in range(5):
        broker.frontend(F1, m.Bundle(W1, (pinned.lease,)), b"audio")
        broker.advance(0.4, None)
    assert W1 not in broker.core.workers


def test_after_a_stall_of_the_broker_deadlines_are_extended(broker: Broker) -> None:
    """This holds for messages that the broker waits for. A Release is repeated without a delay."""
    served, released = broker.pin("a"), broker.pin("b")
    broker.frontend(F1, m.Close(released.lease))
    broker.now += Timing().lease_s + 5.0
    assert broker.core.tick(broker.now) == [ToWorker(W1, m.Release(released.lease))]
    assert state(broker, served) is LeaseState.PINNED
    assert broker.core.leases[served.lease].due_at == broker.now + Timing().lease_s / 2
    broker.advance(Timing().hang_s + 0.6, None)
    assert W1 in broker.core.workers, "it has no work"


def test_a_worker_that_is_merely_busy_or_idle_stays(broker: Broker) -> None:
    for steps in range(60):
        broker.advance(1.0, m.Load(steps, 5, 0.0, 0.0, 1.0, 0.0))
    broker.advance(60.0)
    assert W1 in broker.core.workers


def test_a_dead_frontend_gives_its_slots_back(broker: Broker) -> None:
    pinned = broker.pin("a")
    assert ToWorker(W1, m.Release(pinned.lease)) in broker.gone(F1)
    broker.worker(W1, m.Closed(pinned.lease))
    assert broker.core.leases == {}


def test_unregistered_peers_must_register(broker: Broker) -> None:
    assert broker.frontend(F2, m.FrontendHeartbeat(())) == [ToFrontend(F2, m.Unregistered())]
    assert broker.worker(W2, m.Closed(1)) == [ToWorker(W2, m.Unregistered())]


def test_bundles_are_forwarded_whole_and_untouched(broker: Broker) -> None:
    pinned = broker.pin("a")
    inward = m.Bundle(W1, (pinned.lease,))
    assert broker.frontend(F1, inward, b"body") == [ToWorker(W1, inward, b"body")]
    outward = m.Bundle(F1, (pinned.lease,))
    assert broker.worker(W1, outward, b"body") == [ToFrontend(F1, outward, b"body")]


def test_bundles_with_stale_leases(broker: Broker) -> None:
    broker.register(F2, W2)
    pinned = broker.pin("a")
    mixed = m.Bundle(W1, (pinned.lease, lease(9)))
    assert broker.frontend(F1, mixed, b"x") == [ToFrontend(F1, m.Stale(lease(9))), ToWorker(W1, mixed, b"x")]
    foreign = m.Bundle(W1, (pinned.lease,))
    assert broker.frontend(F2, foreign, b"x") == [ToFrontend(F2, m.Stale(pinned.lease))]
    assert broker.worker(W2, m.Bundle(F1, (pinned.lease,)), b"x") == [ToWorker(W2, m.Stale(pinned.lease))]


@pytest.mark.parametrize("bad", ["unknown", "of another frontend", "of another worker", "closed"])
def test_one_stale_lease_among_many(broker: Broker, bad: str) -> None:
    """In both directions: the sender receives Stale for it, and the bundle is forwarded for the others."""
    broker.register(F2, W2)
    mine = [pin for session in "abc" if (pin := broker.pin(session)).worker == W1]
    closed, current = mine[0].lease, mine[1].lease
    broker.worker(W1, m.Closed(closed))
    other_frontend = next(pin for session in "xyz" if (pin := broker.pin(session, F2)).worker == W1).lease
    other_worker = next(held.lease for held in broker.core.leases.values() if held.worker == W2)
    odd = {"unknown": lease(99), "of another frontend": other_frontend, "of another worker": other_worker}
    held = odd.get(bad, closed)
    inward, outward = m.Bundle(W1, (current, held)), m.Bundle(F1, (held, current))
    assert broker.frontend(F1, inward, b"x") == [ToFrontend(F1, m.Stale(held)), ToWorker(W1, inward, b"x")]
    assert broker.worker(W1, outward, b"x") == [ToWorker(W1, m.Stale(held)), ToFrontend(F1, outward, b"x")]


def test_a_bundle_is_forwarded_as_the_same_object(broker: Broker) -> None:
    """By this the shell recognizes that it can send the bytes it received."""
    inward = m.Bundle(W1, (broker.pin("a").lease,))
    (command,) = broker.frontend(F1, inward, b"x")
    assert command.message is inward


def test_frames_in_transit_pass_until_the_slot_is_wiped(broker: Broker) -> None:
    held = broker.pin("a").lease
    broker.frontend(F1, m.Close(held))
    outward = m.Bundle(F1, (held,))
    assert broker.worker(W1, outward, b"x") == [ToFrontend(F1, outward, b"x")]
    broker.worker(W1, m.Closed(held))
    assert broker.worker(W1, outward, b"x") == [ToWorker(W1, m.Stale(held))]


def test_a_draining_worker_gets_nothing_new(broker: Broker) -> None:
    broker.pin("a")
    broker.worker(W1, m.Drain())
    (command,) = broker.open("b")
    assert isinstance(command.message, m.Refused)
    broker.register(W2)
    assert broker.pin("b").worker == W2


def lost(commands: list[Command]) -> list[m.Lost]:
    return [command.message for command in commands if isinstance(command.message, m.Lost)]


def test_sessions_of_a_draining_worker_move_while_others_have_room(broker: Broker) -> None:
    """Half of the room stays free for new sessions. Each sweep asks again, until the session has its new slot."""
    held = broker.pin("a").lease
    broker.worker(W1, m.Drain())
    assert lost(broker.advance(1.0)) == []  # no other worker
    broker.register(W2)
    asked = lost(broker.advance(broker.core.timing.sweep_s))
    assert asked == [m.Lost(held, m.DRAINS)] == lost(broker.advance(broker.core.timing.sweep_s))
    assert broker.core.counts.lost == 0
    commands = broker.open("a", epoch=1)
    assert ToWorker(W1, m.Release(held)) in commands
    assert broker.core.leases[broker.pin("a", epoch=1).lease].worker == W2
    assert lost(broker.advance(1.0)) == []


def test_sessions_stay_at_a_draining_worker_without_room_elsewhere(broker: Broker) -> None:
    broker.pin("a")
    broker.worker(W1, m.Drain())
    broker.register(W2)
    broker.pin("b")  # W2 has one more slot
    assert lost(broker.advance(1.0)) == []
    other = m.Spec("fake", "other", ("en",), 8, 960, 1.0, "none")
    broker.register(b"W3", spec=other)
    assert lost(broker.advance(1.0)) == []


def test_a_detached_session_stays_at_a_draining_worker(broker: Broker) -> None:
    """Its client may come back to it; only the client has the audio that another worker would need."""
    (*_, pinned) = broker.frontend(F1, m.Open("a", 0, "", "", resumable=True), b"setup")
    assert isinstance(pinned.message, m.Pinned)
    broker.frontend(F1, m.Detach(pinned.message.lease))
    broker.worker(W1, m.Drain())
    broker.register(W2)
    assert lost(broker.advance(1.0)) == []
    assert pinned.message.lease in broker.core.leases


def test_workers_that_drain_together_share_the_room(broker: Broker) -> None:
    broker.register(W2, spec=SPEC)
    for session in "abcd":
        broker.pin(session)
    for peer in (W1, W2):
        broker.worker(peer, m.Drain())
    broker.register(b"W3", spec=m.Spec("fake", "fake", ("en",), 4, 960, 1.0, "none"))
    assert len(lost(broker.advance(broker.core.timing.sweep_s))) == 2


def test_placement_takes_the_emptier_worker(broker: Broker) -> None:
    broker.register(W2, spec=m.Spec("fake", "fake", ("en",), 4, 960, 1.0, "none"))
    workers = [broker.pin(session).worker for session in "abcdef"]
    assert workers.count(W1) == 2 and workers.count(W2) == 4
    assert workers[:3] == [W1, W2, W2]


def test_status_lists_peers_and_totals(broker: Broker) -> None:
    broker.pin("a")
    status = broker.core.status(5.0)
    assert (status.uptime_s, status.sessions_total) == (5.0, 1)
    assert [(w.name, w.sessions) for w in status.workers] == [("W1", 1)]
    assert [(f.name, f.sessions) for f in status.frontends] == [("F1", 1)]


class RoutingMachine(RuleBasedStateMachine):
    """Any order of events keeps the invariants; leases are never reused; no message goes to the wrong peer."""

    leases = Bundle("leases")
    peers_f, peers_w = st.sampled_from([F1, F2]), st.sampled_from([W1, W2])

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.granted: set[int] = set()

    @rule(peer=st.sampled_from([F1, F2, W1, W2]))
    def register(self, peer: bytes) -> None:
        self.broker.register(peer)

    @rule(target=leases, peer=peers_f, session=st.sampled_from("abcd"), epoch=st.integers(0, 3), stays=st.booleans())
    def open(self, peer: bytes, session: str, epoch: int, stays: bool) -> int:
        commands = self.broker.frontend(peer, m.Open(session, epoch, "", "", resumable=stays), b"setup")
        grants = [c for c in commands if isinstance(c.message, m.Grant)]
        for grant in grants:
            assert isinstance(grant.message, m.Grant)
            assert grant.message.lease not in self.granted
            self.granted.add(grant.message.lease)
        pinned = [c.message for c in commands if isinstance(c.message, m.Pinned)]
        return pinned[0].lease if pinned else lease(10**6)

    @rule(peer=peers_f, held=leases)
    def detach(self, peer: bytes, held: int) -> None:
        before = self.broker.core.leases.get(held)
        assert self.broker.frontend(peer, m.Detach(held)) in ([], [ToFrontend(peer, m.Unregistered())])
        assert self.broker.core.leases.get(held) is before

    @rule(target=leases, peer=peers_f, session=st.sampled_from("abcd"))
    def resume(self, peer: bytes, session: str) -> int:
        """The slot stays taken, by one lease; without an old one there is no new one."""
        count = len(self.broker.core.leases)
        commands = self.broker.frontend(peer, m.Resume(session, 0), b"setup")
        assert len(self.broker.core.leases) == count
        pinned = [c.message for c in commands if isinstance(c.message, m.Pinned)]
        transfers = [c.message for c in commands if isinstance(c.message, m.Transfer)]
        assert len(pinned) == len(transfers)
        if not pinned:
            return lease(10**6)
        assert pinned[0].lease == transfers[0].lease not in self.granted
        self.granted.add(pinned[0].lease)
        return pinned[0].lease

    @rule(peer=peers_f, held=leases)
    def close(self, peer: bytes, held: int) -> None:
        self.broker.frontend(peer, m.Close(held))

    @rule(peer=peers_w, held=leases)
    def closed(self, peer: bytes, held: int) -> None:
        before = self.broker.core.leases.get(held)
        self.broker.worker(peer, m.Closed(held))
        if before is not None and before.worker != peer:
            assert held in self.broker.core.leases

    @rule(peer=peers_f, held=leases)
    def heartbeat(self, peer: bytes, held: int) -> None:
        self.broker.frontend(peer, m.FrontendHeartbeat((held,)))

    @rule(frontend=peers_f, worker=peers_w, named=st.lists(leases, min_size=1, max_size=4))
    def bundles(self, frontend: bytes, worker: bytes, named: list[int]) -> None:
        """In both directions: each lease that is not between these two peers is stale, and the others pass."""
        held = [self.broker.core.leases.get(one) for one in named]
        pairs = [one and (one.frontend, one.worker) for one in held]
        stale = [m.Stale(one) for one, pair in zip(named, pairs, strict=True) if pair != (frontend, worker)]
        inward, outward = m.Bundle(worker, tuple(named)), m.Bundle(frontend, tuple(named))
        if frontend in self.broker.core.frontends:
            passed = [ToWorker(worker, inward, b"")] if len(stale) < len(named) else []
            answers = [ToFrontend(frontend, one) for one in stale]
            assert self.broker.frontend(frontend, inward, b"") == [*answers, *passed]
        if worker in self.broker.core.workers:
            lives = frontend in self.broker.core.frontends and len(stale) < len(named)
            passed = [ToFrontend(frontend, outward, b"")] if lives else []
            answers = [ToWorker(worker, one) for one in stale]
            assert self.broker.worker(worker, outward, b"") == [*answers, *passed]

    @rule(peer=st.sampled_from([F1, F2, W1, W2]))
    def gone(self, peer: bytes) -> None:
        self.broker.gone(peer)
        assert peer not in self.broker.core.workers and peer not in self.broker.core.frontends

    @rule(peer=peers_w)
    def drain(self, peer: bytes) -> None:
        self.broker.worker(peer, m.Drain())

    @rule(seconds=st.floats(0.1, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.broker.advance(seconds)

    @invariant()
    def routing_holds(self) -> None:
        self.broker.core.check()

    def teardown(self) -> None:
        """Liveness: with workers that answer and frontends that are gone, every lease ends."""
        for peer in (F1, F2):
            self.broker.gone(peer)
        for held in list(self.broker.core.leases.values()):
            self.broker.worker(held.worker, m.Closed(held.lease))
        assert self.broker.core.leases == {}


TestRoutingMachine = RoutingMachine.TestCase
TestRoutingMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
