"""The models that can stream, the sizes of their chunks, and the models that the lean implementation supports."""

from __future__ import annotations

from typing import Any

import pytest

from asr_proto.errors import BadRequest, SetupError

pytest.importorskip("torch", reason="needs the extra nemo")

from asr_workers.engines.fastconformer import shape

ENCODER: dict[str, Any] = {
    "_target_": "nemo.collections.asr.modules.ConformerEncoder",
    "feat_in": 80,
    "n_layers": 17,
    "d_model": 512,
    "n_heads": 8,
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_conv_channels": 256,
    "causal_downsampling": True,
    "self_attention_model": "rel_pos",
    "untie_biases": True,
    "att_context_size": [[70, 13], [70, 6], [70, 1], [70, 0]],
    "att_context_style": "chunked_limited",
    "conv_kernel_size": 9,
    "conv_norm_type": "layer_norm",
    "conv_context_size": "causal",
}


def with_(**changes: Any) -> dict[str, Any]:
    return {"encoder": ENCODER | changes}


def test_contexts_and_sizes() -> None:
    assert shape.context(with_()) == shape.AttentionContext(70, (13, 6, 1, 0))
    assert shape.context(with_(att_context_size=[70, 1])) == shape.AttentionContext(70, (1,))
    assert shape.lean_shape(with_()) == shape.Shape(17, 512, 8, 9, 80, 256, True, False)


@pytest.mark.parametrize(("right", "first", "later"), [(0, 1, 8), (1, 9, 16), (6, 49, 56), (13, 105, 112)])
def test_geometry(right: int, first: int, later: int) -> None:
    geometry = shape.context(with_()).geometry(right)
    assert (geometry.first_frames, geometry.later_frames) == (first, later)


def test_a_look_ahead_that_the_model_does_not_know() -> None:
    with pytest.raises(BadRequest, match="look-aheads of 13, 6, 1, 0 frames, not 16"):
        shape.context(with_()).geometry(16)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_target_": "x.ConvASREncoder"}, "no Conformer encoder"),
        ({"att_context_style": "regular"}, "not cache-aware"),
        ({"causal_downsampling": False}, "not cache-aware"),
        ({"conv_context_size": None}, "not cache-aware"),
        ({"subsampling_factor": 4}, "8 feature frames"),
        ({"att_context_size": [-1, -1]}, "the model cannot stream with its attention contexts"),
        ({"att_context_size": None}, "the model cannot stream with its attention contexts"),
        # 33 and 16 frames of look-ahead do not divide a history of 70.
        ({"att_context_size": [[70, 33], [70, 16]]}, "the model cannot stream with its attention contexts"),
        ({"att_context_size": [[70, 1], [68, 16]]}, "differ in their history"),
    ],
)
def test_models_that_do_not_stream(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SetupError, match=sentence):
        shape.context(with_(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"subsampling": "striding"},
        {"self_attention_model": "abs_pos"},
        {"untie_biases": False},
        {"reduction": "pooling"},
        {"conv_norm_type": "group_norm4"},
        {"feat_out": 256},
    ],
)
def test_parts_that_the_lean_implementation_does_not_know(changes: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="does not support"):
        shape.lean_shape(with_(**changes))
