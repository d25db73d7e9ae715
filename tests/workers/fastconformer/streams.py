"""Drives a StreamingModel with the features of whole recordings, as an engine would chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from asr_workers.engines.fastconformer.streaming import Emission, FeatureChunk, StreamingModel


def chunks(model: StreamingModel, slot: int, features: torch.Tensor, right: int) -> Iterator[FeatureChunk]:
    """One utterance, cut into the chunks that the model takes."""
    from asr_workers.engines.fastconformer.streaming import FeatureChunk

    geometry, begin = model.geometry(right), 0
    while True:
        end = begin + (geometry.later_frames if begin else geometry.first_frames)
        yield FeatureChunk(slot, features[begin:end], right, last=end >= len(features))
        if end >= len(features):
            return
        begin = end


def transcribe(
    model: StreamingModel, features: Sequence[torch.Tensor], rights: Sequence[int], every: int = 1
) -> list[list[Emission]]:
    """Stream all utterances. Each starts `every` steps after the one before, in a free slot."""
    waiting = list(enumerate(features))
    running: dict[int, tuple[int, Iterator[FeatureChunk]]] = {}
    found: list[list[Emission]] = [[] for _ in features]
    free = list(range(len(features)))
    step = 0
    while waiting or running:
        while waiting and (every == 0 or step % every == 0):
            number, spoken = waiting.pop(0)
            slot = free.pop(0)
            model.open(slot)
            running[slot] = number, chunks(model, slot, spoken, rights[number])
            if every:
                break
        batch = [next(source) for _, source in running.values()]
        for slot, emissions in model.step(batch).items():
            found[running[slot][0]] += emissions
        for chunk in batch:
            if chunk.last:
                del running[chunk.slot]
                model.close(chunk.slot)
                free.insert(0, chunk.slot)
        step += 1
    return found


def tokens(emissions: Sequence[Emission]) -> list[int]:
    return [emission.token for emission in emissions]


def placed(emissions: Sequence[Emission]) -> tuple[list[int], list[int]]:
    """Tokens and their frames."""
    return tokens(emissions), [emission.frame for emission in emissions]
