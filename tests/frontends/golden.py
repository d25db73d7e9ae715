"""Golden conversations: recordings, replayed against a codec. It must send what was recorded, in the same order.

A recording in tests/golden/ is one JSON object a line:

    {"about": "..."}                                     for the reader; first, optional
    {"request": {"path": ..., "query"?, "subprotocols"?}}
    {"client": "..."} {"client_hex": "..."} {"client_pcm": N}    a text frame, a binary one, N samples of silence
    {"client_error": slug}                               the request or frame before was refused
    {"service": {"event": "Final", ...}}                 what the service sends to the codec
    {"server": "..."} {"server_close": [code, reason]}   what the codec sends to the client

`make golden` writes the lines of the server and the errors anew; a recording that changes is a decision to review.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from asr_frontends import events as e
from asr_frontends.codec import Close, Codec, Frame, Request
from asr_frontends.dialects.registry import DIALECTS
from asr_proto import messages as m
from asr_proto.errors import PeerError

GOLDEN = Path(__file__).parents[1] / "golden"
ANSWERS = {"client_error", "server", "server_close"}
EVENTS: dict[str, type[Any]] = {kind.__name__: kind for kind in (e.Ready, e.Progress, e.Notice, e.Error, e.Bye)}
FRAMES: dict[str, type[Any]] = {kind.__name__: kind for kind in (m.Speech, m.Partial, m.Final, m.Flushed)}

Line = dict[str, Any]


def recordings(dialect: str) -> list[Path]:
    """The files of one dialect."""
    return sorted(GOLDEN.glob(f"{dialect}-*.jsonl"))


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


Between = Callable[[Codec, Request], Codec]
"""What happens to the codec of a request before each line; it may return another codec."""


def keep(codec: Codec, _request: Request) -> Codec:
    return codec


def replay(recording: Iterable[Line], between: Between = keep) -> list[Line]:
    """The same conversation with the codec's current answers."""
    codec: Codec | None = None
    request = Request("")
    lines: list[Line] = []
    for line in recording:
        if line.keys() & ANSWERS:
            continue
        lines.append(line)
        try:
            if "request" in line:
                request = request_in(line["request"])
                codec = codec_for(request)
                assert codec is not None, f"no dialect is served at {line['request']['path']}"
            elif "service" in line:
                assert codec is not None
                codec = between(codec, request)
                lines += map(_line, codec.send(event_in(**line["service"])))
            elif "about" not in line:
                assert codec is not None
                codec = between(codec, request)
                codec.receive(frame_in(line))
                lines += map(_line, codec.replies())
        except PeerError as error:
            lines.append({"client_error": error.slug})
            lines += map(_line, codec.send(e.Error.of(error)) if codec else [])
    return lines


def codec_for(request: Request) -> Codec | None:
    """A codec of the dialect that serves the request, over any transport. Raises BadRequest."""
    return next((dialect.codec(request) for dialect in DIALECTS if dialect.codec and dialect.serves(request)), None)


def request_in(fields: Line) -> Request:
    """The request of a recording."""
    return Request(fields["path"], fields.get("query", ""), tuple(fields.get("subprotocols", ())))


def frame_in(line: Line) -> str | bytes:
    """The client's frame in a line of a recording."""
    if "client" in line:
        return str(line["client"])
    return bytes.fromhex(line["client_hex"]) if "client_hex" in line else bytes(2 * line["client_pcm"])


def event_in(event: str, **fields: Any) -> e.ServiceEvent:
    """An event of a recording. Recordings have no leases and commits, because codecs ignore them."""
    if event in EVENTS:
        return EVENTS[event](**fields)  # type: ignore[no-any-return]
    if event == "Final":
        words = fields.get("words")
        fields["words"] = None if words is None else tuple(m.Word(**{"confidence": None, **word}) for word in words)
        fields.setdefault("confidence", None)
        fields["commit"] = m.Commit(fields["end_sample"], fields["utterance"] + 1, b"")
    return FRAMES[event](lease=1, **fields)  # type: ignore[no-any-return]


def _line(frame: Frame) -> Line:
    assert not isinstance(frame, bytes)
    return {"server_close": [frame.code, frame.reason]} if isinstance(frame, Close) else {"server": frame}


def _changed(paths: Iterable[Path]) -> Iterator[tuple[Path, list[Line]]]:
    for path in paths:
        recorded = read(path)
        if (replayed := replay(recorded)) != recorded:
            yield path, replayed


def main() -> int:
    parser = argparse.ArgumentParser(description="replays the golden conversations")
    parser.add_argument("--rewrite", action="store_true", help="Replace the recordings by the codecs' current answers.")
    rewrite = parser.parse_args().rewrite
    changed = list(_changed(sorted(GOLDEN.glob("*.jsonl"))))
    for path, lines in changed:
        if rewrite:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            path.write_text(text, encoding="utf-8")
        print(f"{'rewritten' if rewrite else 'changed'}: {path.name}")
    return 1 if changed and not rewrite else 0


if __name__ == "__main__":
    sys.exit(main())
