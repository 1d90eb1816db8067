"""Log lines: structlog on stderr, pretty for people or JSON for machines, with the request id on each.

No line holds a memory, a key or a passphrase: events name ids, counts and settings, and tracebacks are those of
`tracebacks`. What comes from a client, such as a path, can't break out of its line.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

from cerememory.telemetry.tracebacks import exc_info_text, write_exc_info

LEVELS = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40}


_level = logging.DEBUG  # of what is said; until it is configured, everything


def says_debug() -> bool:
    """Whether lines of level debug are written: to find that out of structlog costs as much as most lines."""
    return _level <= logging.DEBUG


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """`level` is one of `LEVELS`, `style` pretty or json. Colours only on a terminal."""
    global _level
    out, _level = stream or sys.stderr, max(LEVELS[level], logging.DEBUG)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_rendering(style, out),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_level),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def _rendering(style: str, out: TextIO) -> list[Any]:
    if style == "json":
        return [structlog.processors.ExceptionRenderer(exc_info_text), structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=write_exc_info, sort_keys=False, repr_native_str=True
        )
    ]
