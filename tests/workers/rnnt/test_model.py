"""The reference RNN-T: sizes of the published architectures, chunks against the whole, greedy decoding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from asr_workers.cards.carm import CarmConfig  # noqa: E402 (torch may be missing)
from asr_workers.engines.rnnt import architectures, features  # noqa: E402
from asr_workers.engines.rnnt.model import Rnnt, RnntStream  # noqa: E402

SMALL = CarmConfig(240, 24, 2, 3, 2, 16, 2, 20, 12, 400)
MEANS, VARIANCES = np.full(80, -10, np.float32), np.full(80, 9, np.float32)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread: the network is so small that several are slower, especially when other processes use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _small(seed: int = 0) -> Rnnt:
    torch.manual_seed(seed)
    model = Rnnt(SMALL).eval().requires_grad_(False)
    for weights in model.parameters():
        weights.mul_(3)
    return model


def _pcm(chunks: int) -> features.Floats:
    return np.random.default_rng(1).normal(0, 0.1, chunks * 960).astype(np.float32)


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        (architectures.TESTING, 49_006_080),
        (architectures.BASE, 84_690_432),
        (architectures.LARGE, 195_590_400),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_published_architectures_have_their_published_sizes(sizes: CarmConfig, parameters: int) -> None:
    """CAI-02, CAI-40"""
    with torch.device("meta"):
        model = Rnnt(sizes)
    assert sum(weights.numel() for weights in model.parameters()) == parameters
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == sizes.shapes()
    assert architectures.named(sizes) == sizes


def test_a_stream_in_chunks_hears_what_the_whole_recording_says() -> None:
    """CAI-39"""
    model, pcm = _small(), _pcm(12)
    whole = RnntStream(model, MEANS, VARIANCES)
    expected = whole.feed(pcm)
    chunked = RnntStream(model, MEANS, VARIANCES)
    heard = [emission for chunk in pcm.reshape(12, 960) for emission in chunked.feed(chunk)]
    assert chunked.steps == whole.steps == 12
    assert len(expected) > 5
    assert [(one.token, one.step) for one in heard] == [(one.token, one.step) for one in expected]
    np.testing.assert_allclose([one.log_prob for one in heard], [one.log_prob for one in expected], rtol=1e-4)


def test_the_encoder_carries_its_state() -> None:
    model = _small()
    frames = torch.randn(3, 12, 240)
    whole, _ = model.encode(frames)
    first, state = model.encode(frames[:, :8])
    second, _ = model.encode(frames[:, 8:], state)
    assert whole.shape == (3, 6, 24)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_an_odd_frame_at_the_end_is_stacked_with_zeros() -> None:
    model = _small()
    encoded, _ = model.encode(torch.randn(1, 7, 240))
    assert encoded.shape == (1, 4, 24)


def test_teaching_and_predicting_agree() -> None:
    model = _small()
    taught = model.teach(torch.tensor([[3, 1, 4]]))
    predicted, state = model.predict(None)
    steps = [predicted]
    for token in (3, 1, 4):
        predicted, state = model.predict(torch.tensor([[token]]), state)
        steps.append(predicted)
    torch.testing.assert_close(torch.cat(steps, 1), taught)


def test_a_step_emits_at_most_30_tokens() -> None:
    """CAI-49"""
    model = _small()
    model.joint_net[2].bias[:] = torch.nn.functional.one_hot(torch.tensor(5), 12) * 1e4
    stream = RnntStream(model, MEANS, VARIANCES)
    heard = stream.feed(_pcm(2))
    assert [one.step for one in heard] == [0] * 30 + [1] * 30
    assert {one.token for one in heard} == {5}


def test_blanks_alone_emit_nothing() -> None:
    model = _small()
    model.joint_net[2].bias[model.blank] = 1e4
    assert RnntStream(model, MEANS, VARIANCES).feed(_pcm(3)) == []
