"""The order of decodes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_workers.engines.offline.decode_queue import BatchLimits, Decode, most_urgent, next_batch, urgency

decodes_st = st.builds(
    Decode, slot=st.integers(0, 31), final=st.booleans(), live=st.booleans(), since_s=st.floats(0, 1e6)
)


def final(since_s: float, *, live: bool = True, slot: int = 0) -> Decode:
    return Decode(slot, True, live, since_s)


def partial(since_s: float, *, live: bool = True, slot: int = 0) -> Decode:
    return Decode(slot, False, live, since_s)


def test_nothing_waits() -> None:
    assert most_urgent([]) is None


def test_order_at_one_time() -> None:
    expected = [final(100.0), partial(100.0), final(100.0, live=False), partial(100.0, live=False)]
    assert sorted(reversed(expected), key=urgency) == expected


def test_the_one_that_waits_longest_goes_first() -> None:
    assert most_urgent([partial(5.0, slot=1), partial(4.0, slot=2)]) == partial(4.0, slot=2)
    assert most_urgent([final(5.0, slot=1), final(4.0, slot=2)]) == final(4.0, slot=2)
    assert most_urgent([final(4.0, slot=2), final(4.0, slot=1)]) == final(4.0, slot=1)


def test_a_background_final_waits_for_a_bounded_time() -> None:
    waiting = final(100.0, live=False)
    assert most_urgent([waiting, partial(101.9)]) == partial(101.9)
    assert most_urgent([waiting, partial(102.1)]) == waiting
    assert most_urgent([waiting, final(111.9)]) == final(111.9)
    assert most_urgent([waiting, final(112.1)]) == waiting


def test_a_background_partial_goes_last() -> None:
    assert most_urgent([partial(0.0, live=False), partial(1e6)]) == partial(1e6)


@given(st.lists(decodes_st, min_size=1, unique_by=lambda decode: decode.slot))
def test_the_choice_does_not_depend_on_the_order_of_the_candidates(decodes: list[Decode]) -> None:
    assert most_urgent(decodes) == most_urgent(reversed(decodes))
    chosen = most_urgent(decodes)
    assert chosen is not None and all(urgency(chosen) <= urgency(decode) for decode in decodes)


def test_a_batch_waits_for_others_while_it_has_time() -> None:
    limits, waiting = BatchLimits(3, 10.0), [final(5.0, slot=1), final(5.001, slot=2)]
    assert next_batch([], limits, 4, 5.0) == []
    assert next_batch(waiting, limits, 4, 5.009) == []
    assert next_batch(waiting, limits, 4, 5.011) == waiting
    assert next_batch(waiting, limits, 0, 5.002) == waiting


def test_a_full_batch_does_not_wait() -> None:
    waiting = [final(5.0, slot=slot) for slot in range(4)]
    assert next_batch(waiting, BatchLimits(3, 10.0), 4, 5.0) == waiting[:3]
