"""Moonshine checkpoints from Hugging Face on torch: on CUDA, MPS or the CPU, after voice activity detection.

Utterances and partials that are due at about the same time are decoded in one batch. The size of the largest batch is
measured in the device's memory before the worker serves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import SetupError
from asr_proto.messages import Spec
from asr_workers.engines.memory import is_out_of_memory
from asr_workers.engines.moonshine import torch_files
from asr_workers.engines.moonshine.config import (
    BATCH_SIZE_CPU,
    BATCH_SIZE_DEVICE,
    BATCH_WAIT_MS_DEVICE,
    PRECISIONS,
    SLOTS_CPU,
    SLOTS_DEVICE,
    MoonshineConfig,
)
from asr_workers.engines.moonshine.model import session_options
from asr_workers.engines.moonshine.torch_memory import halved_until_it_fits, memory_of, rows_that_fit
from asr_workers.engines.moonshine.torch_model import TorchMoonshine
from asr_workers.engines.offline.decode_queue import BatchLimits
from asr_workers.engines.offline.utterance_engine import (
    CHUNK_SAMPLES,
    UNCOMMITTED_S_MARGIN,
    DecodeRequest,
    UtteranceEngine,
)

LIVE_LATE_S_MAX = 0.1
"""While live audio is later than this many seconds, no partials are decoded."""
STEP_S_P99_MIN = 0.5


class MoonshineTorchEngine(UtteranceEngine):
    """The engine `moonshine` on torch. Raises SetupError where it cannot run as configured."""

    def __init__(self, config: MoonshineConfig) -> None:
        device = _device(config.device)
        on_cpu = device.type == "cpu"
        precision = config.precision or ("fp32" if on_cpu else "fp16")
        if precision not in PRECISIONS:
            raise SetupError(f"unknown precision {precision!r}; there are {', '.join(PRECISIONS)}")
        torch.set_num_threads(config.threads)
        checkpoint = torch_files.find(config.checkpoint)
        self._segment_samples = round(config.segment_s_max * SAMPLE_RATE)
        slots = config.slots or (SLOTS_CPU if on_cpu else SLOTS_DEVICE)
        try:
            self._model = TorchMoonshine(checkpoint, device, precision, config.pad_s)
            batch_size, step_s = self._sized(config, slots)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise _too_small(config) from error
        spec = Spec(
            engine="moonshine",
            model=checkpoint.name,
            languages=checkpoint.languages,
            slots=slots,
            chunk_samples=CHUNK_SAMPLES,
            uncommitted_s_max=config.segment_s_max + UNCOMMITTED_S_MARGIN,
            device=str(device),
            step_s_p99=max(STEP_S_P99_MIN, step_s),
            checksum=checkpoint.checksum,
            license=checkpoint.license,
        )
        options = session_options(config.threads)
        usual_wait_ms = 0.0 if on_cpu else BATCH_WAIT_MS_DEVICE
        wait_ms = usual_wait_ms if config.batch_wait_ms is None else config.batch_wait_ms
        super().__init__(config, spec, options, BatchLimits(batch_size, wait_ms), LIVE_LATE_S_MAX)

    def _decode(self, requests: Sequence[DecodeRequest]) -> list[list[int]]:
        return self._model.decode(requests)

    def _text(self, tokens: Sequence[int]) -> str:
        return self._model.text(tokens)

    # ---- Before serving ----

    def _sized(self, config: MoonshineConfig, slots: int) -> tuple[int, float]:
        """The most utterances of a batch, and the seconds that such a batch takes. Raises SetupError."""
        memory = memory_of(self._model.device)
        usual = 1 if self._model.one_by_one else BATCH_SIZE_CPU if memory is None else BATCH_SIZE_DEVICE
        wanted = min(config.batch_size_max or usual, slots)
        fit = wanted if memory is None else min(wanted, rows_that_fit(memory, self._longest))
        if not fit:
            raise _too_small(config)
        rows, step_s = halved_until_it_fits(fit, self._warm_up)
        if config.batch_size_max and rows < wanted:
            raise SetupError(
                f"{wanted} utterances of {config.segment_s_max:g} s do not fit into the memory of {config.device}: "
                f"at most {rows} would: set --batch-size-max {rows}"
            )
        return rows, step_s

    def _warm_up(self, rows: int) -> float:
        """Decode the largest batch. Returns its seconds: CPU time on a CPU, so that other processes do not count."""
        on_cpu = self._model.device.type == "cpu"
        clock, tried = (time.thread_time, 1) if on_cpu else (time.perf_counter, rows)
        self._model.decode_longest(tried, SAMPLE_RATE)  # the first decode is slow
        started = clock()
        self._longest(tried)
        return (clock() - started) * rows / tried

    def _longest(self, rows: int) -> None:
        self._model.decode_longest(rows, self._segment_samples)


def _too_small(config: MoonshineConfig) -> SetupError:
    return SetupError(
        f"{config.checkpoint} and one utterance of {config.segment_s_max:g} s do not fit into the memory of "
        f"{config.device}"
    )


def _device(name: str) -> torch.device:
    """The device of this name. Raises SetupError where torch does not find it."""
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name == "auto":
        return torch.device(next(kind for kind, count in there.items() if count))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SetupError(f"unknown device {name!r}: use cpu, cuda, cuda:1 or mps") from error
    if device.type not in there:
        raise SetupError(f"engine moonshine runs on cpu, cuda and mps, not on {name}")
    if (device.index or 0) >= there[device.type]:
        raise SetupError(f"torch {torch.__version__} finds no device {name} here")
    return device
