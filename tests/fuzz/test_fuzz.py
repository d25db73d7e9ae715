"""A short run of the fuzzer finds nothing, and it finds planted faults."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.mutations import changed, changed_text
from tests.fuzz.targets import Reader, Target, targets


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_changed_input_raises_only_documented_errors(target: Target) -> None:
    done, failed = fuzz(target, 1, 0, 3000)
    assert done >= 3000 and failed == []


def test_a_planted_fault_is_found_and_can_be_repeated() -> None:
    def read(data: bytes) -> None:
        if data.startswith(b"ab") and len(data) > 4:
            raise KeyError("planted")

    target = Reader("planted", read, [b"abcd", b"xyz"])
    _, failed = fuzz(target, 1, 0, 500)
    assert failed
    assert fuzz(target, 1, failed[0], 1) == (1, [failed[0]])


def test_changes_depend_on_the_seed_only() -> None:
    inputs = [b"some bytes", b"", b"\x93\x01\x02\x03"]
    for seed in range(300):
        first, second = (
            [changed(one, inputs, made) for one in inputs] + [changed_text("{}", ["a=1"], made)]
            for made in (random.Random(seed), random.Random(seed))
        )
        assert first == second
