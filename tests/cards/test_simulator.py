"""The simulator computes the real network: compared with plain numpy, for every instruction set and batch size."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from asr_workers.cards import abi, carm
from asr_workers.cards.carm import CarmConfig, Precision
from asr_workers.cards.library import CardError, CardLibrary, CardStatus, Completions
from tests.cards.reference import (
    CALM,
    LIVELY,
    SMALL,
    TALKATIVE,
    Reference,
    log_mel,
    random_statistics,
    random_tensors,
    speechlike,
)

INSTRUCTION_SETS = ("generic", "avx2", "avx512", "vnni")
PATIENCE_MS = 30_000
INCLUDE = Path(abi.__file__).with_name("include")
MEANS, VARIANCES = random_statistics(2)
CHUNKS = 40


def compiled(path: Path, config: CarmConfig, seed: tuple[float, ...], precision: Precision) -> Path:
    tensors = random_tensors(config, int(seed[0]), *seed[1:])
    carm.write(path, config, tensors, precision, MEANS, VARIANCES, b"pieces", "random")
    return path


def run(library: CardLibrary, model: Path, pcm: NDArray[np.int16], options: str = "") -> list[Completions]:
    """The completions of all chunks of one stream, with packets if the model supports them."""
    card = library.open(0, options)
    card.load(model)
    card.open(2)
    results = []
    for tag in range(len(pcm)):
        card.submit([(2, tag, pcm[tag])])
        results.append(card.poll_arrays(PATIENCE_MS))
    card.close_card()
    return results


def tokens_of(results: list[Completions]) -> list[int]:
    return [int(token) for completions in results for token in completions.tokens]


def referred(model: Path, precision: Precision, pcm: NDArray[np.int16]) -> tuple[Reference, list[int], list[float]]:
    """The reference after these chunks, with the model's quantized weights, and its tokens and log-probabilities."""
    read = carm.read(model)
    reference = Reference(read.config, {name: t.dequantized() for name, t in read.tensors.items()}, precision)
    features = log_mel(pcm.ravel(), read.config.window_samples, MEANS.astype(float), VARIANCES.astype(float))
    tokens: list[int] = []
    log_probs: list[float] = []
    for frames in features.reshape(-1, 6, 80):
        more = reference.step(frames)
        tokens += more[0]
        log_probs += more[1]
    return reference, tokens, log_probs


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request: pytest.FixtureRequest, simulator: CardLibrary) -> str:
    try:
        simulator.open(0, f"isa={request.param}").close_card()
    except CardError as error:
        assert error.code == CardStatus.UNSUPPORTED
        pytest.skip(error.sentence)
    return str(request.param)


# The network


