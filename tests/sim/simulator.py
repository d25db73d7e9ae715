"""Simulates the pure cores of broker, frontends and workers in virtual time, with real wire bytes and the fake engine.

`Faults` configures the faults. Connections lose messages as ZeroMQ's do: order is kept per connection, and messages in
transit are lost only when the connection ends, which both ends notice. A seed replays a run exactly.

Safety: a client's finals are always a prefix of the text of its audio, also after any fault. Liveness: after the last
fault every client receives exactly one terminal event, every lease ends and every slot is free. Audio of a client may
be poisonous: it kills the worker that steps it. Only such a client's session may end with poisonous-audio.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from asr_broker.candidate import Candidate
from asr_broker.events import Command as BrokerCommand
from asr_broker.events import FromFrontend, FromWorker, Gone, Side, ToFrontend
from asr_broker.leadership import LEASE_S, Leadership
from asr_broker.routing import Routing
from asr_frontends import brokers as frontend_brokers
from asr_frontends import events as e
from asr_frontends.handed import HandedSession
from asr_frontends.journal import Budget
from asr_frontends.outbox import Command as FrontendCommand
from asr_frontends.outbox import Credit, Deliver, Pause, SendBundle, ToBroker
from asr_frontends.portable import encode, read
from asr_frontends.session import Limits
from asr_frontends.sessions import Sessions as FrontendSessions
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import SERVICE_SLUGS, AsrError, DecodeError, PeerError
from asr_workers import outbox as worker_outbox
from asr_workers.brokers import WorkerBrokers
from asr_workers.engines.base import Chunk
from asr_workers.engines.fake import (
    EXCEPTION,
    HANG,
    SIGSEGV,
    FakeConfig,
    FakeEngine,
    poison,
    transcript,
)
from asr_workers.jobs import (
    Answer,
    CloseSlot,
    EngineFailed,
    Job,
    OpenSlot,
    RunStep,
    SlotClosed,
    SlotOpened,
    SnapshotTaken,
    StepDone,
    TakeSnapshot,
)
from asr_workers.sessions import Sessions as WorkerSessions

SILENT_S = 3.0
"""Time in seconds after which both ends of a cut link consider it broken."""
RECONNECT_S = 0.05
LINGER_S = 0.05
"""How long a process that ends by itself still sends, in seconds."""
LIMITS = Limits(idle_s=25.0, credit_s=2.0, journal_s=4.0, open_s=10.0, move_s=30.0)


@dataclass(frozen=True, slots=True)
class Faults:
    """The rates of faults, in events per virtual second over the whole system, and their parameters."""

    delay_ms: float = 1.0
    worker_crash: float = 0.0
    worker_drain: float = 0.0
    broker_crash: float = 0.0
    frontend_crash: float = 0.0
    frontend_leave: float = 0.0
    """A frontend leaves its sessions, as at the end of its time to drain."""
    connection_loss: float = 0.0
    """A peer's connection to a broker ends and comes back; messages in transit are lost."""
    broker_freeze: float = 0.0
    """A broker process is frozen for up to `broker_freeze_s`, and then continues."""
    broker_freeze_s: float = 4.0
    partition: float = 0.0
    """The network between one broker and one peer is cut for up to `partition_s`."""
    partition_s: float = 8.0
    frontend_freeze: float = 0.0
    """A frontend process is frozen for `freeze_s`, which is longer than its leases live, and then continues."""
    freeze_s: float = 12.0
    worker_freeze: float = 0.0
    """A worker process is frozen, possibly long enough for the broker to give it up, and then continues."""
    client_vanishes: float = 0.0
    client_breaks: float = 0.0
    """A client's connection breaks; the client resumes over another one."""
    worker_swallows: float = 0.0
    """A worker takes the audio of its present sessions and does nothing with it; it reports itself idle."""
    handover: float = 0.0
    """A frontend hands a client's connection over to another frontend."""
    slow_step_ms: float = 0.0
    """Longest duration of an engine step, in milliseconds."""
    restart_s: float = 0.5


QUIET = Faults()
STORMY = Faults(
    delay_ms=5.0,
    worker_crash=0.15,
    worker_drain=0.03,
    broker_crash=0.05,
    frontend_crash=0.03,
    frontend_leave=0.05,
    connection_loss=0.15,
    frontend_freeze=0.02,
    worker_freeze=0.03,
    client_vanishes=0.1,
    client_breaks=0.15,
    handover=0.2,
    slow_step_ms=120.0,
)
STORMY_PAIR = replace(STORMY, broker_crash=0.1, broker_freeze=0.05, partition=0.15)
"""The faults for runs with two brokers."""


