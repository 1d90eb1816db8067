"""What the actors take from the world, so that tests can give them another: time, ids, threads."""

from __future__ import annotations

import os
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
    lets it call back into the loop, and is answered through a queue that takes a turn of the loop for itself.
    """
    if limiter is None:
        return await _in_free_thread(call)
    async with limiter:
        return await _in_free_thread(call)


async def _in_free_thread(call: Callable[[], R]) -> R:
    """A call that has begun is waited for, cancelled or not."""
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        bell = _bells.pop() if _bells else Bell()
    except OSError:  # no descriptor is left for one
        return await trio.to_thread.run_sync(call)
    outcomes: list[Outcome[R]] = []

    def deliver(outcome: Outcome[R]) -> None:
        outcomes.append(outcome)
        bell.ring()

    try:
        trio.lowlevel.start_thread_soon(partial(copy_context().run, call), deliver)
    except BaseException:
        _bells.append(bell)
        raise
    await bell.heard()
    _bells.append(bell)
    return outcomes[0].unwrap()


class Bell:
    """A pipe by which a thread wakes one task, kept for the next that needs one."""

    __slots__ = ("_read_end", "_write_end")

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()

    def ring(self) -> None:
        os.write(self._write_end, b"\0")

    async def heard(self) -> None:
        """Returns once it was rung, and not before; whoever is cancelled meets that at the next checkpoint."""
        try:
            await trio.lowlevel.wait_readable(self._read_end)
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(self._read_end)
            if not isinstance(error, trio.Cancelled):  # but interrupted
                raise
        os.read(self._read_end, 1)


_bells: list[Bell] = []  # as many as calls were under way at once


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
