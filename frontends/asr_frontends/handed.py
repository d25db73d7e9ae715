"""What a frontend passes to another one with a client's connection (ADR 19). Pure: no sockets."""

from __future__ import annotations

from asr_frontends.access import AdmittedClient
from asr_frontends.codec import Request
from asr_frontends.events import Start
from asr_frontends.portable import Portable
from asr_proto import messages as m

VERSION = 1
"""Frontends of different versions hand nothing over. A change of a field's meaning raises it; a new field does not."""
STATE_BYTES_MAX = 67_108_864
"""Largest state of one connection, in bytes: its journal, and the engine's state in its commit."""

Entry = tuple[int, bytes | None, str | None]
"""An entry of a journal at a sample: audio from there on, a flush with its marker, or the stop (neither)."""


class HandedSession(Portable):
    """A session between two frontends. It moves to a new slot, as after the loss of its worker."""

    id: str
    start: Start
    epoch: int
    """The epoch of the last lease, or of the last request for one."""
    lease: int
    """The last lease; 0 if the session has none."""
    model: str | None
    """The model of the session's worker; None while the client has received no Ready."""
    commit: m.Commit | None
    partial: m.Partial | None
    """The last partial that the client received of an utterance that is not final."""
    end_sample: int
    """Number of 16 kHz samples received from the client."""
    entries: list[Entry]
    """The journal: all entries that are not confirmed or answered."""
    is_complete: bool
    """Whether the client has ended its audio."""
    suspicion: m.Suspicion | None = None
    """The audio at which workers have died; None without suspicion."""
    deaths: int = 0
    """Number of workers that have died at it."""
    suspected_at: str = ""
    """Name of the worker that died last."""


class HandedConnection(Portable):
    """A client's WebSocket between two frontends. Its socket is passed beside this state."""

    dialect: str
    request: Request
    """The request from which the dialect makes its codec again."""
    client: AdmittedClient
    codec: bytes
    """The codec's state (`Codec.state`)."""
    session: HandedSession | None
    """None if the client has not begun a session yet."""
    unread: bytes
    """Bytes of the client that no codec has received yet: unfinished frames and messages."""
