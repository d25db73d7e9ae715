"""Streaming equals the reference's offline transcription: mixed batches, all look-aheads, both implementations.

Also one test for each error that servers of such models were seen to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from asr_proto.errors import BadRequest, SetupError

torch = pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

from asr_workers.engines.fastconformer import load, mel, streaming  # noqa: E402
from tests.workers.fastconformer import random_models as models  # noqa: E402
from tests.workers.fastconformer import streams  # noqa: E402

if TYPE_CHECKING:
    from asr_workers.engines.fastconformer.slot_model import SlotModel
    from asr_workers.engines.fastconformer.streaming import Emission
    from tests.workers.fastconformer.random_models import RandomModel

RIGHTS = (1, 13, 6, 0)
IMPLEMENTATIONS = ("lean", "nemo")
Implementation = Literal["lean", "nemo"]


_LOADED: dict[Any, SlotModel] = {}
"""Models of this module, by their settings: every test leaves their slots wiped or opens them itself."""


def loaded(model: RandomModel, implementation: Implementation = "lean", **changes: Any) -> SlotModel:
    settings = streaming.ModelSettings(model=model.name, **({"slots": 20, "implementation": implementation} | changes))
    if settings not in _LOADED:
        _LOADED[settings] = load.load(settings)
    found = _LOADED[settings]
    for slot in range(settings.slots):
        found.open(slot)
    return found


def recordings(count: int, seed: int, shortest_s: float = 0.3, longest_s: float = 8.0) -> list[Any]:
    lengths = np.random.default_rng(seed).uniform(shortest_s, longest_s, count)
    return [models.speech_like(length, seed + index) for index, length in enumerate(lengths)]


def offline(
    model: RandomModel, pcm: Sequence[Any], right: int, decoder: str = "rnnt"
) -> list[tuple[list[int], list[int]]]:
    encoded = models.encode_offline(model.nemo, pcm, [70, right])
    return [models.decode_offline(model.nemo, x, decoder) for x in encoded]


# ---- Equal to offline ----


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize("right", RIGHTS)
def test_twelve_staggered_utterances(
    tiny: RandomModel, implementation: Implementation, decoder: Any, right: int
) -> None:
    pcm = recordings(12, 10 * right, longest_s=7.0)
    expected = offline(tiny, pcm, right, decoder)
    model = loaded(tiny, implementation, decoder=decoder)
    found = streams.transcribe(model, models.features_offline(tiny.nemo, pcm), [right] * 12)
    assert [streams.placed(emissions) for emissions in found] == expected
    assert sum(len(tokens) for tokens, _ in expected) > 100
    assert all(0 <= emission.confidence <= 1 for emissions in found for emission in emissions)


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_sixty_four_sessions_of_all_look_aheads_in_mixed_batches(tiny: RandomModel, decoder: Any) -> None:
    pcm = recordings(64, 1000, longest_s=4.0)
    rights = [RIGHTS[index % 4] for index in range(64)]
    expected: list[Any] = [None] * 64
    for right in RIGHTS:
        numbers = [index for index in range(64) if rights[index] == right]
        found = offline(tiny, [pcm[index] for index in numbers], right, decoder)
        for index, tokens in zip(numbers, found, strict=True):
            expected[index] = tokens
    model = loaded(tiny, slots=64, decoder=decoder)
    got = streams.transcribe(model, models.features_offline(tiny.nemo, pcm), rights)
    assert [streams.placed(emissions) for emissions in got] == expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("right", RIGHTS)
def test_encoder_frames(
    tiny: RandomModel, implementation: Implementation, right: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pcm = recordings(3, 50, longest_s=9.0)
    expected = models.encode_offline(tiny.nemo, pcm, [70, right])
    model = loaded(tiny, implementation)
    frames: list[list[Any]] = [[] for _ in pcm]
    decode = model._decoder.decode

    def noted(encoded: Any) -> Any:
        for slot, count, row in zip(encoded.slots.tolist(), encoded.counts, encoded.frames, strict=True):
            frames[slot].append(row[:count].clone())
        return decode(encoded)

    monkeypatch.setattr(model._decoder, "decode", noted)
    streams.transcribe(model, models.features_offline(tiny.nemo, pcm), [right] * 3, every=0)
    for got, wanted in zip(frames, expected, strict=True):
        assert torch.cat(got).shape == wanted.shape
        assert (torch.cat(got) - wanted).abs().max() < 1e-4


def test_batch_norm_shared_shapes_and_plain_inputs(tmp_path: Any) -> None:
    changes = {
        "conv_norm_type": "batch_norm",
        "xscaling": False,
        "att_context_size": [[28, 6], [28, 1]],
        "use_bias": False,
    }
    model = models.built(tmp_path, models.TINY, **changes)
    pcm = recordings(4, 70)
    encoded = models.encode_offline(model.nemo, pcm, [28, 6])
    found = streams.transcribe(loaded(model), models.features_offline(model.nemo, pcm), [6] * 4)
    assert [streams.placed(emissions) for emissions in found] == [
        models.decode_offline(model.nemo, x, "rnnt") for x in encoded
    ]


def test_features_from_audio_of_any_frame_size(tiny: RandomModel) -> None:
    pcm = recordings(1, 90, shortest_s=4.0)[0]
    model = loaded(tiny)
    ears = mel.StreamingMel(model.mel, 1)
    expected = models.features_offline(tiny.nemo, [pcm])[0]
    for size in (160, 320, 1000, 2560):
        parts = np.split(pcm, range(size, pcm.size, size))
        heard = torch.cat([ears.feed([0], [part], [part is parts[-1]])[0] for part in parts])
        assert heard.shape == expected.shape
        assert (heard - expected).abs().max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_going_on_elsewhere_from_a_snapshot(tiny: RandomModel, implementation: Implementation, decoder: Any) -> None:
    features = models.features_offline(tiny.nemo, recordings(1, 30, shortest_s=7.0))[0]
    one, other = (loaded(tiny, implementation, decoder=decoder, slots=slots) for slots in (20, 6))
    whole = streams.transcribe(one, [features], [6])[0]
    one.open(3)
    other.open(5)
    parts = list(streams.chunks(one, 3, features, 6))
    found = [emission for part in parts[:7] for emission in one.step([part])[3]]
    for part in list(streams.chunks(other, 5, features.flip(0), 6))[:4]:
        other.step([part])
    other.restore(5, one.snapshot(3))
    rest = list(streams.chunks(other, 5, features, 6))[7:]
    found += [emission for part in rest for emission in other.step([part])[5]]
    assert [(e.token, e.frame) for e in found] == [(e.token, e.frame) for e in whole]
    assert len(one.snapshot(0)) < len(one.snapshot(3)) or implementation == "nemo"


def test_snapshots_that_are_not_of_this_model(tiny: RandomModel) -> None:
    model = loaded(tiny)
    state = model.snapshot(0)
    others = [
        loaded(tiny, decoder="ctc").snapshot(0),
        loaded(tiny, precision="bf16").snapshot(0),
        loaded(tiny, "nemo").snapshot(0),
        state.replace(model.checksum.encode(), b"0123456789abcdef"),
    ]
    for bad in [b"", state[:-1], state + b"x", b"x" * len(state), *others]:
        with pytest.raises(BadRequest):
            model.restore(1, bad)
    model.restore(1, state)


def test_confidence_by_entropy_is_another_measure_of_the_same_tokens(tiny: RandomModel) -> None:
    features = models.features_offline(tiny.nemo, recordings(2, 40))
    found: dict[tuple[str, str], list[Emission]] = {}
    for implementation in IMPLEMENTATIONS:
        for kind in ("max-prob", "entropy") if implementation == "lean" else ("entropy",):
            model = loaded(tiny, implementation, confidence=kind)
            found[implementation, kind] = [e for x in streams.transcribe(model, features, [1, 1]) for e in x]
    lean, nemo = found["lean", "entropy"], found["nemo", "entropy"]
    assert [e.confidence for e in lean] == pytest.approx([e.confidence for e in nemo], abs=1e-4)
    assert streams.tokens(lean) == streams.tokens(found["lean", "max-prob"])
    assert [e.confidence for e in lean] != [e.confidence for e in found["lean", "max-prob"]]


# ---- Precisions ----


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.06), ("int8", 0.06)])
def test_lower_precisions_stay_close(
    tiny: RandomModel, precision: Any, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = models.features_offline(tiny.nemo, recordings(2, 60, shortest_s=3.0))
    outputs: dict[str, list[Any]] = {"fp32": [], precision: []}
    for name, seen in outputs.items():
        model = loaded(tiny, precision=name)
        step = model._encoder.step
        monkeypatch.setattr(
            model._encoder, "step", lambda batch, step=step, seen=seen: seen.append(step(batch)) or seen[-1]
        )
        streams.transcribe(model, features, [6, 6], every=0)
    exact, close = (torch.cat([x.float() for x in seen[:-1]]) for seen in outputs.values())
    assert (exact - close).norm() / exact.norm() < tolerance
    halves = loaded(tiny, precision="bf16").bytes_per_slot() / loaded(tiny).bytes_per_slot()
    assert halves < 0.52


def test_bf16_of_the_reference(tiny: RandomModel) -> None:
    features = models.features_offline(tiny.nemo, recordings(2, 60))
    assert any(streams.transcribe(loaded(tiny, "nemo", precision="bf16"), features, [1, 1]))
    with pytest.raises(SetupError, match="int8"):
        loaded(tiny, "nemo", precision="int8")


# ---- Errors that were seen elsewhere ----


def test_raw_audio_instead_of_features_is_refused(tiny: RandomModel) -> None:
    model = loaded(tiny)
    with pytest.raises(ValueError, match="has features of shape"):
        model.step([streaming.FeatureChunk(0, torch.zeros(1, 2560), 1, last=True)])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_others_say_changes_nothing(tiny: RandomModel, implementation: Implementation) -> None:
    features = models.features_offline(tiny.nemo, recordings(6, 20))
    model = loaded(tiny, implementation)
    together = streams.transcribe(model, features, [1] * 6, every=2)
    alone = [streams.transcribe(model, [spoken], [1])[0] for spoken in features]
    assert [streams.placed(x) for x in together] == [streams.placed(x) for x in alone]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_a_slot_taken_anew_holds_nothing_of_before(
    tiny: RandomModel, implementation: Implementation, decoder: Any
) -> None:
    model = loaded(tiny, implementation, decoder=decoder, slots=3)
    fresh = [arena.clone() for arena in model._encoder.state() + model._decoder.state()]
    poison = torch.full((9, 80), torch.nan)
    calm = models.features_offline(tiny.nemo, recordings(1, 25, shortest_s=3.0))[0]
    first, second = list(streams.chunks(model, 0, calm, 1))[:2]
    model.step([streaming.FeatureChunk(1, poison, 1), first])
    model.step([second])
    model.close(1)
    for arena, clean in zip(model._encoder.state() + model._decoder.state(), fresh, strict=True):
        assert torch.equal(arena[1:], clean[1:])
        assert arena[0].isfinite().all()
    here = streams.transcribe(loaded(tiny, implementation, decoder=decoder), [calm], [1])[0]
    rest = [e for part in streams.chunks(model, 1, calm, 1) for e in model.step([part])[1]]
    assert streams.placed(rest) == streams.placed(here)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_other_slots_on_the_same_weights(tiny: RandomModel, implementation: Implementation, decoder: Any) -> None:
    """All slots are empty after it, and each gives the tokens of a model that was loaded with that number of slots."""
    features = models.features_offline(tiny.nemo, recordings(5, 80))
    wanted = loaded(tiny, implementation, decoder=decoder)
    fresh, expected = wanted.snapshot(0), streams.transcribe(wanted, features, [1] * 5)
    settings = streaming.ModelSettings(model=tiny.name, slots=1, implementation=implementation, decoder=decoder)
    model = load.load(settings)
    slot_bytes = model.bytes_per_slot()
    for slots in (5, 2, 5):
        model.step([next(streams.chunks(model, 0, features[0], 1))])
        model.resize(slots)
        assert [model.snapshot(slot) for slot in range(slots)] == [fresh] * slots
        assert model.bytes_per_slot() == slot_bytes
    assert streams.transcribe(model, features, [1] * 5) == expected


@pytest.mark.parametrize("frames", [1, 8, 15, 17])
def test_steps_of_another_size_than_the_models_are_refused(tiny: RandomModel, frames: int) -> None:
    model = loaded(tiny)
    with pytest.raises(ValueError, match="not the geometry's number"):
        model.step([streaming.FeatureChunk(0, torch.zeros(frames, 80), 1)])
    with pytest.raises(ValueError, match="at most one chunk of each slot"):
        model.step([streaming.FeatureChunk(0, torch.zeros(9, 80), 1)] * 2)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_tails_of_every_length_are_flushed(tiny: RandomModel, implementation: Implementation) -> None:
    whole = models.speech_like(1.2, 5)
    pcm = [whole[: whole.size - 160 * cut] for cut in range(20)]
    expected = offline(tiny, pcm, 1, "ctc")
    model = loaded(tiny, implementation, decoder="ctc")
    found = streams.transcribe(model, models.features_offline(tiny.nemo, pcm), [1] * 20)
    assert [streams.placed(emissions) for emissions in found] == expected
    assert model.step([streaming.FeatureChunk(0, torch.zeros(0, 80), 1, last=True)]) == {0: []}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_slot_without_audio_is_not_stepped(tiny: RandomModel, implementation: Implementation) -> None:
    model = loaded(tiny, implementation)
    features = models.features_offline(tiny.nemo, recordings(2, 35, shortest_s=2.0))
    waiting, going = (list(streams.chunks(model, slot, x, 1)) for slot, x in enumerate(features))
    model.step([waiting[0], going[0]])
    state = model.snapshot(0)
    for part in going[1:]:
        model.step([part])
    assert model.snapshot(0) == state


# ---- Choosing ----


def test_auto_takes_lean_where_it_can(tiny: RandomModel, tmp_path: Any) -> None:
    assert loaded(tiny, "auto").implementation == "lean"  # type: ignore[arg-type]
    model = models.built(tmp_path, models.TINY, untie_biases=False)
    settings = streaming.ModelSettings(model=model.name, slots=1)
    assert load.load(settings).implementation == "nemo"
    with pytest.raises(SetupError, match="untie_biases"):
        load.load(streaming.ModelSettings(model=model.name, slots=1, implementation="lean"))


def test_devices_that_are_not_there(tiny: RandomModel) -> None:
    if torch.cuda.device_count():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SetupError, match="torch finds 0 CUDA devices"):
        loaded(tiny, device="cuda")
