"""Turns an error of the Hugging Face hub into an error of this program."""

from __future__ import annotations

from asr_proto.errors import AsrError, NotYet, SetupError

_PASSING = (408, 425, 429)
"""Status codes 4xx after which another try can succeed: time-out, too early, too many requests."""


def refusal(model: str, error: Exception) -> AsrError:
    """NotYet where the hub could not be reached; SetupError where another try would fail with the same answer."""
    from huggingface_hub import errors  # noqa: PLC0415 - only for models that are not on disk

    if isinstance(error, errors.GatedRepoError):
        return SetupError(f"the hub gives {model} only after its terms were accepted: accept them, and set HF_TOKEN")
    if isinstance(error, errors.RepositoryNotFoundError | ValueError):
        return SetupError(f"model {model} is neither on disk nor on the hub")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return SetupError(f"{model} on the hub lacks the file that this engine needs: it is a model of another kind")
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if 400 <= status < 500 and status not in _PASSING:
        return SetupError(f"the hub refuses {model}, with status {status}")
    return NotYet(f"model {model} is not on disk and the hub cannot be reached")
