"""The fastconformer engine with real networks of random weights: its text is that of NeMo offline."""

from __future__ import annotations

import tarfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from asr_proto.errors import SetupError
from asr_workers.engines.base import Chunk, Hypothesis, Output, SlotOptions

torch = pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

from asr_workers.engines.fastconformer.config import FastConformerConfig  # noqa: E402
from asr_workers.engines.fastconformer.engine import FastConformerEngine  # noqa: E402
from asr_workers.engines.fastconformer.shape import Unsupported  # noqa: E402
from asr_workers.engines.transducer.token_text import TokenAt, TokenText  # noqa: E402
from tests.workers.fastconformer import random_models as random  # noqa: E402
from tests.workers.nemo.nemo_parts import feed, finals, settle  # noqa: E402

ROOT = Path(__file__).parents[3]
RECORDINGS = ((4.0, 0), (2.3, 1), (5.1, 2), (3.7, 6))
"""Seconds and seeds."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return random.make(tmp_path_factory.mktemp("model"), random.TINY)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Any:
    """NeMo's own model."""
    asr = random.nemo_asr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return asr.models.ASRModel.restore_from(str(checkpoint), map_location="cpu").eval()


def engine(checkpoint: Path, **changes: Any) -> FastConformerEngine:
    config = {"model": str(checkpoint), "slots": 4, "endpoint_ms": 0} | changes
    return FastConformerEngine(FastConformerConfig(**config))


def text(outputs: Sequence[Output]) -> str:
    return " ".join(final.text for final in finals(outputs))


@pytest.mark.parametrize("context", [(70, 0), (70, 1), (70, 13)])
@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_lean_and_nemo_hear_the_same_digits(decoder: str, context: tuple[int, int]) -> None:
    """The trained model, streaming: six sessions in one batch, words with their times."""
    folder = ROOT / "tests" / "data" / "digits"
    clips = sorted(folder.glob("*.flac"))[::3]
    pcms = [soundfile.read(clip, dtype="int16")[0] for clip in clips]
    said = []
    for implementation in ("lean", "nemo"):
        it = engine(
            ROOT / "ops" / "models" / "digits-fastconformer.nemo",
            implementation=implementation,
            decoder=decoder,
            att_context=context,
            slots=len(pcms),
            endpoint_ms=960,
        )
        size = it.spec.chunk_samples
        for slot in range(len(pcms)):
            it.open(slot, SlotOptions(), None)
        outputs: list[Output] = []
        for start in range(0, max(map(len, pcms)), size):
            live = [slot for slot, pcm in enumerate(pcms) if start < len(pcm)]
            chunks = [
                Chunk(slot, pcms[slot][start : start + size], flush=start + size >= len(pcms[slot])) for slot in live
            ]
            outputs += it.step(chunks, 0.0) + settle(it)
        said.append([(final.slot, final.text, final.start_sample, final.end_sample) for final in finals(outputs)])
    assert said[0] == said[1]
    assert sum(len(text.split()) for _, text, _, _ in said[0]) > 20


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize("implementation", ["lean", "nemo"])
def test_it_says_what_nemo_says(checkpoint: Path, reference: Any, implementation: str, decoder: str) -> None:
    """YAP-03, YAP-05, YAP-15. Four sessions of different ages and look-aheads in one batch."""
    it = engine(checkpoint, implementation=implementation, decoder=decoder)
    look_aheads_ms = [None, 480, 1040, 0]
    pcms = [random.speech_like(seconds, seed) for seconds, seed in RECORDINGS]
    queues = {slot: [pcm[at : at + 2560] for at in range(0, len(pcm), 2560)] for slot, pcm in enumerate(pcms)}
    outputs: dict[int, list[Output]] = {slot: [] for slot in queues}
    for turn in range(200):
        if turn % 3 == 0 and turn // 3 in queues:
            it.open(turn // 3, SlotOptions(look_ahead_ms=look_aheads_ms[turn // 3]), None)
        free = [slot for slot, queue in queues.items() if 3 * slot <= turn and queue and not it.blocked(slot)]
        for output in it.step([Chunk(slot, queues[slot].pop(0), flush=not queues[slot]) for slot in free], 0.0):
            outputs[output.slot].append(output)
    vocabulary, count = TokenText(it._model.tokenizer), 0
    for slot, right in enumerate((1, 6, 13, 0)):
        (encoded,) = random.encode_offline(reference, [pcms[slot]], [70, right])
        tokens, frames = random.decode_offline(reference, encoded, decoder)
        said = [
            TokenAt(token, frame * 1280, frame * 1280 + 1280, 1.0) for token, frame in zip(tokens, frames, strict=True)
        ]
        end = len(pcms[slot])
        expected = [(vocabulary.text(said), said[0].start_sample, min(said[-1].end_sample, end))] if said else []
        assert [(final.text, final.start_sample, final.end_sample) for final in finals(outputs[slot])] == expected
        count += len(said)
    assert count > 50


@pytest.mark.parametrize("implementation", ["lean", "nemo"])
def test_it_goes_on_elsewhere(checkpoint: Path, implementation: str) -> None:
    """YAP-15. From a checkpoint in the middle of an utterance, in another slot of another worker."""
    pcm = random.speech_like(6.0, 7)
    it, other = (engine(checkpoint, implementation=implementation) for _ in range(2))
    it.open(0, SlotOptions(), None)
    feed(it, 0, pcm[:51_200], flush=False)
    advanced = it.snapshot(0)
    assert advanced is not None
    other.open(2, SlotOptions(), advanced.snapshot)
    (there,), (here,) = finals(feed(other, 2, pcm[51_200:])), finals(feed(it, 0, pcm[51_200:]))
    assert isinstance(here, Hypothesis)
    assert (there.text, there.words) == (here.text, here.words)
    assert here.text


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_other_precisions_run(checkpoint: Path, precision: str) -> None:
    """YAP-14."""
    it = engine(checkpoint, precision=precision)
    it.open(0, SlotOptions(), None)
    assert text(feed(it, 0, random.speech_like(3.0, 1)))


def changed(checkpoint: Path, folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """An extracted copy with another configuration and other weights."""
    with tarfile.open(checkpoint) as archive:
        archive.extractall(folder, filter="data")
    config, weights = folder / "model_config.yaml", folder / "model_weights.ckpt"
    values, table = yaml.safe_load(config.read_text()), torch.load(weights)
    change(values, table)
    config.write_text(yaml.safe_dump(values))
    torch.save(table, weights)
    return folder


def _no_width(config: dict[str, Any], _: dict[str, Any]) -> None:
    del config["encoder"]["d_model"]


def _other_width(config: dict[str, Any], _: dict[str, Any]) -> None:
    config["encoder"]["d_model"] = 128


def _contexts(config: dict[str, Any], _: dict[str, Any]) -> None:
    config["encoder"]["att_context_size"] = [[70, "x"]]


def _no_lstm(_: dict[str, Any], weights: dict[str, Any]) -> None:
    for name in [name for name in weights if "lstm" in name]:
        del weights[name]


def _durations(config: dict[str, Any], _: dict[str, Any]) -> None:
    config["joint"]["num_extra_outputs"] = 5


def _prompt(_: dict[str, Any], weights: dict[str, Any]) -> None:
    weights["prompt_kernel.0.weight"] = torch.zeros(2, 2)


def _vocabulary(_: dict[str, Any], weights: dict[str, Any]) -> None:
    name = "joint.joint_net.2.weight"
    weights[name] = torch.cat((weights[name], weights[name][:1]))


def _without_dropout(config: dict[str, Any], weights: dict[str, Any]) -> None:
    _vocabulary(config, weights)
    for kind in ("weight", "bias"):
        weights[f"joint.joint_net.1.{kind}"] = weights.pop(f"joint.joint_net.2.{kind}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_no_width, "^the configuration of .* is not understood: d_model is missing$"),
        (_contexts, "^the configuration of .* is not understood: "),
        (_other_width, "^the encoder of .* cannot be built: "),
        (_no_lstm, "does not support transducers without an LSTM: use nemo"),
        (_durations, "use the engine parakeet"),
        (_vocabulary, "a tokenizer of 96 tokens, but its rnnt decoder has 97"),
        (_without_dropout, "a tokenizer of 96 tokens, but its rnnt decoder has 97"),
        (_prompt, "has the part prompt_kernel: it is a kind of model that is not supported"),
    ],
)
def test_a_checkpoint_that_does_not_fit_together(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], sentence: str
) -> None:
    """One sentence says which part."""
    with pytest.raises(SetupError, match=sentence) as caught:
        engine(changed(checkpoint, tmp_path / "changed", change), implementation="lean")
    assert len(str(caught.value).splitlines()) == 1


