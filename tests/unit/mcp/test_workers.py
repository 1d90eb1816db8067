"""Threads that work off a bounded queue."""

from __future__ import annotations

import queue
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


class Interrupted(threading.Condition):
    """A lock that is taken as the interrupt comes, and stays so: a signal may break off its taking there."""

    def __enter__(self) -> bool:
        super().__enter__()
        raise KeyboardInterrupt


def test_finishing_does_not_wait_for_what_an_interrupt_left_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    queues: list[queue.Queue[object]] = []

    class Noted(queue.Queue[object]):
        def __init__(self, maxsize: int) -> None:
            super().__init__(maxsize)
            queues.append(self)

    monkeypatch.setattr("cerememory.mcp.workers.queue.Queue", Noted)
    workers = Workers(threads=1)
    [waiting] = queues
    waiting.not_full = Interrupted(waiting.mutex)
    with pytest.raises(KeyboardInterrupt):
        workers.submit_nowait(lambda: None)
    waiting.not_full = threading.Condition(waiting.mutex)
    finishing = threading.Thread(target=workers.finish, args=(0.0,), daemon=True)
    finishing.start()
    finishing.join(WAIT_S)
    assert not finishing.is_alive()
    waiting.mutex.release()
