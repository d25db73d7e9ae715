"""A frontend that is killed: what clients of each dialect keep, what they lose, and how a client can lose nothing.

Clients of the project's own dialect resume their sessions (test_resume.py).
"""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack

import openai
import pytest

from tests.e2e.clients import WAIT_S, expected, noise
from tests.e2e.service import Pool, eventually
from tests.e2e.speakers import SPEAKERS, Speaker
from tests.e2e.test_going_away import wav_header

BYTES_PER_S = 32_000
KEPT = 41_600
"""Bytes of 1.3 s: the fake engine ends an utterance after 1 s."""


def kill(pool: Pool) -> None:
    pool.frontend.process.kill()
    pool.frontend.wait()
    pool.programs.remove(pool.frontend)
    pool.frontend.close()


def test_no_text_is_wrong_and_no_slot_waits_for_a_client_that_cannot_return() -> None:
    """The slots are free long before the 30 s of grace, in which only sessions of the own dialect wait."""
    speech = {dialect: noise(1.3, seed) for seed, dialect in enumerate(SPEAKERS)}
    with Pool() as pool, ExitStack() as exits:
        speakers = [exits.enter_context(Speaker(pool.url, dialect)) for dialect in SPEAKERS]
        for speaker in speakers:
            speaker.send(speech[speaker.dialect])
            speaker.until(4)
        kill(pool)
        pool.wait_sessions(0, timeout_s=10)
        for speaker in speakers:
            speaker.rest()
            assert speaker.close is None
            assert expected(speech[speaker.dialect]).startswith(speaker.text)


@pytest.mark.parametrize("dialect", SPEAKERS)
def test_a_client_that_comes_back_gets_a_session_of_its_own(dialect: str) -> None:
    """With the same address, key and label (Yap's sid): these do not prove that it is the same conversation."""
    first, second = noise(1.3, seed=1), noise(1.3, seed=2)
    with Pool(frontend=["--reuse-port"]) as pool:
        with Speaker(pool.url, dialect) as before:
            before.send(first)
            before.until(4)
            other, _ = pool.add_frontend("--reuse-port", listen=f"127.0.0.1:{pool.port}")
            other.wait_for("registered")
            kill(pool)
            before.rest()
        with Speaker(pool.url, dialect) as after:
            after.send(second)
            after.end()
            after.rest()
        assert after.text == expected(second)


def test_a_deepgram_client_that_keeps_its_audio_since_the_last_final_loses_nothing() -> None:
    pcm = noise(4.6, seed=3)
    with Pool() as pool:
        _, port = pool.add_frontend()
        pool.wait_ready(port)
        with Speaker(pool.url, "deepgram") as before:
            before.send(pcm[: 2 * KEPT])
            before.until(9)
            kill(pool)
            before.rest()
        results = [message for message in map(json.loads, before.messages) if message.get("is_final")]
        last = results[-1]
        finals = [result["channel"]["alternatives"][0]["transcript"] for result in results]
        with Speaker(f"ws://127.0.0.1:{port}", "deepgram") as after:
            after.send(pcm[round((last["start"] + last["duration"]) * BYTES_PER_S) :])
            after.end()
            after.rest()
        assert " ".join([*finals, after.text]) == expected(pcm)


def test_a_client_that_keeps_all_its_audio_loses_nothing() -> None:
    """A new session from the start of the audio, as fast as the server reads."""
    pcm = noise(4.6, seed=4)
    with Pool() as pool, ExitStack() as exits:
        _, port = pool.add_frontend()
        pool.wait_ready(port)
        for dialect in SPEAKERS:
            exits.enter_context(Speaker(pool.url, dialect)).send(pcm[:KEPT])
        kill(pool)
        for dialect in SPEAKERS:
            again = exits.enter_context(Speaker(f"ws://127.0.0.1:{port}", dialect))
            again.send(pcm)
            again.end()
            again.rest()
            assert again.text == expected(pcm), dialect


def test_an_upload_is_repeated_by_its_client() -> None:
    """`openai` sends a request again when its connection breaks."""
    pcm = noise(30.0, seed=5)
    slow = [["--engine=fake", "--step-ms=5", "--slots=4"]]
    with Pool(workers=slow, frontend=["--reuse-port"]) as pool:
        texts: list[str] = []

        def upload() -> None:
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{pool.port}/v1", api_key="none", timeout=WAIT_S)
            file = ("speech.wav", wav_header(len(pcm)) + pcm)
            texts.append(client.audio.transcriptions.create(file=file, model="whisper-1").text)
            client.close()

        uploading = threading.Thread(target=upload)
        uploading.start()
        pool.wait_sessions(1)
        other, _ = pool.add_frontend("--reuse-port", listen=f"127.0.0.1:{pool.port}")
        other.wait_for("registered")
        kill(pool)
        uploading.join(2 * WAIT_S)
        eventually(lambda: pool.sessions() == 0, pool.story)
        assert texts == [expected(pcm)]
