"""Batched greedy decoding equals a plain loop over frames and tokens."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from asr_proto.errors import SetupError

torch = pytest.importorskip("torch", reason="needs the extra nemo")

from asr_workers.engines.fastconformer import cuda_graphs as graphs  # noqa: E402
from asr_workers.engines.fastconformer import decoding  # noqa: E402
from asr_workers.engines.fastconformer import weights as weights_  # noqa: E402

VOCABULARY, HIDDEN, WIDTH, JOINT = 12, 16, 10, 20


def table(blank_bias: float, layers: int = 1) -> dict[str, Any]:
    random = torch.Generator().manual_seed(3)

    def normal(*size: int) -> Any:
        return torch.randn(*size, generator=random)

    rnn = "decoder.prediction.dec_rnn.lstm"
    made = {
        "decoder.prediction.embed.weight": normal(VOCABULARY + 1, HIDDEN),
        "joint.enc.weight": normal(JOINT, WIDTH),
        "joint.enc.bias": normal(JOINT),
        "joint.pred.weight": 3 * normal(JOINT, HIDDEN),
        "joint.pred.bias": normal(JOINT),
        "joint.joint_net.2.weight": normal(VOCABULARY + 1, JOINT),
        "joint.joint_net.2.bias": normal(VOCABULARY + 1),
    }
    made["decoder.prediction.embed.weight"][-1] = 0
    made["joint.joint_net.2.bias"][-1] += blank_bias
    for layer in range(layers):
        for name, size in (("weight_ih", (4 * HIDDEN, HIDDEN)), ("weight_hh", (4 * HIDDEN, HIDDEN))):
            made[f"{rnn}.{name}_l{layer}"] = normal(*size)
        for name in ("bias_ih", "bias_hh"):
            made[f"{rnn}.{name}_l{layer}"] = normal(4 * HIDDEN)
    return made


def plain(made: dict[str, Any], frames: Any, layers: int) -> list[tuple[int, int]]:
    """Greedy search as in Graves 2012, over one utterance [frames, width]."""
    lstm = torch.nn.LSTM(HIDDEN, HIDDEN, layers)
    lstm.load_state_dict({key.split("lstm.")[1]: value for key, value in made.items() if "lstm" in key})
    linear = torch.nn.functional.linear

    def prediction(token: int, state: Any) -> Any:
        y, state = lstm(made["decoder.prediction.embed.weight"][token].view(1, 1, -1), state)
        return linear(y[0, 0], made["joint.pred.weight"], made["joint.pred.bias"]), state

    g, state = prediction(VOCABULARY, None)
    found = []
    for place, frame in enumerate(frames):
        for _ in range(decoding.SYMBOLS_MAX):
            f = linear(frame, made["joint.enc.weight"], made["joint.enc.bias"])
            logits = linear((f + g).relu(), made["joint.joint_net.2.weight"], made["joint.joint_net.2.bias"])
            token = int(logits.argmax())
            if token == VOCABULARY:
                break
            found.append((token, place))
            g, state = prediction(token, state)
    return found


def made_decoder(kind: str, made: dict[str, Any], slots: int) -> Any:
    net = decoding.PredictionNet(weights_.Weights(made, torch.device("cpu"), torch.float32))
    cls = decoding.RnntDecoder if kind == "compact" else graphs.GraphedRnntDecoder
    return cls(net, slots, torch.device("cpu"), "max-prob")


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["compact", "static"])
@pytest.mark.parametrize(("blank_bias", "layers"), [(8.0, 1), (4.0, 1), (4.0, 2), (-50.0, 1)])
def test_transducer(kind: str, blank_bias: float, layers: int) -> None:
    made = table(blank_bias, layers)
    random = np.random.default_rng(1)
    utterances = [torch.from_numpy(random.normal(size=(n, WIDTH)).astype(np.float32)) for n in (17, 1, 30, 23, 8)]
    expected = [plain(made, x, layers) for x in utterances]
    decoder = made_decoder(kind, made, 7)
    found: list[list[tuple[int, int]]] = [[] for _ in utterances]
    done = [0] * len(utterances)
    while any(done[i] < len(x) for i, x in enumerate(utterances)):
        rows = [i for i, x in enumerate(utterances) if (done[i] < len(x) and (i + done[i]) % 3 < 2) or done[i] == 0]
        rows = [i for i in rows if done[i] < len(utterances[i])] or [
            i for i, x in enumerate(utterances) if done[i] < len(x)
        ]
        counts = np.array([min(4, len(utterances[i]) - done[i]) for i in rows])
        frames = torch.full((len(rows), 4, WIDTH), 1e3)
        for row, (i, count) in enumerate(zip(rows, counts, strict=True)):
            frames[row, :count] = utterances[i][done[i] : done[i] + count]
        encoded = decoding.Encoded(frames, torch.tensor(rows) + 1, counts, np.array([done[i] for i in rows]))
        for i, emissions in zip(rows, decoder.decode(encoded), strict=True):
            found[i] += [(e.token, e.frame) for e in emissions]
        for i, count in zip(rows, counts.tolist(), strict=True):
            done[i] += count
    assert found == expected
    assert any(expected)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["compact", "static"])
def test_a_wiped_slot_is_as_new(kind: str) -> None:
    decoder = made_decoder(kind, table(4.0), 3)
    before = [arena[1].clone() for arena in decoder.state()]
    frames = torch.randn(1, 8, WIDTH, generator=torch.Generator().manual_seed(5))
    decoder.decode(decoding.Encoded(frames, torch.tensor([1]), np.array([8]), np.array([0])))
    assert not torch.equal(decoder.state()[0][1], before[0])
    decoder.wipe(1)
    assert all(torch.equal(arena[1], old) for arena, old in zip(decoder.state(), before, strict=True))


@torch.inference_mode()
def test_ctc_collapses_over_the_edge_of_a_step() -> None:
    blank = 3
    best = [[1, 1, blank, 1, 2, 2], [blank, 0, 0, 0, blank, 0]]
    logits = 9 * torch.nn.functional.one_hot(torch.tensor(best), 4).float()
    decoder = decoding.CtcDecoder(lambda frames: frames, blank, 4, "max-prob")
    found: list[list[tuple[int, int]]] = [[], []]
    for begin in range(0, 6, 2):
        part = decoding.Encoded(logits[:, begin : begin + 2], torch.tensor([2, 0]), np.array([2, 2]), np.full(2, begin))
        for row, emissions in enumerate(decoder.decode(part)):
            found[row] += [(e.token, e.frame) for e in emissions]
    assert found == [[(1, 0), (1, 3), (2, 4)], [(0, 1), (0, 5)]]


@torch.inference_mode()
def test_ctc_hears_only_frames_that_exist() -> None:
    logits = 9 * torch.nn.functional.one_hot(torch.tensor([[1, 2]]), 4).float()
    decoder = decoding.CtcDecoder(lambda frames: frames, 3, 1, "entropy")
    first = decoder.decode(decoding.Encoded(logits, torch.tensor([0]), np.array([1]), np.array([5])))[0]
    assert [(e.token, e.frame) for e in first] == [(1, 5)]
    assert 0.9 < first[0].confidence < 1
    assert decoder.decode(decoding.Encoded(logits, torch.tensor([0]), np.array([0]), np.array([6]))) == [[]]
    assert decoder.state()[0].item() == 1


def test_confidences() -> None:
    logits = torch.tensor([[0.0, 0, 0, 0], [50, 0, 0, 0]])
    assert decoding.confidences(logits, "max-prob").tolist() == pytest.approx([0.25, 1])
    assert decoding.confidences(logits, "entropy").tolist() == pytest.approx([0, 1], abs=1e-6)


def test_confidence_by_entropy_is_nemos() -> None:
    """Entropy equals NeMo's linear Gibbs entropy. NeMo scales the probability to 0 at chance; here it is unscaled."""
    pytest.importorskip("nemo", reason="needs the extra nemo")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nemo.collections.asr.parts.utils.asr_confidence_utils import get_confidence_measure_bank
    measures, logits = (
        get_confidence_measure_bank(),
        4 * torch.randn(50, 30, generator=torch.Generator().manual_seed(1)),
    )
    logs = logits.log_softmax(1)
    assert torch.allclose(decoding.confidences(logits, "entropy"), measures["entropy_gibbs_lin"](logs, 30, 1.0))
    scaled = (30 * decoding.confidences(logits, "max-prob") - 1) / 29
    assert torch.allclose(scaled, measures["max_prob"](logs, 30, 1.0))


def test_transducers_that_are_not_known() -> None:
    made = table(0)
    made["decoder.prediction.embed.weight"] = made["decoder.prediction.embed.weight"][:-1]
    with pytest.raises(SetupError, match="use nemo"):
        made_decoder("compact", made, 1)
    made = table(0)
    made["decoder.prediction.dec_rnn.lstm.weight_hr_l0"] = torch.zeros(1)
    with pytest.raises(SetupError, match="use nemo"):
        made_decoder("compact", made, 1)
