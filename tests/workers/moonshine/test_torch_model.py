"""Moonshine on torch: batches compared with single utterances, with real weights from the wheel's ONNX model."""

# ruff: noqa: E402 - where a package is missing, the imports after it are not reached

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

for package in ("torch", "transformers", "onnx"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install asr-pool[moonshine] and onnx")

import torch
import transformers
from torch import nn

from asr_proto.audio import Pcm16
from asr_proto.errors import SetupError
from asr_workers.engines.moonshine import torch_files as moonshine_torch_files
from asr_workers.engines.moonshine.config import PRECISIONS
from asr_workers.engines.moonshine.model import MoonshineModel, session_options
from asr_workers.engines.moonshine.torch_files import MoonshineCheckpoint
from asr_workers.engines.moonshine.torch_int8 import Int8Linear
from asr_workers.engines.moonshine.torch_model import TorchMoonshine
from asr_workers.engines.offline.utterance_engine import DecodeRequest
from tests.workers.moonshine.moonshine_checkpoint import write_checkpoint, write_tokenizer

DATA = Path(__file__).parents[2] / "data"
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MoonshineCheckpoint:
    return moonshine_torch_files.find(str(write_checkpoint(tmp_path_factory.mktemp("moonshine"))))


@pytest.fixture(scope="module")
def models(checkpoint: MoonshineCheckpoint) -> dict[str, TorchMoonshine]:
    return {precision: TorchMoonshine(checkpoint, CPU, precision, 0.25) for precision in PRECISIONS}


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> TorchMoonshine:
    """A small model of the streaming family with random weights."""
    folder = tmp_path_factory.mktemp("streaming")
    torch.manual_seed(7)
    encoder = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = transformers.MoonshineStreamingConfig(
        encoder_config={**encoder, "num_hidden_layers": 3, "sliding_windows": [[16, 4], [16, 0], [16, 4]]},
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        decoder_start_token_id=1,
    )
    transformers.MoonshineStreamingForConditionalGeneration(config).save_pretrained(folder)
    write_tokenizer(folder)
    return TorchMoonshine(moonshine_torch_files.find(str(folder)), CPU, "fp32", 0.25)


@pytest.fixture(scope="module")
def clips() -> list[Pcm16]:
    """From 1.8 to 7.1 seconds."""
    names = ("speechbrain__spk1_snt1", "speechbrain__spk2_snt2", "speechbrain__spk2_snt5", "ljspeech__LJ001-0002")
    long = "librivox_ps__sense_and_sensibility_01_austen_64kb-0870"
    return [soundfile.read(DATA / f"{name}.wav", dtype="int16")[0] for name in (*names, long)]


def encoder_difference(model: TorchMoonshine, clips: list[Pcm16]) -> float:
    """The greatest difference between a clip encoded in a batch and alone."""
    differences = []
    with torch.inference_mode():
        hidden, mask = model.encode(clips)
        for row, inside, clip in zip(hidden, mask, clips, strict=True):
            alone, _ = model.encode([clip])
            assert inside.tolist() == [True] * alone.shape[1] + [False] * (len(row) - alone.shape[1])
            differences.append(float((row[inside] - alone[0]).abs().max()))
    return max(differences)


def test_a_batch_encodes_as_each_utterance_alone(models: dict[str, TorchMoonshine], clips: list[Pcm16]) -> None:
    """MOO-11: the padding changes neither the statistics of the normalization nor the attention."""
    assert 0 < encoder_difference(models["fp32"], clips) < 1e-4


def test_a_batch_of_the_streaming_family_encodes_as_each_utterance_alone(
    streaming: TorchMoonshine, clips: list[Pcm16]
) -> None:
    assert encoder_difference(streaming, [*clips, clips[1][:17_777]]) < 1e-4


def test_the_encoder_alone_is_that_of_the_library(checkpoint: MoonshineCheckpoint, clips: list[Pcm16]) -> None:
    model = TorchMoonshine(checkpoint, CPU, "fp32", 0.0)
    samples = torch.from_numpy(clips[0].astype(np.float32) / 32768)[None]
    with torch.inference_mode():
        expected = model._model.model.encoder(samples).last_hidden_state
        hidden, _ = model.encode(clips[:1])
    assert torch.allclose(hidden, expected, atol=1e-4)


def test_the_streaming_encoder_alone_is_that_of_the_library(streaming: TorchMoonshine, clips: list[Pcm16]) -> None:
    samples = torch.zeros(1, 48_000)
    samples[0, 4000:44_000] = torch.from_numpy(clips[0][:40_000].astype(np.float32) / 32768)
    with torch.inference_mode():
        ones = torch.ones(samples.shape, dtype=torch.long)
        expected = streaming._model.model.encoder(samples, attention_mask=ones).last_hidden_state
        hidden, _ = streaming.encode([clips[0][:40_000]])
    assert hidden.shape == expected.shape and torch.allclose(hidden, expected, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_batch_says_what_each_utterance_says_alone(
    models: dict[str, TorchMoonshine], clips: list[Pcm16], precision: str
) -> None:
    """MOO-10, MOO-11: a draft of any length does not change the text either."""
    model = models[precision]
    alone = [model.decode([DecodeRequest(clip)])[0] for clip in clips]
    assert model.decode([DecodeRequest(clip) for clip in clips]) == alone
    wrong = [*alone[0][:3], 5000, *alone[0][3:]]
    drafts = [wrong, alone[1], [], alone[3][:-2], alone[4] * 9]
    assert model.decode([DecodeRequest(clip, draft) for clip, draft in zip(clips, drafts, strict=True)]) == alone


def test_attention_masks_what_fills_a_batch(models: dict[str, TorchMoonshine], streaming: TorchMoonshine) -> None:
    """With masks of bools, which `eager` attention would add up."""
    assert {model._model.config._attn_implementation for model in (*models.values(), streaming)} == {"sdpa"}


def test_half_precision_on_the_cpu(models: dict[str, TorchMoonshine], clips: list[Pcm16]) -> None:
    """MOO-10: fp16 works on a CPU, slowly."""
    assert models["fp16"].decode([DecodeRequest(clips[1])]) == models["fp32"].decode([DecodeRequest(clips[1])])


def test_the_text_is_that_of_the_onnx_model(models: dict[str, TorchMoonshine], clips: list[Pcm16]) -> None:
    onnx = MoonshineModel(session_options(1), 0.25)
    expected = [onnx.text(onnx.decode(clip)) for clip in clips]
    model = models["fp32"]
    assert [model.text(tokens) for tokens in model.decode([DecodeRequest(clip) for clip in clips])] == expected
    assert expected[0] == "The child almost hurt the small dog."


def test_the_streaming_family_decodes_in_batches(streaming: TorchMoonshine, clips: list[Pcm16]) -> None:
    alone = [streaming.decode([DecodeRequest(clip)])[0] for clip in clips]
    assert streaming.decode([DecodeRequest(clip) for clip in clips]) == alone
    assert (
        streaming.decode([DecodeRequest(clip, tokens[:5]) for clip, tokens in zip(clips, alone, strict=True)]) == alone
    )
    assert isinstance(streaming.text(alone[0]), str)


@pytest.mark.parametrize("samples", [1, 800, 4000])
def test_short_audio_has_few_tokens(models: dict[str, TorchMoonshine], clips: list[Pcm16], samples: int) -> None:
    tokens_max = -(-samples * 13 // 32_000)
    requests = [DecodeRequest(clips[0][9000 : 9000 + samples], [100] * 50), DecodeRequest(clips[0])]
    assert len(models["fp32"].decode(requests)[0]) <= tokens_max


def test_an_int8_layer_is_close_and_takes_each_row_for_itself() -> None:
    torch.manual_seed(1)
    linear, inputs = nn.Linear(64, 96), torch.randn(3, 5, 64)
    layer = Int8Linear(linear)
    with torch.inference_mode():
        outputs = layer(inputs)
        assert outputs.shape == (3, 5, 96)
        assert (outputs - linear(inputs)).abs().max() < 0.03
        assert torch.equal(layer(inputs[1:2] * 1.0), outputs[1:2])
        assert torch.equal(layer(torch.cat([inputs, 1000 * inputs]))[:3], outputs)
        assert layer(torch.zeros(1, 64)).isfinite().all()


def test_weights_that_lack_something_do_not_load(checkpoint: MoonshineCheckpoint, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    model = transformers.MoonshineForConditionalGeneration.from_pretrained(checkpoint.folder)
    lacking = {name: value for name, value in model.state_dict().items() if "groupnorm" not in name}
    model.save_pretrained(tmp_path, state_dict={name: value.clone() for name, value in lacking.items()})
    with pytest.raises(SetupError, match="lacks 2 of the model's weights"):
        TorchMoonshine(moonshine_torch_files.find(str(tmp_path)), CPU, "fp32", 0.25)


def test_weights_that_are_damaged_do_not_load(checkpoint: MoonshineCheckpoint, tmp_path: Path) -> None:
    for file in checkpoint.folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(SetupError, match="do not load"):
        TorchMoonshine(moonshine_torch_files.find(str(tmp_path)), CPU, "fp32", 0.25)
