"""The served name of a model, and the languages that follow from its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_proto.errors import BadRequest
from asr_workers.engines.nemo.names import check_language, languages_of, served_name


@pytest.mark.parametrize(
    ("name", "languages"),
    [
        ("nvidia/stt_en_fastconformer_hybrid_large_streaming_multi", ("en",)),
        ("nvidia/stt_de_fastconformer_hybrid_large_pc", ("de",)),
        ("digits-fastconformer", ("en",)),
        ("nvidia/parakeet-tdt-0.6b-v2", ("en",)),
    ],
)
def test_the_language_is_in_the_name(name: str, languages: tuple[str, ...]) -> None:
    assert languages_of(name) == languages


def test_where_a_model_lies_is_nobodys_business(tmp_path: Path) -> None:
    (tmp_path / "stt_it_small.nemo").touch()
    assert served_name(str(tmp_path / "stt_it_small.nemo")) == "stt_it_small"
    assert languages_of(str(tmp_path / "stt_it_small.nemo")) == ("it",)
    assert served_name("nvidia/parakeet-tdt-0.6b-v2") == "nvidia/parakeet-tdt-0.6b-v2"


def test_parakeet_of_many_languages() -> None:
    """PAR-19. The model itself detects which of them is spoken."""
    languages = languages_of("nvidia/parakeet-tdt-0.6b-v3")
    assert len(languages) == 25
    for language in ("", "en", "de-AT", "UK"):
        check_language(language, languages)
    with pytest.raises(BadRequest):
        check_language("zh", languages)
