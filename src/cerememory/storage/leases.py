"""Who reads a store, and who must be alone with it: the map may move only while nobody reads through it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Leases:
    """Any number of shared leases, or one exclusive, which goes before all shared ones that aren't out yet.

    So a thread that holds a lease must not ask for another: it could wait for itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # entered by itself it costs a fifth of what the condition does
        self._condition = threading.Condition(self._lock)
        self._shared = 0
        self._exclusive_wanted = 0

    def acquire(self) -> None:
        with self._lock:
            while self._exclusive_wanted:
                self._condition.wait()
            self._shared += 1

    def release(self) -> None:
        with self._lock:
            self._shared -= 1
            if not self._shared and self._exclusive_wanted:
                self._condition.notify_all()

    @property
    def is_exclusive_wanted(self) -> bool:
        return self._exclusive_wanted > 0

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._condition:
            self._exclusive_wanted += 1
            try:
                self._condition.wait_for(lambda: not self._shared)
                yield
            finally:
                self._exclusive_wanted -= 1
                self._condition.notify_all()
