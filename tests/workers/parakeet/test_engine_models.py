"""The parakeet engine with real networks of random weights, and checkpoints that cannot be loaded."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

torch = pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

from asr_proto.errors import BadRequest, SetupError  # noqa: E402
from asr_workers.engines.base import Chunk, Output, SlotOptions  # noqa: E402
from asr_workers.engines.parakeet.config import ParakeetConfig  # noqa: E402
from asr_workers.engines.parakeet.engine import ParakeetEngine  # noqa: E402
from asr_workers.engines.parakeet.model import ParakeetModel  # noqa: E402
from asr_workers.engines.transducer.token_text import TokenAt  # noqa: E402
from tests.workers.nemo.nemo_models import speech_like  # noqa: E402
from tests.workers.nemo.nemo_parts import commits, feed, finals  # noqa: E402
from tests.workers.parakeet.models import decode_offline, encode_offline  # noqa: E402

CONTEXTS = [(1.6, 0.48, 0.32), (0.8, 0.24, 0.16), (0.56, 0.56, 0.56)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def engine(checkpoint: Path, context: tuple[float, float, float] = CONTEXTS[0], **changes: Any) -> ParakeetEngine:
    names = zip(("left_s", "chunk_s", "right_s"), context, strict=True)
    config = {"model": str(checkpoint), "slots": 8, "endpoint_ms": 0, **dict(names)}
    return ParakeetEngine(ParakeetConfig(**(config | changes)))


def test_one_window_says_what_nemo_says(checkpoint: Path, reference: Any) -> None:
    """PAR-06. A recording that fits into one chunk is transcribed as NeMo does it offline, odd lengths too."""
    it = engine(checkpoint, (0.0, 8.0, 0.0))
    for slot, seconds in enumerate((4.0, 2.71, 5.003, 0.5)):
        pcm = speech_like(seconds, slot)
        tokens, _, _ = decode_offline(reference, encode_offline(reference, pcm))
        it.open(slot, SlotOptions(), None)
        said = " ".join(final.text for final in finals(feed(it, slot, pcm)))
        assert said == it._model.text.text([TokenAt(token, 0, 0, 1.0) for token in tokens])
    assert said


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_batch_says_what_each_says_alone(checkpoint: Path, context: tuple[float, float, float]) -> None:
    """PAR-06. Eight sessions of different ages; the finals and the partials on the way."""
    it = engine(checkpoint, context)
    pcms = [speech_like(2.0 + slot / 3, slot) for slot in range(8)]
    size = it.spec.chunk_samples
    queues = {slot: [pcm[at : at + size] for at in range(0, len(pcm), size)] for slot, pcm in enumerate(pcms)}
    together: dict[int, list[Output]] = {slot: [] for slot in queues}
    for turn in range(200):
        if turn in queues:
            it.open(turn, SlotOptions(), None)
        free = [slot for slot, queue in queues.items() if slot <= turn and queue and not it.blocked(slot)]
        for output in it.step([Chunk(slot, queues[slot].pop(0), flush=not queues[slot]) for slot in free], 0.0):
            together[output.slot].append(output)
    for slot, pcm in enumerate(pcms):
        it.close(slot)
        it.open(slot, SlotOptions(), None)
        alone = feed(it, slot, pcm, size=size)
        assert _texts(together[slot]) == _texts(alone)
    assert sum(len(final.text) for outputs in together.values() for final in finals(outputs)) > 100


def _texts(outputs: list[Output]) -> list[tuple[str, str | None]]:
    return [(output.text, output.endpoint) for output in outputs if hasattr(output, "text")]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_goes_on_elsewhere(checkpoint: Path, precision: str) -> None:
    """From a checkpoint in the middle of an utterance: with the state of the decoder, to the last bit."""
    pcm = speech_like(6.0, 7)
    it, other = engine(checkpoint, precision=precision), engine(checkpoint, precision=precision)
    it.open(0, SlotOptions(), None)
    feed(it, 0, pcm[:53_760], flush=False)
    snapshot = it.snapshot(0).snapshot
    assert 0 < snapshot.sample < 53_760
    assert len(snapshot.state) < 65_536
    other.open(2, SlotOptions(), snapshot)
    (there,) = finals(feed(other, 2, pcm[snapshot.sample :]))
    (here,) = finals(feed(it, 0, pcm[53_760:]))
    assert (there.text, there.words) == (here.text, here.words)
    assert commits([there])[0].sample == len(pcm)


def test_int8_runs(checkpoint: Path) -> None:
    it = engine(checkpoint, precision="int8")
    it.open(0, SlotOptions(), None)
    assert finals(feed(it, 0, speech_like(3.0, 1)))


def test_a_snapshot_of_another_model_is_refused(checkpoint: Path) -> None:
    it = engine(checkpoint)
    it.open(0, SlotOptions(), None)
    feed(it, 0, speech_like(2.0, 1), flush=False)
    snapshot = it.snapshot(0).snapshot
    it._model.checksum = "another"
    with pytest.raises(BadRequest) as caught:
        it.open(1, SlotOptions(), snapshot)
    assert caught.value.slug == "bad-snapshot"


def test_fp16_is_for_gpus(checkpoint: Path) -> None:
    with pytest.raises(SetupError, match="fp16 needs CUDA"):
        engine(checkpoint, precision="fp16")


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="there are that many devices")
def test_a_device_that_is_not_there(checkpoint: Path) -> None:
    with pytest.raises(SetupError, match="there is no cuda:7"):
        engine(checkpoint, device="cuda:7")


def test_what_is_no_parakeet_does_not_start(checkpoint: Path, tmp_path: Path) -> None:
    """One sentence says why."""
    changes: list[tuple[str, dict[str, Any]]] = [
        ("is not a Parakeet-TDT: its encoder is a.Squeezeformer", {"encoder": {"_target_": "a.Squeezeformer"}}),
        ("frames of 4 x 160", {"encoder": {"subsampling_factor": 4}}),
        ("not a TDT model", {"joint": {"num_extra_outputs": 0}}),
        ("the encoder of .* cannot be built", {"encoder": {"n_layers": 3}}),
    ]
    for number, (sentence, change) in enumerate(changes):
        with pytest.raises(SetupError, match=sentence):
            engine(_changed(checkpoint, tmp_path / f"{number}.nemo", change))


def _changed(checkpoint: Path, path: Path, change: dict[str, Any]) -> Path:
    """A copy with another configuration."""
    folder = path.with_suffix("")
    with tarfile.open(checkpoint) as archive:
        archive.extractall(folder, filter="data")
    file = folder / "model_config.yaml"
    config = yaml.safe_load(file.read_text())
    for part, values in change.items():
        config[part] |= values
    file.write_text(yaml.safe_dump(config))
    with tarfile.open(path, "w") as archive:
        archive.add(folder, ".")
    return path


def test_frames_of_another_length_do_not_start(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is found before the worker serves, in a full window or in an odd one."""
    encode = ParakeetModel.encode

    def longer(it: ParakeetModel, windows: Any) -> Any:
        encoded, frames = encode(it, windows)
        return encoded, frames + (len(windows[0]) % 1280 != 0)

    monkeypatch.setattr(ParakeetModel, "encode", longer)
    with pytest.raises(SetupError, match=r"the model makes 31 frames of 37759 samples, not 30"):
        engine(checkpoint)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "broken.nemo"
    path.write_bytes(b"not a tar")
    with pytest.raises(SetupError, match=r"not a \.nemo archive"):
        engine(path)
