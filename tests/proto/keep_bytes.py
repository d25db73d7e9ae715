"""Writes the bytes of today's wire, for the tests of later releases to read.

    PYTHONPATH=proto python -m tests.proto.keep_bytes NAME

Do this at every release. A file in `kept/` is never changed: it has the bytes that the processes of that release send.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr_proto import messages as m
from tests.proto.shapes import EXAMPLES, encode, example, on_the_wire, plain

KEPT = Path(__file__).parent / "kept"


def shown(value: Any) -> Any:
    """A value for JSON: a message as its fields, bytes in hexadecimal."""
    if isinstance(value, m.Value):
        return {name: shown(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [shown(entry) for entry in value]
    return value.hex() if isinstance(value, bytes) else value


def lines() -> Iterator[str]:
    """One line of JSON for each example."""
    for cls in on_the_wire():
        for number in range(EXAMPLES):
            one = example(cls, number)
            data = encode(cls, plain(one))
            found = {"class": cls.__name__, "fields": shown(one), "bytes": data.hex()}
            yield json.dumps(found, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    with (KEPT / f"{sys.argv[1]}.jsonl").open("x", encoding="utf-8") as file:
        file.writelines(lines())
