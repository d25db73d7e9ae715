"""The engines fastconformer and parakeet with broker and frontend, with the small models of spoken digits."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

from asr_proto.audio import Pcm16
from tests.e2e.clients import Native, converse, cut
from tests.e2e.service import ROOT, Pool, asr, eventually, free_port

torch = pytest.importorskip("torch", reason="needs the extra nemo")
pytest.importorskip("nemo", reason="needs the extra nemo")

from asr_workers.engines.transducer.token_text import TokenAt, TokenText  # noqa: E402
from tests.workers.fastconformer import random_models as nemo  # noqa: E402

DIGITS = ROOT / "tests" / "data" / "digits"
CLIPS = [json.loads(line) for line in (DIGITS / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
FASTCONFORMER = ROOT / "ops" / "models" / "digits-fastconformer.nemo"
PARAKEET = ROOT / "ops" / "models" / "digits-tdt.nemo"
SESSIONS = 16
WER_MAX = 0.03


def pcm_of(clip: dict[str, str]) -> Pcm16:
    samples, rate = soundfile.read(DIGITS / clip["path"], dtype="int16")
    assert rate == 16000
    return np.asarray(samples, np.int16)


RECORDINGS = [pcm_of(clip) for clip in CLIPS]


@pytest.fixture(scope="module")
def fastconformer() -> Iterator[Pool]:
    with Pool(workers=[]) as pool:
        start(pool, 1, "--engine=fastconformer", f"--model={FASTCONFORMER}")
        yield pool


@pytest.fixture(scope="module")
def endless() -> Iterator[Pool]:
    """A pool whose utterances end only with their sessions, as in offline decoding."""
    with Pool(workers=[]) as pool:
        start(pool, 1, "--engine=fastconformer", f"--model={FASTCONFORMER}", "--endpoint-ms=0")
        yield pool


@pytest.fixture(scope="module")
def parakeet() -> Iterator[Pool]:
    with Pool(workers=[]) as pool:
        contexts = ("--left-s=4", "--chunk-s=0.96", "--right-s=0.96")
        start(pool, 1, "--engine=parakeet", f"--model={PARAKEET}", *contexts)
        yield pool


def start(pool: Pool, workers: int, *args: str) -> None:
    """Importing torch and NeMo takes its time."""
    for worker in [pool.add_worker(*args, f"--slots={SESSIONS}") for _ in range(workers)]:
        worker.wait_for("registered", timeout_s=120)
    pool.wait_ready()


@pytest.fixture(scope="module")
def offline() -> list[str]:
    """The text of NeMo's own model for each whole recording, with the look-ahead of 80 ms."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = nemo.nemo_asr().models.ASRModel.restore_from(str(FASTCONFORMER), map_location="cpu").eval()
    text = TokenText(reference.tokenizer.tokenizer.serialized_model_proto())
    texts = []
    for encoded in nemo.encode_offline(reference, RECORDINGS, [70, 1]):
        tokens, _ = nemo.decode_offline(reference, encoded, "rnnt")
        texts.append(text.text([TokenAt(token, 0, 0, 1.0) for token in tokens]))
    return texts


def at_once(pool: Pool, recordings: Sequence[Pcm16]) -> list[Native]:
    """A session for each recording, all at the same time, in frames of 100 ms."""
    clients = [Native(pool.url) for _ in recordings]
    speakers = [
        threading.Thread(target=_speak, args=(client, pcm)) for client, pcm in zip(clients, recordings, strict=True)
    ]
    for speaker in speakers:
        speaker.start()
    for speaker in speakers:
        speaker.join()
    return clients


def _speak(client: Native, pcm: Pcm16) -> None:
    with client:
        client.ready()
        client.send(*cut(pcm.tobytes(), 3200))
        client.stop()


def wer(received: Sequence[str]) -> float:
    rate: float = jiwer.wer([clip["text"] for clip in CLIPS], list(received))
    return rate


def test_sixteen_sessions_have_the_text_of_nemo_offline(endless: Pool, offline: list[str]) -> None:
    """YAP-15. Through broker and frontend, all at once."""
    assert [client.text for client in at_once(endless, RECORDINGS)] == offline


