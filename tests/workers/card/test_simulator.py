"""The engine `card` on the simulator: the real network, its states, its faults, and the model files that it takes."""

from __future__ import annotations

import dataclasses
import errno
import json
from difflib import SequenceMatcher
from pathlib import Path

import pytest
import soundfile

from asr_proto.errors import SetupError
from asr_workers.cards import selftest
from asr_workers.cards.carm import CarmConfig
from asr_workers.cards.failure import EXIT_CODE, CardFailed
from asr_workers.cards.library import CardLibrary
from asr_workers.engines.base import Advanced, Chunk, SlotOptions
from asr_workers.engines.card.config import CardConfig
from asr_workers.engines.card.engine import CardEngine
from tests.cards.reference import speechlike
from tests.workers.card.card_parts import (
    CHUNK,
    N_CLASSES,
    SMALL,
    finals,
    hear,
    recognized,
    said,
    vocabulary,
    write_model,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def simulator() -> None:
    try:
        CardLibrary()
    except SetupError as error:
        pytest.skip(error.detail)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("card") / "small.carm")


def engine(model: Path, **changes: object) -> CardEngine:
    config = {"device": "cpu", "model": model, "slots": 3, **changes}
    return CardEngine(CardConfig(**config))  # type: ignore[arg-type]


def letters(text: str) -> str:
    """The text without spaces: a random model makes pauses inside words."""
    return text.replace(" ", "")


def test_a_released_card_is_free(model: Path) -> None:
    it = engine(model, device="card:0")
    with pytest.raises(CardFailed, match="is open already"):
        engine(model, device="card:0")
    it.release()
    it.release()
    engine(model, device="card:0").release()


@pytest.mark.parametrize("resets", [True, False])
def test_streaming_equals_offline(model: Path, resets: bool) -> None:
    """CAI-16, CAI-17: two state resets, a last chunk that is not whole, and neighbors."""
    pcm = speechlike(3, 520).reshape(-1)[:-321]
    it = engine(model, state_resets=resets)
    for slot in range(3):
        it.open(slot, SlotOptions(), None)
    hear(it, 1, pcm[::-1][: 77 * CHUNK], flush=False)
    outputs = hear(it, 2, pcm)
    assert letters(said(outputs)) == letters(recognized(model, pcm, resets=resets))
    assert len(finals(outputs)) > 1


def test_state_resets_change_the_text_of_long_audio_alone(model: Path) -> None:
    long, short = speechlike(3, 520).reshape(-1), speechlike(3, 249).reshape(-1)
    assert recognized(model, long) != recognized(model, long, resets=False)
    assert recognized(model, short) == recognized(model, short, resets=False)


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("at", [7, 201, 249, 250, 251, 290, 460])
def test_a_session_that_moves_says_the_same(model: Path, resets: bool, at: int) -> None:
    """Snapshots in an overlap, at a seam and between two seams."""
    pcm = speechlike(3, 520).reshape(-1)
    first, second = engine(model, state_resets=resets), engine(model, state_resets=resets)
    first.open(0, SlotOptions(), None)
    before = hear(first, 0, pcm[: at * CHUNK], flush=False)
    advanced = first.snapshot(0)
    assert isinstance(advanced, Advanced)
    second.open(2, SlotOptions(), advanced.snapshot)
    after = hear(second, 2, pcm[advanced.snapshot.sample :])
    moved = [final.text for final in [*finals(before), *finals(after)]]
    assert letters("".join(moved)) == letters(recognized(model, pcm, resets=resets))


def test_words_have_times_and_confidences(model: Path) -> None:
    it = engine(model)
    it.open(0, SlotOptions(), None)
    for final in finals(hear(it, 0, speechlike(3, 100).reshape(-1))):
        assert final.words is not None and final.confidence is not None
        assert " ".join(word.text for word in final.words) == final.text
        assert final.words[0].start_sample == final.start_sample
        assert final.words[-1].end_sample == final.end_sample
        assert 0 < final.confidence < 1
        assert all(word.confidence is not None and 0 < word.confidence <= 1 for word in final.words)


# ---- Speech ----

DIGITS = ROOT / "ops" / "models" / "digits-rnnt.pt"


