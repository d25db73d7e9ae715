"""A Parakeet-TDT without weights: each loud frame emits a token that depends on all earlier frames of its row.

The loudness of a frame is the mean of its samples, so the text of a session does not depend on its windows. An engine
that decodes a frame twice or not at all, or with the state of another row, returns another text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from asr_proto.audio import Pcm16
from asr_workers.engines.transducer.token_text import TokenText
from tests.workers.nemo.nemo_parts import vocabulary

torch = pytest.importorskip("torch", reason="needs the extra nemo")

from asr_workers.engines.parakeet.tdt import TdtState  # noqa: E402
from asr_workers.engines.parakeet.windows import FRAME_SAMPLES, frames_of  # noqa: E402
from asr_workers.engines.transducer.token_utterances import FrameToken  # noqa: E402

LOUD = 50


class ScriptedDecoder:
    """TdtDecoder of the engine's package. The state is a number; tokens stand for one to three frames."""

    def initial(self, rows: int) -> TdtState:
        return TdtState(
            torch.zeros(1, rows, 1),
            torch.zeros(1, rows, 1),
            torch.zeros(rows, 1, 1),
            torch.zeros(rows, dtype=torch.int64),
        )

    def decode(self, encoded: Any, lengths: Any, state: TdtState) -> tuple[list[list[FrameToken]], TdtState]:
        heard, jump = state.hidden[0, :, 0].long().tolist(), state.jump.tolist()
        rows: list[list[FrameToken]] = []
        for row, length in enumerate(lengths.tolist()):
            rows.append([])
            while jump[row] < length:
                loudness, frames = round(float(encoded[row, jump[row], 0])), 1
                if loudness > LOUD:
                    heard[row] = (31 * heard[row] + loudness) % 65_521
                    frames = 1 + heard[row] % 3
                    rows[row].append(FrameToken(3 + heard[row] % 45, jump[row], frames, 0.5 + heard[row] % 50 / 100))
                jump[row] += frames
            jump[row] -= length
        hidden = torch.tensor(heard, dtype=torch.float32)[None, :, None]
        return rows, TdtState(hidden, state.cell, state.prediction, torch.tensor(jump))


class ScriptedModel:
    """ParakeetModel of the engine's package."""

    checksum, license = "0123456789abcdef", "CC0"
    dtype = torch.float32

    def __init__(self, settings: Any) -> None:
        self.device = torch.device(settings.device)
        self.text = TokenText(vocabulary())
        self.decoder = ScriptedDecoder()
        self.windows: list[list[int]] = []
        """The samples of each window of each batch."""

    def encode(self, windows: Sequence[Pcm16]) -> tuple[Any, Any]:
        self.windows.append([len(window) for window in windows])
        rows = [_sounds(window) for window in windows]
        lengths = torch.tensor([len(row) for row in rows])
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=99.0)[:, :, None], lengths


def _sounds(window: Pcm16) -> Any:
    frames = [
        np.abs(window[start : start + FRAME_SAMPLES].astype(np.float32)).mean()
        for start in range(0, frames_of(len(window)) * FRAME_SAMPLES, FRAME_SAMPLES)
    ]
    return torch.tensor(np.array(frames, np.float32))
