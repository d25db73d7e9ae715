"""Logging for every process: one line per event on stderr, with time, level and the process's name.

Libraries that log through the standard `logging` module appear in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.typing import Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("console", "json")
REPEAT_S = 30.0
"""Shortest time between two log lines with the same cause, in seconds."""
CAUSES_MAX = 256
"""Most causes that are remembered; further causes are not logged."""


class Seldom:
    """Limits repeated log lines: one line for each cause in REPEAT_S, and at most CAUSES_MAX causes in that time."""

    def __init__(self) -> None:
        self._again_at: dict[Any, float] = {}

    def due(self, cause: Any, now: float) -> bool:
        """Whether to log `cause` now, by the caller's clock in seconds."""
        self._again_at = {known: at for known, at in self._again_at.items() if at > now}
        if cause in self._again_at or len(self._again_at) >= CAUSES_MAX:
            return False
        self._again_at[cause] = now + REPEAT_S
        return True


def set_up(process: str, *, level: str = "info", output: str = "console") -> None:
    """Set up `structlog` and `logging` to write to stderr. Call it once, before the first event."""
    number = getattr(logging, level.upper())
    steps = _steps(process)
    structlog.configure(
        processors=[*steps, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=steps,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(output)],
        )
    )
    logging.basicConfig(level=number, handlers=[handler], force=True)


def _steps(process: str) -> list[Processor]:
    def name_process(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = process
        return event

    return [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _rendering(output: str) -> list[Processor]:
    if output == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # The default traceback shows local variables, which may hold transcripts: these must not be logged.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
