"""`/v1/stream` as documented in frontends/README.md, with the fake engine, whose text is a checksum of the audio."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator

import pytest

import asr_client
from asr_frontends.audio.resample import Resampler
from tests.e2e.clients import Native, converse, cut, expected, noise, paced
from tests.e2e.service import Pool

FRAME_BYTES = {"10 ms": 320, "20 ms": 640, "60 ms": 1920, "100 ms": 3200, "1 s": 32_000, "random": 0}


def test_the_documented_conversation(fake: Pool) -> None:
    pcm = noise(1.75)
    with Native(fake.url) as client:
        ready = client.ready()
        for frame in paced(cut(pcm, 3200), 0.1):
            client.send(frame)
        client.send_message("flush", marker="1")
        assert client.until("flushed") == {"type": "flushed", "marker": "1"}
        client.stop()
    session = ready.pop("session")
    assert isinstance(session, str) and session
    assert ready == {"type": "ready", "model": "fake", "language": "en", "sample_rate": 16000, "engine": "fake"}
    assert client.received[-1] == {"type": "end", "reason": "stopped"}
    assert (client.close_code, client.close_reason) == (1000, "")
    first, second = client.of("final")
    assert (first["utterance"], first["start_s"], first["end_s"], first["endpoint"]) == (0, 0.0, 1.0, "length")
    assert (second["utterance"], second["start_s"], second["end_s"], second["endpoint"]) == (1, 1.0, 1.75, "flush")
    assert client.text == expected(pcm)
    hypotheses = [message for message in client.received if message["type"] in ("partial", "final")]
    assert [message["seq"] for message in hypotheses] == list(range(len(hypotheses)))
    assert first.keys() == {"type", "seq", "utterance", "text", "start_s", "end_s", "endpoint", "committed"}
    assert {message["type"] for message in client.received} == {"ready", "ack", "partial", "final", "flushed", "end"}


def test_partials_are_cumulative_within_their_utterance(fake: Pool) -> None:
    client = converse(fake.url, cut(noise(3.0), 640))
    finals = {final["utterance"]: final["text"] for final in client.of("final")}
    assert client.of("partial")
    seqs = [message["seq"] for message in client.received if message["type"] in ("partial", "final")]
    assert all(earlier < later for earlier, later in itertools.pairwise(seqs))
    for partial in client.of("partial"):
        assert finals[partial["utterance"]].startswith(partial["text"])


@pytest.mark.parametrize("size", FRAME_BYTES.values(), ids=FRAME_BYTES.keys())
def test_the_text_does_not_depend_on_the_frames(fake: Pool, size: int) -> None:
    pcm = noise(6.1, seed=7)
    client = converse(fake.url, cut(pcm, size))
    assert client.text == expected(pcm)
    assert client.of("ack")[-1] == {"type": "ack", "samples": len(pcm) // 2, "committed": len(pcm) // 2}
    assert client.close_code == 1000


def test_eight_sessions_at_once(fake: Pool) -> None:
    """Each client receives its own words only."""

    async def speak(seed: int) -> tuple[str, str]:
        pcm = noise(8.0 + seed / 10, seed)

        async def frames() -> AsyncIterator[bytes]:
            for frame in cut(pcm, 640):
                yield frame

        async with asr_client.connect(fake.url) as session:
            received = await asr_client.upload(session, frames())
        return received.text, expected(pcm)

    async def all_of_them() -> list[tuple[str, str]]:
        return await asyncio.gather(*(speak(seed) for seed in range(8)))

    received = asyncio.run(all_of_them())
    assert [text for text, _ in received] == [text for _, text in received]
    assert len({text for text, _ in received}) == 8


def test_the_sync_client(fake: Pool) -> None:
    pcm = noise(2.0, seed=3)
    with asr_client.connect_sync(fake.url) as session:
        session.send(pcm)
        session.flush("here")
        session.stop()
        events = list(session)
    assert " ".join(event.text for event in events if isinstance(event, asr_client.Final)) == expected(pcm)
    assert asr_client.Flushed("here") in events
    assert events[-1] == asr_client.End("stopped")


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_sample_rates_are_resampled_the_same_however_they_are_cut(fake: Pool, rate: int) -> None:
    pcm = noise(3.3, seed=rate, rate=rate)
    resampler = Resampler(rate)
    text = expected(resampler.feed(pcm) + resampler.end())
    for size in (rate // 50, rate // 5, 0):
        client = converse(fake.url, cut(pcm, size - size % 2), sample_rate=rate)
        assert client.text == text, f"frames of {size or 'random'} bytes"
        assert client.of("ready")[0]["sample_rate"] == rate
        assert client.of("ack")[-1] == {"type": "ack", "samples": len(pcm) // 2, "committed": len(pcm) // 2}


def test_without_partials(fake: Pool) -> None:
    pcm = noise(3.2)
    client = converse(fake.url, cut(pcm, 640), partials=False)
    assert not client.of("partial")
    assert client.text == expected(pcm)
    assert [final["seq"] for final in client.of("final")] == list(range(len(client.of("final"))))


def test_flushed_comes_after_the_text_before_the_flush_and_before_the_text_after_it(fake: Pool) -> None:
    pieces = [noise(seconds, seed) for seed, seconds in enumerate((0.9, 0.31, 1.4, 0.05))]
    with Native(fake.url, {"partials": False}) as client:
        for number, piece in enumerate(pieces):
            client.send(*cut(piece, 640))
            client.send_message("flush", marker=f"after {number}")
        client.stop()
    received: list[str] = []
    for message in client.received:
        if message["type"] == "final":
            received.append(message["text"])
        elif message["type"] == "flushed":
            number = int(message["marker"].split()[1])
            assert " ".join(received) == expected(pieces[number])
            received.clear()
    assert [message["marker"] for message in client.of("flushed")] == [f"after {number}" for number in range(4)]


def test_two_flushes_with_the_same_marker_are_answered_twice(fake: Pool) -> None:
    first, second = noise(0.5, seed=1), noise(0.5, seed=2)
    with Native(fake.url) as client:
        client.send(first)
        client.send_message("flush", marker="m")
        client.send(second)
        client.send_message("flush", marker="m")
        client.send_message("flush", marker="m")
        client.stop()
    assert client.of("flushed") == [{"type": "flushed", "marker": "m"}] * 3
    assert client.text == f"{expected(first)} {expected(second)}"
    order = [message["type"] for message in client.received if message["type"] in ("final", "flushed")]
    assert order == ["final", "flushed", "final", "flushed", "flushed"]


def test_acks_come_at_least_once_a_second_also_in_silence_and_confirm_more_and_more(fake: Pool) -> None:
    """Confirmed audio belongs to utterances that are final."""
    pcm = noise(2.5)
    with Native(fake.url) as client:
        client.ready()
        at = [time.monotonic()]
        acks = []
        for frame in paced(cut(pcm, 3200), 0.1):
            client.send(frame)
        spoken = time.monotonic()
        while at[-1] < spoken + 2.2:
            acks.append(client.until("ack"))
            at.append(time.monotonic())
        client.stop()
    assert max(later - earlier for earlier, later in itertools.pairwise(at[1:])) <= 2.0  # a busy machine may be late
    assert [ack["samples"] for ack in acks] == sorted(ack["samples"] for ack in acks)
    committed = [ack["committed"] for ack in client.of("ack")]
    assert committed == sorted(committed)
    assert {0, 16000, 32000, 40000} <= set(committed)
    assert client.text == expected(pcm)


def test_an_empty_session(fake: Pool) -> None:
    client = converse(fake.url, [])
    assert [message["type"] for message in client.received if message["type"] != "ack"] == ["ready", "end"]
    assert client.close_code == 1000


def test_stop_ends_a_session_in_which_nothing_else_was_heard_yet(fake: Pool) -> None:
    """Everything may be sent at once, without waiting for ready."""
    pcm = noise(4.0)
    with Native(fake.url, {}) as client:
        client.send(pcm)
        client.send_message("stop")
        client.rest()
    assert client.text == expected(pcm)
    assert client.received[0]["type"] == "ready"
    assert client.received[-1]["type"] == "end"


def test_fields_that_are_not_known_are_ignored(fake: Pool) -> None:
    client = converse(fake.url, [noise(0.3)], color="green", language="en-GB", model="fake")
    assert client.text == expected(noise(0.3))
    assert client.of("ready")[0]["language"] == "en-GB"


def test_keepalive_keeps_a_silent_session_open(fake: Pool, impatient: str) -> None:
    pcm = noise(1.2)
    with Native(impatient) as client:
        client.ready()
        client.send(pcm[:16_000])
        silent_since = time.monotonic()
        while time.monotonic() < silent_since + 4.5:
            with contextlib.suppress(TimeoutError):
                client.receive(0.3)
            client.send_message("keepalive")
        client.send(pcm[16_000:])
        client.stop()
    assert client.text == expected(pcm)
    assert client.close_code == 1000


def test_a_silent_session_is_ended(fake: Pool, impatient: str) -> None:
    with Native(impatient) as client:
        client.ready()
        client.send(noise(0.5))
        assert client.error()["code"] == "idle-timeout"
    assert client.close_code == 4400
    assert client.close_reason.startswith("idle-timeout")


def test_a_client_that_waits_for_a_slow_worker_is_not_idle() -> None:
    """The worker needs three seconds for the audio: first the client is not read from, then it waits for its text."""
    pcm = noise(16.0)
    slow = ["--engine=fake", "--step-ms=18"]
    with Pool(workers=[slow], frontend=["--idle-s=1", "--credit-s=3"]) as pool:
        client = converse(pool.url, cut(pcm, 32_000))
        pool.wait_sessions(0)
    assert client.text == expected(pcm)
    assert client.close_code == 1000
