"""The file of API keys. A changed file takes effect within seconds; an unusable one leaves the keys as they are."""

from __future__ import annotations

from pathlib import Path

import structlog

from asr_frontends.access import parse_keys
from asr_proto.errors import SetupError

log = structlog.get_logger()

POLL_S = 2.0
"""Interval at which the file is checked for a change, in seconds."""


class KeyFile:
    """The names of keys by digest, read from a file. The constructor raises SetupError when the file is unusable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._modified()
        self.keys = self._read()

    def poll(self) -> bool:
        """Read the file again if it has changed. Returns whether `keys` is new."""
        try:
            stamp = self._modified()
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            self.keys = self._read()
        except SetupError as error:
            log.error("the key file is not usable: the keys that were read before stay valid", reason=error.detail)
            return False
        log.info("keys read", count=len(self.keys))
        return True

    def _modified(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError as error:
            raise SetupError(f"cannot read {self._path}: {error.strerror}") from error

    def _read(self) -> dict[str, str]:
        try:
            return parse_keys(self._path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"cannot read {self._path}: {error}") from error