@pytest.mark.parametrize("seed", [LIVELY, TALKATIVE], ids=["lively", "talkative"])
def test_fp32_logits_and_tokens_are_those_of_the_reference(
    simulator: CardLibrary, tmp_path: Path, seed: tuple[int, float], isa: str
) -> None:
    """CAI-39, CAI-49: 960 samples are one step of at most 30 symbols. Logits within 1e-4 of the largest."""
    model, pcm = compiled(tmp_path / "m.carm", SMALL, seed, "fp32"), speechlike(3, CHUNKS)
    reference, tokens, log_probs = referred(model, "fp32", pcm)
    results = run(simulator, model, pcm, f"top_k=1,isa={isa}")
    assert tokens_of(results) == tokens
    assert len(tokens) > 10
    assert (max(len(completions.tokens) for completions in results) == 30) == (seed == TALKATIVE)
    np.testing.assert_allclose(np.concatenate([r.log_probs for r in results]), log_probs, atol=1e-4)
    values = np.concatenate([r.packets["value"] for r in results])
    expected = np.concatenate([logits.reshape(-1, 8, 32).max(axis=1) for logits in reference.logits])
    assert np.abs(values - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(("precision", "tolerance"), [("int8", 0.03), ("bfp16", 1e-4)])
def test_quantized_logits_and_tokens(
    simulator: CardLibrary, tmp_path: Path, precision: Precision, tolerance: float, isa: str
) -> None:
    """Compared with a reference that rounds activations as the card does; a different rounding of a tie moves int8."""
    model, pcm = compiled(tmp_path / "m.carm", SMALL, CALM, precision), speechlike(3, CHUNKS)
    reference, tokens, _ = referred(model, precision, pcm)
    results = run(simulator, model, pcm, f"top_k=1,isa={isa}")
    assert tokens_of(results) == tokens
    values = np.concatenate([r.packets["value"] for r in results])
    expected = np.concatenate([logits.reshape(-1, 8, 32).max(axis=1) for logits in reference.logits])
    assert np.abs(values - expected).max() <= tolerance * np.abs(expected).max()


SHAPES = {
    "odd sizes": replace(SMALL, enc_n_hid=33, pred_n_hid=29, joint_n_hid=31, n_classes=77),
    "one layer each": replace(SMALL, enc_pre_rnn_layers=1, enc_post_rnn_layers=1, pred_rnn_layers=1),
    "short window": replace(SMALL, window_samples=320, name="testing"),
    "three frames a step": replace(SMALL, in_feats=160, enc_stack_time_factor=3),
    "one frame a step": replace(SMALL, in_feats=480, enc_stack_time_factor=1),
}


@pytest.mark.parametrize("precision", carm.PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_other_shapes(simulator: CardLibrary, tmp_path: Path, shape: CarmConfig, precision: Precision) -> None:
    model, pcm = compiled(tmp_path / "m.carm", shape, CALM, precision), speechlike(3, 12)
    reference, tokens, log_probs = referred(model, precision, pcm)
    results = run(simulator, model, pcm)
    assert tokens_of(results) == tokens
    np.testing.assert_allclose(np.concatenate([r.log_probs for r in results]), log_probs, atol=0.1)
    assert len(reference.logits) >= 12


@pytest.mark.parametrize("precision", carm.PRECISIONS)
def test_a_batch_of_any_size_gives_the_same_bits(
    simulator: CardLibrary, tmp_path: Path, precision: Precision, isa: str
) -> None:
    """CAI-31: tiles, tails and threads change no bit of a slot's log-probabilities."""
    model = compiled(tmp_path / "m.carm", SMALL, LIVELY, precision)
    pcm = speechlike(3, CHUNKS)
    alone = run(simulator, model, pcm, f"isa={isa}")
    for slots, threads in ((2, 1), (13, 1), (29, 3)):
        card = simulator.open(0, f"isa={isa},threads={threads}")
        card.load(model)
        for slot in range(slots):
            card.open(slot)
        for tag in range(CHUNKS):
            # The last slot gets the audio in order; the other slots get its chunks in other orders.
            audio = np.stack(
                [pcm[tag] if slot == slots - 1 else pcm[(tag * 7 + slot) % CHUNKS] for slot in range(slots)]
            )
            card.submit_arrays(np.arange(slots), np.full(slots, tag), audio)
            left = slots
            while left:
                completions = card.poll_arrays(PATIENCE_MS)
                left -= len(completions)
                for place in np.nonzero(completions.slots == slots - 1)[0]:
                    span = slice(*completions.token_offsets[place : place + 2])
                    assert completions.tokens[span].tolist() == alone[tag].tokens.tolist()
                    assert completions.log_probs[span].tobytes() == alone[tag].log_probs.tobytes()
        card.close_card()


def test_features_are_what_the_front_end_makes(simulator: CardLibrary, tmp_path: Path) -> None:
    """CAI-39: the reference's features give the tokens of the samples."""
    model, pcm = compiled(tmp_path / "m.carm", SMALL, LIVELY, "fp32"), speechlike(3, CHUNKS)
    features = log_mel(pcm.ravel(), 400, MEANS.astype(float), VARIANCES.astype(float)).astype(np.float32)
    card = simulator.open(0)
    card.load(model)
    card.open(2)
    tokens = []
    for tag, frames in enumerate(features.reshape(-1, 6, 80)):
        card.submit_features(np.array([2]), np.array([tag]), frames[None])
        tokens += card.poll_arrays(PATIENCE_MS).tokens.tolist()
    card.close_card()
    assert tokens == tokens_of(run(simulator, model, pcm))


@pytest.mark.parametrize("sound", ["silence", "full scale", "step"])
def test_sounds_at_the_limits(simulator: CardLibrary, tmp_path: Path, sound: str) -> None:
    """Digital silence is at the logarithm's floor, a full-scale tone far above; features stay precise in both."""
    pcm = np.zeros((8, 960), np.int16)
    if sound != "silence":
        tone = 32767 * np.sin(2 * np.pi * 1000 * np.arange(8 * 960) / 16000)
        pcm = tone.astype(np.int16).reshape(8, 960)
    if sound == "step":
        pcm[:4] = 0
    model = compiled(tmp_path / "m.carm", SMALL, LIVELY, "fp32")
    reference, tokens, _ = referred(model, "fp32", pcm)
    results = run(simulator, model, pcm, "top_k=1")
    assert tokens_of(results) == tokens
    values = np.concatenate([r.packets["value"] for r in results])
    expected = np.concatenate([logits.reshape(-1, 8, 32).max(axis=1) for logits in reference.logits])
    assert np.abs(values - expected).max() <= 1e-4 * np.abs(expected).max()


# Features of the simulator alone


def test_options_of_the_simulator(simulator: CardLibrary) -> None:
    assert CardLibrary(options="cards=2").count() == 2
    assert simulator.identity(0).is_physical is False
    for bad in ("mode=fast", "threads=0", "threads=x", "fault=hang", "fault=yawn@3", "isa=mmx", "capacity=-1", "mode"):
        with pytest.raises(CardError) as error:
            simulator.open(0, bad)
        assert error.value.code in (CardStatus.ARGUMENT, CardStatus.UNSUPPORTED)
    first, second = simulator.open(0, "shared=1"), simulator.open(0, "shared=1")
    first.close_card()
    second.close_card()


def test_top_k_needs_classes_in_packets(simulator: CardLibrary, tmp_path: Path) -> None:
    model = compiled(tmp_path / "m.carm", SHAPES["odd sizes"], (4, 3.0), "int8")
    card = simulator.open(0, "top_k=1")
    with pytest.raises(CardError) as error:
        card.load(model)
    assert error.value.code == CardStatus.UNSUPPORTED
    card.close_card()


def test_no_slot_without_a_model(simulator: CardLibrary) -> None:
    card = simulator.open(0)
    with pytest.raises(CardError) as error:
        card.open(0)
    assert error.value.code == CardStatus.STATE
    card.close_card()


def test_a_state_is_bound_to_its_model(simulator: CardLibrary, tmp_path: Path) -> None:
    states = {}
    for precision in carm.PRECISIONS:
        card = simulator.open(0)
        card.load(compiled(tmp_path / f"{precision}.carm", SMALL, LIVELY, precision))
        card.open(0)
        for state in states.values():
            with pytest.raises(CardError) as error:
                card.import_state(0, state)
            assert error.value.code == CardStatus.BAD_STATE
        states[precision] = card.export_state(0)
        card.close_card()


def test_the_structs_are_those_of_the_header(tmp_path: Path) -> None:
    """The sizes from a C compiler, compared with those of ctypes and numpy."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    source, program = tmp_path / "sizes.c", tmp_path / "sizes"
    names = ("identity", "health", "results", "chunk", "completion", "packet")
    sizes = ", ".join(f"sizeof(asr_card_{name})" for name in names)
    source.write_text(
        '#include "asr_card.h"\n#include <stdio.h>\n'
        f'int main(void) {{ printf("%zu %zu %zu %zu %zu %zu", {sizes}); return 0; }}\n'
    )
    subprocess.run([compiler, "-std=c99", f"-I{INCLUDE}", "-Wall", "-Werror", source, "-o", program], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    structs = [abi.ctypes.sizeof(struct) for struct in (abi.Identity, abi.Health, abi.Results)]
    arrays = [array.itemsize for array in (abi.CHUNK, abi.COMPLETION, abi.PACKET)]
    assert [int(size) for size in printed.split()] == structs + arrays
