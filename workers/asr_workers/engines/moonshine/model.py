"""Moonshine tiny English on ONNX Runtime: turns samples into tokens and text.

It decodes one utterance at a time. On a CPU that is faster than a padded batch, and padding changes texts. Drafts are
verified in one pass, as in speculative decoding (Leviathan et al. 2023, arXiv:2211.17192), here with greedy choices.
This module must not know slots, time or the purpose of a decode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from asr_proto.audio import SAMPLE_RATE, Pcm16, to_float32
from asr_workers.engines.weights.checksum import checksum
from asr_workers.engines.weights.wheel_models import wheel_file

START, END = 1, 2
LAYERS, HEADS, HEAD_WIDTH = 6, 8, 36
TOKENS_PER_S_MAX = 6.5
"""Most tokens of a second of speech. A longer text means that the model repeats itself."""
SAMPLES_MIN = 895
"""Fewest samples that the encoder takes."""

Array = NDArray[Any]


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options for one inference at a time on `threads` threads.

    There is no memory arena, which would keep the memory of the longest utterance.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    return options


def read_pieces(data: bytes) -> list[bytes]:
    """The pieces of a tokenizer file, by token. In the file, each is a length (one byte, two from 128 on) and UTF-8."""
    pieces, at = [], 0
    while at < len(data):
        length = data[at]
        at += 1
        if length >= 128:
            length += data[at] * 128 - 128
            at += 1
        pieces.append(data[at : at + length])
        at += length
    return pieces


class Tokenizer:
    """Turns tokens into text."""

    def __init__(self, path: Path) -> None:
        self._pieces = [
            b"" if p[:1] == b"<" and p[-1:] == b">" and len(p) > 2 else p for p in read_pieces(path.read_bytes())
        ]

    def text(self, tokens: Sequence[int]) -> str:
        joined = b"".join([self._pieces[token] for token in tokens])
        return joined.decode("utf-8", "replace").replace("\u2581", " ").strip()


class MoonshineModel:
    """The model, with greedy decoding. Raises SetupError where its files are missing."""

    def __init__(self, options: onnxruntime.SessionOptions, pad_s: float) -> None:
        def load(path: Path) -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        names = ("encoder_model.ort", "decoder_model_merged.ort")
        files = [wheel_file("moonshine_voice", f"assets/tiny-en/{name}") for name in names]
        self._encoder, self._decoder = map(load, files)
        self.checksum = checksum(files)
        self._outputs = [output.name for output in self._decoder.get_outputs()]
        self._tokenizer = Tokenizer(wheel_file("moonshine_voice", "assets/tiny-en/tokenizer.bin"))
        self._pad = round(pad_s * SAMPLE_RATE)

    def text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.text(tokens)

    def decode(self, pcm: Pcm16, draft: Sequence[int] = ()) -> list[int]:
        """Tokens of an utterance, int16 [samples], without the start and end tokens.

        One pass verifies the tokens of a `draft`: those before the first that the model would not choose are kept.
        """
        tokens_max = math.ceil(len(pcm) / SAMPLE_RATE * TOKENS_PER_S_MAX)
        samples = self._padded(pcm)
        mask = np.ones((1, len(samples)), np.int64)
        (hidden,) = self._encoder.run(None, {"input_values": samples[None], "attention_mask": mask})
        return self._greedy({"encoder_hidden_states": hidden, "encoder_attention_mask": mask}, tokens_max, draft)

    def _padded(self, pcm: Pcm16) -> NDArray[np.float32]:
        missing = max(SAMPLES_MIN - len(pcm) - 2 * self._pad, 0)
        return np.pad(to_float32(pcm), (self._pad, self._pad + missing))

    def _greedy(self, inputs: dict[str, Array], tokens_max: int, draft: Sequence[int]) -> list[int]:
        chosen, past = self._first_pass(inputs, list(draft[: tokens_max - 1]))
        while chosen[-1] != END and len(chosen) < tokens_max:
            step = {"input_ids": np.array([chosen[-1:]]), "use_cache_branch": np.array([True])}
            logits, present = self._run({**inputs, **step, **past})
            chosen.append(int(logits[0, -1].argmax()))
            past |= {name: value for name, value in present.items() if ".decoder." in name}
        return chosen[:-1] if chosen[-1] == END else chosen

    def _first_pass(self, inputs: dict[str, Array], draft: list[int]) -> tuple[list[int], dict[str, Array]]:
        """The draft's tokens that the model would choose and the one it chooses next; the keys and values before it."""
        ids = np.array([[START, *draft]])
        logits, past = self._run({**inputs, **_no_past(), "input_ids": ids, "use_cache_branch": np.array([False])})
        choices = logits[0].argmax(axis=-1).tolist()
        kept = 0
        while kept < len(draft) and draft[kept] == choices[kept]:
            kept += 1
        for name in past:
            if ".decoder." in name:
                past[name] = past[name][:, :, : kept + 1]
        return choices[: kept + 1], past

    def _run(self, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Logits [1, L, vocabulary], and the keys and values with the names that the next call needs."""
        logits, *present = self._decoder.run(None, inputs)
        names = [name.replace("present", "past_key_values") for name in self._outputs[1:]]
        return logits, dict(zip(names, present, strict=True))


def _no_past() -> dict[str, Array]:
    """Empty keys and values for the first call: the merged decoder requires them as inputs, but ignores them."""
    empty = np.zeros((1, HEADS, 1, HEAD_WIDTH), np.float32)
    return {
        f"past_key_values.{layer}.{side}.{kind}": empty
        for layer in range(LAYERS)
        for side in ("decoder", "encoder")
        for kind in ("key", "value")
    }
