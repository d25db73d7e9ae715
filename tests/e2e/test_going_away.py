"""A frontend that is terminated while clients of every dialect speak: no word is lost, no end looks like success."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from contextlib import ExitStack

import pytest

from tests.e2e.clients import CAIMAN, WAIT_S, Native, RawClient, converse, cut, expected, noise, transcript_of
from tests.e2e.service import Pool, eventually
from tests.e2e.speakers import SPEAKERS, Speaker

BYTES_PER_S = 32_000
FIRST = 41_600
"""Bytes of the first 1.3 s: enough for one utterance of the fake engine, which CAIMAN-ASR's clients need for a text."""
SLOTS = [["--engine=fake", "--slots=64"]]
CLOSES = {
    "caiman": (4503, "503 going-away"),
    "deepgram": (1011, "NET-0000: going-away"),
    "amira": (1001, "going-away"),
    "yap": (1001, "going-away"),
    "parakeet": (1001, "going-away"),
}


def terminate(pool: Pool) -> None:
    pool.frontend.process.terminate()
    pool.frontend.wait_for("draining")


def test_the_going_away_of_every_dialect_is_tested() -> None:
    assert CLOSES.keys() == set(SPEAKERS)


def test_clients_that_end_during_the_drain_lose_nothing_and_new_ones_reach_the_other_frontend() -> None:
    dialects = [*SPEAKERS, *("caiman",) * 7]
    speech = [noise(3.1, seed) for seed in range(len(dialects))]
    with Pool(workers=SLOTS, frontend=["--reuse-port", "--drain-s=60"]) as pool, ExitStack() as exits:
        speakers = [exits.enter_context(Speaker(pool.url, dialect)) for dialect in dialects]
        native = exits.enter_context(Native(pool.url))
        native.ready()
        for speaker, pcm in zip(speakers, speech, strict=True):
            speaker.send(pcm[:FIRST])
            speaker.until(4)
        other, _ = pool.add_frontend("--reuse-port", listen=f"127.0.0.1:{pool.port}")
        other.wait_for("registered")
        terminate(pool)
        assert converse(pool.url, cut(speech[0], 640)).text == expected(speech[0])
        for speaker, pcm in zip(speakers, speech, strict=True):
            speaker.send(pcm[FIRST:])
            speaker.end()
        native.send(*cut(speech[0], 640))
        native.stop()
        for speaker, pcm in zip(speakers, speech, strict=True):
            speaker.rest()
            assert speaker.text == expected(pcm), speaker.dialect
            assert speaker.close == (None if speaker.dialect == "parakeet" else (1000, "")), speaker.dialect
        assert native.text == expected(speech[0]) and native.close_code == 1000
        exits.close()
        assert pool.frontend.wait() == 0
        pool.wait_sessions(0)


def test_a_client_that_does_not_end_gets_all_its_text_and_a_close_that_says_going_away() -> None:
    """It has sent everything and waits, as in a pause of its speaker."""
    speech = {dialect: noise(2.0, seed) for seed, dialect in enumerate(SPEAKERS)}
    with Pool(workers=SLOTS, frontend=["--drain-s=4"]) as pool, ExitStack() as exits:
        speakers = [exits.enter_context(Speaker(pool.url, dialect)) for dialect in SPEAKERS]
        for speaker in speakers:
            speaker.send(speech[speaker.dialect][:FIRST])
            speaker.until(4)
        terminate(pool)
        for speaker in speakers:
            speaker.send(speech[speaker.dialect][FIRST:])
        for speaker in speakers:
            speaker.rest()
            check_left(speaker)
            assert speaker.text == expected(speech[speaker.dialect])
            assert speaker.transcribed_s() == 2.0
        assert pool.frontend.wait() == 0
        pool.wait_sessions(0)


@pytest.mark.parametrize("worker_dies", [False, True])
def test_a_client_that_speaks_on_gets_the_text_of_all_that_was_read(worker_dies: bool) -> None:
    """Its next frames do not reset the connection before it has read its last texts. Nor does a worker's death."""
    speech = {dialect: noise(30.0, seed) for seed, dialect in enumerate(SPEAKERS)}
    with Pool(workers=SLOTS * 2, frontend=["--drain-s=2"]) as pool, ExitStack() as exits:
        speakers = [exits.enter_context(Speaker(pool.url, dialect)) for dialect in SPEAKERS]
        threads = [speaker.speak(speech[speaker.dialect]) for speaker in speakers]
        readers = [threading.Thread(target=speaker.rest) for speaker in speakers]
        for speaker in speakers:
            speaker.until(4)
        for reader in readers:
            reader.start()
        terminate(pool)
        if worker_dies:
            pool.workers[0].process.send_signal(signal.SIGKILL)
        for thread in (*readers, *threads):
            thread.join(WAIT_S)
        for speaker in speakers:
            check_left(speaker)
            received = round(speaker.transcribed_s() * BYTES_PER_S)
            assert speaker.text == expected(speech[speaker.dialect][:received])
        assert pool.frontend.wait() == 0


