"""Logging for every process: one line per event on stderr, with time, level and the process's name.

Libraries that log through the standard `logging` module appear in the same form.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog
from structlog.typing import Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("console", "json")
REPEAT_S = 30.0
"""Shortest time between two log lines with the same cause, in seconds."""
LINES_MAX = 20
"""Most warnings or errors of one cause in REPEAT_S, where the code has no narrower limit."""
CAUSES_MAX = 256
"""Most causes that are remembered; further causes are not logged."""


@dataclass(slots=True)
class _Cause:
    """The lines of one cause since its last line that began a period of REPEAT_S."""

    until: float
    lines: int = 1
    left_out: int = 0


class Seldom:
    """Limits repeated log lines: `lines_max` for each cause in REPEAT_S, and at most CAUSES_MAX causes in that time."""

    def __init__(self, lines_max: int = 1) -> None:
        self._lines_max = lines_max
        self._causes: dict[Any, _Cause] = {}

    def line(self, cause: Any, now: float) -> dict[str, int] | None:
        """What to add to a line about `cause` now: how many were left out before it. None: leave this one out, too.

        `now` is the caller's clock in seconds.
        """
        known = self._causes.get(cause)
        if known is not None and known.until > now:
            return self._repeated(known)
        if known is None and not self._has_room(now):
            return None
        self._causes[cause] = _Cause(now + REPEAT_S)
        return {"left_out": known.left_out} if known and known.left_out else {}

    def _repeated(self, cause: _Cause) -> dict[str, int] | None:
        if cause.lines < self._lines_max:
            cause.lines += 1
            return {}
        cause.left_out += 1
        return None

    def _has_room(self, now: float) -> bool:
        if len(self._causes) >= CAUSES_MAX:
            self._causes = {cause: one for cause, one in self._causes.items() if one.until > now}
        return len(self._causes) < CAUSES_MAX


class Throttle(logging.Filter):
    """Lets through LINES_MAX warnings or errors of one cause in REPEAT_S. The next one has the number left out.

    The cause of a line is its logger, its level and its text without values: a flood of one error has one cause.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seldom, self._clock = Seldom(LINES_MAX), clock

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        event = record.msg.get("event") if isinstance(record.msg, dict) else record.msg
        more = self._seldom.line((record.name, record.levelno, str(event).partition("\n")[0]), self._clock())
        if more and isinstance(record.msg, dict):
            record.msg |= more
        elif more:
            record.msg, record.args = f"{record.getMessage()} (left out: {more['left_out']})", ()
        return more is not None


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
    handler.addFilter(Throttle())
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
