"""The choice of a worker for a new session. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

from asr_proto.errors import AtCapacity, BadRequest, ServiceError
from asr_proto.messages import Spec

NO_WORKER_RETRY_S = 2.0
AT_CAPACITY_RETRY_S = 1.0


class PlaceableWorker(Protocol):
    """The facts about a worker on which the choice depends."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> Spec: ...
    @property
    def slots_free(self) -> int: ...
    @property
    def slots_detached(self) -> int:
        """Number of slots whose clients are gone and may come back. A new session takes one when no slot is free."""

    @property
    def draining(self) -> bool: ...
    @property
    def overloaded(self) -> bool:
        """Whether one more session would make the others wait."""


P = TypeVar("P", bound=PlaceableWorker)


def supports(spec: Spec, language: str) -> bool:
    """Whether the engine serves `language`: exactly, by its primary subtag (en for en-GB), or unspecified."""
    return not language or language in spec.languages or language.split("-", maxsplit=1)[0].lower() in spec.languages


def place(
    places: Iterable[P],
    model: str,
    language: str,
    *,
    moving: bool = False,
    suspected_at: str = "",
    trying: Collection[str] = (),
) -> P:
    """The worker with the smallest share of its slots taken; of equals, the one whose name sorts first.

    `trying` are the names of workers that have got sessions under suspicion: other sessions go elsewhere if they can,
    and sessions under suspicion go there. One that is `suspected_at` a worker goes to another worker if it can, so that
    a broken device is not held against it.
    A session that is `moving` was accepted before, so it may go to an overloaded worker. An empty `model` means the
    model of the worker that registered first. Raises BadRequest (unknown-model, unsupported-language), AtCapacity, or
    ServiceError (no-worker).
    """
    workers = list(places)
    if not workers:
        raise ServiceError("no worker is registered", slug="no-worker", retry_after_s=NO_WORKER_RETRY_S)
    model = model or workers[0].spec.model
    serving = [worker for worker in workers if worker.spec.model == model]
    if not serving:
        offered = ", ".join(sorted({worker.spec.model for worker in workers}))
        raise BadRequest(f"model {model[:40]!r} is not served here; served: {offered}"[:120], slug="unknown-model")
    supporting = [worker for worker in serving if supports(worker.spec, language)]
    if not supporting:
        raise BadRequest(f"model {model[:40]} does not serve {language[:20]!r}", slug="unsupported-language")
    available = [worker for worker in supporting if not worker.draining and (moving or not worker.overloaded)]
    free = [worker for worker in available if worker.slots_free] or [w for w in available if w.slots_detached]
    if not free:
        raise AtCapacity("every slot is taken, or every worker busy", retry_after_s=AT_CAPACITY_RETRY_S)

    def rank(worker: P) -> tuple[bool, bool, float, str]:
        belongs_elsewhere = (worker.name in trying) is not bool(suspected_at)
        share = (worker.slots_free or worker.slots_detached) / worker.spec.slots
        return belongs_elsewhere, worker.name == suspected_at, -share, worker.name

    return min(free, key=rank)