@dataclass(slots=True)
class Client:
    """One client and the events that it has received."""

    name: str
    samples: np.ndarray[tuple[int], np.dtype[np.int16]]
    frame_samples: int
    speed: float
    can_resume: bool
    frontend: SimFrontend | None = None
    session: str = ""
    sent: int = 0
    finals: list[str] = field(default_factory=list)
    terminal: e.Error | e.Bye | None = None
    vanished: bool = False
    poison: int | None = None
    """The value in POISONS in its audio, if that is poisonous."""
    connections: int = 0
    began: int = 0
    """The sample at which the current session began: later than 0 if a lost session was begun anew."""
    finals_before: int = 0
    """Number of finals from the earlier sessions."""
    committed: int = 0
    is_resuming: bool = False
    is_paused: bool = False
    must_begin_anew: bool = False
    must_move: bool = False
    """Whether the client was asked to resume its session elsewhere."""
    has_stopped: bool = False
    """Whether it has sent Stop. A client that cannot resume does so once."""
    is_left: bool = False
    """Whether its frontend has left its session. `samples` are then those that were sent before."""

    def deliver(self, event: e.ServiceEvent) -> None:
        assert self.terminal is None, f"{self.name}: {event} after {self.terminal}"
        if isinstance(event, m.Final):
            assert event.utterance == len(self.finals) - self.finals_before, f"{self.name}: {event}"
            self.finals.append(event.text)
            self.committed = max(self.committed, self.began + event.commit.samples)
            self.check()
        elif isinstance(event, e.Progress):
            self.committed = max(self.committed, self.began + event.committed)
        elif isinstance(event, e.Ready) and event.from_sample is not None:
            assert self.committed <= self.began + event.from_sample <= self.sent, f"{self.name}: audio is missing"
            self.is_resuming, self.sent = False, self.began + event.from_sample
        elif isinstance(event, e.Error) and event.slug == "resume-unavailable":
            self.must_begin_anew = True
        elif self.can_resume and event == e.Bye(e.GOING_AWAY):
            self.must_move = True
        elif isinstance(event, e.Error | e.Bye):
            self.terminal = event

    def left(self) -> None:
        """Its frontend leaves its session: what it has sent is all its audio."""
        if not self.can_resume and not self.has_stopped:
            self.samples, self.is_left = self.samples[: self.sent], True

    def check(self) -> None:
        """Assert safety: no text is lost, doubled, reordered or changed."""
        received = " ".join(self.finals)
        assert (transcript(self.samples) + " ").startswith(received + " ") or not received, (
            f"{self.name} received {received!r}"
        )

    @property
    def over(self) -> bool:
        return self.vanished or self.terminal is not None


