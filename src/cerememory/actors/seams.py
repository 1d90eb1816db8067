"""What the actors take from the world, so that tests can give them another: time, ids, threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import trio
import uuid_utils
from outcome import Outcome

from cerememory.protocol.values import RecordId

R = TypeVar("R")


class Offload(Protocol):
    """Runs a blocking call where the event loop isn't blocked by it. On a jumping clock it runs inline."""

    async def __call__(self, call: Callable[[], R], limiter: trio.CapacityLimiter | None = None) -> R: ...


async def in_thread(call: Callable[[], R], limiter: trio.CapacityLimiter | None = None) -> R:
    """In one of trio's threads. `trio.to_thread.run_sync` takes twice as long for it: it also names the thread,
    and lets it call back into the loop.
    """
    if limiter is None:
        return await _in_free_thread(call)
    async with limiter:
        return await _in_free_thread(call)


async def _in_free_thread(call: Callable[[], R]) -> R:
    """A call that has begun is waited for, cancelled or not."""
    await trio.lowlevel.checkpoint_if_cancelled()
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

    def deliver(outcome: Outcome[R]) -> None:
        token.run_sync_soon(trio.lowlevel.reschedule, task, outcome)

    trio.lowlevel.start_thread_soon(partial(copy_context().run, call), deliver)
    result: R = await trio.lowlevel.wait_task_rescheduled(lambda _cancel: trio.lowlevel.Abort.FAILED)
    return result


async def inline(call: Callable[[], R], limiter: trio.CapacityLimiter | None = None) -> R:
    await trio.lowlevel.checkpoint()
    return call()


def new_id() -> RecordId:
    """A UUIDv7: ids sort by the time they were made."""
    return RecordId(uuid_utils.uuid7().bytes)


@dataclass(frozen=True, slots=True)
class World:
    """`now` is wall time in nanoseconds since the epoch."""

    now: Callable[[], int] = time.time_ns
    new_id: Callable[[], RecordId] = new_id
    offload: Offload = field(default=in_thread)
