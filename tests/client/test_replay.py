"""What the client sends again, and the property: after any break, the user sees one undisturbed session."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_audio.entries import Entry, Mark, Piece
from asr_client import Ack, ConnectionLost, End, Event, Final, Flushed, Partial, Ready, Word
from asr_client.continuity import Continuity
from asr_client.replay import Replay
from asr_proto.audio import to_int16
from asr_proto.errors import DecodeError

RATE = 1000


def ready(session: str = "s", from_sample: int | None = None) -> Ready:
    return Ready(session, "tiny", "en", RATE, "fake", from_sample)


def final(utterance: int, committed: int | None, seq: int = 0) -> Final:
    word = Word("word", 0.25, 0.5)
    return Final(seq, utterance, "word", 0.25, 0.5, "silence", (word,), committed=committed)


def sent(replay: Replay) -> list[Entry]:
    entries = []
    while replay.sent < replay.added:
        entries.append(replay.next())
    return entries


# ---- The replay ----


def test_audio_is_sent_once_and_again_from_the_first_sample_of_a_new_connection() -> None:
    replay = Replay(100)
    replay.add_audio(b"aabbcc")
    replay.add_flush("f")
    replay.add_audio(b"dd")
    replay.add_stop()
    everything = [Piece(0, b"aabbcc"), Mark(3, "f"), Piece(3, b"dd"), Mark(4, None)]
    assert sent(replay) == everything
    assert sent(replay) == []
    replay.begin(0)
    assert sent(replay) == everything
    replay.begin(2)
    assert sent(replay) == [Piece(2, b"cc"), *everything[1:]]
    replay.begin(3)
    assert sent(replay) == everything[1:]
    replay.begin(4)
    assert sent(replay) == [Mark(4, None)]


def test_half_a_sample_waits_for_its_other_half() -> None:
    replay = Replay(100)
    replay.add_audio(b"a")
    assert replay.added == 0
    replay.add_audio(b"ab")
    replay.add_audio(b"b")
    assert sent(replay) == [Piece(0, b"aa"), Piece(1, b"bb")]


def test_a_commit_makes_room_and_removes_what_it_confirms() -> None:
    replay = Replay(4)
    for pcm in (b"aabb", b"ccdd"):
        assert replay.has_room
        replay.add_audio(pcm)
    sent(replay)
    assert not replay.has_room
    replay.commit(3)
    assert replay.has_room
    replay.check()
    with pytest.raises(ValueError, match="sample 2 is confirmed and gone"):
        replay.begin(2)
    replay.begin(3)
    assert sent(replay) == [Piece(3, b"dd")]


def test_a_commit_confirms_no_more_than_was_sent() -> None:
    replay = Replay(100)
    replay.add_audio(b"aabb")
    replay.add_audio(b"cc")
    replay.next()
    replay.commit(3)
    assert replay.committed == 2
    assert sent(replay) == [Piece(2, b"cc")]


def test_an_answered_flush_is_not_sent_again() -> None:
    replay = Replay(100)
    replay.add_flush("m")
    replay.add_audio(b"aa")
    replay.add_flush("m")
    sent(replay)
    replay.answered("m")
    replay.answered("of another session")
    replay.begin(0)
    assert sent(replay) == [Piece(0, b"aa"), Mark(1, "m")]


def test_a_flush_that_was_completed_before_the_break_is_not_sent_again_but_passed() -> None:
    replay = Replay(100)
    replay.add_flush("first")
    replay.add_audio(b"aabb")
    replay.add_flush("second")
    sent(replay)
    assert replay.passed(9) == []
    replay.begin(1)
    assert replay.sent == 1
    assert replay.passed(0) == []
    assert replay.passed(9) == ["first"]
    assert replay.passed(9) == []
    assert sent(replay) == [Piece(1, b"bb"), Mark(2, "second")]


def test_sent_entries_can_be_removed() -> None:
    replay = Replay(2)
    replay.add_audio(b"aabb")
    replay.next()
    replay.add_flush("m")
    replay.forget()
    assert replay.has_room
    replay.check()
    replay.answered("m")
    assert sent(replay) == [Mark(2, "m")]


# ---- The numbers of several sessions ----


def test_the_first_session_is_shown_as_it_is() -> None:
    continuity = Continuity(RATE, 1.0)
    assert continuity.resume() is None
    assert not continuity.begin(ready())
    partial = Partial(0, 0, "wor", 0.0, 0.5)
    assert continuity.received(partial) == [partial]
    assert continuity.received(final(0, 0)) == [final(0, 0)]
    assert continuity.resume() == {"session": "s", "finals": 1}


def test_a_session_that_begins_anew_is_shown_as_a_continuation() -> None:
    continuity = Continuity(RATE, 10.0)
    continuity.begin(ready())
    continuity.replay.add_audio(bytes(2 * 3 * RATE))
    sent(continuity.replay)
    continuity.received(final(0, 2 * RATE, seq=4))
    continuity.lost()
    assert continuity.resume() is None
    assert not continuity.begin(ready("t"))
    assert sent(continuity.replay) == [Piece(2 * RATE, bytes(2 * RATE))]
    assert continuity.received(Ack(100, 40)) == [Ack(2 * RATE + 100, 2 * RATE + 40)]
    (shown,) = continuity.received(final(0, 600, seq=1))
    word = Word("word", 2.25, 2.5)
    assert shown == Final(6, 1, "word", 2.25, 2.5, "silence", (word,), committed=2 * RATE + 600)
    assert continuity.resume() == {"session": "t", "finals": 1}
    assert continuity.begin(ready("t", 600))
    assert sent(continuity.replay) == [Piece(2 * RATE + 600, bytes(2 * (RATE - 600)))]
    (shown,) = continuity.received(final(1, 700, seq=0))
    assert isinstance(shown, Final)
    assert (shown.seq, shown.utterance) == (7, 2)


def test_a_final_out_of_order_is_a_decode_error() -> None:
    continuity = Continuity(RATE, 1.0)
    continuity.begin(ready())
    continuity.received(final(0, 0))
    for utterance in (0, 2):
        with pytest.raises(DecodeError, match=f"utterance {utterance}, 1 is next"):
            continuity.received(final(utterance, 0))


def test_a_server_cannot_request_audio_that_it_has_confirmed() -> None:
    continuity = Continuity(RATE, 1.0)
    continuity.begin(ready())
    continuity.replay.add_audio(b"aabb")
    sent(continuity.replay)
    continuity.received(Ack(2, 2))
    with pytest.raises(DecodeError, match="sample 1"):
        continuity.begin(ready("s", 1))


def test_without_commits_no_session_begins_anew() -> None:
    """The audio of the last final is unknown, so it is unknown what to send again."""
    continuity = Continuity(RATE, 1.0)
    continuity.begin(ready())
    continuity.received(final(0, None))
    with pytest.raises(ConnectionLost, match="did not report what to repeat"):
        continuity.begin(ready("t"))
    continuity.received(Ack(0, 0))
    continuity.begin(ready("t"))


# ---- The property ----


@dataclass
class Session:
    """The server's side: silence (zeros) is confirmed immediately, speech in utterances of at most five samples."""

    committed: int = 0
    position: int = 0
    held: list[int] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)

    def take(self, entry: Entry) -> list[Event]:
        if isinstance(entry, Mark):
            marked: Event = End("stopped") if entry.marker is None else Flushed(entry.marker)
            return [*self.utter("flush"), marked]
        assert entry.first_sample == self.position, "audio is missing, or comes twice"
        return [event for sample in to_int16(entry.pcm).tolist() for event in self.decode(sample)]

    def decode(self, sample: int) -> list[Event]:
        self.position += 1
        if sample or self.held:
            self.held.append(sample)
            return self.utter("length") if len(self.held) == 5 else []
        self.committed = self.position
        return [self.ack()] if self.position % 3 == 0 else []

    def utter(self, endpoint: str) -> list[Event]:
        start, self.committed = self.committed, self.position
        if not self.held:
            return [self.ack()]
        text = " ".join(str(sample) for sample in self.held if sample)
        times = (start / RATE, self.position / RATE)
        number = len(self.finals)
        self.finals.append(Final(number, number, text, *times, endpoint, committed=self.committed))
        self.held = []
        return [self.finals[-1]]

    def resume(self, finals: int) -> list[Event]:
        self.position, self.held = self.committed, []
        return list(self.finals[finals:])

    def ack(self) -> Ack:
        return Ack(self.position, self.committed)


