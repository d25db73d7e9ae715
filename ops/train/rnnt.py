"""Train the card engine's small RNN-T (Graves 2012, arXiv:1211.3711) on spoken digits, and measure its word error.

python ops/train/rnnt.py train --digits DIR --voices voices.npz --out ops/models/digits-rnnt.pt
python ops/train/rnnt.py judge --digits DIR ops/models/digits-rnnt.pt
"""

import copy
import io
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice, pairwise
from pathlib import Path

import click
import numpy as np
import sentencepiece
import torch
from digits import TRAINING_SPEAKERS, WORDS, Audio, Recording, Strings, recordings, unseen_strings
from rnnt_judge import as_card_input, in_torch, long_strings, on_card, with_resets, word_error
from rnnt_loss import transducer_loss
from torch import Tensor, nn
from voices import voices

from asr_workers.cards.carm import PRECISIONS, CarmConfig, Precision
from asr_workers.engines.rnnt import checkpoint, features
from asr_workers.engines.rnnt.checkpoint import RnntCheckpoint
from asr_workers.engines.rnnt.model import EncoderState, Rnnt

SIZES = CarmConfig(
    in_feats=240,
    enc_n_hid=192,
    enc_pre_rnn_layers=2,
    enc_post_rnn_layers=2,
    enc_stack_time_factor=2,
    pred_n_hid=96,
    pred_rnn_layers=1,
    joint_n_hid=192,
    n_classes=len(WORDS) + 2,
    window_samples=400,
)
BATCH, POOL, EMA = 32, 3000, 0.995
FRESH, NAMING_STEPS, CLEAN_STEPS = 40, 280, 280
Example = tuple[features.Floats, list[int]]


