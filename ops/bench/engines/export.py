"""Exports a cache-aware .nemo model for sherpa-onnx: encoder with metadata, decoder, joiner and tokens.

python export.py MODEL.nemo FOLDER --right 1
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import onnx

LEFT = 70


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--right", type=click.IntRange(0), default=1, help="Look-ahead, in encoder frames.")
def main(model: Path, folder: Path, right: int) -> None:
    """Write encoder.onnx, decoder.onnx, joiner.onnx and tokens.txt of MODEL to FOLDER."""
    from nemo.collections.asr.models import ASRModel  # noqa: PLC0415 - the import takes seconds

    folder.mkdir(parents=True, exist_ok=True)
    loaded: Any = ASRModel.restore_from(str(model), map_location="cpu")
    loaded.eval()
    loaded.encoder.set_default_att_context_size([LEFT, right])
    loaded.set_export_config({"decoder_type": "rnnt", "cache_support": True})
    loaded.encoder.export(str(folder / "encoder.onnx"), onnx_opset_version=17, check_trace=False, use_dynamo=False)
    loaded.decoder.export(str(folder / "decoder.onnx"), onnx_opset_version=17, check_trace=False, use_dynamo=False)
    loaded.joint.export(str(folder / "joiner.onnx"), onnx_opset_version=17, check_trace=False, use_dynamo=False)
    _describe(folder / "encoder.onnx", _header(loaded))
    vocabulary = [*loaded.joint.vocabulary, "<blk>"]
    lines = (f"{piece} {number}\n" for number, piece in enumerate(vocabulary))
    (folder / "tokens.txt").write_text("".join(lines), encoding="utf-8")


def _header(model: Any) -> dict[str, Any]:
    """The encoder's metadata that sherpa-onnx reads."""
    streaming = model.encoder.streaming_cfg
    channel, time, _ = model.encoder.get_initial_cache_state(batch_size=1)
    return {
        "vocab_size": len(model.joint.vocabulary),
        "window_size": streaming.chunk_size[1] + streaming.pre_encode_cache_size[1],
        "chunk_shift": streaming.shift_size[1],
        "normalize_type": "",
        "cache_last_channel_dim1": channel.shape[0],
        "cache_last_channel_dim2": channel.shape[2],
        "cache_last_channel_dim3": channel.shape[3],
        "cache_last_time_dim1": time.shape[0],
        "cache_last_time_dim2": time.shape[2],
        "cache_last_time_dim3": time.shape[3],
        "subsampling_factor": 8,
        "pred_rnn_layers": model.decoder.pred_rnn_layers,
        "pred_hidden": model.decoder.pred_hidden,
        "model_type": "EncDecHybridRNNTCTCBPEModel",
        "version": "1",
        "model_author": "NeMo",
    }


def _describe(path: Path, header: dict[str, Any]) -> None:
    model = onnx.load(str(path))
    for name, value in header.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, str(value)
    onnx.save(model, str(path))


if __name__ == "__main__":
    main()
