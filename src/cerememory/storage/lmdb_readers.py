"""Who reads an LMDB environment, of all processes: its table of readers, and since when each is behind.

The slot of a process that was killed keeps its pages from being used again, until somebody looks for such slots.
"""

from __future__ import annotations

import time
from typing import Any, TypeAlias

NO_SNAPSHOT = "-"  # of a slot that nobody reads by now
CHECK_INTERVAL_S = 60.0

Slot: TypeAlias = tuple[str, ...]  # process, thread, snapshot


def slots(environment: Any) -> list[Slot]:
    lines = str(environment.readers()).splitlines()[1:]  # behind the heading
    return [tuple(line.split()) for line in lines if line.strip()]


def pids(environment: Any) -> set[int]:
    """The processes that have a slot, alive or not."""
    return {int(slot[0]) for slot in slots(environment)}


class Readers:
    def __init__(self) -> None:
        self._checked_at = -CHECK_INTERVAL_S
        self._seen: dict[Slot, float] = {}  # when it was first seen to be behind

    def is_check_due(self) -> bool:
        """Whether slots of dead ones are to be freed, and those looked for that are behind: once in a while."""
        now = time.monotonic()
        is_due = now - self._checked_at >= CHECK_INTERVAL_S
        if is_due:
            self._checked_at = now
        return is_due

    def oldest_s(self, environment: Any) -> float:
        """How long the oldest has been behind. LMDB doesn't know: it counts from when this was first asked."""
        now, newest = time.monotonic(), int(environment.info()["last_txnid"])
        reading = [slot for slot in slots(environment) if slot[2] != NO_SNAPSHOT]
        self._seen = {slot: self._seen.get(slot, now) for slot in reading if int(slot[2]) < newest}
        return max((now - since for since in self._seen.values()), default=0.0)