def word_pieces() -> bytes:
    """A sentencepiece model with one token for each digit word."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS),
        model_writer=model,
        model_type="word",
        vocab_size=len(WORDS) + 1,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def log_mel(audio: Audio) -> features.Floats:
    """Log-mel features [t, 80], not normalized. t is a multiple of 6."""
    return features.log_mel(as_card_input(audio), features.silence(SIZES.window_samples))[0]


def statistics(strings: Strings, count: int = 150) -> tuple[features.Floats, features.Floats]:
    """Mean and variance [80] of the log-mel values of `count` strings.

    Dither is added, because the very low values of digital silence would outweigh speech.
    """
    rng = np.random.default_rng(0)
    audio = (audio for audio, _ in islice(strings, count))
    mels = np.concatenate([log_mel(a + 1e-5 * rng.standard_normal(len(a), np.float32)) for a in audio])
    return mels.mean(0), mels.var(0)


class Batches:
    """Batches of strings of similar length. A string is used about six times, masked differently each time.

    Strings with the same digit twice in a row are drawn more often, because they are learnt last.
    """

    def __init__(self, tokens: list[int], seed: int) -> None:
        self._tokens = tokens
        self._rng = np.random.default_rng(seed)
        self._pool: list[Example] = []

    def words(self, spoken: list[Recording]) -> Iterator[list[Example]]:
        """Endless batches of single recordings, without changes."""
        examples = [(log_mel(word.pcm), [self._tokens[word.digit]]) for word in spoken]
        while True:
            chosen = sorted(self._rng.integers(len(examples), size=8 * BATCH), key=lambda i: len(examples[i][0]))
            for start in self._rng.permutation(8) * BATCH:
                yield [examples[index] for index in chosen[start : start + BATCH]]

    def forget(self) -> None:
        """Empty the pool, so that no earlier string is drawn again."""
        self._pool = []

    def draw(self, strings: Iterator[tuple[Audio, list[int]]]) -> Iterator[list[Example]]:
        """Eight batches. 40 of their 256 strings are new, and the others come from the pool of earlier strings."""
        fresh = []
        for audio, digits in islice(strings, FRESH):
            fresh.append((log_mel(audio), [self._tokens[digit] for digit in digits]))
        self._pool = (self._pool + fresh)[-POOL:]
        weights = np.array([1.0 + 2 * sum(left == right for left, right in pairwise(row)) for _, row in self._pool])
        again = self._rng.choice(len(self._pool), size=8 * BATCH - FRESH, p=weights / weights.sum())
        chosen = sorted(fresh + [self._pool[index] for index in again], key=lambda example: len(example[0]))
        for start in self._rng.permutation(8) * BATCH:
            yield chosen[start : start + BATCH]

    def mask(self, mels: features.Floats) -> features.Floats:
        """Set two bands of at most 14 bins and some short spans of time to the mean, 0.

        This is SpecAugment (Park et al. 2019, arXiv:1904.08779) without time warping, and with short time masks.
        """
        rng = self._rng
        masked = mels.copy()
        for _ in range(2):
            width = rng.integers(0, 15)
            low = rng.integers(0, features.MELS - width)
            masked[:, low : low + width] = 0
        for _ in range(rng.integers(0, 1 + len(mels) // 60)):
            start = rng.integers(0, len(mels))
            masked[start : start + rng.integers(1, 9)] = 0
        return masked


def collate(mels: list[features.Floats], tokens: list[list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames [batch, t, 240] (the last repeated), tokens [batch, u], encoder steps and token counts [batch]."""
    longest = max(len(one) for one in mels)
    padded = np.stack([features.stack(np.pad(one, ((0, longest - len(one)), (0, 0)), "edge")) for one in mels])
    count = max(len(one) for one in tokens)
    rows = torch.tensor([one + [0] * (count - len(one)) for one in tokens])
    steps = torch.tensor([len(one) // 6 for one in mels])
    return torch.from_numpy(padded), rows, steps, torch.tensor([len(one) for one in tokens])


class Trainer:
    """The model, the moving average of its weights, and the training steps."""

    def __init__(self, start: RnntCheckpoint, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = model = Rnnt(start.sizes, dropout=(0.1, 0.3, 0.0))
        model.load_state_dict(start.tensors)
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.ctc = nn.Linear(SIZES.enc_n_hid, SIZES.n_classes)
        parameters = [*model.parameters(), *self.ctc.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
        self.steps = 0
        self._state: EncoderState | None = None

    def name(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], lr: float) -> float:
        """One update of the encoder only: classify single words. Without it, both losses decrease very slowly."""
        frames, tokens, steps, _ = batch
        with torch.autocast("cpu", torch.bfloat16):
            encoded, _ = self.model.encode(frames)
        inside = torch.arange(encoded.shape[1]) < steps[:, None]
        mean = (self.ctc(encoded.float()) * inside[..., None]).sum(1) / steps[:, None]
        loss = nn.functional.cross_entropy(mean, tokens[:, 0])
        self._update(loss, lr)
        return float(loss.detach())

    def step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], lr: float, is_long: bool) -> float:
        """One update with the transducer loss and an auxiliary CTC loss. Returns the loss per token.

        With `is_long`, half of the batches continue after other audio and other words, as in a long session.
        """
        frames, tokens, steps, lengths = batch
        history = torch.zeros(BATCH, 0, dtype=torch.long)
        state = None
        if is_long and torch.rand(()) < 0.5:
            state = self._state
            choices = tokens[torch.arange(BATCH), (torch.rand(BATCH) * lengths).long()]
            history = choices[torch.randint(BATCH, (BATCH, int(torch.randint(1, 25, ()))))]
        with torch.autocast("cpu", torch.bfloat16):
            encoded, after = self.model.encode(frames, state)
            predicted = self.model.teach(torch.cat([history, tokens], 1))[:, history.shape[1] :]
            logits = self.model.join(encoded[:, :, None], predicted[:, None]).float()
        self._state = EncoderState(*(tuple(part.detach().float() for part in pair) for pair in (after.pre, after.post)))
        aligned = self.ctc(encoded.float()).log_softmax(-1).transpose(0, 1)
        loss = transducer_loss(logits, tokens, steps, lengths)
        ctc = nn.functional.ctc_loss(aligned, tokens, steps, lengths, blank=SIZES.n_classes - 1, zero_infinity=True)
        self._update(loss + 0.5 * ctc * lengths.float().mean(), lr)
        return float(loss.detach() / lengths.float().mean())

    def _update(self, loss: Tensor, lr: float) -> None:
        group = self.optimizer.param_groups[0]
        group["lr"] = lr
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(group["params"], 5.0)
        self.optimizer.step()
        self.steps += 1
        decay = min(EMA, self.steps / (self.steps + 20))
        for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - decay)


