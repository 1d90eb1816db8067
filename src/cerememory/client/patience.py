"""How long one call may take, and when it is tried again: exponential back-off with jitter.

The delays follow "equal jitter": half of the step is waited for certain, the other half by chance, so that
many callers of a daemon that restarts don't come back at once.
"""

from __future__ import annotations

from collections.abc import Callable

from cerememory.errors import DaemonUnreachable, Overloaded

FIRST_STEP_S = 0.1
LAST_STEP_S = 2.0
RETRY_FOR_S = 10.0  # with no limit on the call: how long a daemon may be away before the caller is told
_SHORTEST_S = 0.001  # a socket takes 0 for "don't block"


class Patience:
    """The budget of one call; made when the call starts.

    `timeout_s` limits the whole call, None doesn't. Retries go on for `retry_for_s` after the first failure;
    None stands for what `timeout_s` leaves, or `RETRY_FOR_S` without it.
    """

    def __init__(
        self,
        timeout_s: float | None,
        retry_for_s: float | None,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._ends_at = None if timeout_s is None else clock() + timeout_s
        self._retry_for_s = retry_for_s
        self._last_try_at: float | None = None
        self._step_s = FIRST_STEP_S

    def remaining_s(self) -> float | None:
        """Seconds left for the call, above 0; None without a limit."""
        return None if self._ends_at is None else max(self._ends_at - self._clock(), _SHORTEST_S)

    def at_most_s(self, limit_s: float) -> float:
        """Seconds left for the call, but no more than `limit_s`."""
        remaining_s = self.remaining_s()
        return limit_s if remaining_s is None else min(limit_s, remaining_s)

    def end(self) -> None:
        """No further try."""
        self._last_try_at = self._clock()

    def pause_after(self, error: Overloaded) -> float | None:
        """Seconds to wait before a request is tried again after `error`; None for "not again"."""
        if isinstance(error, DaemonUnreachable):  # which is no answer, and can't say when to come again
            return self.pause_s(0.0)
        return self.pause_s(float(error.retry_after_s or 0))

    def pause_s(self, least_s: float) -> float | None:
        """Seconds to wait before the next try, `least_s` or more; None when that would be too late."""
        now = self._clock()
        if self._last_try_at is None:
            self._last_try_at = self._retries_end_at(now)
        pause_s = max(least_s, self._step_s * (1 + self._chance()) / 2)
        self._step_s = min(self._step_s * 2, LAST_STEP_S)
        return pause_s if now + pause_s < self._last_try_at else None

    def _retries_end_at(self, now: float) -> float:
        if self._retry_for_s is not None:
            wished = now + self._retry_for_s
            return wished if self._ends_at is None else min(wished, self._ends_at)
        return now + RETRY_FOR_S if self._ends_at is None else self._ends_at
