"""Finding and loading a card's library, and the binding's own checks."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from asr_proto.errors import SetupError
from asr_workers.cards import abi, limits
from asr_workers.cards.library import Card, CardError, CardLibrary, CardStatus
from tests.cards.conftest import Subject

SIMULATED = "mode=timing,capacity=4,latency_ms=0"
PATIENCE_MS = 30_000


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="there is no card library"):
        CardLibrary(tmp_path / "none.so")


def test_a_library_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dlopen would search a bare name, such as card.so, in the system's folders."""
    shutil.copy(abi.simulator(), tmp_path / "card.so")
    monkeypatch.chdir(tmp_path)
    assert CardLibrary(Path("./card.so"), f"cards=3,{SIMULATED}").count() == 3


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    path = tmp_path / "text.so"
    path.write_text("hello")
    with pytest.raises(SetupError, match="is no card library"):
        CardLibrary(path)


@pytest.mark.parametrize(
    ("version", "reason"),
    [("2u << 16", "version 2.0"), ("1u << 16", "is no card library"), ("0", "version 0.0")],
)
def test_a_library_of_another_version_or_without_functions(tmp_path: Path, version: str, reason: str) -> None:
    """The version is checked before the functions, so that the error for a later library names the version."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "card.c", tmp_path / "card.so"
    source.write_text(f"unsigned asr_card_abi_version(void) {{ return {version}; }}\n")
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
    with pytest.raises(SetupError, match=reason):
        CardLibrary(library)


def test_without_the_simulator_one_sentence_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abi.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"no C compiler.*--card-library"):
        CardLibrary()


def test_options_of_a_library_go_with_every_call() -> None:
    library = CardLibrary(options=f"cards=3,{SIMULATED}")
    assert (library.count(), library.is_simulator) == (3, True)
    assert library.identity(2).capacity == 4
    card = library.open(2, "capacity=8")
    assert card.identity().capacity == 8
    card.close_card()


def test_an_error_says_code_and_reason(simulator: CardLibrary) -> None:
    with pytest.raises(CardError) as error:
        simulator.open(99)
    assert error.value.code == CardStatus.NO_CARD
    assert str(error.value) == "there is no card 99: the simulator has 8 (NO_CARD)"
    assert str(CardError(1234, "it smells")) == "it smells (code 1234)"


def test_a_card_that_cannot_say_who_it_is_is_given_back(
    simulator: CardLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was open when it failed: no other process could open it."""
    with monkeypatch.context() as patch:
        patch.setattr(simulator._calls, "asr_card_get_identity", lambda *_: int(CardStatus.LINK))
        with pytest.raises(CardError) as error:
            simulator.open(0)
        assert error.value.code == CardStatus.LINK
    simulator.open(0).close_card()


@pytest.fixture
def timed(simulator: CardLibrary) -> Card:
    return simulator.open(0, f"shared=1,{SIMULATED}")


@pytest.mark.parametrize(
    "pcm", [np.zeros((2, 959), np.int16), np.zeros((1, 960), np.int16), np.zeros((2, 960), np.float32)]
)
def test_arrays_of_a_wrong_shape_never_reach_the_card(timed: Card, pcm: np.ndarray) -> None:
    for slot in (0, 1):
        timed.open(slot)
    with pytest.raises(CardError) as error:
        timed.submit_arrays(np.arange(2), np.arange(2), pcm)
    assert error.value.code == CardStatus.ARGUMENT
    timed.close_card()


def test_samples_need_not_lie_together(timed: Card) -> None:
    timed.open(0)
    wide = np.zeros((2, 1920), np.int16)
    timed.submit_arrays(np.zeros(1, np.int64), np.zeros(1, np.int64), wide[:1, ::2])
    assert len(timed.poll(PATIENCE_MS)) == 1
    timed.close_card()


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("token_offset", "tokens do not lie"),
        ("token_count", "tokens do not lie"),
        ("packet_offset", "packets do not lie"),
        ("packet_count", "packets do not lie"),
    ],
)
def test_offsets_that_are_not_the_sums_of_the_counts_are_refused(
    timed: Card, monkeypatch: pytest.MonkeyPatch, field: str, reason: str
) -> None:
    poll = timed._calls.asr_card_poll

    def polled(handle: object, timeout_ms: int, results: object) -> int:
        code = int(poll(handle, timeout_ms, results))
        timed._buffers._completions[field][0] += 1
        return code

    timed.open(0)
    timed.submit([(0, 1, np.zeros(960, np.int16))])
    monkeypatch.setattr(timed._calls, "asr_card_poll", polled)
    with pytest.raises(CardError, match=reason) as error:
        timed.poll(PATIENCE_MS)
    assert error.value.code == CardStatus.INTERNAL
    monkeypatch.undo()
    timed.close_card()


def test_an_empty_submit_is_nothing(timed: Card) -> None:
    timed.submit([])
    assert timed.poll(0) == []
    timed.close_card()


def test_what_was_polled_outlives_the_next_poll(timed: Card) -> None:
    timed.open(0)
    for tag in (1, 2):
        timed.submit([(0, tag, np.zeros(960, np.int16))])
    first = timed.poll_arrays(PATIENCE_MS)
    while len(first) < 2 and not len(timed.poll_arrays(PATIENCE_MS)):
        pass
    assert first.tags[0] == 1
    timed.close_card()


def test_cards_come_and_go_without_a_trace(lively: Path, simulator: CardLibrary) -> None:
    """After a hundred times of opening, computing and closing, the process has as much memory as after ten."""
    subject = Subject(simulator, lively)
    sizes = []
    for _ in range(100):
        card = subject.opened("threads=2")
        for slot in range(4):
            card.open(slot)
        card.submit([(slot, 0, np.zeros(960, np.int16)) for slot in range(4)])
        assert card.poll(PATIENCE_MS)
        card.close_card()
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]))
    assert sizes[-1] - sizes[9] < 256, "pages"


def test_a_card_that_loads_is_busy(simulator: CardLibrary, lively: Path, tmp_path: Path) -> None:
    """The load waits for the other end of a pipe: until then only health works, and no call blocks."""
    pipe = tmp_path / "pipe.carm"
    os.mkfifo(pipe)
    codes: list[int] = []

    def load() -> None:
        with pytest.raises(CardError) as error:
            card.load(pipe)
        codes.append(error.value.code)

    card = simulator.open(0, "capacity=4")
    card.load(lively)
    loading = threading.Thread(target=load)
    loading.start()
    with pytest.raises(CardError) as error:
        while loading.is_alive():
            card.identity()
    assert error.value.code == CardStatus.BUSY
    for call in (lambda: card.open(0), lambda: card.slots(2), lambda: card.poll(0), lambda: card.load(lively)):
        with pytest.raises(CardError) as error:
            call()
        assert error.value.code == CardStatus.BUSY
    assert card.health().is_ok
    os.close(os.open(pipe, os.O_WRONLY))
    loading.join()
    assert codes == [CardStatus.MODEL]
    card.open(0)
    card.submit([(0, 1, np.zeros(960, np.int16))])
    assert [completion.tag for completion in card.poll(PATIENCE_MS)] == [1]
    card.close_card()


def test_limits_are_measured() -> None:
    most = limits.measured()
    assert most.multiply_adds > 1e8
    assert most.bytes_read > 1e8
