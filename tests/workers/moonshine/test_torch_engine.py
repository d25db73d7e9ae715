"""The Moonshine engine on torch, through the interface that workers use, on the weights that a wheel carries."""

# ruff: noqa: E402 - where a package is missing, the imports after it are not reached

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

for package in ("torch", "transformers", "onnx"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install asr-pool[moonshine] and onnx")

import huggingface_hub.constants
import torch

from asr_proto.errors import BadRequest, SetupError
from asr_workers.engines.base import Chunk, Drained, Hypothesis, SlotOptions
from asr_workers.engines.moonshine import torch_engine as moonshine_torch
from asr_workers.engines.moonshine import torch_files as moonshine_torch_files
from asr_workers.engines.moonshine.config import MoonshineConfig
from asr_workers.engines.moonshine.engine import MoonshineEngine
from asr_workers.engines.moonshine.torch_engine import MoonshineTorchEngine
from asr_workers.engines.moonshine.torch_memory import halved_until_it_fits, rows_that_fit
from asr_workers.engines.offline.decode_queue import BatchLimits
from asr_workers.engines.offline.utterance_engine import DecodeRequest, UtteranceEngine
from tests.workers.moonshine.moonshine_checkpoint import write_checkpoint
from tests.workers.moonshine.test_engine import (
    CLIPS,
    FINALS_ONLY,
    SILENCE,
    clip,
    finals,
    in_chunks,
    partials,
    run,
    words,
)

SAID = "what joy there is in living"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "moonshine-tiny")


@pytest.fixture(scope="module")
def shared_engine(folder: Path) -> MoonshineTorchEngine:
    return MoonshineTorchEngine(MoonshineConfig(model=str(folder), slots=6, batch_size_max=3, batch_wait_ms=0))


@pytest.fixture
def engine(shared_engine: MoonshineTorchEngine) -> Iterator[MoonshineTorchEngine]:
    """The engine with every slot closed, before and after."""
    yield shared_engine
    for slot in range(shared_engine.spec.slots):
        shared_engine.close(slot)
    assert not shared_engine.pending()


