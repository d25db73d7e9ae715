"""Train a small NeMo model on spoken digits: batches of strings, the loop, and the command line of both scripts."""

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
from digits import HEARD, WORDS, Strings, recordings, unseen_strings
from judge import word_error
from nemo_small import WIDTH, pad, save, start_from, tokenizer, transcribe
from torch import Tensor
from voices import voices

# Share of the training at which strings of up to so many digits begin: short ones are cheap and teach the words.
# A model that goes on from another knows them.
STAGES: Sequence[tuple[float, int]] = ((0.0, 2), (0.1, 3), (0.3, 5), (0.85, 10))
GO_ON: Sequence[tuple[float, int]] = ((0.0, 5), (0.6, 10))


@dataclass(frozen=True, slots=True)
class Data:
    """What to train on: the recordings' folder, the cache of synthetic voices, speakers to judge by, a first model.

    `keep_encoder` leaves the encoder as that model has it.
    """

    directory: Path
    cache: Path
    leave_out: tuple[str, ...]
    init: Path | None
    keep_encoder: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train."""

    steps: int
    minutes: float
    seed: int
    rate_max: float
    batch: int = 32
    warm_up: int = 100
    word_steps: int = 400
    words_right: float = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Audio float32 [B, n] with `samples` [B], token ids [B, U] with `counts` [B]."""

    audio: Tensor
    samples: Tensor
    tokens: Tensor
    counts: Tensor


def batches(strings: Iterator[tuple[Audio, list[int]]], token_of: Sequence[int], size: int) -> Iterator[Batch]:
    """Endless batches of strings of about the same length: four at a time are drawn, sorted and shuffled."""
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
    """Scale each layer of the sub-sampling so that its outputs on `batch` have mean 0 and deviation 1.

    As NeMo starts it, each layer loses most of its input below its biases, and a short training never finds it again.
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


def learn_words(model: Any, sources: Sequence[Iterator[Batch]], plan: Plan, tell: Callable[[str], None]) -> None:
    """Teach the encoder to tell single words apart, by the maximum of its outputs over time; easy `sources` first.

    A transducer that starts from nothing first learns when to emit and for long not what: this is the shorter way. The
    model is in its evaluation mode: dropout and masks would hide what little there is to see at first.
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
                tell(f"words {step + 1}  right {np.mean(right[-25:]):.0%}")
                if np.mean(right[-25:]) > plan.words_right:
                    break


def logits(model: Any, encoded: Tensor, batch: Batch) -> Tensor:
    """The joint network's scores [B, T, U + 1, V] of one batch.

    In half of the batches up to 30 other words have gone before: a prediction network that never saw more words than
    the longest string holds counts them, and falls silent there in a longer session.
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
    tell: Callable[[str], None],
    checkpoint: Callable[[], None],
) -> None:
    """Train `model` in place: AdamW, a warm-up, then a cosine to zero at the last step or the last minute.

    `stages` are (share of the training at which it begins, batches). Progress is the larger of both shares, so a slow
    machine ends at the same low rate as a fast one, after fewer steps.
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
            tell(f"step {step + 1}  {minutes:.1f} min  {done:.0%}  rate {rate:.1e}  loss {np.mean(recent):.3f}")
            recent.clear()
        if step % 500 == 499:
            checkpoint()
            model.train()
    model.eval()


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The options both scripts take; the command gets `data`, `plan` and `out`."""

    @click.option("--digits", "directory", required=True, type=click.Path(exists=True, path_type=Path))
    @click.option("--out", required=True, type=click.Path(path_type=Path))
    @click.option("--voices", "cache", default="build/voices.npz", type=click.Path(path_type=Path), help="cache file")
    @click.option("--steps", default=3500, show_default=True)
    @click.option("--minutes", default=85.0, show_default=True, help="stop here, whatever the steps")
    @click.option("--seed", default=0, show_default=True)
    @click.option("--rate", default=7e-4, show_default=True, help="highest learning rate")
    @click.option("--leave-out", multiple=True, help="a speaker to judge by and never to train on")
    @click.option(
        "--init", type=click.Path(exists=True, path_type=Path), help="start from this model where shapes match"
    )
    @click.option("--keep-encoder", is_flag=True, help="train what follows the encoder alone")
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
    """Train the model `build(tokenizer folder)` makes; save it to `out` and tell its word error every 500 steps."""
    random.seed(plan.seed)  # NeMo draws attention contexts and masks from it
    torch.manual_seed(plan.seed)
    torch.set_num_threads(1)
    heard = recordings(data.directory, unseen=False, speakers=set(HEARD) - set(data.leave_out))
    spoken = voices(data.cache)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer(Path(folder))
        model = build(Path(folder))
        click.echo(f"{sum(one.numel() for one in model.parameters()):,} parameters")
        token_of = [model.tokenizer.text_to_ids(word)[0] for word in WORDS]

        def source(most: int) -> Iterator[Batch]:
            # A transducer learns late that a word may follow itself: it meets more of that than chance would have.
            seed, repeats = plan.seed + most, 0.15
            changed = Strings(heard, seed, voices=spoken, voice_share=0.5, digits_max=most, repeat_share=repeats)
            plain = Strings(heard, seed, digits_max=most, repeat_share=repeats, augment=False)
            return batches(chain.from_iterable(zip(changed, changed, plain, strict=True)), token_of, plan.batch)

        judged = [unseen_strings(data.directory, 60, 1, {one.speaker for one in heard})]
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
            plain = batches(Strings(heard, plan.seed, digits_max=1, augment=False), token_of, plan.batch)
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