@pytest.mark.skipif(not DIGITS.exists(), reason="the model of spoken digits is not here")
def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hardware checkpoint is compiled into the folder for temporary files first."""
    pytest.importorskip("torch")
    from asr_workers.engines.rnnt.checkpoint import RnntCheckpoint

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RnntCheckpoint, "compile", full)
    with pytest.raises(SetupError, match=r"cannot be compiled into .*: No space left on device"):
        engine(DIGITS)


@pytest.mark.skipif(not DIGITS.exists(), reason="the model of spoken digits is not here")
def test_digits_are_understood() -> None:
    """Recordings outside of the training data. Each ends with its last word; the next starts with an empty state."""
    pytest.importorskip("torch")
    it = engine(DIGITS)
    it.open(0, SlotOptions(), None)
    folder = ROOT / "tests" / "data" / "digits"
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    right = words = 0
    for line in lines:
        pcm, rate = soundfile.read(folder / line["path"], dtype="int16")
        assert rate == 16000
        heard, spoken = said(hear(it, 0, pcm)).split(), line["text"].split()
        right += sum(block.size for block in SequenceMatcher(a=spoken, b=heard, autojunk=False).get_matching_blocks())
        words += len(spoken)
    assert right / words > 0.9


# ---- Faults ----


@pytest.mark.parametrize("mode", ["compute", "timing,latency_ms=1"])
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("hang", "hangs: a chunk of slot"),
        ("drop", "hangs: a chunk of slot"),
        ("reset", "ended with RESET"),
        ("ecc", "ended with ECC"),
        ("heat", "ended with HEAT"),
        ("link", "LINK"),
        ("count", "more chunks than were submitted"),
    ],
)
def test_a_fault_puts_the_card_out_of_order(model: Path, fault: str, sentence: str, mode: str) -> None:
    """The card fails while it serves. tests/e2e/test_card.py tests what the worker does then."""
    options = f"shared=1,mode={mode},fault={fault}@{selftest.SUBMITS + 4}"
    it = engine(model, device="card:0", card_options=options)
    it._traffic.hang_s = 0.2
    for slot in range(3):
        it.open(slot, SlotOptions(), None)
    chunks = [Chunk(slot, speechlike(3, 1)[0]) for slot in range(3)]
    for _ in range(3):
        it.step(chunks, 0.0)
    with pytest.raises(CardFailed, match=sentence) as failed:
        it.step(chunks, 0.0)
        while it.pending():
            it.step([], 0.0)
        it.step(chunks, 0.0)
    assert failed.value.exit_code == EXIT_CODE == 3


@pytest.mark.parametrize("fault", ["reset@5", "ecc@40", "heat@70", "link@1", "count@86"])
def test_a_fault_in_the_self_test_keeps_it_from_serving(model: Path, fault: str) -> None:
    with pytest.raises(CardFailed):
        engine(model, device="card:0", slots=40, card_options=f"shared=1,capacity=60,fault={fault}")


def test_how_much_a_self_test_gives_to_a_card(model: Path) -> None:
    """A fault in the self-test's last batch is noticed, one in the batch after it is not."""
    options = "shared=1,fault=ecc@{}"
    engine(model, device="card:0", card_options=options.format(selftest.SUBMITS + 1))
    with pytest.raises(CardFailed, match="ended with ECC"):
        engine(model, device="card:0", card_options=options.format(selftest.SUBMITS))


# ---- Models and devices ----


def test_the_cpu_backend_takes_a_hardware_checkpoint(tmp_path: Path, model: Path) -> None:
    """CAI-04, CAI-06, CAI-12: its text is that of the compiled model. A card refuses it."""
    torch = pytest.importorskip("torch")
    from asr_workers.engines.rnnt import checkpoint

    config = dataclasses.replace(SMALL, name="other")
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: (0.3 * torch.randn(shape, generator=generator)).half().float() for name, shape in config.shapes().items()
    }
    means, variances = torch.full((80,), -8.0).numpy(), torch.full((80,), 9.0).numpy()
    path, compiled = tmp_path / "small.pt", tmp_path / "small.carm"
    checkpoint.save(
        path, checkpoint.RnntCheckpoint(config, tensors, means, variances, vocabulary()), step=1, best_wer=1.0
    )
    checkpoint.load(path).compile(compiled, "fp32")
    pcm = speechlike(3, 60).reshape(-1)
    texts = []
    for file in (path, compiled):
        it = engine(file)
        it.open(0, SlotOptions(), None)
        texts.append(said(hear(it, 0, pcm)))
    assert {letters(text) for text in texts} == {letters(recognized(compiled, pcm))}
    with pytest.raises(SetupError, match="not a compiled card model; compile a hardware checkpoint with asr-compile"):
        engine(path, device="card:0", card_options="shared=1")


def test_testing_is_not_for_production(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CAI-03."""
    named = CarmConfig(240, 32, 1, 1, 2, 16, 1, 32, N_CLASSES, 320, "testing")
    it = engine(write_model(tmp_path / "testing.carm", named))
    assert it.spec.model == "testing"
    assert "not for production" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": Path("absent.carm")}, "absent.carm cannot be read"),
        ({"model": Path("absent.carm"), "device": "card:0"}, "there is no model absent.carm"),
        ({"device": "card:77"}, "there is no card:77: 8 cards were found"),
        ({"device": "card:x"}, "card:x is not a card: name one with --device card:N, or cpu"),
        ({"device": "card:"}, "card: is not a card"),
        ({"device": "card:-1"}, "card:-1 is not a card"),
        ({"device": "card:1", "card_options": "cards=1"}, "there is no card:1: 1 cards were found"),
        ({"card_library": Path("adapter.so")}, "name one with --device card:N"),
        ({"card_library": Path("absent.so"), "device": "card:0"}, "absent.so"),
        ({"card_options": "color=red"}, "color=red"),
        ({"slots": 1000}, "cpu serves 51 sessions with state resets, not 1000"),
    ],
)
def test_what_cannot_serve_says_why(model: Path, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(SetupError, match=sentence):
        engine(**{"model": model, **changes})  # type: ignore[arg-type]


def test_capacity_comes_from_the_card(model: Path) -> None:
    """CAI-05: 2000 streams of the base model; state resets take a quarter of the work."""
    timing = "shared=1,mode=timing,latency_ms=1"
    assert engine(model, device="card:0", slots=None, card_options=timing).spec.slots == 1600
    assert engine(model, device="card:0", slots=None, card_options=timing, state_resets=False).spec.slots == 2000
    spec = engine(model, slots=None).spec
    assert (spec.slots, spec.encode_factor, spec.uncommitted_s_max) == (51, 1.25, 30.0)
    assert len(spec.checksum) == 16
