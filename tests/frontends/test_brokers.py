"""A frontend with several brokers: which of them leads."""

from __future__ import annotations

import pytest

from asr_frontends import events as e
from asr_frontends.brokers import FrontendBrokers, Post
from asr_frontends.journal import Budget
from asr_frontends.outbox import Command, Deliver, ToBroker
from asr_frontends.session import Limits
from asr_frontends.sessions import Sessions
from asr_proto import messages as m

SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
POOL = m.Pool(1, 2, 2, ("fake",))
A, B = 0, 1


class Frontend:
    def __init__(self, links: int = 2) -> None:
        self.now = 0.0
        self.core = FrontendBrokers(Sessions("f", Limits(), Budget(2**20), 0.0), links)

    def receive(self, link: int, message: m.FromBroker) -> list[Command | Post]:
        commands = self.core.handle(link, message, (), self.now)
        self.core.check()
        return commands

    def start(self, id: str = "s") -> None:
        self.core.sessions.start(id, e.Start(), self.now)

    def pin(self, link: int, lease: int, epoch: int = 0) -> list[Command | Post]:
        return self.receive(link, m.Pinned("s", epoch, lease, b"W", SPEC))


def opened(commands: list[Command | Post]) -> list[int]:
    """The epochs of the Opens among the commands."""
    messages = [command.message for command in commands if isinstance(command, ToBroker)]
    return [message.epoch for message in messages if isinstance(message, m.Open)]


def notices(commands: list[Command | Post]) -> int:
    return sum(isinstance(one, Deliver) and isinstance(one.event, e.Notice) for one in commands)


@pytest.fixture
def served() -> Frontend:
    """A frontend with one session; the first broker leads."""
    frontend = Frontend()
    frontend.receive(B, m.Standby(12))
    frontend.receive(A, m.Welcome(11, 1.0, 1))
    frontend.start()
    frontend.pin(A, 1)
    return frontend


def test_the_session_moves_once_when_the_leader_is_gone(served: Frontend) -> None:
    commands = served.core.broken(A, served.now)
    assert notices(commands) == 1 and opened(commands) == []
    assert served.core.leader is None and not served.core.sessions.registered
    assert opened(served.receive(B, m.Welcome(12, 1.0, 2))) == [1]
    served.pin(B, 2, epoch=1)
    assert served.core.leader == B


@pytest.mark.parametrize("message", [m.Standby(11), m.Unregistered()])
def test_a_leader_steps_down_with_a_message(served: Frontend, message: m.FromBroker) -> None:
    assert notices(served.receive(A, message)) == 1
    assert served.core.leader is None


def test_a_later_term_wins(served: Frontend) -> None:
    """The old leader hangs and has sent nothing."""
    commands = served.receive(B, m.Welcome(12, 1.0, 2))
    assert notices(commands) == 1 and opened(commands) == [1]
    assert served.receive(A, m.Lost(1, "worker-lost")) == []
    assert served.receive(A, m.Standby(11)) == []


def test_an_earlier_term_waits_for_the_end_of_a_later_one(served: Frontend) -> None:
    served.receive(B, m.Welcome(12, 1.0, 2))
    assert served.receive(A, m.Welcome(11, 1.0, 1)) == []
    assert served.core.leader == B
    assert opened(served.core.broken(B, served.now)) == [1]
    assert served.core.leader == A


def test_the_end_of_a_standby_changes_nothing(served: Frontend) -> None:
    assert served.core.broken(B, served.now) == []
    assert served.core.restored(B) == [Post(B, m.RegisterFrontend(m.PROTOCOL_VERSION, "f"))]
    assert served.core.restored(B) == []
    assert served.core.leader == A


def test_a_request_without_a_leader_goes_to_the_next_leader(served: Frontend) -> None:
    served.core.broken(A, served.now)
    assert served.core.route(ToBroker(m.Close(1))) == []


