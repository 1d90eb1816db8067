"""When the text index has its small segments merged: after a while without changes, a small step at a time.

Whoever owns the index takes a step whenever one is due. Changes that come in between go first, and their commit
ends what was under way.
"""

from __future__ import annotations

import math

import trio

QUIET_S = 1.0  # without a commit
LOOK_S, LOOKS_MAX = 0.1, 30  # how often and how long it is seen whether tantivy has merged
REST_FACTOR = 20  # of the time that it took, so that it takes a twentieth of a core at the most


class Settling:
    """Of one index; `due` is on the loop's clock, as all times here."""

    def __init__(self) -> None:
        self.due = math.inf
        self._rests_until = -math.inf
        self._spent_s = 0.0
        self._steps_left = 0

    def committed(self, *, is_scattered: bool) -> None:
        """The index was committed, with so many segments that it is worth while, or not."""
        now = trio.current_time()
        if self._spent_s:
            self._rests_until, self._spent_s = now + REST_FACTOR * self._spent_s, 0.0
        self._steps_left = LOOKS_MAX
        self.due = max(now + QUIET_S, self._rests_until) if is_scattered else math.inf

    def stepped(self, started: float) -> None:
        """The step that began at `started` wasn't the last."""
        now = trio.current_time()
        self._spent_s += now - started
        self._steps_left -= 1
        self.due = now + LOOK_S if self._steps_left else math.inf
