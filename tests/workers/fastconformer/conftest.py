"""Random models, built once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.workers.fastconformer.random_models import RandomModel


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch", reason="needs the extra nemo")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    from tests.workers.fastconformer import random_models

    return random_models.built(tmp_path_factory.mktemp("tiny"), random_models.TINY)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    from tests.workers.fastconformer import random_models

    return random_models.built(tmp_path_factory.mktemp("large"), random_models.LARGE)
