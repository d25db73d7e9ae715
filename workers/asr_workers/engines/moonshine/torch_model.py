"""Moonshine checkpoints on torch: turns batches of samples into tokens and text.

In fp32 the text of an utterance does not depend on the rest of the batch. In lower precisions, rounding can change the
choice between two tokens that are almost equally likely. This module must not know slots, time or the purpose of a
decode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from asr_proto.audio import SAMPLE_RATE, Pcm16, to_float32
from asr_proto.errors import SetupError
from asr_workers.engines.moonshine.model import TOKENS_PER_S_MAX
from asr_workers.engines.moonshine.torch_encoder import SAMPLES_MIN, encoder_of, valid
from asr_workers.engines.moonshine.torch_files import MoonshineCheckpoint, first_line
from asr_workers.engines.moonshine.torch_int8 import to_int8
from asr_workers.engines.offline.utterance_engine import DecodeRequest

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CLASSES = {
    "moonshine": "MoonshineForConditionalGeneration",
    "moonshine_streaming": "MoonshineStreamingForConditionalGeneration",
}


class TorchMoonshine:
    """A loaded checkpoint, with greedy decoding of batches. Raises SetupError where the weights do not load."""

    def __init__(self, checkpoint: MoonshineCheckpoint, device: torch.device, precision: str, pad_s: float) -> None:
        self.device = device
        self._dtype = DTYPES.get(precision, torch.float32 if device.type == "cpu" else torch.float16)
        self._tokenizer = _tokenizer(checkpoint)
        self._model = _load(checkpoint, self._dtype)
        if precision == "int8":
            to_int8(self._model)
        self._model.to(device)
        self._encode = encoder_of(self._model.model.encoder)
        self._start, self._ends = _special_tokens(self._model)
        self._pad = round(pad_s * SAMPLE_RATE)
        self.one_by_one = precision == "int8" and device.type == "cpu"
        """Whether utterances are decoded one by one: after rounding to int8, a batch would change their texts."""

    def text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True).strip()

    def decode(self, requests: Sequence[DecodeRequest]) -> list[list[int]]:
        """Tokens of each utterance, without the start and end tokens.

        One pass verifies the drafts: tokens before the first that the model would not choose are kept.
        """
        if self.one_by_one and len(requests) > 1:
            return [tokens for request in requests for tokens in self.decode([request])]
        limits = [math.ceil(len(request.pcm) / SAMPLE_RATE * TOKENS_PER_S_MAX) for request in requests]
        drafts = [list(request.draft[: limit - 1]) for request, limit in zip(requests, limits, strict=True)]
        with torch.inference_mode():
            hidden, mask = self._encoded([request.pcm for request in requests])
            return self._greedy(hidden, mask, drafts, limits, self._ends)

    def decode_longest(self, rows: int, samples: int) -> None:
        """Do the most work that this many utterances of this length can need: long drafts, and texts without an end."""
        limit = math.ceil(samples / SAMPLE_RATE * TOKENS_PER_S_MAX)
        draft = [self._start] * (limit - 1)
        with torch.inference_mode():
            hidden, mask = self._encoded([np.zeros(samples, np.int16)] * rows)
            self._greedy(hidden, mask, [draft] * rows, [limit] * rows, frozenset())

    def _encoded(self, pcms: Sequence[Pcm16]) -> tuple[Tensor, Tensor]:
        """As `encode`; on a CPU one by one, because padding costs more there than a batch saves."""
        if self.device.type != "cpu":
            return self.encode(pcms)
        hidden = [self.encode([pcm])[0][0] for pcm in pcms]
        frames = torch.tensor([len(one) for one in hidden])
        return nn.utils.rnn.pad_sequence(hidden, batch_first=True), valid(frames, int(frames.max()))

    def encode(self, pcms: Sequence[Pcm16]) -> tuple[Tensor, Tensor]:
        """Hidden states [B, T, width] of int16 utterances, and which of them are valid: bool [B, T]."""
        lengths = [max(len(pcm) + 2 * self._pad, SAMPLES_MIN) for pcm in pcms]
        samples = np.zeros((len(pcms), max(lengths)), np.float32)
        for row, pcm in zip(samples, pcms, strict=True):
            row[self._pad : self._pad + len(pcm)] = to_float32(pcm)
        batch = torch.from_numpy(samples).to(self.device, self._dtype)
        hidden, frames = self._encode(batch, torch.tensor(lengths, device=self.device))
        return hidden, valid(frames, hidden.shape[1])

    # ---- Decoding ----

    def _greedy(
        self, hidden: Tensor, mask: Tensor, drafts: list[list[int]], limits: list[int], ends: frozenset[int]
    ) -> list[list[int]]:
        batch = _DecoderBatch(self._model, hidden, mask)
        chosen = self._verified(batch, drafts)
        rows = list(range(len(drafts)))  # the utterances that are still in the batch
        while going := [
            at for at, row in enumerate(rows) if chosen[row][-1] not in ends and len(chosen[row]) < limits[row]
        ]:
            if 2 * len(going) <= len(rows):
                batch.keep(going)
                rows = [rows[at] for at in going]
                going = list(range(len(rows)))
            following = batch.step([chosen[row][-1] for row in rows])
            for at in going:
                chosen[rows[at]].append(following[at])
        return [tokens[:-1] if tokens[-1] in ends else tokens for tokens in chosen]

    def _verified(self, batch: _DecoderBatch, drafts: list[list[int]]) -> list[list[int]]:
        """The tokens of each draft that the model would choose, and the one that it chooses next."""
        length = 1 + max(len(draft) for draft in drafts)
        ids = [[self._start, *draft] + [self._start] * (length - 1 - len(draft)) for draft in drafts]
        choices = batch.first(ids)
        kept = [_alike(draft, chosen) for draft, chosen in zip(drafts, choices, strict=True)]
        batch.forget(kept)
        return [chosen[: count + 1] for chosen, count in zip(choices, kept, strict=True)]


class _DecoderBatch:
    """The decoder's keys and values of the utterances in a batch.

    In the first pass all rows are filled up to the longest one. The filling is masked. Positions are counted per row.
    """

    def __init__(self, model: Any, hidden: Tensor, mask: Tensor) -> None:
        self._decoder, self._head = model.model.decoder, model.proj_out
        self._hidden = hidden
        self._hidden_mask = mask[:, None, None]
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._mask = mask.new_zeros((len(hidden), 0))
        """bool [B, cached]: which keys of a row belong to its tokens."""
        self._positions = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)

    def first(self, ids: list[list[int]]) -> list[list[int]]:
        """The first pass: the token that follows each of these tokens, ids [B, L]."""
        tokens = torch.tensor(ids, device=self._hidden.device)
        size = tokens.shape[1]
        causal = torch.ones((1, 1, size, size), dtype=torch.bool, device=tokens.device).tril()
        return self._choose(tokens, torch.arange(size, device=tokens.device)[None], causal)

    def forget(self, kept: list[int]) -> None:
        """Keep the start token of each row of the first pass, and this many tokens after it."""
        lengths = torch.tensor(kept, device=self._hidden.device) + 1
        self._mask, self._positions = valid(lengths, self._cache.get_seq_length()), lengths

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        index = torch.tensor(rows, device=self._hidden.device)
        self._cache.batch_select_indices(index)
        self._hidden, self._hidden_mask = self._hidden[index], self._hidden_mask[index]
        self._mask, self._positions = self._mask[index], self._positions[index]

    def step(self, tokens: list[int]) -> list[int]:
        """Append one token to each row. Returns the token that follows each."""
        ids = torch.tensor(tokens, device=self._hidden.device)[:, None]
        self._mask = nn.functional.pad(self._mask, (0, 1), value=True)
        choices = self._choose(ids, self._positions[:, None], self._mask[:, None, None])
        self._positions = self._positions + 1
        return [choice for (choice,) in choices]

    def _choose(self, ids: Tensor, positions: Tensor, mask: Tensor) -> list[list[int]]:
        outputs = self._decoder(
            ids,
            mask,
            positions,
            self._cache,  # by position: transformers 5.24 renamed past_key_values to cache
            encoder_hidden_states=self._hidden,
            encoder_attention_mask=self._hidden_mask,
            use_cache=True,
        )
        choices: list[list[int]] = self._head(outputs.last_hidden_state).argmax(-1).tolist()
        return choices


def _alike(draft: Sequence[int], choices: Sequence[int]) -> int:
    """Number of tokens at the start of a draft that the model would choose."""
    at = 0
    while at < len(draft) and draft[at] == choices[at]:
        at += 1
    return at


def _load(checkpoint: MoonshineCheckpoint, dtype: torch.dtype) -> Any:
    logs: Any = transformers.utils.logging
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    family = getattr(transformers, CLASSES[checkpoint.family])
    try:
        model, found = family.from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            attn_implementation="sdpa",  # "eager" adds a bool mask to the scores, which does not mask
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # three libraries raise many kinds, all for weights that cannot be loaded
        raise SetupError(f"the weights of {checkpoint.folder} do not load: {first_line(error)}") from error
    if lacking := sorted(found["missing_keys"]):
        raise SetupError(f"{checkpoint.folder} lacks {len(lacking)} of the model's weights, {lacking[0]} among them")
    return model.eval()


def _tokenizer(checkpoint: MoonshineCheckpoint) -> tokenizers.Tokenizer:
    path = checkpoint.folder / "tokenizer.json"
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise SetupError(f"{path} does not load: {first_line(error)}") from error


def _special_tokens(model: Any) -> tuple[int, frozenset[int]]:
    """The token that begins a text and those that end it."""
    settings = (model.generation_config, model.config)
    starts = [getattr(one, name) for name in ("decoder_start_token_id", "bos_token_id") for one in settings]
    ends = next((one.eos_token_id for one in settings if one.eos_token_id is not None), None)
    start = next((one for one in starts if one is not None), None)
    if start is None or ends is None:
        raise SetupError("the checkpoint does not define which tokens begin and end a text")
    return start, frozenset([ends] if isinstance(ends, int) else ends)
