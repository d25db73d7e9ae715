"""Prepares a card: finds it, checks its license, loads the model, tests it. Each reason not to serve is one sentence.

The device `cpu` is the simulator as a backend: it also takes hardware checkpoints, and needs no license. `card:N` is a
card of the vendor's library, or a simulated card where no library is configured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import structlog

from asr_proto.errors import SetupError
from asr_proto.messages import STATE_BYTES_MAX, Spec
from asr_workers.cards import carm, license, selftest
from asr_workers.cards.errors import FOR_GOOD
from asr_workers.cards.failure import CardFailed
from asr_workers.cards.library import Card, CardError, CardIdentity, CardLibrary
from asr_workers.cards.traffic import HANG_S, Traffic
from asr_workers.engines.card.config import CardConfig
from asr_workers.engines.card.stream import STEP_SAMPLES
from asr_workers.engines.transducer.token_text import TokenText
from asr_workers.engines.weights.checksum import DIGITS

log = structlog.get_logger()

UNCOMMITTED_S_MAX = 30.0
"""Most uncommitted seconds: a segment of 15 s, an utterance of 12 s that began in it, a word and a pause."""
STEP_S = 0.06
SLOW_TIMES = 4
"""A card counts as hung after this many times the slowest round of its self-test."""
SELFTEST_HANG_S = 30.0
"""Seconds after which a card counts as hung in the self-test, before the speed of a simulator is known."""
COMPUTED_SLOTS = 64
"""Default number of slots on the cpu backend. The broker assigns no more sessions than the processor keeps up with."""
STATE_ROOM = 16384
"""Bytes of a commit that are reserved for data other than the card's state."""


@dataclass(frozen=True, slots=True)
class ReadyCard:
    """A card with a loaded model that passed the self-test. No slot is open."""

    card: Card
    tokens_max: int
    """Number of the model's tokens."""
    hang_s: float
    """Seconds after which the card counts as hung when it does not return a chunk."""
    text: TokenText
    spec: Spec
    card_slots: int
    """Number of reserved card slots: one for each slot of the engine, and more for the overlaps of state resets."""


def ready(config: CardConfig) -> ReadyCard:
    """The prepared card. Raises SetupError where the configuration can never serve, CardFailed where the card fails."""
    library = _library(config)
    try:
        listed = _identity(library, config)
        _check_license(listed, config)
        card = library.open(config.index)
        try:
            _check_opened(listed, card.identity(), config)
            return _load(card, config)
        except BaseException:
            card.close_card()
            raise
    except CardError as error:
        if error.code in FOR_GOOD:
            raise SetupError(f"{config.device} does not serve: {error}") from error
        raise CardFailed(f"{config.device} does not serve: {error}") from error


def _library(config: CardConfig) -> CardLibrary:
    if config.device == "cpu" and config.card_library:
        raise SetupError("a card library needs a card: name one with --device card:N")
    return CardLibrary(config.card_library, _options(config))


def _options(config: CardConfig) -> str:
    parts = []
    if config.threads and config.card_library is None:
        parts.append(f"threads={config.threads}")
    if config.device == "cpu":
        parts.append("shared=1")  # any number of processes may use the cpu backend
    return ",".join([*parts, *([config.card_options] if config.card_options else [])])


def _identity(library: CardLibrary, config: CardConfig) -> CardIdentity:
    count = library.count()
    if config.device != "cpu" and config.index >= count:
        raise SetupError(f"there is no {config.device}: {count or 'no'} cards were found; see asr-card list")
    identity = library.identity(config.index)
    log.info("card", device=config.device, card=identity.id, name=identity.name, firmware=identity.firmware)
    return identity


def _check_license(identity: CardIdentity, config: CardConfig) -> None:
    """Raises SetupError where this worker may not use the card. A simulated card needs no license."""
    if not identity.is_physical:
        return
    if config.license_dir is None:
        raise SetupError(f"card {identity.id} needs a license: name its folder with --license-dir")
    found = license.find(config.license_dir, identity.id, license.Now.here())
    log.info("license", id=found.id, holder=found.holder, expires=found.expires.isoformat())


