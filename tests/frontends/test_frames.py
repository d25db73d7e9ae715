"""`frames` reads and writes the same frames as the websockets library."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from asr_frontends.servers import frames

SIZE_MAX = 70_000
payloads = st.one_of(
    st.binary(max_size=200),
    st.integers(65_530, SIZE_MAX).map(lambda size: bytes(range(256)) * 274 + b"end"[: size % 3]),
)


def wire(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin=fin).serialize(mask=True)


@given(st.sampled_from([Opcode.TEXT, Opcode.BINARY]), payloads, st.binary(max_size=9), st.binary(max_size=9))
def test_a_whole_message(opcode: Opcode, payload: bytes, before: bytes, after: bytes) -> None:
    held = before + wire(opcode, payload) + after
    found = frames.find(held, len(before), 2 * SIZE_MAX)
    assert found == (opcode.name.lower(), payload, len(held) - len(after))


@given(st.sampled_from(list(Opcode)), st.binary(max_size=125), st.data())
def test_a_part_of_a_frame_is_waited_for(opcode: Opcode, payload: bytes, data: st.DataObject) -> None:
    whole = wire(opcode, payload)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert frames.find(part, 0, SIZE_MAX) is None


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG, Opcode.CLOSE])
def test_a_control_frame(opcode: Opcode) -> None:
    whole = wire(opcode, b"\x03\xe8")
    assert frames.find(b"before" + whole + b"after", 6, SIZE_MAX) == ("control", b"", 6 + len(whole))


@pytest.mark.parametrize(
    "whole",
    [
        wire(Opcode.TEXT, b"x", fin=False),
        wire(Opcode.BINARY, bytes(SIZE_MAX), fin=False),
        wire(Opcode.CONT, b"", fin=False),
        wire(Opcode.CONT, b"x"),
    ],
    ids=["text", "large binary", "middle", "last"],
)
def test_a_fragment(whole: bytes) -> None:
    assert frames.find(b"before" + whole + b"after", 6, SIZE_MAX) == ("fragment", b"", 6 + len(whole))


@pytest.mark.parametrize(
    "held",
    [
        b"\xc2" + wire(Opcode.BINARY, b"x")[1:],
        Frame(Opcode.BINARY, b"x").serialize(mask=False),
        b"\x83\x80",
        b"\x09\x80",
        b"\x89\xfe\x00\x7e",
        wire(Opcode.BINARY, bytes(SIZE_MAX + 1), fin=False)[:10],
        wire(Opcode.BINARY, bytes(SIZE_MAX + 1))[:10],
        b"\x82\xff" + b"\xff" * 8,
    ],
    ids=[
        "reserved",
        "unmasked",
        "opcode 3",
        "fragmented ping",
        "long ping",
        "too large fragment",
        "too large",
        "absurd",
    ],
)
def test_bytes_that_the_library_rejects(held: bytes) -> None:
    assert frames.find(b"before" + held + b"after", 6, SIZE_MAX) == ("broken", b"", 6 + len(held) + 5)


def test_two_bytes_suffice_for_a_rejection() -> None:
    assert frames.find(b"\x83\x80", 0, SIZE_MAX) == ("broken", b"", 2)


@given(st.binary(max_size=30), st.integers(0, 3))
def test_any_bytes_at_all(held: bytes, begin: int) -> None:
    found = frames.find(held, begin, SIZE_MAX)
    assert found is None or begin < found[2] <= len(held)


@given(st.sampled_from([Opcode.TEXT, Opcode.BINARY]), payloads)
def test_a_message_to_a_client(opcode: Opcode, payload: bytes) -> None:
    first = frames.TEXT if opcode is Opcode.TEXT else frames.BINARY
    assert frames.message(first, payload) == Frame(opcode, payload).serialize(mask=False)


WITHOUT_EXTENSION = """
import sys
sys.modules["websockets.speedups"] = None  # as on a machine for which there is no wheel and no compiler
from websockets import utils
from asr_frontends.servers import frames, serve
assert frames.apply_mask is utils.apply_mask
print(frames.find(bytes.fromhex("818537fa213d7f9f4d5158"), 0, 125))
"""


def test_the_frontend_starts_without_the_c_extension_of_websockets() -> None:
    """The frame is the masked "Hello" of RFC 6455, section 5.7."""
    command = [sys.executable, "-c", WITHOUT_EXTENSION]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("('text', b'Hello', 11)\n", "")
