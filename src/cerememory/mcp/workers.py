"""A fixed number of threads that work off a bounded queue."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

Work: TypeAlias = Callable[[], None]

THREADS = 8
WAITING_MAX = 64


class Workers:
    """The threads are daemons: they end with the process, whatever they are waiting for.

    (A pool of `concurrent.futures` would hold the process until its last call has been answered.)
    """

    def __init__(self, threads: int = THREADS, waiting_max: int = WAITING_MAX) -> None:
        self._queue: queue.Queue[Work | None] = queue.Queue(waiting_max)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit_nowait(self, work: Work) -> bool:
        """Has `work` done by a thread; False when too much is waiting already. `work` must not raise."""
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            return False
        return True

    def finish(self, timeout_s: float) -> None:
        """Waits until all work is done, or for `timeout_s`. No work may be submitted afterwards."""
        ends_at = time.monotonic() + timeout_s
        with suppress(queue.Full):
            for _ in self._threads:
                self._queue.put(None, timeout=_until(ends_at))
        for thread in self._threads:
            thread.join(_until(ends_at))

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()


def _until(moment: float) -> float:
    """Seconds from now, 0 for the past."""
    return max(0.0, moment - time.monotonic())
