"""Work in threads: its answer, its errors, and that whatever has begun is waited for."""

from __future__ import annotations

import errno
import os
import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cerememory.actors import seams
from cerememory.actors.seams import in_thread
from cerememory.errors import StorageUnavailable

WAIT_S = 30.0


async def test_a_call_is_answered_from_another_thread() -> None:
    assert await in_thread(threading.get_ident) != threading.get_ident()


async def test_the_error_of_a_call_is_raised() -> None:
    def fail() -> None:
        raise StorageUnavailable("no room")

    with pytest.raises(StorageUnavailable, match="no room"):
        await in_thread(fail)


async def test_each_of_many_calls_at_once_gets_its_own_answer() -> None:
    gate, answers = threading.Barrier(8), {}

    async def ask(number: int) -> None:
        answers[number] = await in_thread(lambda: (gate.wait(WAIT_S), number)[1])

    for _round in range(3):  # what wakes one is used again for another
        answers.clear()
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(ask, number)
        assert answers == {number: number for number in range(8)}


async def test_without_a_descriptor_for_a_pipe_a_call_is_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(seams, "_bells", [])
    monkeypatch.setattr(os, "pipe", refuse)
    assert await in_thread(threading.get_ident) != threading.get_ident()


async def test_a_thread_that_doesnt_start_leaves_what_would_have_told_of_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_args: object) -> None:
        raise RuntimeError("can't start new thread")

    bells: list[seams.Bell] = []
    monkeypatch.setattr(seams, "_bells", bells)
    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", refuse)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="can't start"):
            await in_thread(threading.get_ident)
    assert len(bells) == 1


async def test_a_call_that_has_begun_is_waited_for_and_answers_whoever_is_cancelled() -> None:
    begun, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def call() -> str:
        trio.from_thread.run_sync(begun.set, trio_token=token)
        assert go_on.wait(WAIT_S)
        return "done"

    answers: list[str] = []

    async def ask() -> None:
        answers.append(await in_thread(call))
        await trio.lowlevel.checkpoint_if_cancelled()
        answers.append("not cancelled")

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await begun.wait()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
            assert answers == []
            go_on.set()
    assert answers == ["done"]


async def test_whoever_is_cancelled_before_begins_nothing() -> None:
    called: list[int] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await in_thread(lambda: called.append(1))
    assert scope.cancelled_caught
    assert not called
