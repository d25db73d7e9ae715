"""The interface of the fastconformer engine's models: cache-aware streaming over slots.

An utterance is given to its slot as log-mel chunks of exactly the sizes that the model was trained with. The tokens
equal those of the offline transcription with the same context. The model knows nothing of audio, sessions or text.

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
    """The model to load, and how to run it."""

    model: str = DEFAULT_MODEL
    """A name on the Hugging Face hub, a `.nemo` file, or the folder of an extracted one."""
    implementation: Implementation = "auto"
    """`lean` is this project's, `nemo` the reference; `auto` is lean where it supports the model's shape, else nemo."""
    decoder: Decoder = "rnnt"
    precision: Precision = "fp32"
    """`bf16` also halves the state of a slot; `int8` quantizes the encoder's linear layers, on CPU only."""
    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:N`."""
    slots: int = 64
    """Number of slots after loading; `resize` changes it."""
    threads: int | None = 1
    """Threads inside an operation; None for torch's default."""
    confidence: Confidence = "max-prob"
    """`max-prob`: the softmax probability of the token. `entropy`: 1 - H / log(V), where H is the entropy of all V
    outputs, the blank included. NeMo calls it Gibbs entropy with linear normalization."""
    graphs: bool = True
    """Whether steps on CUDA are recorded and replayed. If not, every kernel is launched separately."""
    trust_checkpoint: bool = False
    """Whether weights that are not plain tensors are unpickled. Such a file can run any code."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of chunks with one look-ahead."""

    right: int
    """Look-ahead in encoder frames of 80 ms."""
    first_frames: int
    """Feature frames of an utterance's first chunk."""
    later_frames: int
    """Feature frames of every later chunk."""


@dataclass(frozen=True, slots=True)
class FeatureChunk:
    """The next feature frames of one slot. No frame is given twice: the model keeps the history that it needs."""

    slot: int
    features: torch.Tensor
    """float32 [frames, mels] on the CPU: exactly the geometry's first or later frames, unless `last`."""
    right: int
    """The look-ahead in encoder frames, the same for all chunks of an utterance."""
    last: bool = False
    """Whether the utterance ends with this chunk, which may then be short or empty. The slot is wiped after it."""


@dataclass(frozen=True, slots=True)
class Emission:
    """One emitted token."""

    token: int
    """Id in the sentencepiece vocabulary."""
    frame: int
    """Encoder frame of the utterance, counted from 0."""
    confidence: float
    """0 to 1, as ModelSettings.confidence defines it."""


class StreamingModel(Protocol):
    """One loaded model and the state of its slots. Called from one thread."""

    @property
    def name(self) -> str:
        """The loaded model's name, for logs and error messages."""

    @property
    def implementation(self) -> Literal["lean", "nemo"]: ...

    @property
    def checksum(self) -> str:
        """First 16 hex digits of the sha256 of the weights."""

    @property
    def license(self) -> str | None:
        """The license that the archive or its model card names; None where neither does."""

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
        """The definition of its features, which `StreamingMel(model.mel, slots)` computes."""

    def bytes_per_slot(self) -> int:
        """Bytes of one slot's state."""

    def resize(self, slots: int) -> None:
        """Change the number of slots, and wipe all. The weights are not loaded again."""

    def geometry(self, right: int) -> Geometry:
        """The chunk sizes of a look-ahead. Raises BadRequest where the model was not trained with it."""

    def open(self, slot: int) -> None:
        """Wipe the slot for an utterance."""

    def close(self, slot: int) -> None:
        """Wipe the slot."""

    def step(self, chunks: Sequence[FeatureChunk]) -> dict[int, list[Emission]]:
        """The new tokens of each slot in `chunks`, which hold at most one chunk of each slot.

        First, later and last chunks may be mixed, and so may look-aheads: each look-ahead is one batch.
        """

    def snapshot(self, slot: int) -> bytes:
        """The slot's state between two steps: versioned, and tied to the weights."""

    def restore(self, slot: int, state: bytes) -> None:
        """Continue from a snapshot. Raises BadRequest where it is of other weights, or another precision or layout."""

    def warm_up(self, right: int) -> None:
        """Prepare steps with this look-ahead: on CUDA, record the graphs. No slot changes."""
