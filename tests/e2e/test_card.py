"""The engine `card` through real processes, on the simulator: what clients receive, and what a failing card does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from asr_proto.audio import to_int16
from asr_proto.errors import SetupError
from asr_workers.cards import selftest
from asr_workers.cards.failure import EXIT_CODE
from asr_workers.cards.library import CardLibrary
from tests.cards.reference import speechlike
from tests.e2e.clients import Caiman, Native, converse, cut
from tests.e2e.service import Pool, Serve
from tests.workers.card.card_parts import recognized, write_model

FRAME = 1920
"""60 ms."""
PCM = speechlike(3, 330).astype("<i2").tobytes()
"""19.8 s: longer than one segment, so that a state reset happens in it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        CardLibrary()
    except SetupError as error:
        pytest.skip(error.detail)
    return write_model(tmp_path_factory.mktemp("card") / "small.carm")


def card(model: Path, *more: str, device: str = "card:0", slots: int = 2) -> list[str]:
    return ["--engine=card", f"--device={device}", f"--model={model}", f"--slots={slots}", *more]


@pytest.fixture(scope="module")
def _pool(model: Path) -> Iterator[Pool]:
    with Pool(workers=[card(model)]) as pool:
        yield pool


@pytest.fixture
def pool(_pool: Pool) -> Iterator[Pool]:
    """A worker with two slots on a simulated card. Tests may kill no process and must free every slot."""
    yield _pool
    _pool.wait_sessions(0)


def letters(text: str) -> str:
    """The text without spaces: a model with random weights makes pauses inside words."""
    return text.replace(" ", "")


def expected(model: Path, pcm: bytes, *, resets: bool = True) -> str:
    return letters(recognized(model, to_int16(pcm), resets=resets))


# ---- What clients receive ----


def test_a_client_in_lock_step(pool: Pool, model: Path) -> None:
    """CAI-16, CAI-26, CAI-27: a response for every 60 ms, and all of them together are the text."""
    frames = cut(PCM, FRAME)
    with Caiman(pool.url) as client:
        for number, frame in enumerate(frames, 1):
            client.send(frame)
            client.receive()
            assert len(client.received) == number
        client.end()
    assert letters(client.text) == expected(model, PCM)
    assert client.close_code == 1000
    assert all(not response["is_provisional"] for response in client.received)


def test_finals_have_words(pool: Pool, model: Path) -> None:
    client = converse(pool.url, cut(PCM, 0))
    assert letters(client.text) == expected(model, PCM)
    finals = client.of("final")
    assert len(finals) > 1 and client.of("partial")
    assert all(" ".join(word["word"] for word in final["words"]) == final["text"] for final in finals)


def test_over_capacity_is_refused(pool: Pool) -> None:
    """CAI-05, CAI-29: the third session on two slots."""
    with Native(pool.url) as first, Native(pool.url) as second:
        first.ready()
        second.ready()
        with Caiman(pool.url) as third:
            third.rest()
        assert third.close_code == 4503 and "503" in third.close_reason
        first.stop()
        second.stop()


@pytest.mark.parametrize(("option", "sessions"), [("--no-state-resets", 15), ("--state-resets", 12)])
def test_the_card_s_own_capacity(model: Path, option: str, sessions: int) -> None:
    """CAI-05, CAI-29: without --slots, a card in timing mode determines the number, less the cost of state resets."""
    options = "--card-options=mode=timing,capacity=15,latency_ms=1"
    with Pool(workers=[["--engine=card", "--device=card:0", f"--model={model}", options, option]]) as pool:
        with ExitStack() as exits:
            clients = [exits.enter_context(Caiman(pool.url)) for _ in range(sessions)]
            for client in clients:
                client.send(PCM[:FRAME])
            for client in clients:
                assert client.receive() is not None
            assert pool.sessions() == sessions
            with Caiman(pool.url) as refused:
                assert not refused.rest()
            assert refused.close_code == 4503 and "503" in refused.close_reason
            for client in clients:
                client.end()
                assert client.close_code == 1000
        with Caiman(pool.url) as late:
            late.send(PCM[:FRAME])
            assert late.receive() is not None
            late.end()


def test_without_state_resets(model: Path) -> None:
    """CAI-16: --no-state-resets; and the cpu backend, which needs no card."""
    with Pool(workers=[card(model, "--no-state-resets", device="cpu")]) as pool:
        assert letters(converse(pool.url, cut(PCM, 0)).text) == expected(model, PCM, resets=False)


# ---- Faults ----


@pytest.mark.parametrize("fault", ["hang", "reset", "count", "drop", "ecc", "heat", "link"])
def test_a_card_that_fails(model: Path, fault: str) -> None:
    """The worker ends with the exit code of card failures; its session moves, and its text is as without a failure."""
    at = selftest.SUBMITS + 290
    with Pool(workers=[card(model, f"--card-options=fault={fault}@{at}")]) as pool:
        with Native(pool.url) as client:
            client.send(*cut(PCM[: 280 * FRAME], FRAME))
            client.until("final")
            pool.add_worker(*card(model)).wait_for("registered")
            client.send(*cut(PCM[280 * FRAME :], FRAME))
            client.until("migrating")
            client.stop()
        assert letters(client.text) == expected(model, PCM)
        assert [final["utterance"] for final in client.of("final")] == list(range(len(client.of("final"))))
        assert pool.workers[0].wait() == EXIT_CODE
        pool.workers[0].wait_for("card:0 (failed|hangs)")


def test_a_card_that_failed_serves_again_after_its_self_test(model: Path) -> None:
    """Under asr serve without another worker, the session waits for the card, and its text is as without a failure."""
    fault = f"--card-options=fault=ecc@{selftest.SUBMITS + 290}"
    args = [f"--worker-arg={arg}" for arg in card(model, fault)[1:]]
    with Serve(*args, engine="card") as serve:
        before = serve.children()
        with Native(serve.url) as client:
            client.send(*cut(PCM, FRAME))
            client.until("migrating")
            client.stop()
        assert letters(client.text) == expected(model, PCM)
        serve.wait_whole()
        (name,) = [name for name in before if name.startswith("worker")]
        serve.wait_replaced(name, before)
        assert letters(converse(serve.url, cut(PCM, FRAME)).text) == expected(model, PCM)
        serve.wait_sessions(0)


def test_a_card_that_fails_its_self_test_does_not_serve(model: Path) -> None:
    """Its worker is never registered."""
    with Pool(workers=[]) as pool:
        worker = pool.add_worker(*card(model, "--card-options=fault=ecc@30"))
        assert worker.wait() == EXIT_CODE
        worker.wait_for("card:0 failed: .* ended with ECC")
        assert not any("registered" in line for line in worker.lines)


def test_a_wrong_configuration_has_another_exit_code(model: Path) -> None:
    """CAI-12: an uncompiled checkpoint and a missing card are not tried again."""
    with Pool(workers=[]) as pool:
        path = pool.run_dir / "model.pt"
        path.write_bytes(b"PK\x03\x04" + bytes(300))
        for args, sentence in (
            (card(path), "not a compiled card model; compile a hardware checkpoint with asr-compile first"),
            (card(model, device="card:77"), "there is no card:77"),
        ):
            worker = pool.add_worker(*args)
            assert worker.wait() == 2
            worker.wait_for(sentence)
