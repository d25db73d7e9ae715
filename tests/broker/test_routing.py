"""The routing core: lists of commands for lists of events, and a Hypothesis machine over its invariants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from asr_broker.routing import NO_LOAD, Command, FromFrontend, FromWorker, Gone, Routing, Timing, ToFrontend, ToWorker
from asr_proto import messages as m

BOOT = 7
SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
F1, F2, W1, W2 = b"F1", b"F2", b"W1", b"W2"


class Broker:
    """The core with a clock that tests turn by hand."""

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
        """Let time pass; the workers report `load` all the while, or nothing where it is None."""
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


def test_open_grants_a_slot_and_tells_both_sides(broker: Broker) -> None:
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


def test_full_says_so_with_a_hint(broker: Broker) -> None:
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


def test_a_heartbeat_with_a_lease_of_nobody_is_stale(broker: Broker) -> None:
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


@pytest.mark.parametrize("load", [STUCK, None], ids=["work and no step", "silent"])
def test_a_worker_that_hangs_is_given_up(broker: Broker, load: m.Load | None) -> None:
    """Sessions on it would wait for ever, and new ones would join them."""
    pinned = broker.pin("a")
    commands: list[Command] = []
    while broker.core.workers and broker.now < 30.0:
        broker.frontend(F1, m.FrontendHeartbeat((pinned.lease,)))
        commands += broker.advance(1.0, load)
    assert ToFrontend(F1, m.Lost(pinned.lease, "worker-lost")) in commands
    assert ToWorker(W1, m.Unregistered()) in commands
    assert Timing().hang_s <= broker.now <= Timing().hang_s + 2.0


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


def test_the_unknown_must_register(broker: Broker) -> None:
    assert broker.frontend(F2, m.FrontendHeartbeat(())) == [ToFrontend(F2, m.Unregistered())]
    assert broker.worker(W2, m.Closed(1)) == [ToWorker(W2, m.Unregistered())]


def test_another_protocol_version_is_rejected(broker: Broker) -> None:
    (a,) = broker.frontend(F2, m.RegisterFrontend(99, "f"))
    (b,) = broker.worker(W2, m.RegisterWorker(99, "w", SPEC))
    assert isinstance(a.message, m.Rejected) and isinstance(b.message, m.Rejected)
    assert "99" in a.message.detail


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


def test_a_draining_worker_gets_nothing_new(broker: Broker) -> None:
    broker.pin("a")
    broker.worker(W1, m.Drain())
    (command,) = broker.open("b")
    assert isinstance(command.message, m.Refused)
    broker.register(W2)
    assert broker.pin("b").worker == W2


def test_placement_takes_the_emptier_worker(broker: Broker) -> None:
    broker.register(W2, spec=m.Spec("fake", "fake", ("en",), 4, 960, 1.0, "none"))
    workers = [broker.pin(session).worker for session in "abcdef"]
    assert workers.count(W1) == 2 and workers.count(W2) == 4
    assert workers[:3] == [W1, W2, W2]


def test_status_tells_what_there_is(broker: Broker) -> None:
    broker.pin("a")
    status = broker.core.status(5.0)
    assert (status.uptime_s, status.sessions_total) == (5.0, 1)
    assert [(w.name, w.sessions) for w in status.workers] == [("W1", 1)]
    assert [(f.name, f.sessions) for f in status.frontends] == [("F1", 1)]


class RoutingMachine(RuleBasedStateMachine):
    """Any order of events keeps the invariants; leases are never reused; nothing is said to the wrong peer."""

    leases = Bundle("leases")
    peers_f, peers_w = st.sampled_from([F1, F2]), st.sampled_from([W1, W2])

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.granted: set[int] = set()

    @rule(peer=st.sampled_from([F1, F2, W1, W2]))
    def register(self, peer: bytes) -> None:
        self.broker.register(peer)

    @rule(target=leases, peer=peers_f, session=st.sampled_from("abcd"), epoch=st.integers(0, 3))
    def open(self, peer: bytes, session: str, epoch: int) -> int:
        commands = self.broker.open(session, peer, epoch)
        grants = [c for c in commands if isinstance(c.message, m.Grant)]
        for grant in grants:
            assert isinstance(grant.message, m.Grant)
            assert grant.message.lease not in self.granted
            self.granted.add(grant.message.lease)
        pinned = [c.message for c in commands if isinstance(c.message, m.Pinned)]
        return pinned[0].lease if pinned else lease(10**6)

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

    @rule(peer=peers_f, worker=peers_w, held=leases)
    def audio(self, peer: bytes, worker: bytes, held: int) -> None:
        for command in self.broker.frontend(peer, m.Bundle(worker, (held,)), b""):
            if isinstance(command, ToWorker):
                current = self.broker.core.leases[held]
                assert (current.frontend, current.worker) == (peer, command.peer)

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
    def invariants(self) -> None:
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
