"""Trains a small NeMo model on spoken digits: batches, training loop, and the command-line options of both scripts."""

import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name every torch program uses)
from augment import Audio
from digits import TRAINING_SPEAKERS, WORDS, Strings, recordings, unseen_strings
from judge import word_error
from nemo_small import WIDTH, pad, save, start_from, tokenizer, transcribe
from torch import Tensor
from voices import voices

# (share of the training at which the stage begins, most digits in a string). Short strings take little time and teach
# the words. A model that starts from another one needs fewer of them.
STAGES: Sequence[tuple[float, int]] = ((0.0, 2), (0.1, 3), (0.3, 5), (0.85, 10))
GO_ON: Sequence[tuple[float, int]] = ((0.0, 5), (0.6, 10))


@dataclass(frozen=True, slots=True)
class Data:
    """The training data: the recordings' folder, the cache of synthetic voices, and the model to start from.

    `leave_out` are speakers that only evaluate the model. `keep_encoder` keeps the first model's encoder unchanged.
    """

    directory: Path
    cache: Path
    leave_out: tuple[str, ...]
    init: Path | None
    keep_encoder: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Length, learning rate and batch size of the training."""

    steps: int
    minutes: float
    seed: int
    rate_max: float
    """Highest learning rate."""
    batch: int = 32
    """Strings in a batch."""
    warm_up: int = 100
    """Steps in which the learning rate rises to its maximum."""
    word_steps: int = 400
    """Most steps of learning single words, for each source."""
    words_right: float = 0.8
    """Share of right words at which learning single words ends."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Audio float32 [B, n] with `samples` [B], token ids [B, U] with `counts` [B]."""

    audio: Tensor
    samples: Tensor
    tokens: Tensor
    counts: Tensor


def batches(strings: Iterator[tuple[Audio, list[int]]], token_of: Sequence[int], size: int) -> Iterator[Batch]:
    """Endless batches of strings of similar length.

    The strings of four batches are drawn together and sorted by length; the batches are then shuffled.
    """
    rng = np.random.default_rng(0)
    while True:
        drawn = sorted((next(strings) for _ in range(4 * size)), key=lambda string: len(string[0]))
        for at in rng.permutation(4):
            yield _batch(drawn[at * size : (at + 1) * size], token_of)


def _batch(strings: Sequence[tuple[Audio, list[int]]], token_of: Sequence[int]) -> Batch:
    audio, samples = pad([torch.from_numpy(audio) for audio, _ in strings])
    tokens, counts = pad([torch.tensor([token_of[digit] for digit in digits]) for _, digits in strings])
    return Batch(audio, samples, tokens, counts)


def scale_subsampling(model: Any, batch: Batch) -> None:
    """Scale each layer of the sub-sampling so that its outputs on `batch` have mean 0 and standard deviation 1.

    With NeMo's initial weights, the biases exceed most of each layer's input, and a short training does not recover
    the lost information. This is a layer-sequential initialization like that of Mishkin and Matas 2015
    (arXiv:1511.06422).
    """

    def scaled(layer: Any, inputs: Tensor, dims: tuple[int, ...]) -> Tensor:
        outputs: Tensor = layer(inputs)
        deviation = outputs.std(dims)
        layer.bias.copy_((layer.bias - outputs.mean(dims)) / deviation)
        layer.weight /= deviation.view(-1, *[1] * (layer.weight.dim() - 1))
        again: Tensor = layer(inputs)
        return again

    with torch.no_grad():
        mels, _ = model.preprocessor(input_signal=batch.audio, length=batch.samples)
        inputs = mels.transpose(1, 2).unsqueeze(1)
        for layer in model.encoder.pre_encode.conv:
            inputs = scaled(layer, inputs, (0, 2, 3)) if isinstance(layer, torch.nn.Conv2d) else layer(inputs)
        scaled(model.encoder.pre_encode.out, inputs.transpose(1, 2).flatten(2), (0, 1))


def learn_words(model: Any, sources: Sequence[Iterator[Batch]], plan: Plan, report: Callable[[str], None]) -> None:
    """Train the encoder to classify single words by the maximum of its outputs over time; easy `sources` come first.

    Without this, a transducer first learns when to emit tokens, and only much later which tokens. The model is in
    evaluation mode, because dropout and masks would hide the weak signal at the beginning.
    """
    head = torch.nn.Linear(WIDTH, len(WORDS) + 1)
    parameters = [*model.encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.98))
    model.eval()
    for source in sources:
        right: list[float] = []
        for step in range(plan.word_steps):
            batch = next(source)
            encoded, frames = model(input_signal=batch.audio, input_signal_length=batch.samples)
            past_end = torch.arange(encoded.shape[2]) >= frames[:, None]
            scores = head(encoded.masked_fill(past_end[:, None], -torch.inf).amax(2))
            optimizer.zero_grad()
            F.cross_entropy(scores, batch.tokens[:, 0]).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            right.append(float((scores.argmax(1) == batch.tokens[:, 0]).float().mean()))
            if step % 25 == 24:
                report(f"words {step + 1}  right {np.mean(right[-25:]):.0%}")
                if np.mean(right[-25:]) > plan.words_right:
                    break


