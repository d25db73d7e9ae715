"""Batched greedy TDT decoding with carried state: rows at different places of different sessions in one loop.

At each place the joint network says a token, or none, and how many frames to go on. All rows look for their next token
first, then the prediction network hears all of them at once. What a row has jumped over the end of its frames is
carried to its next ones, so that frames in pieces give the tokens of frames in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from asr_workers.engines.transducer.token_utterances import Heard


class PredictionNetwork(Protocol):
    """What is used of NeMo's RNNTDecoder."""

    def predict(
        self, y: torch.Tensor, state: list[torch.Tensor] | None, add_sos: bool, batch_size: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Tokens [B, 1] to outputs [B, 1, H] and the LSTM's state, two of [layers, B, H]."""


class JointNetwork(Protocol):
    """What is used of NeMo's RNNTJoint."""

    def project_encoder(self, encoder_output: torch.Tensor) -> torch.Tensor:
        """[B, T, D] to [B, T, J]."""

    def project_prednet(self, prednet_output: torch.Tensor) -> torch.Tensor:
        """[B, 1, H] to [B, 1, J]."""

    def joint_after_projection(self, f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """[B, 1, J] and [B, 1, J] to the logits of tokens, blank and durations: [B, 1, 1, V + 1 + durations]."""


@dataclass(frozen=True, slots=True)
class TdtState:
    """Of the rows of a batch. Never changed: a partial decodes from the same state as what follows it."""

    hidden: torch.Tensor
    """[layers, B, H]"""
    cell: torch.Tensor
    """[layers, B, H]"""
    prediction: torch.Tensor
    """What the joint network takes of the last token: [B, 1, J]."""
    jump: torch.Tensor
    """Frames of the next ones that are jumped over: int64 [B]."""

    @property
    def bytes(self) -> int:
        """Memory of all rows."""
        return sum(tensor.nbytes for tensor in (self.hidden, self.cell, self.prediction, self.jump))

    def rows(self, rows: Sequence[int]) -> TdtState:
        """Those rows, in that order."""
        index = torch.tensor(rows, device=self.jump.device)
        return TdtState(self.hidden[:, index], self.cell[:, index], self.prediction[index], self.jump[index])

    @classmethod
    def joined(cls, states: Sequence[TdtState]) -> TdtState:
        """The rows of all."""
        return cls(
            torch.cat([state.hidden for state in states], 1),
            torch.cat([state.cell for state in states], 1),
            torch.cat([state.prediction for state in states]),
            torch.cat([state.jump for state in states]),
        )


class TdtDecoder:
    """Greedy decoding with these networks; nothing of a row is kept here."""

    def __init__(
        self,
        prediction: PredictionNetwork,
        joint: JointNetwork,
        durations: Sequence[int],
        blank: int,
        symbols_max: int,
        device: torch.device,
    ) -> None:
        self._prediction, self._joint = prediction, joint
        self._durations = torch.tensor(list(durations), device=device)
        self._blank = blank
        self._symbols_max = symbols_max
        """Most tokens at one frame."""

    def initial(self, rows: int) -> TdtState:
        """The state of rows that have heard nothing."""
        device = self._durations.device
        state = self._hear(torch.full((rows,), self._blank, device=device), None)
        return TdtState(*state, torch.zeros(rows, dtype=torch.int64, device=device))

    def decode(
        self, encoded: torch.Tensor, lengths: torch.Tensor, state: TdtState
    ) -> tuple[list[list[Heard]], TdtState]:
        """The tokens in the encoder's frames [B, T, D], of which each row has its first `lengths`; the state behind.

        A token's `frame` counts from the first of these frames; its confidence is its softmax probability.
        """
        search = _Search(self._joint.project_encoder(encoded), lengths, state)
        hidden, cell, prediction = state.hidden, state.cell, state.prediction
        while bool((search.time < lengths).any()):
            found = self._find(search, prediction)
            search.found.append((found, search.label, search.at, search.duration, search.confidence))
            heard = self._hear(torch.where(found, search.label, self._blank), [hidden, cell])
            hidden = torch.where(found[None, :, None], heard[0], hidden)
            cell = torch.where(found[None, :, None], heard[1], cell)
            prediction = torch.where(found[:, None, None], heard[2], prediction)
            self._leave_crowded(search, found)
        return _collected(search), TdtState(hidden, cell, prediction, search.time - lengths)

    def _find(self, search: _Search, prediction: torch.Tensor) -> torch.Tensor:
        """Go on to the next token of each row that has one: bool [B]."""
        looking = search.time < search.lengths
        found = torch.zeros_like(looking)
        while bool(looking.any()):
            logits = self._joint.joint_after_projection(search.here(), prediction)[:, 0, 0].float()
            tokens, durations = logits[:, : self._blank + 1], logits[:, self._blank + 1 :]
            best, label = tokens.max(-1)
            duration = self._durations[durations.argmax(-1)]
            blank = label == self._blank
            duration = torch.where(blank, duration.clamp(min=1), duration)
            search.label = torch.where(looking, label, search.label)
            search.at = torch.where(looking, search.time, search.at)
            search.duration = torch.where(looking, duration, search.duration)
            search.confidence = torch.where(looking, (best - tokens.logsumexp(-1)).exp(), search.confidence)
            search.time = torch.where(looking, search.time + duration, search.time)
            found |= looking & ~blank
            looking = looking & blank & (search.time < search.lengths)
        return found

    def _hear(
        self, labels: torch.Tensor, state: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The prediction network's state after these labels [B], and its output for the joint network."""
        output, (hidden, cell) = self._prediction.predict(
            labels.unsqueeze(1), state, add_sos=False, batch_size=len(labels)
        )
        return hidden, cell, self._joint.project_prednet(output)

    def _leave_crowded(self, search: _Search, found: torch.Tensor) -> None:
        """Go on from a frame that has given as many tokens as one may."""
        again = found & (search.at == search.crowded_at)
        search.crowd = torch.where(again, search.crowd + 1, torch.where(found, 1, search.crowd))
        search.crowded_at = torch.where(found, search.at, search.crowded_at)
        stuck = found & (search.time == search.at) & (search.crowd >= self._symbols_max)
        search.time = search.time + stuck


class _Search:
    """Where each row of a batch is; all [B]."""

    def __init__(self, projected: torch.Tensor, lengths: torch.Tensor, state: TdtState) -> None:
        self._projected = projected
        self._rows = torch.arange(len(lengths), device=lengths.device)
        self.lengths = lengths
        self.time = state.jump
        self.label = self.at = self.duration = torch.zeros_like(lengths)
        self.confidence = torch.zeros(len(lengths), device=lengths.device)
        self.crowded_at = torch.full_like(lengths, -1)
        self.crowd = torch.zeros_like(lengths)
        self.found: list[tuple[torch.Tensor, ...]] = []

    def here(self) -> torch.Tensor:
        """The frames at which the rows are: [B, 1, J]; a row at its end stays at its last one."""
        last = (self.lengths - 1).clamp(min=0)
        return self._projected[self._rows, torch.minimum(self.time, last)].unsqueeze(1)


def _collected(search: _Search) -> list[list[Heard]]:
    rows: list[list[Heard]] = [[] for _ in search.lengths]
    for found, *values in search.found:
        labels, places, durations, confidences = (value.tolist() for value in values)
        for row in found.nonzero()[:, 0].tolist():
            heard = Heard(labels[row], places[row], max(1, durations[row]), round(confidences[row], 4))
            rows[row].append(heard)
    return rows
