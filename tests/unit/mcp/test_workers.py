"""Threads that work off a bounded queue."""

from __future__ import annotations

import threading

import pytest

from cerememory.mcp.workers import Workers

WAIT_S = 30.0


def test_work_is_done_at_once_by_as_many_threads_as_there_are() -> None:
    workers = Workers(threads=3)
    together = threading.Barrier(3)
    done: list[int] = []

    def work(number: int) -> None:
        together.wait(WAIT_S)  # only passes when three are here
        done.append(number)

    for number in range(6):
        assert workers.submit_nowait(lambda number=number: work(number))  # type: ignore[misc]
    workers.finish(WAIT_S)
    assert sorted(done) == list(range(6))


class Held:
    """Work that keeps a thread until it is released."""

    def __init__(self, workers: Workers) -> None:
        self._started, self._released = threading.Event(), threading.Event()
        assert workers.submit_nowait(self._hold)
        assert self._started.wait(WAIT_S)

    def release(self) -> None:
        self._released.set()

    def _hold(self) -> None:
        self._started.set()
        assert self._released.wait(WAIT_S)


def test_work_beyond_the_queue_is_refused() -> None:
    workers = Workers(threads=1, waiting_max=2)
    held = Held(workers)
    done: list[str] = []
    assert [workers.submit_nowait(lambda: done.append("queued")) for _ in range(3)] == [True, True, False]
    held.release()
    workers.finish(WAIT_S)
    assert done == ["queued", "queued"]


@pytest.mark.parametrize("waiting", [0, 1], ids=["an empty queue", "a full queue"])
def test_finishing_does_not_wait_past_its_limit(waiting: int) -> None:
    """A thread that is held longer than its wait would fail the test."""
    workers = Workers(threads=1, waiting_max=1)
    held = Held(workers)
    for _ in range(waiting):
        assert workers.submit_nowait(lambda: None)
    workers.finish(timeout_s=0.0)
    held.release()
