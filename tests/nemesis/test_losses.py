"""The table of lost words: its cells, and one small measurement with real processes."""

from __future__ import annotations

import asyncio

from tests.nemesis.history import GOING_AWAY, Cut, Ended, Failed
from tests.nemesis.losses import (
    FAULTS,
    POOL_STOP,
    Cell,
    Measurement,
    Settings,
    end_of,
    ends,
    lost,
    report,
    table,
    unsaid,
)
from tests.nemesis.pool import Shape
from tests.nemesis.schedule import Kill, Names, Restart
from tests.nemesis.test_heard import conversation, cut_after
from tests.nemesis.words import Words


def test_how_sessions_end() -> None:
    one = conversation()
    assert end_of(one) == "complete"
    assert end_of(cut_after(one, 5, 6, Ended(1.0, "complete"))) == "early"
    assert end_of(cut_after(one, 5, 6, Failed(1.0, GOING_AWAY, ""))) == GOING_AWAY
    assert end_of(cut_after(one, 5, 6, Cut(1.0, "reset"))) == "broken"
    one.events = [one.events[0], Failed(1.0, "closed-1013", "")]
    assert end_of(one) == "refused closed-1013"


def test_a_cell_counts_of_a_thousand() -> None:
    cell = Cell()
    for end in (Cut(6.0, "reset"), Ended(6.0, "complete")):
        cell.add(cut_after(conversation(), 20, 24, end), Words(24 if isinstance(end, Cut) else 40, 4, 1, 0))
    found = cell.record()
    assert (lost(found), unsaid(found)) == ("125 +31d", "200")
    assert ends(found) == "1 broken, 1 early"
    assert lost(Cell().record()) == "-"


def test_the_tables_have_a_row_for_each_dialect_and_a_column_for_each_fault() -> None:
    cell = Cell(1, Words(100, 7)).record()
    record = {
        "faults": {
            "none": {"dialects": {"yap": cell}, "notes": {}},
            POOL_STOP: {"dialects": {}, "notes": {"exit_code": 0}},
        }
    }
    assert table("words", record, lost).splitlines() == ["words", "       none  pool stop", "  yap  70    -"]
    assert "exit_code 0" in report(record, None)
    assert "before" in report(record, record)


def test_each_fault_strikes_every_process_of_its_role() -> None:
    names = Names(2, 2)
    assert FAULTS["broker kill"](names) == [Kill("broker-1"), Kill("broker-2")]
    rolled = FAULTS["rolling restart"](names)
    assert [fault for fault in rolled if isinstance(fault, Restart)] == rolled and len(rolled) == 6


def test_killed_workers_lose_no_word_of_a_dialect() -> None:
    """Real processes; the clients speak six seconds in two dialects, one of which resumes."""
    settings = Settings(Shape(), ("native", "caiman"), sessions=1, words=24, seed=7, fault_at_s=2.0)
    one = Measurement(settings, "worker kill")
    asyncio.run(one.run())
    assert one.notes["struck"] == 2
    for cell in one.cells.values():
        assert set(cell.ends) == {"complete"}
        assert cell.words == Words(cell.words.due)
