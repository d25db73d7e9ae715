"""Changes bytes and texts at random: what a broken or hostile peer may send instead of them. Pure.

Most changes keep most of the input, so that the reader gets past its first check.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = tuple(
    sign * (2**bits + add) for bits in (0, 7, 8, 15, 16, 31, 32, 40, 63) for add in (-1, 0, 1) for sign in (1, -1)
)
WORDS = (
    *("null", "true", "-1", "1e999", "NaN", "9" * 400, '""', "[]", "{}", "[" * 600, '{"a":' * 600, "\\ud800", "\0"),
    *map(str, NUMBERS),
)
"""Texts that replace a part of a text."""


def changed(one: bytes, others: Sequence[bytes], random: random.Random) -> bytes:
    """Other bytes, made from `one` by up to four changes. `others` lend parts of theirs."""
    data = bytearray(one)
    for _ in range(random.choice((0, 1, 1, 1, 2, 4))):
        random.choice(CHANGES)(data, others, random)
    return bytes(data)


def changed_text(one: str, others: Sequence[str], random: random.Random) -> str:
    """Another text, as JSON and queries are texts: by a number or word instead of a part, or by changed bytes."""
    if random.random() < 0.5 and one:
        start, end = sorted(random.choices(range(len(one) + 1), k=2))
        return one[:start] + random.choice(WORDS) + one[min(end, start + 8) :]
    parts = [other.encode(errors="surrogatepass") for other in others]
    return changed(one.encode(errors="surrogatepass"), parts, random).decode(errors="replace")


# ---- The changes ----

Change = Callable[[bytearray, Sequence[bytes], random.Random], None]


def _flip(data: bytearray, _: Sequence[bytes], random: random.Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set(data: bytearray, _: Sequence[bytes], random: random.Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice((0x00, 0x7F, 0x80, 0xC0, 0xCF, 0xDD, 0xFF))


def _number(data: bytearray, _: Sequence[bytes], random: random.Random) -> None:
    """Write a number with 1, 2, 4 or 8 bytes over a part."""
    size = random.choice((1, 2, 4, 8))
    at = random.randrange(len(data) + 1)
    number = random.choice(NUMBERS) % (1 << 8 * size)
    data[at : at + size] = number.to_bytes(size, random.choice(("big", "little")))


def _cut(data: bytearray, _: Sequence[bytes], random: random.Random) -> None:
    start, end = sorted(random.choices(range(len(data) + 1), k=2))
    del data[start:end]


def _end(data: bytearray, _: Sequence[bytes], random: random.Random) -> None:
    del data[random.randrange(len(data) + 1) :]


def _repeat(data: bytearray, _: Sequence[bytes], random: random.Random) -> None:
    start, end = sorted(random.choices(range(len(data) + 1), k=2))
    data[end:end] = data[start:end][:64] * random.choice((1, 3, 20))


def _insert(data: bytearray, _: Sequence[bytes], random: random.Random) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.randbytes(random.choice((1, 2, 4, 16)))


def _splice(data: bytearray, others: Sequence[bytes], random: random.Random) -> None:
    """Continue with the end of another input."""
    if others:
        other = random.choice(others)
        data[random.randrange(len(data) + 1) :] = other[random.randrange(len(other) + 1) :]


CHANGES: tuple[Change, ...] = (_flip, _set, _number, _cut, _end, _repeat, _insert, _splice)