def _check_opened(listed: CardIdentity, opened: CardIdentity, config: CardConfig) -> None:
    """Raises SetupError where the opened card is not the one whose license was checked."""
    if (opened.id, opened.is_physical) != (listed.id, listed.is_physical):
        raise SetupError(f"{config.device} is {_described(opened)}, and was {_described(listed)} when it was looked up")


def _described(identity: CardIdentity) -> str:
    return f"{'physical' if identity.is_physical else 'simulated'} card {identity.id}"


def slot_counts(identity: CardIdentity, config: CardConfig) -> tuple[int, int]:
    """The engine's slots, and the card slots reserved for them. Raises SetupError for more than the card's capacity.

    Segments overlap, so a session needs a second card slot for 3 s of every 12 s. Where too few are free, the later
    segment waits for one, at the latest for that of the segment before it.
    """
    rule = config.rule
    most = identity.capacity * rule.hop_steps // rule.segment_steps if rule else identity.capacity
    slots = config.slots or (min(most, COMPUTED_SLOTS) if config.device == "cpu" else most)
    if not 1 <= slots <= most:
        resets = "with" if rule else "without"
        raise SetupError(f"{config.device} serves {most} sessions {resets} state resets, not {slots}")
    return slots, min(2 * slots, identity.slots_max) if rule else slots


@contextmanager
def _compiled(config: CardConfig) -> Iterator[Path]:
    """The compiled model's file. A hardware checkpoint is compiled into a temporary file, for the time of loading."""
    if config.device != "cpu" or _is_compiled(config.file):
        yield config.file
        return
    if find_spec("torch") is None:
        raise SetupError(f"{config.file} is not compiled, and compiling needs torch: pip install 'asr-pool[card]'")
    from asr_workers.engines.rnnt import checkpoint  # noqa: PLC0415 - imports torch, which compiled models do not need

    found = checkpoint.load(config.file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.carm"
        try:
            found.compile(path, "fp32")
        except OSError as error:
            raise SetupError(f"{config.file} cannot be compiled into {folder}: {error.strerror}") from error
        yield path


def _is_compiled(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(carm.MAGIC)) == carm.MAGIC
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error


def _load(card: Card, config: CardConfig) -> ReadyCard:
    with _compiled(config) as path:
        model = carm.read(path)
        text = _vocabulary(model, config)
        card.load(path)
    if model.config.name == "testing":
        log.warning("the model `testing` is for tests, not for production", model=str(config.file))
    identity = card.identity()
    slots, card_slots = slot_counts(identity, config)
    card.slots(card_slots)
    tokens_max = model.config.n_classes - 1
    test = selftest.run(card, Traffic(card, config.device, tokens_max, SELFTEST_HANG_S), card_slots)
    if not config.state_resets and test.state_bytes + STATE_ROOM > STATE_BYTES_MAX:
        raise SetupError(f"the state of {model.config.name} is too large for a commit: serve it with state resets")
    log.info(
        "self-test passed", chunk_ms=_ms(test.chunk_s), round_ms=_ms(test.round_s), temperature_c=test.temperature_c
    )
    spec = Spec(
        engine="card",
        model=model.config.name,
        languages=("en",),
        slots=slots,
        chunk_samples=STEP_SAMPLES,
        uncommitted_s_max=UNCOMMITTED_S_MAX,
        device=config.device,
        step_s_p99=max(STEP_S, test.round_s),
        checksum=model.checksum[:DIGITS],
        appends=True,
        encode_factor=config.rule.cost if config.rule else 1.0,
    )
    hang_s = max(HANG_S, SLOW_TIMES * test.round_s)
    return ReadyCard(card, tokens_max, hang_s, text, spec, card_slots)


def _vocabulary(model: carm.Carm, config: CardConfig) -> TokenText:
    text = TokenText(model.sentencepiece)
    tokens = model.config.n_classes - 1
    if len(text) != tokens:
        raise SetupError(f"{config.file} has a vocabulary of {len(text)} tokens, and its network has {tokens}")
    return text


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