class Conversation:
    """A user, a client's core and a server, and the messages in transit between the two."""

    def __init__(self) -> None:
        self.continuity = Continuity(RATE, 1.0)
        self.shown: list[Event] = []
        self.samples: list[int] = []
        self.flushes: list[tuple[str, int]] = []
        self.sessions: dict[str, Session] = {}
        self.reach()

    def reach(self, *, is_lost: bool = False) -> None:
        """Connect again, to the old session or a new one; messages in transit on the old connection are lost."""
        self.incoming: deque[Entry] = deque()
        self.outgoing: deque[Event] = deque()
        resume = self.continuity.resume()
        if resume is None or is_lost:
            self.continuity.lost()
            self.name = f"s{len(self.sessions)}"
            self.session = self.sessions[self.name] = Session()
            self.continuity.begin(ready(self.name))
        else:
            self.session = self.sessions[resume["session"]]
            missed = self.session.resume(resume["finals"])
            self.continuity.begin(ready(self.name, self.session.position))
            self.outgoing.extend([*missed, self.session.ack()])
        self.origin = self.continuity.replay.committed if resume is None or is_lost else self.origin

    def add_audio(self, voiced: Iterable[bool]) -> None:
        numbers = [number if voice else 0 for number, voice in enumerate(voiced, start=len(self.samples) + 1)]
        self.samples += numbers
        pcm = b"".join(number.to_bytes(2, "little") for number in numbers)
        cut = len(pcm) // 3
        self.continuity.replay.add_audio(pcm[:cut])
        self.continuity.replay.add_audio(pcm[cut:])

    def flush(self, marker: str) -> None:
        self.flushes.append((marker, len(self.samples)))
        self.continuity.replay.add_flush(marker)

    def send(self, most: int) -> None:
        replay = self.continuity.replay
        while most and replay.sent < replay.added:
            self.incoming.append(self.local(replay.next()))
            most -= 1

    def local(self, entry: Entry) -> Entry:
        """The entry with the positions of the server's session."""
        if isinstance(entry, Piece):
            return Piece(entry.first_sample - self.origin, entry.pcm)
        return Mark(entry.at_sample - self.origin, entry.marker)

    def serve(self, most: int) -> None:
        for _ in range(min(most, len(self.incoming))):
            self.outgoing.extend(self.session.take(self.incoming.popleft()))

    def receive(self, most: int) -> None:
        for _ in range(min(most, len(self.outgoing))):
            self.shown += self.continuity.received(self.outgoing.popleft())
            self.continuity.replay.check()

    def finish(self) -> None:
        self.continuity.replay.add_stop()
        for step in (self.send, self.serve, self.receive):
            step(10**6)


