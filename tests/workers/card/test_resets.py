"""State resets: which tokens of overlapping segments count. CAI-16, CAI-17."""

from __future__ import annotations

from asr_workers.engines.card.resets import STEP_S, ResetRule, Seam, joined


def test_segments_of_15_s_overlap_by_3_s() -> None:
    """CAI-17: segments of 15 s overlap by 3 s, for a quarter more work. A segment counts after the end of the last."""
    rule = ResetRule()
    assert [rule.start(number) * STEP_S for number in range(3)] == [0, 12, 24]
    assert [rule.end(number) * STEP_S for number in range(3)] == [15, 27, 39]
    assert [rule.kept_from(number) for number in range(3)] == [0, rule.end(0), rule.end(1)]
    assert rule.cost == 1.25


def test_tokens_of_the_overlap_are_dropped() -> None:
    rule = ResetRule(segment_steps=10, overlap_steps=4)
    segments = [[(1, 1), (9, 2)], [(0, 3), (3, 4), (4, 5), (9, 6)], [(3, 7), (4, 8)]]
    assert joined(rule, segments) == [(1, 1), (9, 2), (10, 5), (15, 6), (16, 8)]


def test_a_token_said_on_both_sides_of_a_seam_counts_once() -> None:
    """CAI-17: the first three tokens after the seam are compared with the last three before it."""
    rule = ResetRule(segment_steps=6, overlap_steps=2)
    before = [(step, token) for step, token in enumerate([7, 2, 3, 6, 5])]
    after = [(1, 2), (2, 6), (3, 5), (4, 9), (5, 7)]
    assert [token for _, token in joined(rule, [before, after])] == [7, 2, 3, 6, 5, 9, 7]


def test_what_lies_before_a_match_is_trusted_no_more() -> None:
    seam = Seam([1, 2, 3])
    assert not seam.keeps(2)
    assert seam.keeps(1)
    assert not seam.keeps(3)


def test_only_three_tokens_behind_a_seam_are_looked_at() -> None:
    seam = Seam([1, 2, 3])
    assert [seam.keeps(token) for token in (8, 9, 8, 3, 2)] == [True] * 5


def test_only_three_tokens_before_a_seam_are_looked_for() -> None:
    seam = Seam([1, 2, 3, 4])
    assert seam.keeps(1)
    assert not seam.keeps(4)


def test_a_segment_shorter_than_three_tokens_has_fewer_to_look_for() -> None:
    """Only tokens of the segment just before the seam count, not of earlier ones."""
    rule = ResetRule(segment_steps=4, overlap_steps=2)
    segments = [[(0, 1), (1, 2)], [(2, 5)], [(2, 1)]]
    assert [token for _, token in joined(rule, segments)] == [1, 2, 5, 1]
