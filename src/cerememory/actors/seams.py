"""What the actors take from the world, so that tests can give them another: time, ids, threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import trio
import uuid_utils

from cerememory.protocol.values import RecordId

R = TypeVar("R")


class Offload(Protocol):
    """Runs a blocking call where the event loop isn't blocked by it. On a jumping clock it runs inline."""

    async def __call__(self, call: Callable[[], R], limiter: trio.CapacityLimiter | None = None) -> R: ...


async def in_thread(call: Callable[[], R], limiter: trio.CapacityLimiter | None = None) -> R:
    return await trio.to_thread.run_sync(call, limiter=limiter)


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
