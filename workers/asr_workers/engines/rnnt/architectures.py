"""The published architectures of CAIMAN-ASR: testing, base and large. All other valid sizes are named "other"."""

from __future__ import annotations

from dataclasses import replace

from asr_workers.cards.carm import CarmConfig


def _published(name: str, hidden: int, post: int, pred: int, joint: int, classes: int, window: int) -> CarmConfig:
    return CarmConfig(
        in_feats=240,
        enc_n_hid=hidden,
        enc_pre_rnn_layers=2,
        enc_post_rnn_layers=post,
        enc_stack_time_factor=2,
        pred_n_hid=pred,
        pred_rnn_layers=2,
        joint_n_hid=joint,
        n_classes=classes,
        window_samples=window,
        name=name,
    )


TESTING = _published("testing", 1024, 3, 512, 512, 1024, 320)
BASE = _published("base", 1024, 6, 512, 768, 8704, 400)
LARGE = _published("large", 1536, 6, 768, 1024, 17408, 400)


def named(sizes: CarmConfig) -> CarmConfig:
    """The same sizes with the name of their architecture."""
    known = (one.name for one in (TESTING, BASE, LARGE) if replace(one, name=sizes.name) == sizes)
    return replace(sizes, name=next(known, "other"))
