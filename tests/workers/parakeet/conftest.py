"""One small model of random weights for all tests of the parakeet engine: building it takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """NeMo's own model."""
    torch = pytest.importorskip("torch", reason="needs the extra nemo")
    pytest.importorskip("nemo", reason="needs the extra nemo")
    from tests.workers.parakeet.models import random_tdt

    torch.set_num_threads(1)
    return random_tdt(tmp_path_factory.mktemp("parakeet"))


@pytest.fixture(scope="session")
def checkpoint(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    from tests.workers.parakeet.models import save

    return save(reference, tmp_path_factory.mktemp("checkpoint") / "parakeet-tdt-random.nemo")
