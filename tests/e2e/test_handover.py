"""Frontends on one port that are restarted one after the other: no client of any dialect notices."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from tests.e2e.clients import WAIT_S, Native, cut, expected, noise
from tests.e2e.restarts import SHARED, SLOTS, Frontends, run, wrong
from tests.e2e.service import Pool, eventually
from tests.e2e.speakers import SPEAKERS, Speaker

BYTES_PER_S = 32_000


def test_speaking_clients_notice_no_restart() -> None:
    """Clients that speak at the speed of speech, one conversation after the other."""
    *_, report, failures = run(restarts=3, frontends=2, of_each=1, seconds=4.0)
    assert not failures, failures
    assert " 0 stayed; " in report, report


def test_a_full_pool_keeps_its_sessions() -> None:
    """Each session keeps a slot, though other clients wait for one all the time."""
    speech = {dialect: noise(5.0, seed) for seed, dialect in enumerate(SPEAKERS)}
    stopping = threading.Event()
    refused = []

    def press(url: str) -> None:
        while not stopping.is_set():
            with Native(url) as client:
                refused.append(client.error()["code"])

    with Pool(workers=[["--engine=fake", f"--slots={len(SPEAKERS)}"]], frontend=SHARED) as pool, ExitStack() as exits:
        frontends = Frontends(pool, 1)
        speakers = [exits.enter_context(Speaker(pool.url, dialect)) for dialect in SPEAKERS]
        pool.wait_sessions(len(SPEAKERS))
        others = threading.Thread(target=press, args=(pool.url,))
        others.start()
        for start in range(0, 5 * BYTES_PER_S, 2 * BYTES_PER_S):
            for speaker in speakers:
                speaker.send(speech[speaker.dialect][start : start + 2 * BYTES_PER_S])
            frontends.start()
            assert frontends.stop() == (len(SPEAKERS), 0)
        stopping.set()
        others.join(WAIT_S)
        for speaker in speakers:
            speaker.end()
            speaker.rest()
            assert wrong(speaker, speech[speaker.dialect]) == ""
        assert set(refused) == {"at-capacity"}


def test_a_frontend_that_starts_during_the_drain_takes_the_clients() -> None:
    speech = {dialect: noise(3.0, seed) for seed, dialect in enumerate(SPEAKERS)}
    with Pool(workers=SLOTS, frontend=SHARED) as pool, ExitStack() as exits:
        speakers = [exits.enter_context(Speaker(pool.url, dialect)) for dialect in SPEAKERS]
        for speaker in speakers:
            speaker.send(speech[speaker.dialect][:BYTES_PER_S])
        pool.wait_sessions(len(SPEAKERS))
        pool.frontend.process.terminate()
        pool.frontend.wait_for("handed over .*connections=0")
        other, port = pool.add_frontend("--drain-s=20")
        assert pool.frontend.wait(WAIT_S) == 0
        assert pool.metric("asr_frontend_adopted_total", port) == len(SPEAKERS)
        assert pool.metric("asr_active_connections", port) == len(SPEAKERS)
        for speaker in speakers:
            speaker.send(speech[speaker.dialect][BYTES_PER_S:])
            speaker.end()
            speaker.rest()
            assert wrong(speaker, speech[speaker.dialect]) == ""
        exits.close()
        eventually(lambda: pool.metric("asr_active_connections", port) == 0, pool.story)
        pool.wait_sessions(0)
        assert len(list((pool.run_dir / "handover").iterdir())) == 1
        other.process.terminate()
        assert other.wait(WAIT_S) == 0
        assert not list((pool.run_dir / "handover").iterdir())


def test_a_client_can_resume_what_was_handed_over() -> None:
    """A session of the own dialect keeps its name: its client resumes it after a broken connection."""
    pcm = noise(4.0)
    with Pool(workers=SLOTS, frontend=SHARED) as pool, ExitStack() as exits:
        frontends = Frontends(pool, 1)
        first = exits.enter_context(Native(pool.url))
        session = first.ready()["session"]
        first.send(*cut(pcm[: 2 * BYTES_PER_S], 640))
        first.until("final")
        frontends.start()
        assert frontends.stop() == (1, 0)
        first.socket.socket.close()
        second = exits.enter_context(
            Native(pool.url, {"resume": {"session": session, "finals": len(first.of("final"))}})
        )
        begin = round(second.ready()["from_sample"])
        second.send(*cut(pcm[2 * begin :], 640))
        second.stop()
        assert f"{first.text} {second.text}" == expected(pcm)
