"""The model behind the fastconformer engine: cache-aware streaming over slots, whatever implements it.

An utterance goes into its slot as log-mel chunks of exactly the sizes that the model was trained with; what comes out
equals the offline transcription with the same context. The model knows nothing of audio, sessions or text.

    open ──> step(chunk) ... step(last chunk) ──> as after open
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch

    from asr_workers.engines.fastconformer.mel import MelSettings

DEFAULT_MODEL = "nvidia/stt_en_fastconformer_hybrid_large_streaming_multi"

Implementation = Literal["auto", "lean", "nemo"]
Decoder = Literal["rnnt", "ctc"]
Precision = Literal["fp32", "bf16", "int8"]
Confidence = Literal["max-prob", "entropy"]


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What to load, and how."""

    model: str = DEFAULT_MODEL
    """A name on the Hugging Face hub, a `.nemo` file, or the folder of an extracted one."""
    implementation: Implementation = "auto"
    """`lean` is ours, `nemo` the reference; `auto` is lean where it supports the model's shape, else nemo."""
    decoder: Decoder = "rnnt"
    precision: Precision = "fp32"
    """`bf16` also halves the state of a slot; `int8` quantizes the encoder's linear layers, on CPU only."""
    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:N`."""
    slots: int = 64
    """To begin with: see `resize`."""
    threads: int | None = 1
    """Threads inside an operation, None for torch's own choice."""
    confidence: Confidence = "max-prob"
    """`max-prob`: the softmax probability of the token. `entropy`: 1 - H / log(V), where H is the entropy of all V
    outputs, the blank included: NeMo's Gibbs entropy with linear norm."""
    graphs: bool = True
    """On CUDA a step is recorded and replayed; False launches every kernel by itself."""
    trust_checkpoint: bool = False
    """Lets NeMo unpickle weights that cannot be read as plain tensors. Such a file can run any code."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """How much a step takes with one look-ahead."""

    right: int
    """Look-ahead in encoder frames of 80 ms."""
    first_frames: int
    """Feature frames of an utterance's first chunk."""
    later_frames: int
    """Feature frames of every later chunk."""


@dataclass(frozen=True, slots=True)
class FeatureChunk:
    """The next feature frames of one slot: no frame is given twice, history is the model's business."""

    slot: int
    features: torch.Tensor
    """float32 [frames, mels] on the CPU: exactly the geometry's first or later frames, unless `last`."""
    right: int
    """The same for all chunks of an utterance."""
    last: bool = False
    """Ends the utterance: may be short, even empty. The slot is wiped after it, as by `open`."""


@dataclass(frozen=True, slots=True)
class Emission:
    """One token of the sentencepiece vocabulary."""

    token: int
    frame: int
    """Encoder frame of the utterance: counted from 0 since the slot was opened or its last chunk stepped."""
    confidence: float
    """0 to 1, as ModelSettings.confidence says."""


class StreamingModel(Protocol):
    """One loaded model and the state of its slots. Called from one thread."""

    @property
    def name(self) -> str:
        """What was loaded, for people."""

    @property
    def implementation(self) -> Literal["lean", "nemo"]: ...

    @property
    def checksum(self) -> str:
        """First 16 hex digits of the sha256 of the weights."""

    @property
    def licence(self) -> str | None:
        """As the archive or its model card says; None where they say nothing."""

    @property
    def tokenizer(self) -> bytes:
        """The serialized sentencepiece model that the tokens index."""

    @property
    def rights(self) -> tuple[int, ...]:
        """Look-aheads in encoder frames that the model was trained with; the first is its default."""

    @property
    def left(self) -> int:
        """Encoder frames of history that attention sees."""

    @property
    def mel(self) -> MelSettings:
        """The features it hears: `StreamingMel(model.mel, slots)` makes them."""

    def bytes_per_slot(self) -> int:
        """Memory that one slot takes."""

    def resize(self, slots: int) -> None:
        """From now on so many slots, all empty. The weights stay where they are."""

    def geometry(self, right: int) -> Geometry:
        """Raises BadRequest for a look-ahead that the model was not trained with."""

    def open(self, slot: int) -> None:
        """Make the slot ready for an utterance: wiped."""

    def close(self, slot: int) -> None:
        """Wipe the slot."""

    def step(self, chunks: Sequence[FeatureChunk]) -> dict[int, list[Emission]]:
        """The new tokens of each slot in `chunks`, at most one chunk a slot.

        Ages, first, later and last chunks and look-aheads may be mixed: one batch per look-ahead.
        """

    def snapshot(self, slot: int) -> bytes:
        """The slot's state between two steps: versioned, and tied to the weights."""

    def restore(self, slot: int, state: bytes) -> None:
        """Go on from a snapshot. Raises BadRequest when it is of other weights, or another precision or layout."""

    def warm_up(self, right: int) -> None:
        """Run steps of the sizes to come with this look-ahead; no slot is touched. On CUDA it captures the graphs."""
