"""Real speech with the embedded model: the same words however it is sent, and the `asr` command as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import jiwer
import pytest
import soundfile
from whisper_normalizer.english import EnglishTextNormalizer

from tests.e2e.clients import Native, converse, cut, noise
from tests.e2e.service import ROOT, Pool, asr, free_port

DATA = ROOT / "tests" / "data"
CLIPS = [json.loads(line) for line in (DATA / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
SIZES = {"10 ms": 320, "20 ms": 640, "60 ms": 1920, "100 ms": 3200, "1 s": 32_000, "random": 0}
WER_MAX, WER_TOTAL_MAX = 0.20, 0.08
SEVERAL = ["speechbrain__spk1_snt4.wav", "librivox_ps__sense_and_sensibility_01_austen_64kb-0890.wav"]

normalize = EnglishTextNormalizer()


def pcm_of(name: str) -> bytes:
    samples, rate = soundfile.read(DATA / name, dtype="int16")
    assert rate == 16000
    data: bytes = samples.tobytes()
    return data


def wer(pairs: list[tuple[str, str]]) -> float:
    """The word error rate over all (spoken, recognized) pairs."""
    references, hypotheses = zip(*((normalize(a), normalize(b)) for a, b in pairs), strict=True)
    rate: float = jiwer.wer(list(references), list(hypotheses))
    return rate


@pytest.mark.parametrize("name", SEVERAL)
def test_the_finals_do_not_depend_on_the_frames(speech: Pool, name: str) -> None:
    """Their times do not depend on them either. A pause after the speech ends the utterance before the stop."""
    pcm = pcm_of(name) + bytes(48_000)
    finals = {}
    for label, size in SIZES.items():
        client = converse(speech.url, cut(pcm, size), partials=False)
        assert client.close_code == 1000
        finals[label] = [{**final, "seq": None} for final in client.of("final")]
    assert finals["10 ms"]
    assert [finals[label] for label in SIZES] == [finals["10 ms"]] * len(SIZES)
    (text,) = [clip["text"] for clip in CLIPS if clip["path"] == name]
    assert wer([(text, " ".join(final["text"] for final in finals["10 ms"]))]) <= WER_MAX


def test_partials_do_not_change_the_finals(speech: Pool) -> None:
    pcm = pcm_of(SEVERAL[1])
    without, with_partials = (converse(speech.url, cut(pcm, 3200), partials=partials) for partials in (False, True))
    assert with_partials.of("partial") and not without.of("partial")
    assert with_partials.text == without.text


def test_concurrent_sessions_do_not_disturb_each_other(speech: Pool) -> None:
    names = [clip["path"] for clip in CLIPS if clip["path"].startswith("speechbrain")]
    alone = [converse(speech.url, cut(pcm_of(name), 3200), partials=False).text for name in names]
    clients = [Native(speech.url, {"partials": False}) for _ in names]
    try:
        frames = [cut(pcm_of(name), 3200) for name in names]
        for turn in range(max(map(len, frames))):
            for client, own in zip(clients, frames, strict=True):
                client.send(*own[turn : turn + 1])
        for client in clients:
            client.send_message("stop")
        for client in clients:
            client.rest()
    finally:
        for client in clients:
            client.socket.close()
    assert [client.text for client in clients] == alone


def test_silence_is_no_text(speech: Pool) -> None:
    """Digital silence and faint noise have no text. Silent audio is confirmed, so that no client keeps it."""
    faint = (bytes(160_000), bytes(2 * 80_000 - 2) + b"\1\0")
    for pcm in faint:
        client = converse(speech.url, cut(pcm, 3200))
        assert client.text == ""
        assert not client.of("partial")
        assert client.of("ack")[-1]["committed"] == 80_000


def test_every_clip_through_the_command(speech: Pool) -> None:
    """`asr transcribe` of all clips, in several formats and rates: limits on the errors of each and of all together."""
    files = [DATA / clip["path"] for clip in CLIPS]
    result = asr("transcribe", "--url", speech.url, "--json", "--no-partials", "--concurrency", 2, *files)
    assert (result.returncode, result.stderr) == (0, "")
    received = {Path(answer["file"]).name: answer for answer in map(json.loads, result.stdout.splitlines())}
    assert received.keys() == {clip["path"] for clip in CLIPS}
    pairs = {clip["path"]: (clip["text"], received[clip["path"]]["text"]) for clip in CLIPS}
    rates = {name: wer([pair]) for name, pair in pairs.items()}
    worst = {name: (rate, *pairs[name]) for name, rate in rates.items() if rate > WER_MAX}
    assert not worst
    assert wer(list(pairs.values())) <= WER_TOTAL_MAX
    for clip in CLIPS:
        answer = received[clip["path"]]
        assert answer["duration_s"] == pytest.approx(clip["duration_s"], abs=0.1)
        assert (answer["engine"], answer["language"]) == ("moonshine", "en")


def test_the_text_of_one_clip(speech: Pool) -> None:
    """On stdout, an utterance a line, and nothing else."""
    result = asr("transcribe", "--url", speech.url, DATA / "speechbrain__spk1_snt1.wav")
    assert (result.returncode, result.stderr) == (0, "")
    assert wer([("the child almost hurt the small dog", result.stdout)]) == 0


def test_mp3(speech: Pool) -> None:
    (clip,) = [clip for clip in CLIPS if clip["path"].endswith(".mp3")]
    result = asr("transcribe", "--url", speech.url, DATA / clip["path"])
    assert result.returncode == 0
    assert wer([(clip["text"], result.stdout)]) == 0


def test_a_file_that_cannot_be_read(speech: Pool, tmp_path: Path) -> None:
    """Exit code 2; the other files are transcribed."""
    (tmp_path / "empty.wav").touch()
    result = asr("transcribe", "--url", speech.url, tmp_path / "empty.wav", DATA / "speechbrain__spk2_snt2.wav")
    assert result.returncode == 2
    assert "living" in result.stdout
    assert result.stderr.startswith(f"asr transcribe: {tmp_path / 'empty.wav'}: ")


def test_no_server() -> None:
    """Exit code 3, and a sentence with a solution."""
    result = asr("transcribe", "--url", f"ws://127.0.0.1:{free_port()}", DATA / "speechbrain__spk2_snt2.wav")
    assert (result.returncode, result.stdout) == (3, "")
    assert "asr serve" in result.stderr


def test_a_service_that_refuses() -> None:
    """Exit code 1."""
    with Pool(workers=[["--engine=fake", "--slots=1"]]) as pool, Native(pool.url) as first:
        first.ready()
        result = asr("transcribe", "--url", pool.url, DATA / "speechbrain__spk2_snt2.wav")
        assert result.returncode == 1
        assert "(at-capacity)" in result.stderr
        first.send(noise(0.1))
        first.stop()
