"""The daemon's log lines, kept for a test instead of printed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog

from cerememory import failpoints
from cerememory.telemetry import logs


class Logged:
    """JSON lines from level debug on."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        logs.configure("debug", "json", self._stream)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self._stream.getvalue().splitlines()]

    def events(self, level: str = "error") -> list[str]:
        return [line["event"] for line in self.lines if line["level"] == level]


@contextmanager
def quiet() -> Iterator[Logged]:
    """Log lines are kept, and no failpoint stays armed behind the block."""
    try:
        yield Logged()
    finally:
        failpoints.disarm()
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