class World:
    """The whole system in virtual time. `run` drives it, and checks every core's invariants after every event."""

    def __init__(
        self, seed: int, faults: Faults, workers: int = 2, slots: int = 3, frontends: int = 2, brokers: int = 1
    ) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        # In every third world the engine commits so rarely that workers must request commits.
        self.utterance_words = 40 if seed % 3 == 0 else 4
        self.now = 0.0
        self.clients: list[Client] = []
        self.killed: Counter[str] = Counter()
        """By session: the number of workers that died at its poisonous audio."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._boots = 0
        self.brokers: list[SimBroker | None] = [None] * brokers
        self.frontends: list[SimFrontend] = []
        self.workers: list[SimWorker] = []
        for number in range(brokers):
            self.start_broker(number)
        self.frontends = [SimFrontend(self, f"f{index}") for index in range(frontends)]
        self.workers = [SimWorker(self, f"w{index}", slots) for index in range(workers)]

    # ---- Time ----

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (self.now + delay_s, self._sequence, action))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        while self._events and self._events[0][0] <= until and not done():
            self.now, _, action = heapq.heappop(self._events)
            action()
            self._check()
        if not done():
            self.now = until

    def _check(self) -> None:
        for broker in self.brokers:
            if broker:
                broker.core.check()
        for process in (*self.frontends, *self.workers):
            if process.alive:
                process.brokers.check()
        if len(self.brokers) > 1:
            self._check_votes()

    def count_death(self, lease: int) -> None:
        """The worker of this lease dies at the session's audio."""
        for frontend in self.frontends:
            if (session := frontend.core._by_lease.get(lease)) is not None:
                self.killed[session.id] += 1

    def _check_votes(self) -> None:
        """Assert that a worker has only sessions of the broker that it voted for, and that one broker has its vote.

        A broken connection frees the vote immediately; the broker at the other end may notice a little later.
        """
        for worker in self.workers:
            counted = [
                one
                for one in self.brokers
                if one
                and isinstance(one.core, Candidate)
                and one.core.leadership.has_vote_of(worker.identity, self.now)
                and self.now - worker.lost_at[one.number] > LEASE_S
            ]
            assert len(counted) <= 1, f"{worker.name} votes for two"
            assert {lease >> 32 for lease in worker.core._sessions} <= {worker.brokers._boot}, worker.name

    def candidates(self) -> list[Candidate]:
        return [one.core for one in self.brokers if one and isinstance(one.core, Candidate)]

    def leaders(self) -> list[SimBroker]:
        living = [one for one in self.brokers if one]
        return [one for one in living if not isinstance(one.core, Candidate) or one.core.leads(self.now)]

    def delay(self) -> float:
        return self.random.expovariate(1000 / self.faults.delay_ms)

    # ---- Processes ----

    def start_broker(self, number: int = 0) -> None:
        self._boots += 1
        self.brokers[number] = SimBroker(self, self._boots, number)
        for process in (*self.frontends, *self.workers):
            self.after(RECONNECT_S, partial(process.connection_back, number, process.incarnation))

    def crash_broker(self, number: int = 0) -> None:
        broker = self.brokers[number]
        if broker:
            broker.stop()
            self.brokers[number] = None
            for process in (*self.frontends, *self.workers):
                process.connection_lost(number)
            self.after(self.faults.restart_s, partial(self.start_broker, number))

    def _any_broker(self) -> int:
        return self.random.randrange(len(self.brokers))

    def freeze_broker(self, number: int, seconds: float) -> None:
        broker = self.brokers[number]
        if broker:
            broker.standstill.until = self.now + seconds

    def cut(self, number: int, process: SimFrontend | SimWorker, seconds: float) -> None:
        """Let no message pass for `seconds`; after SILENT_S both ends consider the connection broken."""
        process.cut_until[number] = max(process.cut_until[number], self.now + seconds)
        if seconds > SILENT_S:
            self.after(SILENT_S, partial(self.disconnect, number, process, seconds - SILENT_S))

    def disconnect(self, number: int, process: SimFrontend | SimWorker, seconds: float = RECONNECT_S) -> None:
        """End the connection, which both ends notice; it comes back after `seconds`."""
        broker = self.brokers[number]
        if process.alive:
            process.connection_lost(number)
            if broker:
                broker.lost(process.identity)
            self.after(seconds, partial(process.connection_back, number, process.incarnation))

    def process_of(self, identity: bytes) -> SimFrontend | SimWorker | None:
        for process in (*self.frontends, *self.workers):
            if process.alive and process.identity == identity:
                return process
        return None

    # ---- Faults ----

    def faults_until(self, until: float) -> None:
        for rate, strike in (
            (self.faults.worker_crash, lambda: self.random.choice(self.workers).crash()),
            (self.faults.worker_drain, lambda: self.random.choice(self.workers).drain()),
            (self.faults.frontend_crash, lambda: self.random.choice(self.frontends).crash()),
            (self.faults.frontend_leave, lambda: self.random.choice(self.frontends).leave()),
            (self.faults.frontend_freeze, lambda: self.random.choice(self.frontends).freeze()),
            (self.faults.broker_crash, lambda: self.crash_broker(self._any_broker())),
            (self.faults.connection_loss, self._lose_connection),
            (self.faults.broker_freeze, self._freeze_broker),
            (self.faults.partition, self._partition),
            (self.faults.worker_freeze, lambda: self.random.choice(self.workers).freeze()),
            (self.faults.worker_swallows, lambda: self.random.choice(self.workers).swallow()),
            (self.faults.client_vanishes, self._vanish),
            (self.faults.client_breaks, self._break),
            (self.faults.handover, self._hand_over),
        ):
            at = self.random.expovariate(rate) if rate else until
            while at < until:
                self.after(at, strike)
                at += self.random.expovariate(rate)

    def _lose_connection(self) -> None:
        self.disconnect(self._any_broker(), self.random.choice([*self.frontends, *self.workers]))

    def _freeze_broker(self) -> None:
        self.freeze_broker(self._any_broker(), self.random.uniform(0, self.faults.broker_freeze_s))

    def _partition(self) -> None:
        process = self.random.choice([*self.frontends, *self.workers])
        self.cut(self._any_broker(), process, self.random.uniform(0, self.faults.partition_s))

    def _vanish(self) -> None:
        alive = [client for client in self.clients if not client.over and client.frontend]
        if alive:
            client = self.random.choice(alive)
            client.vanished = True
            assert client.frontend is not None
            client.frontend.from_client(client, e.Abort())

    def _break(self) -> None:
        speaking = [client for client in self.clients if not client.over and client.frontend]
        if speaking:
            self.broken(self.random.choice(speaking), is_noticed=self.random.random() < 0.5)

    def _hand_over(self) -> None:
        """Hand a client over to any running frontend, also to the same one: so it goes where nobody takes it."""
        running = [one for one in self.frontends if one.alive and self.now >= one.standstill.until]
        speaking = [client for client in self.clients if not client.over and client.frontend in running]
        if speaking:
            client = self.random.choice(speaking)
            assert client.frontend is not None
            client.frontend.hand_over(client, self.random.choice(running))

    # ---- Clients ----

    def broken(self, client: Client, *, is_noticed: bool) -> None:
        """Break a client's connection; the frontend may notice it late, or never."""
        assert client.frontend is not None
        client.frontend.disconnected(client, is_noticed=is_noticed or not client.can_resume)
        client.frontend = None
        client.must_move = False
        if not client.can_resume:
            client.vanished = True
            return
        client.connections += 1
        client.is_resuming = True
        self.after(self.random.uniform(0.05, 3.0), lambda: self._resume(client))

    def _resume(self, client: Client) -> None:
        if client.over or client.frontend is not None:
            return
        alive = [frontend for frontend in self.frontends if frontend.alive]
        if not alive:
            self.after(0.5, lambda: self._resume(client))
            return
        client.frontend = self.random.choice(alive)
        client.frontend.resume(client)
        self._send_next(client, client.connections)

    def _begin_anew(self, client: Client) -> None:
        """Send the unconfirmed audio again, in a new session that is independent of the previous one."""
        client.must_begin_anew = client.is_resuming = False
        client.began = client.sent = client.committed
        client.finals_before = len(client.finals)
        client.connections += 1
        if client.frontend is not None:
            client.frontend.disconnected(client, is_noticed=False)
        client.frontend = None
        self._connect(client)

    def add_client(
        self, name: str, seconds: float, frame_ms: int, speed: float, at: float, poison: int | None = None
    ) -> Client:
        """Add a client that sends `seconds` of audio in frames of `frame_ms`, at `speed` times real time.

        With `poison`, the middle of its audio is poisonous.
        """
        noise = np.random.default_rng(self.random.getrandbits(32))
        samples = noise.integers(-9999, 9999, int(seconds * 16000)).astype(np.int16)
        if poison is not None:
            samples[len(samples) // 2 :][:1600] = poison
        can_resume = self.random.random() < 0.7
        client = Client(name, samples, frame_ms * 16, speed, can_resume=can_resume, poison=poison)
        self.clients.append(client)
        self.after(at, lambda: self._connect(client))
        return client

    def _connect(self, client: Client) -> None:
        alive = [frontend for frontend in self.frontends if frontend.alive]
        if alive:
            client.frontend = self.random.choice(alive)
            client.frontend.connect(client)
            self._send_next(client, client.connections)
        else:
            client.terminal = e.Error("going-away", "no frontend listens")

    def _send_next(self, client: Client, connection: int) -> None:
        if client.over or client.frontend is None or connection != client.connections:
            return
        if client.must_begin_anew:
            self._begin_anew(client)
            return
        if client.must_move:
            self.broken(client, is_noticed=False)
            return
        if client.frontend.wants(client) and not client.is_resuming:
            if client.sent >= len(client.samples):
                client.has_stopped = True
                client.frontend.from_client(client, e.Stop())
                return
            frame = client.samples[client.sent : client.sent + client.frame_samples]
            client.sent += len(frame)
            client.frontend.from_client(client, e.Audio(frame.tobytes()))
        self.after(client.frame_samples / 16000 / client.speed, lambda: self._send_next(client, connection))


class Standstill:
    """Delays the actions of a frozen process until it continues; their order is kept."""

    def __init__(self, world: World) -> None:
        self.until = 0.0
        self._world = world
        self._waiting: list[Callable[[], None]] = []

    def perform(self, action: Callable[[], None]) -> None:
        """Run the action now, or after the freeze."""
        if self._waiting or self._world.now < self.until:
            self._waiting.append(action)
            if len(self._waiting) == 1:
                self._sleep()
        else:
            action()

    def _sleep(self) -> None:
        self._world.after(max(0.0, self.until - self._world.now), self._go_on)

    def _go_on(self) -> None:
        if self._world.now < self.until:
            self._sleep()
            return
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            action()


class SimBroker:
    """The broker's core and its connections, which keep order and lose the messages in transit when they end."""

    def __init__(self, world: World, boot: int, number: int) -> None:
        self.world, self.number = world, number
        self.core: Routing | Candidate = Routing(boot, world.now)
        if len(world.brokers) > 1:
            self.core = Candidate(self.core, Leadership(boot, world.now, world.random.random))
        self.running = True
        self.standstill = Standstill(world)
        self._connections: dict[bytes, int] = {}
        self._arrivals: dict[bytes, float] = {}
        self._tick()

    def stop(self) -> None:
        self.running = False

    def connection(self, identity: bytes) -> int:
        return self._connections.get(identity, 0)

    def lost(self, identity: bytes) -> None:
        """End a peer's connection; messages in transit, in both directions, are lost."""
        self._connections[identity] = self.connection(identity) + 1
        self.world.after(0.003, lambda: self.standstill.perform(partial(self._gone, identity)))

    def _gone(self, identity: bytes) -> None:
        if self.running:
            side: Side = "frontend" if identity.startswith(b"f") else "worker"
            self._perform(self.core.handle(Gone(identity, side), self.world.now))

    def receive(self, identity: bytes, side: type[FromFrontend] | type[FromWorker], parts: list[bytes]) -> None:
        """Deliver a peer's message later, if both ends and the connection still exist then."""
        connection = self.connection(identity)

        def arrive() -> None:
            if self.running and connection == self.connection(identity):
                body = parts[1] if len(parts) > 1 else None
                event = side(identity, wire.decode(parts[0]), body)  # type: ignore[arg-type]
                self._perform(self.core.handle(event, self.world.now))

        self._in_order(b">" + identity, lambda: self.standstill.perform(arrive), self.world.process_of(identity))

    def _perform(self, commands: list[BrokerCommand]) -> None:
        if self.running:
            for command in commands:
                self._send(command)

    def _send(self, command: BrokerCommand) -> None:
        peer = self.world.process_of(command.peer)
        connection = self.connection(command.peer)
        parts = [wire.encode(command.message)] + ([command.body] if command.body is not None else [])

        def arrive() -> None:
            if self.running and peer is not None and peer.alive and connection == self.connection(command.peer):
                assert isinstance(peer, SimFrontend) == isinstance(command, ToFrontend)
                peer.from_broker(self.number, parts)

        self._in_order(b"<" + command.peer, arrive, peer)

    def _in_order(self, link: bytes, arrive: Callable[[], None], peer: SimFrontend | SimWorker | None) -> None:
        cut_until = peer.cut_until[self.number] if peer else 0.0
        at = max(self._arrivals.get(link, 0.0), cut_until, self.world.now + self.world.delay())
        self._arrivals[link] = at
        self.world.after(at - self.world.now, arrive)

    def _tick(self) -> None:
        if self.running:
            self._perform(self.core.tick(self.world.now))
            wait_s = max(0.001, self.core.next_deadline() - self.world.now)
            self.world.after(wait_s, lambda: self.standstill.perform(self._tick))


class SimProcess:
    """The common part of frontends and workers: an identity, a link to each running broker, crash and restart."""

    side: type[FromFrontend] | type[FromWorker]

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.alive = False
        self.incarnation = 0
        self.cut_until = [0.0] * len(world.brokers)
        """When the cut of the network to each broker ends."""
        self.lost_at = [-LEASE_S] * len(world.brokers)
        """When each connection last ended."""
        self._linked = [True] * len(world.brokers)
        self._unsent: list[list[list[bytes]]] = [[] for _ in world.brokers]
        self.start()

    @property
    def identity(self) -> bytes:
        return f"{self.name}.{self.incarnation}".encode()

    def start(self) -> None:
        self.alive = True
        self.incarnation += 1
        self._linked = [True] * len(self._linked)
        for unsent in self._unsent:
            unsent.clear()
        self.standstill = Standstill(self.world)
        self.reset()
        self._tick(self.incarnation)

    def reset(self) -> None:
        raise NotImplementedError

    def tick(self) -> float:
        raise NotImplementedError

    def crash(self) -> None:
        """Kill the process; the brokers' sockets notice it."""
        if self.alive:
            self.alive = False
            for broker in self.world.brokers:
                if broker:
                    broker.lost(self.identity)
            self.world.after(self.world.faults.restart_s, self.start)

    def connection_lost(self, number: int) -> None:
        """The connection has ended; queued messages stay queued, as in a DEALER socket."""
        if self.alive:
            self._linked[number], self.lost_at[number] = False, self.world.now
            self._later(partial(self.look, number, is_up=False))

    def connection_back(self, number: int, incarnation: int) -> None:
        if self.alive and incarnation == self.incarnation and self.world.brokers[number]:
            self._linked[number] = True
            self._send_queued(number)
            self._later(partial(self.look, number, is_up=True))

    def look(self, number: int, *, is_up: bool) -> None:
        """Handle an event of the socket's monitor."""
        raise NotImplementedError

    def _later(self, action: Callable[[], None]) -> None:
        """Run the action now, or after the freeze of a frozen process."""
        incarnation = self.incarnation

        def act() -> None:
            if self.alive and incarnation == self.incarnation:
                action()

        self.standstill.perform(act)

    def send(self, number: int, message: m.Message, body: bytes | None = None) -> None:
        self._unsent[number].append([wire.encode(message)] + ([body] if body is not None else []))
        self._send_queued(number)

    def _send_queued(self, number: int) -> None:
        broker = self.world.brokers[number]
        if broker and self._linked[number]:
            for queued in self._unsent[number]:
                broker.receive(self.identity, self.side, queued)
            self._unsent[number].clear()

    def _tick(self, incarnation: int) -> None:
        if self.alive and incarnation == self.incarnation:
            deadline = self.tick()
            self.world.after(max(0.001, deadline - self.world.now), lambda: self._tick(incarnation))


class SimFrontend(SimProcess):
    side = FromFrontend

    def reset(self) -> None:
        self.core = FrontendSessions(self.name, LIMITS, Budget(2**26), self.world.now)
        self.brokers = frontend_brokers.FrontendBrokers(self.core, len(self.world.brokers))
        self.clients: dict[str, Client] = {}
        self._wake_at = float("inf")

    def look(self, number: int, *, is_up: bool) -> None:
        self._perform(self.brokers.restored(number) if is_up else self.brokers.broken(number, self.world.now))

    def freeze(self) -> None:
        self.standstill.until = self.world.now + self.world.faults.freeze_s

    def tick(self) -> float:
        if self.world.now < self.standstill.until:
            return self.standstill.until
        self._perform(self.core.tick(self.world.now))
        return self.world.now + 0.1

    def crash(self) -> None:
        if self.alive:
            super().crash()
            for client in list(self.clients.values()):
                if not client.over and client.frontend is self:
                    self.world.broken(client, is_noticed=False)

    def leave(self) -> None:
        if self.alive and self.world.now >= self.standstill.until:
            for client in self.clients.values():
                if not client.over:
                    client.left()
            self._perform(self.core.leave(self.world.now))

    def connect(self, client: Client) -> None:
        client.session = f"{client.name}.{client.connections}"
        self._start(client, e.Start(resumable=client.can_resume))

    def resume(self, client: Client) -> None:
        self._perform(
            self.core.client(client.session, e.Detach(), self.world.now)
        )  # if the session is still on this frontend
        resume = e.Resume(client.session, len(client.finals) - client.finals_before)
        self._start(client, e.Start(resumable=True, resume=resume))

    def hand_over(self, client: Client, other: SimFrontend) -> None:
        handed = self.core.hand_over(client.session, self.world.now) if other.core.boot == self.core.boot else None
        if handed is None:
            return
        self.clients.pop(client.session)
        client.frontend = other
        other.adopt(client, encode(handed))

    def adopt(self, client: Client, state: bytes) -> None:
        self.clients[client.session] = client
        client.is_paused = False
        self._perform(self.core.adopt(read(state, HandedSession), self.world.now))

    def disconnected(self, client: Client, *, is_noticed: bool) -> None:
        self.clients.pop(client.session, None)
        if is_noticed:
            self.from_client(client, e.Detach())

    def _start(self, client: Client, start: e.Start) -> None:
        self.clients[client.session] = client
        client.is_paused = False
        try:
            self._perform(self.core.start(client.session, start, self.world.now))
        except AsrError as error:
            if start.resume is None:
                client.deliver(e.Error.of(error))
            else:
                self.world.broken(client, is_noticed=False)

    def from_client(self, client: Client, event: e.ClientEvent) -> None:
        if self.alive:
            self._perform(self.core.client(client.session, event, self.world.now))

    def wants(self, client: Client) -> bool:
        return self.world.now >= self.standstill.until and not client.is_paused

    def from_broker(self, number: int, parts: list[bytes]) -> None:
        self._later(partial(self._receive, number, parts))

    def _receive(self, number: int, parts: list[bytes]) -> None:
        message = wire.decode(parts[0])
        frames = wire.decode_frames(parts[1]) if isinstance(message, m.Bundle) else []
        self._perform(self.brokers.handle(number, message, frames, self.world.now))  # type: ignore[arg-type]

    def _perform(self, commands: Sequence[FrontendCommand | frontend_brokers.Post]) -> None:
        for command in commands:
            match command:
                case Deliver():
                    client = self.clients.get(command.session)
                    if client is not None and not client.vanished:
                        client.deliver(command.event)
                case Pause() | Credit():
                    if client := self.clients.get(command.session):
                        client.is_paused = isinstance(command, Pause)
                case SendBundle(bundle, frames):
                    if self.brokers.leader is not None:
                        self.send(self.brokers.leader, bundle, wire.encode_frames(frames))
                case ToBroker():
                    self._perform(self.brokers.route(command))
                case frontend_brokers.Post(link, message, setup):
                    self.send(link, message, wire.encode_setup(setup) if setup else None)
        self._arm()

    def _arm(self) -> None:
        """Tick at the core's next deadline too."""
        deadline = self.core.next_deadline()
        if deadline < self._wake_at:
            self._wake_at = deadline
            self.world.after(max(0.001, deadline - self.world.now), partial(self._wake, deadline, self.incarnation))

    def _wake(self, deadline: float, incarnation: int) -> None:
        if incarnation == self.incarnation and deadline == self._wake_at:
            self._wake_at = float("inf")
            if self.alive and self.world.now >= self.standstill.until:
                self._perform(self.core.tick(self.world.now))


class SimWorker(SimProcess):
    side = FromWorker

    def __init__(self, world: World, name: str, slots: int) -> None:
        self._slots = slots
        super().__init__(world, name)

    def reset(self) -> None:
        self.engine = FakeEngine(FakeConfig(slots=self._slots, utterance_words=self.world.utterance_words))
        self.core = WorkerSessions(self.name, self.engine.spec, self.world.now, witness=self.witness)
        self.brokers = WorkerBrokers(self.core, len(self.world.brokers))
        self._swallowed: set[int] = set()
        self._jobs: list[Job] = []
        self._stepped_leases: tuple[int, ...] = ()
        """The leases of the step that runs."""
        self._open: set[int] = set()
        self._is_stepping = False

    @property
    def witness(self) -> bytes:
        return b"X" + self.identity

    def crash(self, *, proven: bool = False) -> None:
        """Kill the process. Its witness reports soon for which leases the engine worked."""
        if self.alive:
            crashed = wire.encode(m.Crashed(self._stepped_leases, proven))
            super().crash()
            self.world.after(self.world.random.uniform(0.0, 0.3), partial(self._testify, self.witness, crashed))

    def _testify(self, witness: bytes, crashed: bytes) -> None:
        for broker in self.world.brokers:
            if broker:
                broker.receive(witness, FromWorker, [crashed])

    def _swallow(self, chunk: Chunk, value: int, job: RunStep) -> None:
        """The engine steps poisonous audio."""
        self.world.count_death(self.core._by_slot[chunk.slot].lease)
        self._stepped_leases = job.leases
        if value == HANG:
            return  # the step never ends
        if value == EXCEPTION:
            self._raise(job)
        else:
            self.crash(proven=value == SIGSEGV)

    def _raise(self, job: RunStep) -> None:
        """The engine raises: the worker reports it, and ends when the report has been sent."""
        self._stepped_leases = ()
        self.core.failed(EngineFailed(RuntimeError(), job.leases))
        self._end_turn()
        self.standstill.until = self.world.now + LINGER_S
        incarnation = self.incarnation
        self.world.after(LINGER_S, lambda: self.crash() if incarnation == self.incarnation else None)

    def look(self, number: int, *, is_up: bool) -> None:
        if is_up:
            self.brokers.restored(number)
        else:
            self.brokers.broken(number, self.world.now)
        self._end_turn()

    def freeze(self) -> None:
        self.standstill.until = self.world.now + self.world.random.uniform(0.5, 6.0)

    def swallow(self) -> None:
        self._swallowed |= self.core._sessions.keys()

    def tick(self) -> float:
        if self.world.now < self.standstill.until:
            return self.standstill.until
        self.core.tick(self.world.now)
        self._end_turn()
        return min(self.core.next_deadline(), self.world.now + 0.1)

    def drain(self) -> None:
        if self.alive and not self.core.draining:
            self.core.drain(self.world.now)
            self._end_turn()

    def from_broker(self, number: int, parts: list[bytes]) -> None:
        self._later(partial(self._receive, number, parts))

    def _receive(self, number: int, parts: list[bytes]) -> None:
        message = wire.decode(parts[0])
        body = parts[1] if len(parts) > 1 else b""
        setup = _setup(body) if isinstance(message, m.Grant | m.Transfer) else None
        frames = wire.decode_frames(body) if isinstance(message, m.Bundle) else []
        heard = [frame for frame in frames if frame.lease not in self._swallowed]
        self.brokers.handle(number, message, setup, heard, self.world.now)  # type: ignore[arg-type]
        self._end_turn()

    def _end_turn(self) -> None:
        """Perform all commands in the core's outbox, as the worker's shell does."""
        self.core.step()
        for command in self.brokers.outgoing(self.world.now):
            if not self.alive:
                return
            match command:
                case worker_outbox.WorkerPost(link, message, frames):
                    self.send(link, message, None if frames is None else wire.encode_frames(frames))
                case worker_outbox.Quit() | worker_outbox.Hang():
                    self.crash()
                case _:
                    self._jobs.append(command)
        self._work()

    def _work(self) -> None:
        """The engine's thread: jobs in order. A step takes time, and the jobs after it wait."""
        while self.alive and self._jobs and not self._is_stepping:
            job = self._jobs.pop(0)
            if isinstance(job, RunStep):
                self._run_step(job)
            else:
                self._answer(self._done(job))

    def _run_step(self, job: RunStep) -> None:
        self._is_stepping = True
        chunks = [chunk for chunk in job.chunks if chunk.slot in self._open]
        for chunk in chunks:
            if (value := poison(chunk.pcm)) is not None:
                self._swallow(chunk, value, job)
                return
        self._stepped_leases = job.leases
        outputs = self.engine.step([chunk for chunk in job.chunks if chunk.slot in self._open], self.world.now)
        took_s = self.world.random.uniform(0, self.world.faults.slow_step_ms) / 1000
        done = StepDone(job.chunks, outputs, took_s)
        self.world.after(took_s, partial(self._stepped, self.incarnation, done))

    def _stepped(self, incarnation: int, done: StepDone) -> None:
        if self.world.now < self.standstill.until:
            self.standstill.perform(partial(self._stepped, incarnation, done))
        elif self.alive and incarnation == self.incarnation:
            self._is_stepping, self._stepped_leases = False, ()
            self._answer(done)

    def _done(self, job: OpenSlot | CloseSlot | TakeSnapshot) -> Answer:
        match job:
            case OpenSlot(lease, slot):
                try:
                    self.engine.open(slot, job.options, job.snapshot)
                except PeerError as error:
                    return SlotOpened(lease, slot, error)
                self._open.add(slot)
                return SlotOpened(lease, slot)
            case CloseSlot(lease, slot):
                if slot in self._open:
                    self.engine.close(slot)
                self._open.discard(slot)
                return SlotClosed(lease, slot)
            case TakeSnapshot(slot):
                return SnapshotTaken(slot, self.engine.snapshot(slot) if slot in self._open else None)

    def _answer(self, answer: Answer) -> None:
        self.core.answered(answer)
        self._end_turn()


def _setup(body: bytes) -> m.Setup | None:
    try:
        return wire.decode_setup(body)
    except DecodeError:
        return None


def run_seed(
    seed: int,
    faults: Faults,
    clients: int = 8,
    storm_s: float = 20.0,
    workers: int = 2,
    brokers: int = 1,
    poisons: Sequence[int] = (),
) -> World:
    """One whole run: a time with faults, then a calm time until all sessions end. Asserts safety and liveness.

    The first clients send the `poisons`.
    """
    world = World(seed, faults, workers=workers, brokers=brokers)
    for index in range(clients):
        world.add_client(
            f"c{index}",
            seconds=world.random.uniform(0.0, 8.0),
            frame_ms=world.random.choice([10, 20, 60, 100, 1000]),
            speed=world.random.choice([1.0, 1.0, 1.0, 8.0]),
            at=world.random.uniform(2.0, storm_s - 4.0),
            poison=poisons[index] if index < len(poisons) else None,
        )
    world.faults_until(storm_s)
    world.run(storm_s)
    world.run(storm_s + 120.0, done=lambda: all(client.over for client in world.clients))
    for client in world.clients:
        assert client.over, f"{client.name} has no terminal event"
        client.check()
        if isinstance(client.terminal, e.Bye) and not client.vanished:
            assert client.terminal == (e.Bye(e.GOING_AWAY) if client.is_left else e.Bye()), client.name
            assert " ".join(client.finals) == transcript(client.samples), client.name
        elif isinstance(client.terminal, e.Error) and client.poison is None:
            assert client.terminal.slug in SERVICE_SLUGS, client.terminal
    world.run(world.now + 45.0)  # longer than a lease waits for its client
    (leader,) = world.leaders()
    assert not leader.core.leases, "a lease leaks"
    assert len(leader.core.status(world.now).workers) == len(world.workers)
    for frontend in world.frontends:
        assert len(frontend.core) == 0 and frontend.core.budget.bytes_held == 0
        assert frontend.core.ready(world.now)
    for worker in world.workers:
        assert len(worker.core) == 0
    return world
