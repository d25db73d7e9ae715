"""The choice of a worker, and the refusals."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from msgspec import structs

from asr_broker.placement import AT_CAPACITY_RETRY_S, NO_WORKER_RETRY_S, place, supports
from asr_proto.errors import AtCapacity, BadRequest, ServiceError
from asr_proto.messages import Spec

SPEC = Spec("fake", "one", ("en", "pt-BR"), 4, 960, 1.0, "none")
OTHER = structs.replace(SPEC, model="two", languages=("de",))


@dataclass
class Worker:
    name: str
    slots_free: int = 4
    slots_detached: int = 0
    spec: Spec = SPEC
    draining: bool = False
    overloaded: bool = False


def chosen(
    *workers: Worker,
    model: str = "",
    language: str = "",
    moving: bool = False,
    suspected_at: str = "",
    trying: tuple[str, ...] = (),
) -> str:
    return place(workers, model, language, moving=moving, suspected_at=suspected_at, trying=trying).name


# ---- The choice ----


def test_the_largest_share_of_free_slots_wins_not_their_number() -> None:
    roomy = Worker("roomy", 5, spec=structs.replace(SPEC, slots=20))
    assert chosen(roomy, Worker("small", 2)) == "small"


def test_ties_go_to_the_first_name() -> None:
    assert chosen(Worker("b"), Worker("a")) == "a"


def test_a_suspect_goes_to_another_worker_than_the_one_that_died() -> None:
    workers = Worker("emptiest", 4), Worker("other", 2), Worker("full", 1)
    assert chosen(*workers, suspected_at="emptiest") == "other"
    assert chosen(workers[0], suspected_at="emptiest") == "emptiest"


def test_suspects_gather_and_others_avoid_them() -> None:
    workers = Worker("a", 1), Worker("b", 4)
    assert chosen(*workers, suspected_at="c", trying=("a",)) == "a"
    assert chosen(*workers, suspected_at="a", trying=("a",)) == "a"
    assert chosen(*workers, trying=("b",)) == "a"
    assert chosen(workers[1], trying=("b",)) == "b"


def test_a_free_slot_comes_before_any_detached_one() -> None:
    assert chosen(Worker("gone", 0, slots_detached=4), Worker("free", 1)) == "free"


def test_without_a_free_slot_the_most_detached_are_taken() -> None:
    workers = Worker("few", 0, slots_detached=1), Worker("many", 0, slots_detached=3)
    assert chosen(*workers) == "many"


def test_no_model_is_that_of_the_first_worker() -> None:
    workers = Worker("first", 1, spec=OTHER), Worker("second", 4)
    assert chosen(*workers) == "first"
    assert chosen(*workers, model="one") == "second"


def test_busy_workers_are_for_sessions_that_move() -> None:
    busy, full = Worker("busy", 4, overloaded=True), Worker("free", 1)
    assert chosen(busy, full) == "free"
    assert chosen(busy, full, moving=True) == "busy"


def test_draining_workers_get_no_session() -> None:
    with pytest.raises(AtCapacity):
        chosen(Worker("drains", draining=True), moving=True)


# ---- Refusals ----


def test_no_worker() -> None:
    with pytest.raises(ServiceError) as raised:
        chosen()
    assert (raised.value.slug, raised.value.retry_after_s) == ("no-worker", NO_WORKER_RETRY_S)


def test_an_unknown_model_names_those_that_are_served() -> None:
    with pytest.raises(BadRequest, match="model 'three' is not served here; served: one, two") as raised:
        chosen(Worker("a", spec=OTHER), Worker("b"), Worker("c"), model="three")
    assert raised.value.slug == "unknown-model"


def test_a_language_is_refused_only_when_no_worker_of_the_model_has_it() -> None:
    german = Worker("german", spec=structs.replace(SPEC, languages=("de",)))
    assert chosen(Worker("english"), german, language="de") == "german"
    with pytest.raises(BadRequest) as raised:
        chosen(Worker("english"), Worker("other", spec=OTHER), language="de")
    assert raised.value.slug == "unsupported-language"


def test_every_slot_taken() -> None:
    with pytest.raises(AtCapacity) as raised:
        chosen(Worker("full", 0))
    assert raised.value.retry_after_s == AT_CAPACITY_RETRY_S


@pytest.mark.parametrize(
    ("language", "is_supported"),
    [("", True), ("en", True), ("en-GB", True), ("EN", True), ("pt-BR", True), ("pt", False), ("de", False)],
)
def test_languages(language: str, is_supported: bool) -> None:
    assert supports(SPEC, language) is is_supported
