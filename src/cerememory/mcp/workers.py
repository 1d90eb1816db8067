"""A fixed number of threads that work off a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
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
        """Waits until all work is done, or for `timeout_s`. No work may be submitted afterwards.

        Whoever calls this takes no lock of the queue's, which a signal might leave taken: broken off by one, it
        may be called once more.
        """
        ending = threading.Thread(target=self._end, daemon=True)
        ending.start()
        ending.join(timeout_s)

    def _end(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