COUNT = st.integers(1, 6)
STEPS = st.one_of(
    st.tuples(st.just("add_audio"), st.lists(st.booleans(), min_size=1, max_size=9)),
    st.tuples(st.just("flush"), st.sampled_from("mn")),
    st.tuples(st.sampled_from(["send", "serve", "receive"]), COUNT),
    st.tuples(st.just("break"), st.booleans()),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_after_any_break_the_user_sees_one_undisturbed_session(steps: list[tuple[str, object]]) -> None:
    conversation = Conversation()
    for verb, value in steps:
        if verb == "break":
            conversation.reach(is_lost=bool(value))
        else:
            getattr(conversation, verb)(value)
    conversation.finish()
    check(conversation)


def check(conversation: Conversation) -> None:
    finals = [event for event in conversation.shown if isinstance(event, Final)]
    assert [one.utterance for one in finals] == list(range(len(finals)))
    assert all(a.seq < b.seq for a, b in itertools.pairwise(finals))
    for one in finals:
        assert one.start_s * RATE < min(map(int, one.text.split())) and one.end_s * RATE <= len(conversation.samples)
    assert [event for event in conversation.shown if isinstance(event, End)] == [End("stopped")]
    assert conversation.shown[-1] == End("stopped")
    assert [int(number) for one in finals for number in one.text.split()] == [
        number for number in conversation.samples if number
    ]
    expected = [
        (marker, sum(1 for number in conversation.samples[:sample] if number))
        for marker, sample in conversation.flushes
    ]
    assert flushes(conversation.shown) == expected


def flushes(shown: list[Event]) -> list[tuple[str, int]]:
    """Each answer with the number of voiced samples that were final before it."""
    words, answers = 0, []
    for event in shown:
        if isinstance(event, Final):
            words += len(event.text.split())
        elif isinstance(event, Flushed):
            answers.append((event.marker, words))
    return answers