def test_speech_is_recognized(fastconformer: Pool) -> None:
    """The model is small, so the limit on its word errors is generous."""
    assert wer([client.text for client in at_once(fastconformer, RECORDINGS)]) <= WER_MAX


def test_words_have_times_and_confidences(fastconformer: Pool) -> None:
    client = converse(fastconformer.url, cut(RECORDINGS[0].tobytes(), 3200))
    assert client.of("partial")
    words = [word for final in client.of("final") for word in final["words"]]
    assert [word["word"] for word in words] == client.text.split()
    assert all(0 <= word["start_s"] < word["end_s"] <= len(RECORDINGS[0]) / 16000 for word in words)
    assert all(0 < word["confidence"] <= 1 for word in words)


def test_every_frame_size_and_look_ahead_is_understood(fastconformer: Pool) -> None:
    """YAP-24. The text does not depend on the frames; each session may choose its look-ahead."""
    pcm = RECORDINGS[3].tobytes()
    texts = {converse(fastconformer.url, cut(pcm, size)).text for size in (320, 640, 32_000, 0)}
    assert len(texts) == 1
    for look_ahead_ms in (0, 480, 1040):
        assert converse(fastconformer.url, cut(pcm, 3200), look_ahead_ms=look_ahead_ms).text


def test_sessions_at_once_over_parakeet(parakeet: Pool) -> None:
    """PAR-06. Each session has the same text as alone, and most of it is correct."""
    together = [client.text for client in at_once(parakeet, RECORDINGS)]
    alone = [converse(parakeet.url, cut(pcm.tobytes(), 3200)).text for pcm in RECORDINGS[:4]]
    assert together[:4] == alone
    assert wer(together) <= WER_MAX


@pytest.mark.parametrize("engine", ["fastconformer", "parakeet"])
def test_a_model_that_does_not_load_is_one_sentence_and_never_tried_again(engine: str, tmp_path: Path) -> None:
    """The model's file is truncated. With asr serve the whole service ends and does not restart its worker for ever."""
    cut_off = tmp_path / "cut.nemo"
    cut_off.write_bytes(FASTCONFORMER.read_bytes()[:100_000])
    with Pool(workers=[]) as pool:
        worker = pool.add_worker(f"--engine={engine}", f"--model={cut_off}")
        assert worker.wait() == 2
        worker.wait_for(f"asr-worker: {cut_off} ")
        assert not any("Traceback" in line or "registered" in line for line in worker.lines)
    place = (f"--listen=127.0.0.1:{free_port()}", f"--run-dir={tmp_path}")
    served = asr("serve", f"--engine={engine}", f"--worker-arg=--model={cut_off}", *place)
    assert served.returncode == 2
    assert (served.stdout + served.stderr).count(f"asr-worker: {cut_off} ") == 1


def test_a_lost_worker_costs_no_word() -> None:
    """YAP-23. Sessions move in the middle of their utterances, and their text is as without a failure."""
    pauses = np.zeros(2 * 16000, np.int16)
    recordings = [np.concatenate((pcm, pauses, pcm)) for pcm in RECORDINGS[:6]]
    with Pool(workers=[]) as pool:
        start(pool, 2, "--engine=fastconformer", f"--model={FASTCONFORMER}")
        clients = [Native(pool.url) for _ in recordings]
        try:
            for client, pcm in zip(clients, recordings, strict=True):
                client.ready()
                client.send(*cut(pcm[: len(pcm) * 2 // 3].tobytes(), 3200))
            for client in clients:
                client.until("final")
            eventually(lambda: (now := pool.status()) and all(worker.sessions for worker in now.workers), pool.story)
            pool.workers[0].process.kill()
            for client, pcm in zip(clients, recordings, strict=True):
                client.send(*cut(pcm[len(pcm) * 2 // 3 :].tobytes(), 3200))
                client.stop()
        finally:
            for client in clients:
                client.socket.close()
        moved = [bool(client.of("migrating")) for client in clients]
        assert any(moved)
        assert not all(moved)
        undisturbed = [converse(pool.url, cut(pcm.tobytes(), 3200)).text for pcm in recordings]
    assert [client.text for client in clients] == undisturbed
