"""Which worker takes a new session: a pure choice over what the workers offer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from asr_proto.errors import AtCapacity, BadRequest, ServiceError
from asr_proto.messages import Spec

NO_WORKER_RETRY_S = 2.0
AT_CAPACITY_RETRY_S = 1.0


class Offer(Protocol):
    """What placement must know of a worker."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> Spec: ...
    @property
    def slots_free(self) -> int: ...
    @property
    def slots_detached(self) -> int:
        """Those of clients that are gone and may come back: they yield to whoever is here."""

    @property
    def draining(self) -> bool: ...
    @property
    def overloaded(self) -> bool:
        """Whether one more live session would make all wait."""


O = TypeVar("O", bound=Offer)  # noqa: E741 - the one type variable of the file


def speaks(spec: Spec, language: str) -> bool:
    """Whether the engine serves `language`: exactly, by its primary subtag (en for en-GB), or unspecified."""
    return not language or language in spec.languages or language.split("-", maxsplit=1)[0].lower() in spec.languages


def place(offers: Iterable[O], model: str, language: str, *, moving: bool = False) -> O:
    """The worker with the smallest share of its slots taken; ties go to the first name.

    A session that is `moving` was let in long ago: it goes to a busy worker rather than nowhere. An empty `model` means
    the model of the worker that registered first. Raises BadRequest (unknown-model, unsupported-language), AtCapacity,
    or ServiceError (no-worker).
    """
    workers = list(offers)
    if not workers:
        raise ServiceError("no worker is registered", slug="no-worker", retry_after_s=NO_WORKER_RETRY_S)
    model = model or workers[0].spec.model
    serving = [worker for worker in workers if worker.spec.model == model]
    if not serving:
        offered = ", ".join(sorted({worker.spec.model for worker in workers}))
        raise BadRequest(f"model {model[:40]!r} is not served here; served: {offered}"[:120], slug="unknown-model")
    fluent = [worker for worker in serving if speaks(worker.spec, language)]
    if not fluent:
        raise BadRequest(f"model {model[:40]} does not serve {language[:20]!r}", slug="unsupported-language")
    staying = [worker for worker in fluent if not worker.draining and (moving or not worker.overloaded)]
    free = [worker for worker in staying if worker.slots_free] or [w for w in staying if w.slots_detached]
    if not free:
        raise AtCapacity("every slot is taken, or every worker busy", retry_after_s=AT_CAPACITY_RETRY_S)
    return min(
        free, key=lambda worker: (-(worker.slots_free or worker.slots_detached) / worker.spec.slots, worker.name)
    )
