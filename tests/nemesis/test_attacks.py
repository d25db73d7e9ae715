"""The pieces of faults that need no pool: hostile numbers, memory limits, attackers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.nemesis import cgroup
from tests.nemesis.attackers import Attacker
from tests.nemesis.bad_peer import HOSTILE, number_places, spoil
from tests.nemesis.impossible import FaultImpossible


def test_every_number_of_a_message_but_its_tag_is_spoiled() -> None:
    fields = [6, 2, "name", ["fake", [1, True], 0.5], b"x"]
    places = list(number_places(fields))
    assert places == [(1,), (3, 1, 0), (3, 2)]
    for place in places:
        spoil(fields, place, HOSTILE[1])
    assert fields == [6, -1, "name", ["fake", [-1, True], -1], b"x"]


def test_a_memory_limit_is_that_of_now_and_some_more(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    own = tmp_path / f"asr-nemesis-{os.getpid()}-{os.getpid()}"
    with cgroup.limited(os.getpid(), 1.0, tmp_path):
        assert int((own / "memory.max").read_text()) > 1_000_000
        assert (own / "cgroup.procs").read_text() == str(os.getpid())


@pytest.mark.parametrize("controllers", [None, "cpu pids"])
def test_a_machine_without_the_memory_controller_skips_the_limit(tmp_path: Path, controllers: str | None) -> None:
    if controllers:
        (tmp_path / "cgroup.controllers").write_text(controllers)
    with pytest.raises(FaultImpossible), cgroup.limited(os.getpid(), 1.0, tmp_path):
        pass


def test_an_attacker_ends_at_the_end_of_its_stdin() -> None:
    attacker = Attacker("tests.nemesis.bad_peer", ["frontends", "1", "ipc:///tmp/asr-nemesis-nobody.ipc"])

    async def attack() -> None:
        async with attacker:
            await asyncio.sleep(0)

    asyncio.run(attack())
    assert "did not end" not in attacker.said
