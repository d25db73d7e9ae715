"""Clients that send as fast as they can, beside clients in real time; and a frontend that stands still for a moment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.clients import Native, RawClient, cut, expected, noise, paced, websocket
from tests.e2e.service import Pool, eventually
from tests.floods.__main__ import FALSE_ALARMS, start_flood

STREAMS = 12
STALL_S = 1.5
REQUESTED = "asr_frontend_sessions_requested_total"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(frontend=["--amira-streams-max=12"]) as pool:
        yield pool


def test_a_stall_of_the_frontend_ends_no_stream(pool: Pool) -> None:
    """AMI-28: the limit counts what a client sends, not what is read together after a stall.

    All 12 of 12 streams were once closed with 4400.
    """

    def stream(seed: int) -> tuple[str, int | None]:
        """Frames of 12 ms in real time, 83 of the 100 messages that a second may have."""
        with websocket(f"{pool.url}/v2/decode/stream/x") as socket:
            for frame in paced(cut(noise(4.0, seed), 384), 0.012):
                socket.send(frame)
            socket.send(b"\0")
            last = ""
            try:
                while True:
                    last = str(socket.recv())
            except ConnectionClosed as error:
                return last, error.rcvd.code if error.rcvd else None

    with ThreadPoolExecutor(STREAMS) as threads:
        streams = [threads.submit(stream, seed) for seed in range(STREAMS)]
        pool.wait_sessions(STREAMS)
        os.kill(pool.frontend.pid, signal.SIGSTOP)
        time.sleep(STALL_S)  # the fault itself
        os.kill(pool.frontend.pid, signal.SIGCONT)
        answers = [one.result() for one in streams]
    assert [code for _, code in answers] == [1000] * STREAMS
    for seed, (last, _) in enumerate(answers):
        assert expected(noise(4.0, seed)) in last


@pytest.mark.parametrize("kind", ["keepalive", "fragments", "1-byte", "flush"])
def test_flooders_take_no_word_from_their_neighbours(pool: Pool, kind: str) -> None:
    """They once made the broker take a loaded frontend and a loaded worker for dead."""
    before = pool.metric(REQUESTED)
    lines = {program: len(program.lines) for program in pool.programs}
    audio = [noise(3.0, seed=seed) for seed in range(4)]

    def speak(pcm: bytes) -> str:
        with Native(pool.url) as client:
            client.send(*paced(cut(pcm, 640), 0.02))
            client.stop()
        return client.text

    flooding = start_flood(pool.port, kind, 8)
    try:
        eventually(lambda: pool.metric(REQUESTED) >= before + 8, "eight flooders")
        with ThreadPoolExecutor(len(audio)) as threads:
            texts = list(threads.map(speak, audio))
    finally:
        flooding.communicate()
    pool.wait_sessions(0)
    assert texts == [expected(pcm) for pcm in audio]
    written = [line for program, count in lines.items() for line in program.lines[count:]]
    assert not [line for line in written if FALSE_ALARMS.search(line) or "lease lost" in line]


def test_a_client_over_its_limit_is_not_read_any_more(pool: Pool) -> None:
    """It receives the reason. What it sends after that fills the sockets' buffers, and nothing else."""
    with RawClient(pool.port) as client:
        client.send_message("start")
        client.socket.settimeout(1.0)
        block = b"\x82\x80\0\0\0\0" * 10_000
        sent = 0
        with pytest.raises((TimeoutError, ConnectionError)):
            while sent < 200_000_000:
                sent += client.socket.send(block)
        client.socket.settimeout(30.0)
        received = list(client.frames())
    assert sent < 64_000_000
    assert b"rate-limited" in received[-2][1]
    assert received[-1] == (8, (4400).to_bytes(2) + b"rate-limited: more than 1000 messages without audio in a second")
