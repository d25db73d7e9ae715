"""A streaming NeMo transducer that computes nothing, so that only the server's own cost is measured.

Encoder, decoder and joiner have the inputs, outputs and metadata that sherpa-onnx expects of an exported model. They
always emit blank, and their caches hold one number. The server's own work remains: the features of all audio, the
batches, one call of the joiner for every 80 ms, and one JSON message for every chunk.

    python toy_model.py FOLDER [--chunk-ms 160]     writes encoder.onnx, decoder.onnx, joiner.onnx and tokens.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

FEATURE_MS = 10
SUBSAMPLING = 8
"""Features in one encoder frame, as in NeMo's FastConformer."""
PRE_ENCODE_CACHE = 9
"""Past features at the beginning of each window, as in NeMo's FastConformer."""
CHUNKS_MS = (80, 160, 480, 560, 1040, 1120)
"""Chunks of NeMo's streaming models, in milliseconds."""
CHUNK_MS = 160
SYMBOLS = ("\u2581", "\u2581la", "la")
"""Symbols for the tokens file, which needs some. They are never emitted."""
BLANK = "<blk>"

# The ONNX Runtime inside sherpa-onnx supports this opset.
HEAD = '<ir_version: 8, opset_import: ["": 17]>'
ENCODER = """
encoder (float[B,80,T] audio_signal, int64[B] length, float[B,1,1,1] cache_last_channel,
         float[B,1,1,1] cache_last_time, int64[B] cache_last_channel_len)
     => (float[B,1,U] outputs, int64[B] encoded_lengths, float[B,1,1,1] cache_last_channel_next,
         float[B,1,1,1] cache_last_time_next, int64[B] cache_last_channel_len_next)
<int64[2] begin = {0, 0}, int64[2] end = {1, FRAMES}, int64[2] axes = {1, 2}> {
    outputs = Slice (audio_signal, begin, end, axes)
    encoded_lengths = Identity (length)
    cache_last_channel_next = Identity (cache_last_channel)
    cache_last_time_next = Identity (cache_last_time)
    cache_last_channel_len_next = Identity (cache_last_channel_len)
}
"""
DECODER = """
decoder (int32[B,1] targets, int32[B] target_length, float[1,B,1] states_0, float[1,B,1] states_1)
     => (float[1,B,1] outputs, int32[B] prednet_lengths, float[1,B,1] states_0_next, float[1,B,1] states_1_next) {
    outputs = Identity (states_0)
    prednet_lengths = Identity (target_length)
    states_0_next = Identity (states_0)
    states_1_next = Identity (states_1)
}
"""
JOINER = """
joiner (float[1,1,1] encoder_outputs, float[1,1,1] decoder_outputs) => (float[1,1,1,VOCABULARY] outputs)
<float[1,1,1,VOCABULARY] blank = {LOGITS}> {
    outputs = Identity (blank)
}
"""


def graphs(chunk_ms: int) -> dict[str, str]:
    """The three graphs in ONNX's own notation."""
    logits = ["0"] * len(SYMBOLS) + ["1"]
    return {
        "encoder": HEAD + ENCODER.replace("FRAMES", str(chunk_ms // FEATURE_MS // SUBSAMPLING)),
        "decoder": HEAD + DECODER,
        "joiner": HEAD + JOINER.replace("VOCABULARY", str(len(logits))).replace("LOGITS", ", ".join(logits)),
    }


def metadata(chunk_ms: int) -> dict[str, str]:
    """The encoder's metadata that sherpa-onnx reads. `vocab_size` does not count the blank."""
    chunk = chunk_ms // FEATURE_MS
    values = {
        "window_size": chunk + PRE_ENCODE_CACHE,
        "chunk_shift": chunk,
        "subsampling_factor": SUBSAMPLING,
        "vocab_size": len(SYMBOLS),
        "pred_rnn_layers": 1,
        "pred_hidden": 1,
        "normalize_type": "NA",
        "model_type": "EncDecHybridRNNTCTCBPEModel",
        "version": 1,
        "model_author": "NeMo",
    }
    values |= {f"cache_last_{cache}_dim{number}": 1 for cache in ("channel", "time") for number in (1, 2, 3)}
    return {name: str(value) for name, value in values.items()}


def tokens() -> str:
    """The text of the tokens file. The blank is the last token."""
    return "".join(f"{symbol} {number}\n" for number, symbol in enumerate((*SYMBOLS, BLANK)))


def write(folder: Path, chunk_ms: int) -> None:
    """Write all four files."""
    import onnx  # noqa: PLC0415  the functions above do not need it

    for name, graph in graphs(chunk_ms).items():
        model = onnx.parser.parse_model(graph)
        if name == "encoder":
            onnx.helper.set_model_props(model, metadata(chunk_ms))
        onnx.checker.check_model(model)
        onnx.save(model, folder / f"{name}.onnx")
    (folder / "tokens.txt").write_text(tokens(), encoding="utf-8")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write a streaming model that computes nothing.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chunk-ms", type=int, choices=CHUNKS_MS, default=CHUNK_MS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    write(options.folder, options.chunk_ms)


if __name__ == "__main__":
    main()