def test_a_client_that_does_not_read_gets_its_last_texts_after_the_drain() -> None:
    """More waits for it than fits into the buffers of both sockets. It begins to read when the drain is over."""
    pcm = noise(100.0)
    with Pool(frontend=["--drain-s=2"]) as pool, RawClient(pool.port, CAIMAN) as client:
        for frame in cut(pcm, 32_000):
            client.send(frame)
        eventually(lambda: pool.metric("asr_frontend_audio_seconds_total") == 100.0, pool.story)
        terminate(pool)
        eventually(lambda: not answers(pool), pool.story)
        *responses, (opcode, close) = client.frames()
        assert transcript_of([json.loads(payload) for _, payload in responses]) == expected(pcm)
        assert opcode == 8 and close[2:].startswith(b"503 going-away")
        client.close()
        assert pool.frontend.wait() == 0


def answers(pool: Pool) -> bool:
    """Whether the frontend still accepts connections."""
    try:
        pool.get("/health")
    except OSError:
        return False
    return True


def check_left(speaker: Speaker) -> None:
    """Check the form of the dialect's end, which must not be its normal one."""
    code, reason = CLOSES[speaker.dialect]
    assert speaker.close is not None, speaker.dialect
    assert speaker.close[0] == code and speaker.close[1].startswith(reason), speaker.close
    last = speaker.last()
    match speaker.dialect:
        case "deepgram":
            assert last["type"] == "Error" and last["variant"] == "going-away"
        case "amira":
            assert (last["type"], last["code"], last["text"]) == ("error", "going-away", speaker.text)
        case "yap":
            assert (last["op"], last["text"]) == ("interim", speaker.text)
        case "parakeet":
            assert (last["type"], last["text"]) == ("partial", speaker.text)


def test_readiness_ends_at_once_and_new_sessions_are_refused() -> None:
    """A frontend alone on its port answers until its last session ends."""
    with Pool(frontend=["--drain-s=60"]) as pool, Native(pool.url) as staying:
        staying.ready()
        terminate(pool)
        assert pool.get("/ready")[0] == 503
        status, body = pool.get("/health/detailed")
        assert (status, json.loads(body)["status"]) == (503, "draining")
        assert pool.get("/health")[0] == 200
        with Native(pool.url) as late:
            assert late.error()["code"] == "going-away"
        assert late.close_code == 1001
        for dialect, close in CLOSES.items():
            with Speaker(pool.url, dialect) as late_speaker:
                late_speaker.rest()
            assert late_speaker.close is not None and late_speaker.close[0] == close[0], dialect
        for path, code in (("/v2/decode/batch/amira", "going-away"), ("/v1/audio/transcriptions", "going_away")):
            status, body, retry_after = post(pool, path)
            assert (status, retry_after) == (503, "1") and code in body
        staying.send(noise(0.5))
        staying.stop()
        assert staying.text == expected(noise(0.5))
        eventually(lambda: pool.frontend.process.poll() == 0, pool.story)


def test_an_upload_is_finished_or_refused_but_never_cut_short() -> None:
    """30 s of audio need 5 s here: more than one frontend's time to drain, and less than the other's."""
    slow = [["--engine=fake", "--step-ms=10", "--slots=4"]]
    with Pool(workers=slow, frontend=["--drain-s=2"]) as pool:
        patient, port = pool.add_frontend("--drain-s=60")
        pool.wait_ready(port)
        answers: dict[int, tuple[int, str, str | None]] = {}

        def upload(to: int) -> None:
            answers[to] = post(pool, "/v1/audio/transcriptions", to, seconds=30)

        threads = [threading.Thread(target=upload, args=(to,)) for to in (pool.port, port)]
        for thread in threads:
            thread.start()
        pool.wait_sessions(2)
        for frontend in (pool.frontend, patient):
            frontend.process.terminate()
        for thread in threads:
            thread.join(WAIT_S)
        assert answers[pool.port][0] == 503 and "going_away" in answers[pool.port][1]
        status, body, _ = answers[port]
        assert status == 200 and json.loads(body)["text"] == expected(noise(30))
        assert pool.frontend.wait() == patient.wait() == 0


def post(pool: Pool, path: str, port: int | None = None, seconds: float = 0.5) -> tuple[int, str, str | None]:
    """Status, body and Retry-After of an upload."""
    form = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    pcm = noise(seconds)
    body, kind = pcm, "application/octet-stream"
    if path.startswith("/v1"):
        wav = wav_header(len(pcm)) + pcm
        body, kind = form % (b"model", b"whisper-1") + file + wav + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
    connection = http.client.HTTPConnection("127.0.0.1", port or pool.port, timeout=WAIT_S)
    try:
        connection.request("POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.read().decode(), response.headers["Retry-After"]
    finally:
        connection.close()


def wav_header(size: int) -> bytes:
    """The header of a WAV file with PCM16, 16 kHz, mono."""
    numbers = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
    layout = bytes.fromhex("10000000 0100 0100 803e0000 007d0000 0200 1000")
    return b"RIFF" + numbers[0] + b"WAVEfmt " + layout + b"data" + numbers[1]
