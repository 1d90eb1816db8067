"""Log lines: structlog on stderr, pretty for people or JSON for machines, with the request id on each.

Tracebacks show frames and messages, never local variables: those hold memories and keys.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

LEVELS = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40}


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """`level` is one of `LEVELS`, `style` pretty or json. Colours only on a terminal."""
    out = stream or sys.stderr
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_rendering(style, out),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(max(LEVELS[level], logging.DEBUG)),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def _rendering(style: str, out: TextIO) -> list[Any]:
    if style == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        )
    ]