def logits(model: Any, encoded: Tensor, batch: Batch) -> Tensor:
    """The joint network's scores [B, T, U + 1, V] of one batch.

    In half of the batches, up to 30 random words precede the tokens. Without them, the prediction network would count
    words: trained on short strings only, it emits nothing after the longest string's number of words.
    """
    count = random.randint(1, 30) if random.random() < 0.5 else 0
    before = torch.randint(1, len(WORDS) + 1, (len(batch.tokens), count))
    targets = torch.cat([before, batch.tokens], 1)
    predicted, _, _ = model.decoder(targets=targets, target_length=batch.counts + count)
    scores: Tensor = model.joint(encoder_outputs=encoded, decoder_outputs=predicted[:, :, count:])
    return scores


def fit(
    model: Any,
    loss_of: Callable[[Batch], Tensor],
    stages: Sequence[tuple[float, Iterator[Batch]]],
    plan: Plan,
    report: Callable[[str], None],
    checkpoint: Callable[[], None],
) -> None:
    """Train `model` in place with AdamW: a warm-up, then a cosine decay of the learning rate to zero.

    `stages` are (share of the training at which the stage begins, its batches). Progress is the larger of the shares of
    steps and of minutes, so a slow machine ends at the same low rate as a fast one, after fewer steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.rate_max, betas=(0.9, 0.98), weight_decay=1e-3)
    started = time.monotonic()
    recent: list[float] = []
    model.train()
    for step in range(plan.steps):
        done = max(step / plan.steps, (time.monotonic() - started) / 60 / plan.minutes)
        if done >= 1:
            break
        rate = plan.rate_max * min((step + 1) / plan.warm_up, 0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(next([source for begins, source in stages if done >= begins][-1]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(float(loss))
        if step % 50 == 49:
            minutes = (time.monotonic() - started) / 60
            report(f"step {step + 1}  {minutes:.1f} min  {done:.0%}  rate {rate:.1e}  loss {np.mean(recent):.3f}")
            recent.clear()
        if step % 500 == 499:
            checkpoint()
            model.train()
    model.eval()


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of both scripts. The command gets `data`, `plan` and `out`."""

    @click.option("--digits", "directory", required=True, type=click.Path(exists=True, path_type=Path))
    @click.option("--out", required=True, type=click.Path(path_type=Path))
    @click.option("--voices", "cache", default="build/voices.npz", type=click.Path(path_type=Path), help="cache file")
    @click.option("--steps", default=3500, show_default=True)
    @click.option("--minutes", default=85.0, show_default=True, help="stop after this many minutes")
    @click.option("--seed", default=0, show_default=True)
    @click.option("--rate", default=7e-4, show_default=True, help="highest learning rate")
    @click.option("--leave-out", multiple=True, help="a speaker that evaluates the model and never trains it")
    @click.option(
        "--init", type=click.Path(exists=True, path_type=Path), help="start from this model where shapes match"
    )
    @click.option("--keep-encoder", is_flag=True, help="train only what follows the encoder")
    @wraps(command)
    def wrapped(
        directory: Path,
        out: Path,
        cache: Path,
        steps: int,
        minutes: float,
        seed: int,
        rate: float,
        leave_out: tuple[str, ...],
        init: Path | None,
        keep_encoder: bool,
    ) -> None:
        command(
            data=Data(directory, cache, leave_out, init, keep_encoder), plan=Plan(steps, minutes, seed, rate), out=out
        )

    return wrapped


def train(
    build: Callable[[Path], Any], loss_of: Callable[[Any, Batch], Tensor], data: Data, plan: Plan, out: Path
) -> None:
    """Train the model that `build(tokenizer folder)` makes. Save it and print its word error every 500 steps."""
    random.seed(plan.seed)  # NeMo draws attention contexts and masks from it
    torch.manual_seed(plan.seed)
    torch.set_num_threads(1)
    real = recordings(data.directory, unseen=False, speakers=set(TRAINING_SPEAKERS) - set(data.leave_out))
    spoken = voices(data.cache)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer(Path(folder))
        model = build(Path(folder))
        click.echo(f"{sum(one.numel() for one in model.parameters()):,} parameters")
        token_of = [model.tokenizer.text_to_ids(word)[0] for word in WORDS]

        def source(most: int) -> Iterator[Batch]:
            # A transducer learns late that a word can follow itself, so strings have more repetitions than by chance.
            seed, repeats = plan.seed + most, 0.15
            changed = Strings(real, seed, voices=spoken, voice_share=0.5, digits_max=most, repeat_share=repeats)
            plain = Strings(real, seed, digits_max=most, repeat_share=repeats, augment=False)
            return batches(chain.from_iterable(zip(changed, changed, plain, strict=True)), token_of, plan.batch)

        judged = [unseen_strings(data.directory, 60, 1, {one.speaker for one in real})]
        if data.leave_out:
            judged.append(unseen_strings(data.directory, 60, 1, data.leave_out))

        def checkpoint() -> None:
            save(model, out)
            for rows in judged:
                error = word_error([digits for _, digits in rows], transcribe(model, [audio for audio, _ in rows]))
                click.echo(f"  word error {error:.2%}")

        model.encoder.requires_grad_(not data.keep_encoder)
        stages = STAGES
        if data.init:
            click.echo(f"{start_from(model, data.init)} tensors from {data.init.name}")
            stages = GO_ON
        else:
            plain = batches(Strings(real, plan.seed, digits_max=1, augment=False), token_of, plan.batch)
            scale_subsampling(model, next(plain))
            learn_words(model, [plain, source(1)], plan, click.echo)
        fit(
            model,
            partial(loss_of, model),
            [(begins, source(most)) for begins, most in stages],
            plan,
            click.echo,
            checkpoint,
        )
        checkpoint()