def beginning(strings: Strings, seed: int) -> RnntCheckpoint:
    """Random weights with open forget gates, and the statistics of these strings."""
    torch.manual_seed(seed)
    model = Rnnt(SIZES)
    for name, weights in model.named_parameters():
        if "bias_ih" in name or "bias_hh" in name:
            hidden = len(weights) // 4
            nn.init.constant_(weights[hidden : 2 * hidden], 0.5)
    means, variances = statistics(strings)
    return RnntCheckpoint(SIZES, dict(model.state_dict()), means, variances, word_pieces())


def with_blank(found: RnntCheckpoint, offset: float) -> RnntCheckpoint:
    """The same model with `offset` added to the blank's logit."""
    bias = found.tensors["joint_net.2.bias"].clone()
    bias[-1] += offset
    return replace(found, tensors={**found.tensors, "joint_net.2.bias": bias})


def mixed(changed: Strings, clean: Strings) -> Iterator[tuple[Audio, list[int]]]:
    """Every third string is clean, because most audio in use is less distorted than the augmented strings."""
    for index in count():
        yield next(changed if index % 3 else clean)


class Run:
    """One training from beginning to end: clean words, then clean strings, then all strings.

    Without the clean words, both losses stay for very long at the value where every word is equally likely.
    """

    def __init__(self, start: RnntCheckpoint, judged: list[tuple[Audio, list[int]]], out: Path, seed: int) -> None:
        self._start, self._judged, self._out = start, judged, out
        processor = sentencepiece.SentencePieceProcessor(model_proto=start.sentencepiece)
        self._batches = Batches([processor.piece_to_id("▁" + word) for word in WORDS], seed)
        self._trainer = Trainer(start, seed)
        self._losses: list[float] = []
        self._began = time.monotonic()

    def name_words(self, words: list[Recording], rate: float) -> None:
        """Train the encoder on single recordings without changes."""
        for batch in islice(self._batches.words(words), NAMING_STEPS):
            lr = rate * min(1.0, (self._trainer.steps + 1) / 30)
            self._report(self._trainer.name(self._ready(batch, masked=False), lr), lr)

    def train_clean(self, strings: Strings, rate: float) -> None:
        """Train on clean strings."""
        while self._trainer.steps < NAMING_STEPS + CLEAN_STEPS:
            for batch in self._batches.draw(strings):
                self._report(self._trainer.step(self._ready(batch, masked=False), rate, is_long=False), rate)
        self.write()
        self._batches.forget()

    def train_all(self, strings: Iterator[tuple[Audio, list[int]]], rate: float, steps: int, minutes: float) -> None:
        """Train on all strings, for `steps` steps or `minutes`. The rate decays along a cosine to a hundredth."""
        done = 0.0
        while done < 1:
            for batch in self._batches.draw(strings):
                done = max(self._trainer.steps / steps, (time.monotonic() - self._began) / 60 / minutes)
                lr = rate * (0.505 + 0.495 * math.cos(math.pi * min(1.0, done)))
                self._report(self._trainer.step(self._ready(batch, masked=True), lr, is_long=done > 0.4), lr)
                if self._trainer.steps % 200 == 0:
                    self.write()

    def balance(self, strings: Iterator[tuple[Audio, list[int]]]) -> None:
        """Lower the blank's logit by the offset that gives the lowest word error on 150 of `strings`, and save.

        A model trained on much unintelligible audio emits blank too often where it is uncertain.
        """
        averaged = self._averaged()
        judged = list(islice(strings, 150))
        errors = {}
        for offset in (0.0, 0.5, 1.0, 1.5):
            lowered = with_blank(averaged, -offset)
            errors[offset] = word_error(lowered, in_torch(lowered), judged)
            print(f"blank {-offset}: word error {errors[offset]:.2f} %", flush=True)
        self.write(-min(errors, key=errors.__getitem__))

    def write(self, blank: float = 0.0) -> None:
        """Measure the word error of the averaged weights, with `blank` added to the blank's logit, and save them."""
        found = with_blank(self._averaged(), blank)
        error = word_error(found, in_torch(found), self._judged)
        checkpoint.save(self._out, found, step=self._trainer.steps, best_wer=error / 100)
        print(f"step {self._trainer.steps}: word error {error:.2f} %, {self._passed_s():.0f} s", flush=True)

    def _averaged(self) -> RnntCheckpoint:
        return replace(self._start, tensors=dict(self._trainer.average.state_dict()))

    def _ready(self, batch: list[Example], *, masked: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mels = [features.normalize(one, self._start.means, self._start.variances) for one, _ in batch]
        if masked:
            mels = [self._batches.mask(one) for one in mels]
        return collate(mels, [words for _, words in batch])

    def _report(self, loss: float, lr: float) -> None:
        self._losses.append(loss)
        if self._trainer.steps % 40 == 0:
            loss = float(np.mean(self._losses[-40:]))
            print(f"step {self._trainer.steps}: loss {loss:.3f}, rate {lr:.1e}, {self._passed_s():.0f} s", flush=True)

    def _passed_s(self) -> float:
        return time.monotonic() - self._began


FOLDER = click.option(
    "--digits", "folder", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of the recordings."
)


@click.group()
def main() -> None:
    """Train the digits RNN-T, or measure its word error."""
    torch.set_num_threads(1)


@main.command()
@FOLDER
@click.option("--voices", "cache", type=click.Path(path_type=Path), required=True, help="Cache of synthetic voices.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--init", type=click.Path(exists=True, path_type=Path), help="Start from this checkpoint.")
@click.option("--steps", default=6000, show_default=True)
@click.option("--minutes", default=math.inf, help="Decay the rate and end within this time.")
@click.option("--rate", default=1e-3, show_default=True, help="The highest learning rate.")
@click.option("--voice-share", default=0.5, show_default=True, help="Share of strings spoken by synthetic voices.")
@click.option("--seed", default=1, show_default=True)
@click.option("--leave-out", help="Train without this speaker, and measure on their unseen recordings.")
def train(
    folder: Path,
    cache: Path,
    out: Path,
    init: Path | None,
    steps: int,
    minutes: float,
    rate: float,
    voice_share: float,
    seed: int,
    leave_out: str | None,
) -> None:
    """Train on the recordings and on synthetic voices. The checkpoint is written every 200 steps and at the end."""
    real = recordings(folder, unseen=False, speakers=set(TRAINING_SPEAKERS) - {leave_out})
    spoken = voices(cache)
    clean = Strings(real, seed, digits_max=4, augment=False)
    full = Strings(real, seed + 1, voices=spoken, voice_share=voice_share, digits_max=7)
    start = checkpoint.load(init) if init else beginning(full, seed)
    run = Run(start, unseen_strings(folder, 150, 5, [leave_out] if leave_out else TRAINING_SPEAKERS), out, seed)
    if not init:
        run.name_words(real, rate)
        run.train_clean(clean, rate)
    run.train_all(mixed(full, Strings(real, seed + 2, augment=False)), rate, steps, minutes)
    run.balance(full)


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@FOLDER
@click.option("--speaker", "speakers", multiple=True, help="Only these speakers.")
@click.option("--strings", "strings_total", default=300, show_default=True)
@click.option("--seconds", default=0.0, help="Use audio of this length in seconds, with state resets.")
@click.option("--card", "precision", type=click.Choice(PRECISIONS), help="Use the card simulator, not torch.")
@click.option("--seed", default=7, show_default=True)
def judge(
    model: Path,
    folder: Path,
    speakers: tuple[str, ...],
    strings_total: int,
    seconds: float,
    precision: Precision | None,
    seed: int,
) -> None:
    """Print the word error on strings of unseen recordings."""
    found = checkpoint.load(model)
    recognize = on_card(found, precision) if precision else in_torch(found)
    if seconds:
        strings = long_strings(folder, strings_total, seconds, seed)
        recognize = with_resets(recognize)
    else:
        strings = unseen_strings(folder, strings_total, seed, speakers or None)
    words = sum(len(digits) for _, digits in strings)
    error = word_error(found, recognize, strings)
    print(f"{strings_total} strings, {words} words, {precision or 'torch'}: word error {error:.2f} %")


if __name__ == "__main__":
    main()
