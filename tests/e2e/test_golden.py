"""Every dialect sends exactly the frames of tests/golden/live/, through real processes (see golden_live)."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from asr_client.dialects import DIALECTS
from tests.e2e import golden_live
from tests.e2e.service import Pool

HAS_WEBRTC = importlib.util.find_spec("aiortc") is not None


@pytest.mark.parametrize("path", golden_live.recordings(), ids=lambda path: path.stem)
def test_golden(fake: Pool, path: Path) -> None:
    """A change is a decision to review: `python -m tests.e2e.golden_live --rewrite`."""
    recorded = golden_live.read(path)
    if golden_live.needs_webrtc(recorded) and not HAS_WEBRTC:
        pytest.skip("needs the extra webrtc")
    assert asyncio.run(golden_live.replay(fake.url, recorded)) == recorded


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_recorded(dialect: str) -> None:
    """Each dialect has a whole conversation and three with errors, each to its end and without volatile values."""
    recorded = {path.stem: golden_live.read(path) for path in golden_live.recordings(dialect)}
    for lines in recorded.values():
        assert lines[-1].keys() <= {"server_refuses", "server_close", "client_close"}
        messages = [line["server"] for line in lines if "server" in line]
        assert [golden_live.normalized(message) for message in messages] == messages
    assert not goes_wrong(recorded[f"{dialect}-conversation"])
    assert sum(map(goes_wrong, recorded.values())) >= 3


def goes_wrong(lines: list[golden_live.Line]) -> bool:
    """Whether the server ends the conversation. A data channel closes without a code, so its last message counts."""
    code = lines[-1].get("server_close", [1000])[0]
    if code is None:
        return bool(lines[-2]["server"]["op"] == "error")
    return "server_refuses" in lines[-1] or code != 1000
