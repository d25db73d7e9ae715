"""The number of windows that fit on a device is measured before the worker serves; too many slots give one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from asr_proto.audio import Pcm16
from asr_proto.errors import SetupError

torch = pytest.importorskip("torch", reason="needs the extra nemo")

from asr_workers.engines.parakeet.config import ParakeetConfig  # noqa: E402
from asr_workers.engines.parakeet.sizing import batch_windows  # noqa: E402
from asr_workers.engines.parakeet.windows import WindowContext  # noqa: E402
from tests.workers.parakeet.scripted_model import ScriptedDecoder, ScriptedModel  # noqa: E402

CONTEXT = WindowContext.of(0.8, 0.32, 0.32)


class Gpu(ScriptedModel):
    """A device of `free` bytes where a window takes `window` bytes, and more than `windows_max` at once do not fit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, window: int, windows_max: int = 1000) -> None:
        super().__init__(ParakeetConfig(device="cuda:0"))
        self._windows_max = windows_max
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: window)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))

    def encode(self, windows: Sequence[Pcm16]) -> Any:
        if len(windows) > self._windows_max:
            raise torch.OutOfMemoryError("CUDA out of memory.\nSee the documentation")
        return super().encode(windows)


def test_memory_that_slots_leave_goes_to_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.8 of 12,500 bytes, less ten slots of 20: nine windows of 1,000."""
    assert ScriptedDecoder().initial(1).bytes == 20
    assert batch_windows(Gpu(monkeypatch, 12_500, 1000), CONTEXT, 10).windows_max == 9
    assert batch_windows(Gpu(monkeypatch, 12_500, 1000), CONTEXT, 4).windows_max == 4


def test_too_many_slots_are_told_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.8 of 1,500 bytes, less a window of 1,000: ten slots of 20."""
    assert batch_windows(Gpu(monkeypatch, 1500, 1000), CONTEXT, 10).windows_max == 1
    with pytest.raises(SetupError, match=r"^11 slots do not fit on cuda:0: 10 would; set fewer with --slots$"):
        batch_windows(Gpu(monkeypatch, 1500, 1000), CONTEXT, 11)


def test_a_device_without_room_for_a_window_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match=r"^no slot fits on cuda:0: .*: CUDA out of memory.$"):
        batch_windows(Gpu(monkeypatch, 1500, 1000, windows_max=0), CONTEXT, 10)
