"""Measures moonshine-voice's own streaming in a separate process: `theirs.py SPEECH.wav audio|lean` prints its cost.

It uses one stream, because the streams of a process share the state of its voice activity detection.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import child

PIECE_S = 0.1
UPDATE_S = 0.5


def main(wav: Path, options: dict[str, str]) -> child.Printed:
    import moonshine_voice as mv  # noqa: PLC0415 - it loads a native library, which importers do not need

    samples = child.samples(wav)
    audio = (samples / 32768.0).astype("float32")
    size = round(PIECE_S * child.RATE)
    pieces = [audio[at : at + size].tolist() for at in range(0, len(audio), size)]
    seen = {"LineTextChanged": 0, "LineCompleted": 0}

    def count(event: object) -> None:
        name = type(event).__name__
        if name in seen:
            seen[name] += 1

    folder = Path(mv.__file__).parent / "assets" / "tiny-en"
    with mv.Transcriber(str(folder), mv.ModelArch.TINY, UPDATE_S, options=options) as transcriber:
        # The first inference is slow.
        transcriber.transcribe_without_streaming(audio[: 3 * child.RATE].tolist(), child.RATE)
        with transcriber.create_stream(UPDATE_S) as stream:
            stream.add_listener(count)
            began = time.process_time()
            stream.start()
            for piece in pieces:
                stream.add_audio(piece, child.RATE)
            stream.stop()
            cpu_s = time.process_time() - began
    return {
        "audio_s": len(samples) / child.RATE,
        "cpu_s": cpu_s,
        "partials": seen["LineTextChanged"],
        "finals": seen["LineCompleted"],
    }


if __name__ == "__main__":
    child.show(main(Path(sys.argv[1]), {} if sys.argv[2] == "audio" else {"return_audio_data": "false"}))
