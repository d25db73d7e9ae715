from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_audio.entries import Mark, Piece
from asr_frontends.journal import Budget, Journal

operations = st.lists(
    st.tuples(st.just("append"), st.integers(1, 50))
    | st.tuples(st.just("mark"), st.integers(0, 3))
    | st.tuples(st.just("next"), st.integers(0, 400))
    | st.tuples(st.just("commit"), st.floats(0, 1))
    | st.tuples(st.just("answer"), st.integers(0, 3))
    | st.tuples(st.just("rewind"), st.just(0)),
    max_size=60,
)


@given(operations)
def test_any_use_keeps_the_unconfirmed_and_nothing_else(steps: list[tuple[str, float]]) -> None:
    """A model beside it: all audio from the last commit on, all unanswered marks, in order."""
    budget = Budget(10**6)
    journal = Journal(budget)
    committed, posted_to, marks = 0, 0, []
    for name, argument in steps:
        if name == "append":
            journal.append(b"\x01\x02" * int(argument))
        elif name == "mark":
            journal.mark(str(argument))
            marks.append(str(argument))
        elif name == "next":
            entry = journal.next(int(argument))
            if isinstance(entry, Piece):
                posted_to = max(posted_to, entry.end_sample)
        elif name == "rewind":
            journal.rewind()
            posted_to = committed
        elif name == "commit":
            committed = max(committed, int(posted_to * argument))
            journal.trim(committed)
        elif name == "answer" and str(argument) in posted_marks(journal):
            journal.answered(str(argument))
            marks.remove(str(argument))
        journal.check()
        pieces = [entry for entry in journal if isinstance(entry, Piece)]
        first = pieces[0].first_sample if pieces else journal.end_sample
        assert first <= committed or not pieces or committed == 0
        assert all(piece.end_sample > committed for piece in pieces)
        assert sorted(entry.marker or "" for entry in journal if isinstance(entry, Mark)) == sorted(marks)
        assert budget.bytes_held == journal.bytes_held
    journal.clear()
    assert budget.bytes_held == 0


def posted_marks(journal: Journal) -> list[str]:
    entries = list(journal)[: journal._posted]
    return [entry.marker or "" for entry in entries if isinstance(entry, Mark)]


def test_replay_begins_inside_a_piece() -> None:
    journal = Journal(Budget(1000))
    journal.append(b"aabbccdd")
    journal.mark("m")
    assert journal.next(10**6) == Piece(0, b"aabbccdd")
    assert journal.next(10**6) == Mark(4, "m")
    assert journal.next(10**6) is None
    journal.trim(2)
    journal.rewind()
    piece = journal.next(10**6)
    assert isinstance(piece, Piece) and piece.since(2) == Piece(2, b"ccdd")
    assert journal.next(10**6) == Mark(4, "m")


def test_an_unanswered_flush_outlives_its_commit() -> None:
    journal = Journal(Budget(1000))
    journal.append(b"aabb")
    journal.mark("m")
    journal.append(b"cc")
    for _ in range(3):
        journal.next(10**6)
    journal.trim(2)
    assert list(journal) == [Mark(2, "m"), Piece(2, b"cc")]
    journal.answered("m")
    assert list(journal) == [Piece(2, b"cc")]


def test_pieces_wait_for_credit_marks_do_not() -> None:
    journal = Journal(Budget(10_000))
    first, second = b"aa" * 320, b"cc"
    journal.append(first)
    journal.append(second)
    assert journal.next(320) == Piece(0, first)
    assert journal.next(320) is None
    assert journal.next(321) == Piece(320, second)


def test_small_pieces_are_joined() -> None:
    """A client that sends one sample in each frame would else hold a hundred times the memory that is counted."""
    journal, posted = Journal(Budget(10**6)), b""
    for number in range(1, 1001):
        journal.append(number.to_bytes(2))
        if number % 100 == 0:
            while isinstance(piece := journal.next(10**6), Piece):
                posted += piece.pcm
        journal.check()
    audio = b"".join(number.to_bytes(2) for number in range(1, 1001))
    assert posted == audio
    assert b"".join(entry.pcm for entry in journal if isinstance(entry, Piece)) == audio
    assert len(list(journal)) < 10
    assert journal.next(10**6) is None


def test_a_piece_that_waits_is_not_joined_to_one_that_was_posted() -> None:
    journal = Journal(Budget(1000))
    journal.append(b"aa")
    assert journal.next(10**6) == Piece(0, b"aa")
    journal.append(b"bb")
    assert list(journal) == [Piece(0, b"aa"), Piece(1, b"bb")]
    assert journal.next(10**6) == Piece(1, b"bb")
    assert list(journal) == [Piece(0, b"aabb")]
    journal.append(b"cc")
    assert journal.next(10**6) == Piece(2, b"cc")


def test_the_budget_is_shared() -> None:
    budget = Budget(6)
    first, second = Journal(budget), Journal(budget)
    first.append(b"aabb")
    assert not budget.exhausted
    second.append(b"cc")
    assert budget.exhausted
    first.clear()
    assert not budget.exhausted
