"""The limit on messages: a well-paced client is never refused, whatever delays its messages, and a flooder is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from asr_frontends.rate import STALL_S, Rate
from asr_proto.audio import SAMPLE_RATE

rates = st.integers(1, 1000)


@dataclass(frozen=True)
class Sent:
    """A message of a client: when it was sent, in seconds, and its 16 kHz samples of audio."""

    at: float
    samples: int = 0


def received(sent: list[Sent], delays: list[float]) -> list[tuple[float, int]]:
    """When each message is read, with its samples: each is delayed, and none overtakes another."""
    times = accumulate((one.at + delay for one, delay in zip(sent, delays, strict=True)), max)
    return list(zip(times, (one.samples for one in sent), strict=True))


def refused(rate: Rate, messages: list[tuple[float, int]]) -> int | None:
    """The index of the first message that is refused; None when there is none."""
    return next((index for index, (at, samples) in enumerate(messages) if not rate.allows(samples, at)), None)


def delays(count: int, longest_s: float) -> st.SearchStrategy[list[float]]:
    """Mostly none, now and then up to the longest: the messages after such a one wait for it."""
    some = st.sampled_from([0.0, 0.0, 0.0, 0.02, 1.5, longest_s]) | st.floats(0, longest_s)
    return st.lists(some, min_size=count, max_size=count)


@given(data=st.data(), per_s=st.integers(5, 200), seconds=st.integers(1, 12))
def test_a_client_with_audio_is_never_refused(data: st.DataObject, per_s: int, seconds: int) -> None:
    """Each second has as many messages as the limit allows, in any order: frames of its audio, and others."""
    sent = []
    for second in range(seconds):
        frames = data.draw(st.integers(1, per_s))
        kinds = data.draw(st.permutations([True] * frames + [False] * (per_s - frames))) if per_s < 20 else None
        for index, is_audio in enumerate(kinds or [True] * frames):
            sent.append(Sent(second + index / per_s, -(-SAMPLE_RATE // frames) if is_audio else 0))
    assert refused(Rate(per_s, 0.0), received(sent, data.draw(delays(len(sent), 3600.0)))) is None


@given(data=st.data(), per_s=st.integers(1, 30), counts=st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_a_client_without_audio_is_never_refused_after_a_stall(
    data: st.DataObject, per_s: int, counts: list[int]
) -> None:
    sent = []
    for second, count in enumerate(counts):
        times = data.draw(st.lists(st.floats(0, 0.999), min_size=min(count, per_s), max_size=min(count, per_s)))
        sent += [Sent(second + part) for part in sorted(times)]
    assert refused(Rate(per_s, 0.0), received(sent, data.draw(delays(len(sent), STALL_S)))) is None


@given(
    per_s=rates,
    gaps_s=st.lists(st.floats(0, 100), max_size=200),
    samples=st.lists(st.integers(0, 16_000), min_size=200, max_size=200),
    repeated=st.integers(1, 50),
)
def test_more_than_the_time_and_the_audio_are_worth_is_refused(
    per_s: int, gaps_s: list[float], samples: list[int], repeated: int
) -> None:
    """The excess over the limit is bounded, whatever the client sent before, and however often it tries."""
    rate, now = Rate(per_s, 0.0), 0.0
    accepted, audio_s, begun = 0, 0.0, 0.0
    for gap_s, count in zip(gaps_s, samples, strict=False):
        now += gap_s
        for _ in range(repeated):
            if rate.allows(count, now):
                accepted += 1
            audio_s += count / SAMPLE_RATE
        assert accepted <= per_s * (now - begun + audio_s + STALL_S + 2.0) + 2.0


@given(per_s=rates, idle_s=st.floats(0, 1e6), factor=st.floats(1.5, 100))
def test_a_flooder_is_refused_soon(per_s: int, idle_s: float, factor: float) -> None:
    """It sends `factor` times the limit after any silence: its excess is at most what a stall may have held up."""
    rate = Rate(per_s, 0.0)
    most = int(per_s * (STALL_S + 1.0) * factor / (factor - 1.0)) + 3
    times = [idle_s + index / (per_s * factor) for index in range(min(most, 200_000) + 1)]
    assert most > 200_000 or refused(rate, [(at, 0) for at in times]) is not None


def test_a_stall_of_the_server() -> None:
    """It once counted by the time of reading: 75 frames of 20 ms after 1.5 s were too many for 50 in a second."""
    rate = Rate(50, 0.0)
    stalled = [(max(number / 50, 1.5), 320) for number in range(100)]
    assert refused(rate, stalled) is None


def test_a_whole_file_at_full_speed() -> None:
    assert refused(Rate(50, 0.0), [(0.0, 320)] * 10_000) is None


def test_a_second_is_accepted_at_once() -> None:
    assert refused(Rate(100, 0.0), [(0.0, 0)] * 200) == 101


def test_what_a_stall_has_held_up_is_accepted_at_once() -> None:
    assert refused(Rate(100, 0.0), [(3600.0, 0)] * 4000) == 100 * (STALL_S + 1) + 1
