"""Client library of the `/v1/stream` dialect.

    import asr_client

    async with asr_client.connect("ws://127.0.0.1:8000") as session: ...   # asyncio
    with asr_client.connect_sync("ws://127.0.0.1:8000") as session: ...    # threads

Importing this package is fast: code for audio files, the microphone and the terminal is in separate modules
(`microphone`, `transcribe`), which a program imports when it needs them.
"""

from asr_client.errors import (
    ClientError,
    ConnectionFailed,
    ConnectionLost,
    InvalidUrl,
    ServerError,
)
from asr_client.events import (
    Ack,
    End,
    Event,
    Final,
    Flushed,
    GoAway,
    Migrating,
    Partial,
    Ready,
    Reconnected,
    Word,
    parse,
)
from asr_client.session import Session, connect, stream_url
from asr_client.sync import SyncSession
from asr_client.sync import connect as connect_sync
from asr_client.upload import Transcript, upload
from asr_proto.errors import AudioError

__all__ = [
    "Ack",
    "AudioError",
    "ClientError",
    "ConnectionFailed",
    "ConnectionLost",
    "End",
    "Event",
    "Final",
    "Flushed",
    "GoAway",
    "InvalidUrl",
    "Migrating",
    "Partial",
    "Ready",
    "Reconnected",
    "ServerError",
    "Session",
    "SyncSession",
    "Transcript",
    "Word",
    "connect",
    "connect_sync",
    "parse",
    "stream_url",
    "upload",
]
