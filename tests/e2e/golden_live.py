"""Golden conversations with real processes: a client replays the recordings and must receive the recorded messages.

A recording in tests/golden/live/ is one JSON object a line:

    {"about": "..."}                                      for the reader; first, optional
    {"request": {"path": ..., "query"?, "subprotocols"?}} for `/webrtc`, a data channel is opened
    {"client": "..."} {"client_hex": "..."}               a text frame, a binary one
    {"client_noise": {"seed": N, "samples": M}}           audio that depends only on the seed, in frames of 100 ms
    {"wait": {field: value, ...}}                         the client reads up to a message with these fields
    {"client_close": true}                                the client leaves; else it reads up to the server's close
    {"server_accepts": {"subprotocol": ...}}              only where the server has chosen one
    {"server_refuses": [status, body]}                    the answer instead of an upgrade
    {"server": {...}}                                     a message, without fields that depend on timing
    {"server_close": [code, reason]}                      a data channel has no code

The service is a broker, a worker with the fake engine, whose text is a checksum of the audio, and a frontend. The
client sends as fast as it can, so everything that depends on timing is left out (see `normalized` and `_Recording`):

- ids, times of day and `seq` (which counts partials) are replaced by their names in angle brackets;
- acks are dropped;
- in text that may still change, the words and times are replaced too, and equal messages in a row become one;
- CAIMAN-ASR's responses in a row become one: timing decides which of them contains a word, and how many are empty.

So a `wait` must be for a message that no other message follows without a further frame of the client. No audio is
resampled: a filter's output may differ in one bit on another machine, and the fake engine's words would differ too.

    python -m tests.e2e.golden_live --rewrite

writes the server's lines again. A recording that changes is a decision to review.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from asr_client.dialects import webrtc
from asr_client.dialects.conversation import Channel, Closed
from asr_client.dialects.websocket import WebSocketChannel
from tests.e2e.service import WAIT_S, Pool

LIVE = Path(__file__).parents[1] / "golden" / "live"
WEBRTC = "/webrtc"
ANSWERS = {"server_accepts", "server_refuses", "server", "server_close"}
FRAME_BYTES = 3200
VOLATILE = {"session", "request_id", "ts", "created", "seq"}
WORDS = {"text", "transcription", "transcript", "words"}
TIMES = {"start_s", "end_s", "start", "duration", "audio_length_seconds", "inference_ms"}
UNSETTLED = WORDS | TIMES
"""Fields that change with every hypothesis."""

Line = dict[str, Any]


def recordings(dialect: str = "*") -> list[Path]:
    """The files of one dialect, or of all dialects."""
    return sorted(LIVE.glob(f"{dialect}-*.jsonl"))


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def needs_webrtc(recording: list[Line]) -> bool:
    return any(line.get("request", {}).get("path") == WEBRTC for line in recording)


async def replay(url: str, recording: list[Line]) -> list[Line]:
    """The same conversation with the current answers of the server at `url` (ws://HOST:PORT)."""
    received = _Recording()
    script = iter([line for line in recording if not line.keys() & ANSWERS])
    for line in script:
        received.lines.append(line)
        if "request" in line:
            break
    try:
        async with _open(url, line["request"]) as (channel, subprotocol):
            if subprotocol is not None:
                received.lines.append({"server_accepts": {"subprotocol": subprotocol}})
            await _converse(channel, script, received)
    except InvalidStatus as refused:
        received.lines.append({"server_refuses": [refused.response.status_code, _body(refused.response.body)]})
    return received.lines


@asynccontextmanager
async def _open(url: str, request: Line) -> AsyncIterator[tuple[Channel, str | None]]:
    """A channel and its subprotocol."""
    if request["path"] == WEBRTC:
        async with webrtc.open_channel(url.replace("ws:", "http:") + WEBRTC, None) as data_channel:
            yield data_channel, None
        return
    query = f"?{request['query']}" if "query" in request else ""
    subprotocols = [Subprotocol(name) for name in request.get("subprotocols", ())] or None
    timeouts = {"open_timeout": WAIT_S, "close_timeout": 2}
    options: dict[str, Any] = {"subprotocols": subprotocols, "compression": None, "ping_interval": None, **timeouts}
    async with connect(url + request["path"] + query, **options) as websocket:
        yield WebSocketChannel(websocket), websocket.subprotocol


async def _converse(channel: Channel, script: Iterator[Line], received: _Recording) -> None:
    """Run the script up to a close. When the server has closed, the rest of the client's frames are dropped."""
    for line in script:
        received.lines.append(line)
        if "client_close" in line:
            return
        if "wait" in line:
            await _read(channel, received, line["wait"])
        else:
            with suppress(Closed):
                for frame in _frames(line):
                    await channel.send(frame)
    await _read(channel, received, None)


async def _read(channel: Channel, received: _Recording, fields: Line | None) -> None:
    """Record the server's messages up to one with these fields, or up to the server's close."""
    while not received.closed:
        try:
            message: Line = json.loads(await asyncio.wait_for(channel.receive(), WAIT_S))
        except Closed as closed:
            received.closed = True
            received.lines.append({"server_close": [closed.code, closed.reason]})
            return
        received.receive(message)
        if fields is not None and all(message.get(name) == value for name, value in fields.items()):
            return


def _frames(line: Line) -> list[str | bytes]:
    if "client" in line:
        return [line["client"]]
    if "client_hex" in line:
        return [bytes.fromhex(line["client_hex"])]
    pcm = noise(**line["client_noise"])
    return [pcm[start : start + FRAME_BYTES] for start in range(0, len(pcm), FRAME_BYTES)]


def noise(seed: int, samples: int) -> bytes:
    """PCM16LE from a hash, so that it is the same with every release of every library."""
    return hashlib.shake_256(str(seed).encode()).digest(2 * samples)


class _Recording:
    """The lines of a recorded conversation."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.closed = False

    def receive(self, message: Line) -> None:
        new = normalized(message)
        if new is None:
            return
        last = self.lines[-1].get("server")
        if last is not None and "alternatives" in new and "alternatives" in last:
            self.lines[-1] = {"server": _joined(last, new)}
        elif not (_is_unsettled(new) and new == last):
            self.lines.append({"server": new})


def normalized(message: Line) -> Line | None:
    """The message without fields that depend on timing; None if its presence depends on timing."""
    if message.get("type") == "ack":
        return None
    masked: Line = _masked(message, VOLATILE | UNSETTLED if _is_unsettled(message) else VOLATILE)
    return masked


def _is_unsettled(message: Line) -> bool:
    """Whether the message contains text that may still change."""
    kinds = (message.get("type"), message.get("op"), message.get("status"))
    return bool({"partial", "interim", "ACTIVE"} & set(kinds)) or message.get("is_final") is False


def _masked(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: f"<{name}>" if name in names else _masked(inner, names) for name, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, names) for inner in value]
    return value


def _joined(first: Line, second: Line) -> Line:
    """Two of CAIMAN-ASR's responses, joined to one."""
    transcripts = (response["alternatives"][0]["transcript"] for response in (first, second))
    alternative = {**second["alternatives"][0], "transcript": "".join(transcripts)}
    return {**second, "start": first["start"], "alternatives": [alternative]}


def _body(body: bytes | bytearray) -> Any:
    try:
        return _masked(json.loads(body), VOLATILE)
    except ValueError:
        return body.decode()


def main() -> int:
    parser = argparse.ArgumentParser(description="replays the golden conversations with real processes")
    parser.add_argument(
        "--rewrite", action="store_true", help="Replace the recordings by the service's current answers."
    )
    rewrite = parser.parse_args().rewrite
    changed = 0
    with Pool() as pool:
        for path in recordings():
            recorded = read(path)
            lines = asyncio.run(replay(pool.url, recorded))
            if lines == recorded:
                continue
            changed += 1
            if rewrite:
                text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                path.write_text(text, encoding="utf-8")
            print(f"{'rewritten' if rewrite else 'changed'}: {path.name}")
    return 1 if changed and not rewrite else 0


if __name__ == "__main__":
    sys.exit(main())
