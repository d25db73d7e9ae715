"""A Moonshine checkpoint folder with real weights, made from the quantized ONNX model that a wheel carries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tokenizers
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

from asr_workers.engines.moonshine.model import read_pieces
from asr_workers.engines.weights.wheel_models import wheel_file

CONFIG = {
    "architectures": ["MoonshineForConditionalGeneration"],
    "model_type": "moonshine",
    "hidden_size": 288,
    "intermediate_size": 1152,
    "vocab_size": 32768,
    "decoder_start_token_id": 1,
    "eos_token_id": 2,
    "partial_rotary_factor": 0.9,
}
CARD = "---\nlanguage:\n- en\nlicense: mit\n---\n# Moonshine tiny, dequantized\n"
GROUPNORM = {"/groupnorm/Mul": "groupnorm.weight", "/groupnorm/Add": "groupnorm.bias"}
MATMULS = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")
Floats = NDArray[np.float32]


def write_checkpoint(folder: Path) -> Path:
    """Write config, weights, tokenizer and model card into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"model.encoder.{name}": value for name, value in _weights("encoder_model", folder)}
    weights |= dict(_weights("decoder_model_merged", folder))
    weights["model.decoder.embed_tokens.weight"] = weights.pop("proj_out.weight")  # they are tied
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "README.md").write_text(CARD)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    pieces = [piece.decode("utf-8", "replace") for piece in read_pieces(_wheel("tokenizer.bin").read_bytes())]
    special = [piece for piece in pieces if len(piece) > 2 and piece[0] == "<" and piece[-1] == ">"]
    names = {piece: token for token, piece in enumerate(pieces)}
    names |= {f"unused {token}": token for token in set(range(len(pieces))) - set(names.values())}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="<unk>"))
    tokenizer.add_special_tokens(special)
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.save(str(folder / "tokenizer.json"))


def _wheel(name: str) -> Path:
    return wheel_file("moonshine_voice", f"assets/tiny-en/{name}")


def _weights(name: str, scratch: Path) -> Iterator[tuple[str, Floats]]:
    """The weights of one model by their names in torch."""
    model = _as_onnx(name, scratch)
    values: dict[str, NDArray[np.generic]] = {}
    matmuls: dict[str, str] = {}
    for graph in _graphs(model.graph):
        values |= {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        matmuls |= {node.name: node.input[1] for node in graph.node if node.op_type in MATMULS}
        for node in graph.node:
            if node.name in GROUPNORM:
                values[GROUPNORM[node.name]] = values[node.input[1]].reshape(-1)
    for node, weight in matmuls.items():
        yield node.strip("/").replace("/", ".").replace("MatMul_quant", "weight"), _dequantized(values, weight)
    for tensor, value in values.items():
        plain = tensor.removesuffix("_merged_0").removesuffix("_add_tensor")
        if plain.endswith((".weight", ".bias")) and value.dtype == np.float32:
            yield plain, value.astype(np.float32)


def _dequantized(values: dict[str, NDArray[np.generic]], weight: str) -> Floats:
    """[out, in]; ONNX has them the other way round."""
    name = weight.removesuffix("_quantized")
    whole = values[weight].astype(np.float32) - values[f"{name}_zero_point"].astype(np.float32)
    scaled: Floats = whole * values[f"{name}_scale"].astype(np.float32)
    return np.ascontiguousarray(scaled.T)


def _as_onnx(name: str, scratch: Path) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(scratch / f"{name}.onnx")
    options.add_session_config_entry("session.save_model_format", "ONNX")
    onnxruntime.InferenceSession(str(_wheel(f"{name}.ort")), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