def test_the_heartbeat_goes_to_all(served: Frontend) -> None:
    beats = served.core.route(ToBroker(m.FrontendHeartbeat((1,))))
    assert beats == [Post(A, m.FrontendHeartbeat((1,))), Post(B, m.FrontendHeartbeat(()))]
    served.core.broken(A, served.now)
    beats = served.core.route(ToBroker(m.RegisterFrontend(m.PROTOCOL_VERSION, "f")))
    assert beats == [Post(B, m.FrontendHeartbeat(()))]


@pytest.fixture
def single() -> Frontend:
    """A frontend with one session; its only broker has a free slot."""
    frontend = Frontend(links=1)
    frontend.receive(A, m.Welcome(11, 1.0))
    frontend.receive(A, POOL)
    frontend.start()
    frontend.pin(A, 1)
    return frontend


def test_the_session_waits_for_the_next_run_of_a_single_broker(single: Frontend) -> None:
    assert notices(single.core.broken(A, single.now)) == 1
    assert single.core.restored(A) == [Post(A, m.RegisterFrontend(m.PROTOCOL_VERSION, "f"))]
    assert opened(single.receive(A, m.Welcome(12, 1.0))) == [1]


def test_a_frontend_is_ready_only_with_the_broker_of_now(single: Frontend) -> None:
    """Not with what the last broker reported, even if that arrives late."""
    sessions = single.core.sessions
    assert sessions.ready(single.now)
    single.core.broken(A, single.now)
    assert not sessions.ready(single.now) and not sessions.connected(single.now)
    single.receive(A, POOL)
    single.core.restored(A)
    assert not sessions.ready(single.now)
    single.receive(A, m.Welcome(12, 1.0))
    single.receive(A, m.Pool(0, 0, 0, ()))
    assert sessions.connected(single.now) and not sessions.ready(single.now)
    single.receive(A, POOL)
    assert sessions.ready(single.now)


def test_a_new_session_waits_for_the_next_broker(single: Frontend) -> None:
    single.core.broken(A, single.now)
    single.now = 4.0
    single.start("new")
    single.core.restored(A)
    assert opened(single.receive(A, m.Welcome(12, 1.0))) == [1, 0]


def test_a_second_welcome_of_the_same_term_moves_nothing(served: Frontend) -> None:
    """Two brokers that lead in one term: the frontend stays with the first."""
    assert served.receive(B, m.Welcome(12, 1.0, 1)) == []
    assert served.core.leader == A
    assert served.core.sessions.tick(10.0)[-1] == ToBroker(m.FrontendHeartbeat((1,)))


def test_the_leader_may_welcome_again_in_its_term(served: Frontend) -> None:
    """It has received two registrations: no session moves."""
    assert served.receive(A, m.Welcome(11, 1.0, 1)) == []
    assert served.core.leader == A


def test_without_sessions_registered_an_earlier_term_may_lead() -> None:
    frontend = Frontend()
    frontend.receive(A, m.Welcome(11, 1.0, 5))
    frontend.core.broken(A, 0.0)
    frontend.receive(B, m.Welcome(12, 1.0, 2))
    assert frontend.core.leader == B


def test_messages_of_a_broken_connection_are_dropped(served: Frontend) -> None:
    served.core.broken(B, served.now)
    assert served.receive(B, m.Welcome(12, 1.0, 9)) == []
    assert served.core.leader == A


def test_a_message_for_the_broker_goes_to_the_leader(served: Frontend) -> None:
    setup = m.Setup("en", True, 16000, None)
    assert served.core.route(ToBroker(m.Close(1), setup)) == [Post(A, m.Close(1), setup)]


def test_the_frontend_registers_again_with_a_broker_that_has_no_registration(served: Frontend) -> None:
    registration = m.RegisterFrontend(m.PROTOCOL_VERSION, "f")
    assert served.receive(B, m.Unregistered()) == [Post(B, registration)]
    assert served.receive(B, m.Unregistered()) == []  # the first answer is on its way
    assert served.core.route(ToBroker(m.FrontendHeartbeat((1,)))) == [
        Post(A, m.FrontendHeartbeat((1,))),
        Post(B, registration),
    ]
