"""Which peers the broker accepts by their protocol versions, and what it answers to the others."""

from __future__ import annotations

import msgpack
import pytest

from asr_broker import versions
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError
from tests.proto import shapes

SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")
ERROR = DecodeError("Expected `int`, got `str` - at `$[1]`")
BROKEN = msgpack.packb([6, "two", {"what": "ever"}])


@pytest.fixture(autouse=True)
def _broker_of_versions_4_to_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "PROTOCOL_VERSION", 6)
    monkeypatch.setattr(m, "PROTOCOL_VERSION_MIN", 4)


def hello(version_min: int, version: int, routing: bytes = BROKEN) -> list[bytes]:
    """A registration with a Hello in its second part."""
    return [routing, msgpack.packb([28, version, version_min, "w", "a later field"])]


@pytest.mark.parametrize(("oldest", "newest"), [(6, 6), (4, 4), (6, 9), (1, 4), (1, 9), (5, 5)])
def test_a_common_version_is_enough(oldest: int, newest: int) -> None:
    assert versions.rejection(hello(oldest, newest)) is None


@pytest.mark.parametrize(("oldest", "newest", "theirs"), [(7, 7, "7"), (7, 9, "7 to 9"), (3, 3, "3"), (1, 3, "1 to 3")])
def test_no_common_version_is_rejected_with_both(oldest: int, newest: int, theirs: str) -> None:
    detail = f"its protocol version is {theirs}, the broker's is 4 to 6"
    for error in (None, ERROR):
        assert versions.rejection(hello(oldest, newest), error) == m.Rejected("version-mismatch", detail)


def test_one_version_is_not_shown_as_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "PROTOCOL_VERSION_MIN", 6)
    rejected = versions.rejection(hello(7, 7))
    assert rejected and rejected.detail == "its protocol version is 7, the broker's is 6"


REQUESTS = (m.RegisterWorker(3, "w", SPEC), m.RegisterFrontend(3, "f"), m.StatusRequest(3))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_a_peer_from_before_hello_has_the_version_of_its_request(request_: m.Message) -> None:
    rejected = versions.rejection([wire.encode(request_)])
    assert rejected and rejected.detail == "its protocol version is 3, the broker's is 4 to 6"


@pytest.mark.parametrize("change", [shapes.cut, shapes.grown(None), shapes.grown([1])])
def test_a_peer_from_before_hello_must_have_the_same_fields(change: shapes.Change) -> None:
    """It reads no shorter or longer messages, so it could not work with this broker."""
    registration = shapes.plain(m.RegisterWorker(5, "w", SPEC))
    assert versions.rejection([msgpack.packb(registration)]) is None
    other = msgpack.packb(shapes.changed(m.RegisterWorker, registration, change))
    assert versions.rejection([other]) == m.Rejected("version-mismatch", versions.OTHER_FIELDS)
    assert versions.rejection([other, hello(4, 6)[1]]) is None


def test_a_whole_number_may_stand_for_a_float() -> None:
    registration = shapes.plain(m.RegisterWorker(5, "w", SPEC))
    assert registration[3][5] == 1.0
    registration[3][5] = 1
    assert versions.rejection([msgpack.packb(registration)]) is None


@pytest.mark.parametrize("tag", [1, 6, 20])
def test_the_version_of_a_request_is_read_though_nothing_else_can_be(tag: int) -> None:
    rejected = versions.rejection([msgpack.packb([tag, 3, {"a": 1}, None]), b"any body"], ERROR)
    assert rejected and rejected.slug == "version-mismatch"


def test_a_hello_counts_more_than_the_version_in_the_registration() -> None:
    assert versions.rejection(hello(4, 9, wire.encode(m.RegisterFrontend(9, "f")))) is None
    assert versions.rejection([hello(4, 9)[1], wire.encode(m.StatusRequest(9))]) is None


def test_a_registration_that_cannot_be_read_is_answered() -> None:
    rejected = versions.rejection(hello(4, 6), ERROR)
    assert rejected == m.Rejected(
        "bad-message", "the broker cannot read its message: Expected `int`, got `str` - at `$[1]`"
    )
    long = versions.rejection(hello(4, 6), DecodeError("x" * 500))
    assert long and wire.decode(wire.encode(long)) == long


def test_the_longest_versions_fit_into_the_answer() -> None:
    rejected = versions.rejection(hello(m.INT_MAX - 1, m.INT_MAX))
    assert rejected and wire.decode(wire.encode(rejected)) == rejected


@pytest.mark.parametrize("parts", [[], [b""], [b"\xc1"], [msgpack.packb([3, 1])], [msgpack.packb([6])], [BROKEN, b"x"]])
def test_other_messages_are_not_answered(parts: list[bytes]) -> None:
    assert versions.rejection(parts, ERROR) is None