@pytest.fixture
def batches(engine: MoonshineTorchEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are decoded."""
    plain, sizes = engine._model.decode, []

    def decode(requests: Sequence[DecodeRequest]) -> list[list[int]]:
        sizes.append(len(requests))
        return plain(requests)

    monkeypatch.setattr(engine._model, "decode", decode)
    return sizes


@pytest.fixture
def small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., MoonshineTorchEngine]:
    """Makes an engine without warm-up, for tests that do not depend on speed."""
    monkeypatch.setattr(MoonshineTorchEngine, "_longest", lambda self, rows: None)
    return lambda **given: MoonshineTorchEngine(MoonshineConfig(**{"model": str(folder), **given}))


def said(engine: UtteranceEngine, slots: Sequence[int], options: SlotOptions) -> list[list[str]]:
    """The finals of sessions with two clips each; every session has other clips."""
    sessions = {}
    for slot in slots:
        engine.open(slot, options, None)
        spoken = (SILENCE, clip(CLIPS[slot]), SILENCE, clip(CLIPS[(slot + 1) % 4]), SILENCE)
        sessions[slot] = np.concatenate(spoken)
    outputs = run(engine, sessions)
    for slot in slots:
        engine.close(slot)
    return [[final.text for final in finals(outputs[slot])] for slot in slots]


# ---- Serving ----


def test_spec(engine: MoonshineTorchEngine) -> None:
    """MOO-09, MOO-11: the name, the size and the identity of the model are shown."""
    spec = engine.spec
    assert (spec.engine, spec.model, spec.languages, spec.slots) == ("moonshine", "moonshine-tiny", ("en",), 6)
    assert (spec.device, spec.license, len(spec.checksum)) == ("cpu", "mit", 16)
    assert 0.5 <= spec.step_s_p99 < 100


def test_sessions_beside_each_other_say_what_each_says_alone(engine: MoonshineTorchEngine, batches: list[int]) -> None:
    """With partials beside the finals in batches; and the words are those of the ONNX engine."""
    together = said(engine, range(3), SlotOptions())
    assert max(batches) >= 2
    assert said(engine, [1], FINALS_ONLY) == together[1:2]
    onnx = said(MoonshineEngine(MoonshineConfig(slots=3)), range(3), FINALS_ONLY)
    assert plain(together) == plain(onnx) and len(together[0]) >= 2


def plain(said: list[list[str]]) -> list[str]:
    """Without case and punctuation."""
    return [re.sub(r"[^a-z ]", "", " ".join(texts).lower()) for texts in said]


def test_partials_grow_into_the_final(engine: MoonshineTorchEngine) -> None:
    engine.open(0, SlotOptions(), None)
    outputs = run(engine, {0: clip(CLIPS[0])})[0]
    (final,) = finals(outputs)
    texts = [partial.text for partial in partials(outputs)]
    assert 2 <= len(texts) <= 6
    assert final.text.lower().startswith(texts[-1].lower()[:12])


def flushed(engine: MoonshineTorchEngine, slots: Sequence[int], **options: float) -> list[Chunk]:
    """Chunks with a whole utterance each, for slots that are opened for them."""
    for slot in slots:
        engine.open(slot, FINALS_ONLY, None)
    return [Chunk(slot, clip(CLIPS[2]), flush=True, **options) for slot in slots]


def test_finals_of_one_moment_are_decoded_together(engine: MoonshineTorchEngine, batches: list[int]) -> None:
    """MOO-11: as many as the largest batch has; the rest in the next step, without audio."""
    outputs = engine.step(flushed(engine, range(5)), 0.0)
    assert [words([final]) for final in finals(outputs)] == [SAID] * 3
    assert [engine.blocked(slot) for slot in range(5)] == [False] * 3 + [True] * 2
    outputs += engine.step([], 0.0)
    assert batches == [3, 2] and len(finals(outputs)) == 5
    assert sum(isinstance(output, Drained) for output in outputs) == 5


def test_a_batch_waits_for_more_but_not_for_long(
    engine: MoonshineTorchEngine, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MOO-11."""
    monkeypatch.setattr(engine, "_batch", BatchLimits(3, 10.0))
    engine.open(5, FINALS_ONLY, None)
    silence = Chunk(5, SILENCE[: engine.spec.chunk_samples])
    assert not finals(engine.step(flushed(engine, [0]), 1.0))
    assert not finals(engine.step([silence], 1.009)) and engine.pending() and engine.blocked(0)
    assert len(finals(engine.step([silence], 1.011))) == 1
    for slot, waits in ((1, True), (2, True), (3, False)):
        assert bool(finals(engine.step(flushed(engine, [slot]), 2.0))) != waits
    assert batches == [1, 3]


def test_a_batch_does_not_wait_where_no_audio_comes(
    engine: MoonshineTorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is pending, steps follow each other immediately, so a step without audio must have work."""
    monkeypatch.setattr(engine, "_batch", BatchLimits(3, 1e9))
    engine.open(5, FINALS_ONLY, None)
    assert not finals(engine.step(flushed(engine, [0]), 1.0)) and engine.pending()
    assert len(finals(engine.step([], 1.0))) == 1 and not engine.pending()


@pytest.mark.parametrize(("given", "wait_ms"), [({}, 0.0), ({"batch_wait_ms": 5.0}, 5.0)])
def test_on_a_cpu_batches_do_not_wait_unless_told_to(
    small: Callable[..., MoonshineTorchEngine], given: dict[str, float], wait_ms: float
) -> None:
    assert small(**given)._batch.wait_ms == wait_ms


def test_a_batch_does_not_wait_where_nobody_else_speaks(
    engine: MoonshineTorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_batch", BatchLimits(3, 10.0))
    assert len(finals(engine.step(flushed(engine, [0]), 1.0))) == 1


def test_partials_are_decoded_beside_audio_that_is_in_time(engine: MoonshineTorchEngine) -> None:
    for slot in (0, 1):
        engine.open(slot, SlotOptions(), None)
    heard: dict[int, list[Hypothesis]] = {0: [], 1: []}
    for chunk in in_chunks(engine, 0, clip(CLIPS[0]))[:20]:
        heard[0] += partials(engine.step([chunk], chunk.deadline_s))
        late = Chunk(1, chunk.pcm, deadline_s=chunk.deadline_s)
        heard[1] += partials(engine.step([late], chunk.deadline_s + 0.2))
    assert len({partial.text for partial in heard[0] if partial.slot == 0}) >= 2
    assert not heard[1]


def test_the_seconds_of_partials_are_what_can_be_left_out(engine: MoonshineTorchEngine) -> None:
    engine.step(flushed(engine, [0]), 0.0)
    assert engine.elective_s() == 0
    engine.open(1, SlotOptions(), None)
    for chunk in in_chunks(engine, 1, clip(CLIPS[0]))[:20]:
        if partials(engine.step([chunk], chunk.deadline_s)):
            break
    assert engine.elective_s() > 0


# ---- Languages ----


def replaced(folder: Path, copy: Path, file: str, content: str | None) -> None:
    """Copy a folder with another content of one file, or without it."""
    shutil.copytree(folder, copy, copy_function=os.link)
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)


@pytest.mark.parametrize(("known", "asked", "served"), [("en", "en-GB", True), ("en", "de", False), ("ko", "ko", True)])
def test_the_checkpoint_says_which_languages_it_knows(
    small: Callable[..., MoonshineTorchEngine], folder: Path, tmp_path: Path, known: str, asked: str, served: bool
) -> None:
    replaced(folder, tmp_path / "model", "README.md", f"---\nlanguage: {known}\n---\n")
    engine = small(model=str(tmp_path / "model"))
    assert engine.spec.languages == (known,)
    if served:
        engine.open(0, SlotOptions(asked), None)
    else:
        with pytest.raises(BadRequest, match="English only"):
            engine.open(0, SlotOptions(asked), None)


def test_a_folder_without_a_card_is_english_of_no_known_license(folder: Path, tmp_path: Path) -> None:
    replaced(folder, tmp_path / "model", "README.md", None)
    found = moonshine_torch_files.find(str(tmp_path / "model"))
    assert (found.languages, found.license) == (("en",), "")


# ---- What stops a start ----


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8'; there are fp32, fp16, bf16, int8"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "meta"}, "runs on cpu, cuda and mps, not on meta"),
        ({"device": "cuda:63"}, "finds no device cuda:63 here"),
    ],
)
def test_what_cannot_run_says_so_in_one_sentence(
    small: Callable[..., MoonshineTorchEngine], given: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SetupError, match=sentence):
        small(**given)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("config.json", None, "no readable config.json"),
        ("config.json", "{", "no readable config.json"),
        ("config.json", '{"model_type": "whisper"}', "is not a Moonshine checkpoint: its model_type is 'whisper'"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", "{}", "tokenizer.json does not load"),
        ("model.safetensors", None, "has no \\*.safetensors file; weights in other formats are not loaded"),
    ],
)
def test_a_folder_that_lacks_something_says_what(
    small: Callable[..., MoonshineTorchEngine],
    folder: Path,
    tmp_path: Path,
    file: str,
    content: str | None,
    sentence: str,
) -> None:
    replaced(folder, tmp_path / "model", file, content)
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"code, perhaps")
    with pytest.raises(SetupError, match=sentence):
        small(model=str(tmp_path / "model"))


def test_auto_takes_the_first_device_that_is_here(
    small: Callable[..., MoonshineTorchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MOO-14: cuda, then mps, then cpu."""
    kinds = [("cpu", 0, False), ("mps", 0, True), ("cuda", 2, True)]
    for kind, cuda, mps in kinds:
        monkeypatch.setattr(torch.cuda, "device_count", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert moonshine_torch._device("auto").type == kind


def test_the_engine_warms_up_before_it_serves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MOO-13: with the longest utterance there can be."""
    worked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        moonshine_torch.TorchMoonshine, "decode_longest", lambda self, rows, samples: worked.append((rows, samples))
    )
    MoonshineTorchEngine(MoonshineConfig(model=str(folder), segment_s_max=8.0))
    assert worked == [(1, 16_000), (1, 128_000)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_on_a_gpu_batches_say_what_single_utterances_say(folder: Path, precision: str) -> None:
    """MOO-10, MOO-11."""
    config = MoonshineConfig(device="cuda", model=str(folder), precision=precision, slots=4, batch_wait_ms=0)
    engine = MoonshineTorchEngine(config)
    together = said(engine, range(4), SlotOptions())
    assert [said(engine, [slot], FINALS_ONLY)[0] for slot in range(4)] == together
    assert SAID in plain(together)[1]


# ---- The hub ----


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of a machine without a network, which has one model."""
    cached = tmp_path / "models--Somebody--moonshine-tiny"
    shutil.copytree(folder, cached / "snapshots" / "abc", copy_function=os.link)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("hub")
def test_a_name_on_the_hub_is_found(small: Callable[..., MoonshineTorchEngine]) -> None:
    """MOO-09."""
    engine = small(model="Somebody/moonshine-tiny")
    assert (engine.spec.model, engine.spec.license) == ("moonshine-tiny", "mit")
    assert len(finals(engine.step(flushed(engine, [0]), 0.0))) == 1


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("model", "exit_code", "where"),
    [
        ("Nobody/moonshine", 75, "not on disk and the hub cannot be reached"),
        ("not a name", 2, "neither on disk nor on the hub"),
    ],
)
def test_a_model_that_is_nowhere_is_one_sentence(
    small: Callable[..., MoonshineTorchEngine], model: str, exit_code: int, where: str
) -> None:
    """A hub that is not reached may be reached later. An invalid name stays invalid."""
    with pytest.raises(SetupError, match=f"^model {model} is {where}$") as said:
        small(model=model)
    assert said.value.exit_code == exit_code


# ---- Memory ----


class FewBytes:
    """A device of 1000 free bytes, where a batch takes 100 and 150 for each row."""

    def __init__(self, free_bytes: int = 1000) -> None:
        self._free, self.rows = free_bytes, 0

    def free(self) -> int:
        return self._free

    def peak(self, work: Callable[[], object]) -> int:
        self.rows += 1
        work()
        return 100 + 150 * self.rows


def test_rows_are_measured_in_memory() -> None:
    worked: list[int] = []
    assert rows_that_fit(FewBytes(), worked.append) == 5
    assert worked == [1, 1, 2]
    assert rows_that_fit(FewBytes(100), worked.append) == 0


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes."),
]
"""Texts of torch's out-of-memory errors."""
BROKEN = RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("error", FULL, ids=str)
def test_one_row_fits_where_two_are_too_many(error: RuntimeError) -> None:
    def work(rows: int) -> None:
        if rows > 1:
            raise error

    assert rows_that_fit(FewBytes(), work) == 1


def test_what_is_not_about_memory_is_not_taken_for_it() -> None:
    def work(rows: int) -> float:
        if rows > 1:
            raise BROKEN
        return 0.0

    for measure in (lambda: rows_that_fit(FewBytes(), work), lambda: halved_until_it_fits(4, work)):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            measure()


@pytest.fixture
def room_for_three(small: Callable[..., MoonshineTorchEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that measures as enough for five rows, but holds three."""

    def warm_up(self: MoonshineTorchEngine, rows: int) -> float:
        if rows > 3:
            raise torch.AcceleratorError("CUDA error: out of memory")
        return rows / 10

    monkeypatch.setattr(moonshine_torch, "memory_of", lambda device: FewBytes())
    monkeypatch.setattr(MoonshineTorchEngine, "_warm_up", warm_up)


@pytest.mark.usefixtures("room_for_three")
def test_a_batch_that_does_not_fit_after_all_is_halved(small: Callable[..., MoonshineTorchEngine]) -> None:
    assert small()._batch.size_max == 2
    assert small(batch_size_max=2)._batch.size_max == 2
    with pytest.raises(SetupError, match=r"4 utterances .* at most 2 would: set --batch-size-max 2"):
        small(batch_size_max=4)


def test_where_memory_cannot_be_measured_batches_are_small(
    small: Callable[..., MoonshineTorchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device MPS, whose model runs on the CPU here."""
    monkeypatch.setattr(moonshine_torch, "_device", lambda name: torch.device("mps"))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(MoonshineTorchEngine, "_warm_up", lambda self, rows: 0.0)
    assert small(device="mps")._batch == BatchLimits(4, 10.0)


@pytest.mark.parametrize(("given", "size"), [({}, 4), ({"batch_size_max": 2}, 2), ({"slots": 3}, 3)])
def test_a_batch_is_as_large_as_memory_allows(
    small: Callable[..., MoonshineTorchEngine], monkeypatch: pytest.MonkeyPatch, given: dict[str, int], size: int
) -> None:
    monkeypatch.setattr(moonshine_torch, "memory_of", lambda device: FewBytes(800))
    assert small(**given)._batch.size_max == size


def test_a_batch_that_does_not_fit_says_how_many_rows_would(
    small: Callable[..., MoonshineTorchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moonshine_torch, "memory_of", lambda device: FewBytes())
    with pytest.raises(SetupError, match=r"12 utterances of 15 s .* at most 5 would: set --batch-size-max 5"):
        small(batch_size_max=12)
    monkeypatch.setattr(moonshine_torch, "memory_of", lambda device: FewBytes(100))
    with pytest.raises(SetupError, match="one utterance of 15 s do not fit into the memory of cpu"):
        small()


@pytest.mark.parametrize("error", [*FULL, BROKEN], ids=str)
def test_a_model_that_does_not_fit_stops_the_start(
    small: Callable[..., MoonshineTorchEngine], monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def full(self: object, device: torch.device) -> None:
        raise error

    monkeypatch.setattr(torch.nn.Module, "to", full)
    sentence = "do not fit into the memory of cpu"
    with pytest.raises(
        RuntimeError if error is BROKEN else SetupError, match=str(error) if error is BROKEN else sentence
    ):
        small()
