"""Processes that die: the others survive, the dead ones are started again, no word is lost, no process is left over."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator

import pytest
import soundfile

from tests.e2e.clients import Caiman, Native, converse, cut, expected, noise
from tests.e2e.service import ROOT, Pool, Serve, eventually

CLIP = ROOT / "tests" / "data" / "librivox_ps__sense_and_sensibility_01_austen_64kb-0890.wav"


@pytest.fixture(scope="module")
def _pair() -> Iterator[Serve]:
    with Serve(workers=2) as serve:
        yield serve


@pytest.fixture(scope="module")
def _single() -> Iterator[Serve]:
    with Serve() as serve:
        yield serve


def healthy(serve: Serve) -> Serve:
    serve.wait_whole()
    serve.wait_sessions(0)
    return serve


@pytest.fixture
def pair(_pair: Serve) -> Iterator[Serve]:
    """`asr serve` with two workers of the fake engine. After a test, all processes must run."""
    yield healthy(_pair)
    healthy(_pair)


@pytest.fixture
def single(_single: Serve) -> Iterator[Serve]:
    """The same with one worker: a session waits until it is back."""
    yield healthy(_single)
    healthy(_single)


def busy_worker(serve: Serve) -> str:
    """The worker that holds the one session."""
    status = serve.status()
    assert status is not None
    (name,) = [worker.name for worker in status.workers if worker.sessions]
    return name


def finals_in_order(client: Native) -> None:
    """Check that each utterance has one final, without gaps, and that their times increase."""
    finals = client.of("final")
    assert [final["utterance"] for final in finals] == list(range(len(finals)))
    assert all(earlier["end_s"] <= later["start_s"] for earlier, later in itertools.pairwise(finals))


# ---- Killed ----


def test_a_session_runs_on_when_its_worker_is_killed(pair: Serve) -> None:
    """It moves to the other worker, and its text is as without a failure."""
    pcm = noise(8.4, seed=21)
    with Native(pair.url) as client:
        client.send(*cut(pcm[:112_000], 640))  # three and a half seconds
        client.until("final")
        victim = busy_worker(pair)
        before = pair.kill(victim)
        client.until("migrating")
        client.send(*cut(pcm[112_000:], 640))
        client.stop()
    assert client.text == expected(pcm)
    assert client.received[-1] == {"type": "end", "reason": "stopped"}
    finals_in_order(client)
    after = pair.wait_replaced(victim, before)
    assert {name for name in before if before[name] != after[name]} == {victim}


def test_a_session_waits_for_the_only_worker_to_come_back(single: Serve) -> None:
    """Audio is still accepted, a flush is answered once, and all messages arrive in order."""
    first, second = noise(3.3, seed=22), noise(2.9, seed=23)
    with Native(single.url) as client:
        client.send(*cut(first, 640))
        client.until("final")
        before = single.kill("worker-1")
        client.until("migrating")
        client.send_message("flush", marker="across")
        client.send(*cut(second, 640))
        client.stop()
    assert client.text == f"{expected(first)} {expected(second)}"
    assert len(client.of("flushed")) == 1
    finals_in_order(client)
    after = single.wait_replaced("worker-1", before)
    assert (after["broker"], after["frontend"]) == (before["broker"], before["frontend"])


def test_a_worker_that_makes_no_progress_is_given_up(single: Serve) -> None:
    """Its socket is open, but it processes nothing: the session waits for a worker, here the same one, later."""
    pcm = noise(4.4, seed=29)
    with Native(single.url) as client:
        client.send(*cut(pcm[:40_000], 640))
        client.until("final")
        before = single.kill("worker-1", signal.SIGSTOP)
        client.send(*cut(pcm[40_000:], 640))
        client.until("migrating")
        single.kill("worker-1", signal.SIGCONT)
        client.stop()
    assert client.text == expected(pcm)
    assert single.children() == before


def test_a_session_survives_one_kill_after_the_other(pair: Serve) -> None:
    """A worker is killed, then the worker to which the session moved, and then the broker."""
    pcm = noise(12.2, seed=24)
    pieces = cut(pcm, 96_000)
    with Native(pair.url, {"partials": False}) as client:
        client.send(pieces[0])
        client.until("final")
        for piece, role in zip(pieces[1:], ("worker", "worker", "broker"), strict=False):
            victim = busy_worker(pair) if role == "worker" else role
            before = pair.kill(victim)
            client.until("migrating")
            client.send(piece)
            client.until("final")
            pair.wait_replaced(victim, before)
            pair.wait_whole()
        client.send(*pieces[4:])
        client.stop()
    assert client.text == expected(pcm)
    assert len(client.of("migrating")) >= 3
    finals_in_order(client)


def test_a_session_runs_on_when_the_broker_is_killed(single: Serve) -> None:
    pcm = noise(8.4, seed=25)
    with Native(single.url) as client:
        client.send(*cut(pcm[:112_000], 640))
        client.until("final")
        before = single.kill("broker")
        client.send(*cut(pcm[112_000:], 640))
        client.until("migrating")
        client.stop()
    assert client.text == expected(pcm)
    finals_in_order(client)
    after = single.wait_replaced("broker", before)
    assert {name for name in before if before[name] != after[name]} == {"broker"}


def test_the_other_dialect_survives_too(pair: Serve) -> None:
    pcm = noise(6.2, seed=26)
    with Caiman(pair.url) as client:
        client.send(*cut(pcm[:96_000], 1920))
        for _ in range(50):
            client.receive()
        victim = busy_worker(pair)
        before = pair.kill(victim)
        client.send(*cut(pcm[96_000:], 1920))
        client.end()
    assert client.text == expected(pcm)
    assert client.close_code == 1000
    assert [round(response["start"] / 0.06) for response in client.received] == list(range(len(client.received)))
    pair.wait_replaced(victim, before)


def test_many_sessions_move_at_once(pair: Serve) -> None:
    audio = [noise(5.0 + seed / 7, seed=30 + seed) for seed in range(6)]
    clients = [Native(pair.url, {"partials": False}) for _ in audio]
    try:
        for client, pcm in zip(clients, audio, strict=True):
            client.ready()
            client.send(*cut(pcm[:64_000], 640))
        before = pair.kill("worker-1")
        for client, pcm in zip(clients, audio, strict=True):
            client.send(*cut(pcm[64_000:], 640))
            client.stop()
    finally:
        for client in clients:
            client.socket.close()
    assert [client.text for client in clients] == [expected(pcm) for pcm in audio]
    assert sum(len(client.of("migrating")) for client in clients) == 3
    pair.wait_replaced("worker-1", before)


def test_a_killed_frontend_breaks_its_sockets_and_nothing_else(single: Serve) -> None:
    """Its slots are free again immediately, and the next session works."""
    with Native(single.url) as client:
        client.ready()
        before = single.kill("frontend")
        client.rest()
        assert not client.of("end") and client.close_code is None
    after = single.wait_replaced("frontend", before)
    assert {name for name in before if before[name] != after[name]} == {"frontend"}
    single.wait_ready()
    single.wait_sessions(0)
    pcm = noise(1.0)
    assert converse(single.url, [pcm]).text == expected(pcm)


def test_a_session_with_the_embedded_model_runs_on_when_its_worker_is_killed() -> None:
    """Its text is as without a failure."""
    pcm = soundfile.read(CLIP, dtype="int16")[0].tobytes()
    with Serve(engine="moonshine") as serve:
        undisturbed = converse(serve.url, cut(pcm, 3200), partials=False)
        with Native(serve.url) as client:
            client.send(*cut(pcm[:96_000], 3200))
            client.until("partial")
            before = serve.kill("worker-1")
            client.send(*cut(pcm[96_000:], 3200))
            client.until("migrating")
            client.stop()
        after = serve.wait_replaced("worker-1", before)
    assert "selfish" in undisturbed.text
    assert client.text == undisturbed.text
    finals_in_order(client)
    assert (after["broker"], after["frontend"]) == (before["broker"], before["frontend"])


# ---- Stopped ----


def test_a_worker_that_is_terminated_finishes_its_sessions() -> None:
    """It accepts no new session, and its open session is not disturbed."""
    pcm = noise(5.3, seed=27)
    with Pool() as pool:
        (worker,) = pool.workers
        with Native(pool.url) as client:
            client.send(*cut(pcm[:64_000], 640))
            client.until("final")
            worker.process.terminate()
            worker.wait_for("draining")
            eventually(lambda: not pool.is_ready(), "a pool whose only worker drains is not ready")
            with Native(pool.url) as late:
                assert late.error()["code"] in ("at-capacity", "no-worker")
            client.send(*cut(pcm[64_000:], 640))
            client.stop()
        assert worker.wait() == 0
        worker.wait_for("drained")
        assert client.text == expected(pcm)
        assert not client.of("migrating")
        pool.add_worker("--engine=fake").wait_for("registered")
        pool.workers.remove(worker)
        pool.programs.remove(worker)
        worker.close()
        pool.wait_ready()
        assert converse(pool.url, [pcm]).text == expected(pcm)


def test_sessions_of_a_terminated_worker_move_at_once_to_another() -> None:
    """The worker ends long before its time to drain is over, though its sessions go on."""
    pcm = noise(5.3, seed=31)
    with Pool(workers=[["--engine=fake", "--drain-s=600"]] * 2) as pool, Native(pool.url) as client:
        client.send(*cut(pcm[:64_000], 640))
        client.until("final")
        status = pool.status()
        assert status is not None
        (busy,) = [worker.name for worker in status.workers if worker.sessions]
        worker = next(worker for worker in pool.workers if worker.name == busy)
        worker.process.terminate()
        assert worker.wait() == 0
        worker.wait_for("drained")
        client.send(*cut(pcm[64_000:], 640))
        client.stop()
        assert client.text == expected(pcm)
        assert client.of("migrating")
        pool.programs.remove(worker)
        worker.close()


def test_a_frontend_that_is_terminated_waits_for_its_sessions_and_then_fails_them() -> None:
    pcm = noise(2.0, seed=28)
    # The session of the one that stays waits for it to come back elsewhere, for so long.
    with Pool(broker=["--grace-s=1"], frontend=["--drain-s=1"]) as pool:
        with Native(pool.url) as finishing, Native(pool.url) as staying:
            finishing.ready()
            staying.ready()
            pool.frontend.process.terminate()
            pool.frontend.wait_for("draining")
            finishing.send(pcm)
            finishing.stop()
            assert staying.error()["code"] == "going-away"
        assert finishing.text == expected(pcm)
        assert finishing.close_code == 1000
        assert staying.close_code == 1001
        assert pool.frontend.wait() == 0
        pool.wait_sessions(0)


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl+C", "SIGKILL"])
def test_no_process_is_left_over(how: str) -> None:
    """The supervisor ends in several ways while a session is open. Its output ends with its last process."""
    with Serve(workers=2) as serve:
        supervisor = serve.supervisor
        with Native(serve.url) as client:
            client.ready()
            client.send(noise(1.0))
            match how:
                case "SIGTERM":
                    supervisor.process.terminate()
                case "Ctrl+C":
                    os.killpg(supervisor.pid, signal.SIGINT)
                case "SIGKILL":
                    supervisor.process.kill()
            error = client.error()
        assert error["code"] == "going-away"
        assert client.close_code == 1001
        supervisor.wait_for_silence()
        assert list(serve.processes()) == []
        assert supervisor.wait() == (-signal.SIGKILL if how == "SIGKILL" else 0)


def test_a_second_service_in_the_same_place_is_refused(single: Serve) -> None:
    """With one sentence and exit code 2, and without harm to the first."""
    second = single.start("asr", "serve", "--engine=fake", "--listen=127.0.0.1:1", name="second")
    assert second.wait() == 2
    second.wait_for("another broker is running")
    single.programs.remove(second)
    second.close()
    third = single.start("broker", name="third")
    assert third.wait() == 2
    third.wait_for("another broker is running")
    single.programs.remove(third)
    third.close()
    pcm = noise(0.6)
    assert converse(single.url, [pcm]).text == expected(pcm)
