"""Batched greedy decoding of a token-and-duration transducer (TDT; Xu et al. 2023, arXiv:2304.06795, section 3).

At each frame the joint network returns a token or the blank, and the number of frames to advance. In each turn of the
loop all rows first search their next token, then the prediction network runs once for all of them (NeMo's label
looping). Rows belong to different sessions. A duration can reach beyond the end of a row's frames. That rest is carried
to its next frames, so that frames in pieces give the same tokens as all frames together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from asr_workers.engines.transducer.token_utterances import FrameToken


class PredictionNetwork(Protocol):
    """The method used here of NeMo's RNNTDecoder."""

    def predict(
        self, y: torch.Tensor, state: list[torch.Tensor] | None, add_sos: bool, batch_size: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Tokens int64 [B, 1] to outputs [B, 1, H], and the LSTM's hidden and cell values, [layers, B, H] each."""


class JointNetwork(Protocol):
    """The methods used here of NeMo's RNNTJoint."""

    def project_encoder(self, encoder_output: torch.Tensor) -> torch.Tensor:
        """Encoder frames [B, T, D] to [B, T, J]."""

    def project_prednet(self, prednet_output: torch.Tensor) -> torch.Tensor:
        """Prediction outputs [B, 1, H] to [B, 1, J]."""

    def joint_after_projection(self, f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Both projections, [B, 1, J] each, to logits of tokens, blank and durations: [B, 1, 1, V + 1 + durations]."""


@dataclass(frozen=True, slots=True)
class TdtState:
    """The decoder's state of a batch of rows. Immutable: a partial and the next chunk decode from the same state."""

    hidden: torch.Tensor
    """The LSTM's hidden values: [layers, B, H]."""
    cell: torch.Tensor
    """The LSTM's cell values: [layers, B, H]."""
    prediction: torch.Tensor
    """The projected prediction after the last token: [B, 1, J]."""
    jump: torch.Tensor
    """Number of the next frames to skip: int64 [B]."""

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return sum(tensor.nbytes for tensor in (self.hidden, self.cell, self.prediction, self.jump))

    def rows(self, rows: Sequence[int]) -> TdtState:
        """The state of these rows, in this order."""
        index = torch.tensor(rows, device=self.jump.device)
        return TdtState(self.hidden[:, index], self.cell[:, index], self.prediction[index], self.jump[index])

    @classmethod
    def joined(cls, states: Sequence[TdtState]) -> TdtState:
        """One state with the rows of all `states`."""
        return cls(
            torch.cat([state.hidden for state in states], 1),
            torch.cat([state.cell for state in states], 1),
            torch.cat([state.prediction for state in states]),
            torch.cat([state.jump for state in states]),
        )


class TdtDecoder:
    """Greedy decoding with these networks. It keeps no state of rows."""

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
        """The state before the first frame, for this number of rows."""
        device = self._durations.device
        state = self._predict(torch.full((rows,), self._blank, device=device), None)
        return TdtState(*state, torch.zeros(rows, dtype=torch.int64, device=device))

    def decode(
        self, encoded: torch.Tensor, lengths: torch.Tensor, state: TdtState
    ) -> tuple[list[list[FrameToken]], TdtState]:
        """The tokens in encoder frames [B, T, D], and the state after them. `lengths`, int64 [B], are the valid frames.

        A token's `frame` counts from the first of these frames. Its confidence is its softmax probability.
        """
        search = _Search(self._joint.project_encoder(encoded), lengths, state)
        hidden, cell, prediction = state.hidden, state.cell, state.prediction
        while bool((search.time < lengths).any()):
            found = self._find(search, prediction)
            search.found.append((found, search.label, search.at, search.duration, search.confidence))
            after = self._predict(torch.where(found, search.label, self._blank), [hidden, cell])
            hidden = torch.where(found[None, :, None], after[0], hidden)
            cell = torch.where(found[None, :, None], after[1], cell)
            prediction = torch.where(found[:, None, None], after[2], prediction)
            self._leave_crowded(search, found)
        return _collected(search), TdtState(hidden, cell, prediction, search.time - lengths)

    def _find(self, search: _Search, prediction: torch.Tensor) -> torch.Tensor:
        """Advance each row to its next token. Returns which rows have one: bool [B]."""
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

    def _predict(
        self, labels: torch.Tensor, state: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden and cell values after these labels, int64 [B], and the projected prediction [B, 1, J]."""
        output, (hidden, cell) = self._prediction.predict(
            labels.unsqueeze(1), state, add_sos=False, batch_size=len(labels)
        )
        return hidden, cell, self._joint.project_prednet(output)

    def _leave_crowded(self, search: _Search, found: torch.Tensor) -> None:
        """Advance by one frame the rows whose current frame has emitted the most tokens that a frame may emit."""
        again = found & (search.at == search.crowded_at)
        search.crowd = torch.where(again, search.crowd + 1, torch.where(found, 1, search.crowd))
        search.crowded_at = torch.where(found, search.at, search.crowded_at)
        stuck = found & (search.time == search.at) & (search.crowd >= self._symbols_max)
        search.time = search.time + stuck


class _Search:
    """The position and the latest token of each row of a batch; all tensors are [B]."""

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
        """The current frame of each row: [B, 1, J]; the last frame for a row that is at its end."""
        last = (self.lengths - 1).clamp(min=0)
        return self._projected[self._rows, torch.minimum(self.time, last)].unsqueeze(1)


def _collected(search: _Search) -> list[list[FrameToken]]:
    rows: list[list[FrameToken]] = [[] for _ in search.lengths]
    for found, *values in search.found:
        labels, places, durations, confidences = (value.tolist() for value in values)
        for row in found.nonzero()[:, 0].tolist():
            token = FrameToken(labels[row], places[row], max(1, durations[row]), round(confidences[row], 4))
            rows[row].append(token)
    return rows