def _tanh(config: dict[str, Any], _: dict[str, Any]) -> None:
    config["joint"]["jointnet"]["activation"] = "tanh"


def test_auto_is_lean_where_lean_knows_the_model(checkpoint: Path, tmp_path: Path) -> None:
    other = changed(checkpoint, tmp_path / "changed", _tanh)
    with pytest.raises(Unsupported, match="a joint network with tanh: use nemo"):
        engine(other, implementation="lean")
    assert engine(other)._model.implementation == "nemo"
    assert engine(checkpoint)._model.implementation == "lean"


class Table(dict[str, Any]):
    """What only a trusted pickle may hold."""


@pytest.mark.parametrize("implementation", ["lean", "nemo"])
def test_a_trusted_checkpoint_is_served(checkpoint: Path, tmp_path: Path, implementation: str) -> None:
    folder = changed(checkpoint, tmp_path / "changed", lambda *_: None)
    torch.save(Table(torch.load(folder / "model_weights.ckpt")), folder / "model_weights.ckpt")
    with pytest.raises(SetupError, match="--trust-checkpoint"):
        engine(folder, implementation=implementation)
    assert engine(folder, implementation=implementation, trust_checkpoint=True).spec.slots == 4


@pytest.mark.parametrize("device", ["mps", "cuda:99", "cuda:x", "tpu", ""])
def test_a_device_that_is_not_there(checkpoint: Path, device: str) -> None:
    with pytest.raises(SetupError, match=r"^(there is no|the device) "):
        engine(checkpoint, device=device)


@pytest.mark.parametrize("change", [_no_lstm, _other_width])
def test_nemo_says_in_one_sentence_what_it_cannot_restore(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    with pytest.raises(SetupError, match=r"^NeMo cannot restore ") as caught:
        engine(changed(checkpoint, tmp_path / "changed", change), implementation="nemo")
    assert len(str(caught.value).splitlines()) == 1
