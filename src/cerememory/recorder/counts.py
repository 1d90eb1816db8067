"""What a run has to say: what became of its events, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Tell = Callable[[str], None]  # of what went wrong, in one line


@dataclass(slots=True)
class Counts:
    """What became of a run's events; `failures` are what makes it end with 1."""

    accepted: int = 0
    duplicate: int = 0
    sent: int = 0
    spooled: int = 0
    failures: int = 0

    def __str__(self) -> str:
        return f"accepted={self.accepted}, duplicate={self.duplicate}, sent={self.sent}, spooled={self.spooled}"
