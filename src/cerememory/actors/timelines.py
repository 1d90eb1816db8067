"""recall.timeline: the durable memories of a range of time, in buckets.

Owns no state. One scan of the states, which lie in the order of time, finds and counts; the stores read the
first of what was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeAlias

import msgspec
import trio

from cerememory.actors.actor import Actor
from cerememory.actors.reading import Fitting, fetch, recalled
from cerememory.actors.seams import World
from cerememory.actors.stores import Memory
from cerememory.domain.curve import Curve
from cerememory.domain.timeline import Bucket, Timeline, feels_like
from cerememory.protocol import replies
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.long import listed
from cerememory.protocol.replies import TIMELINE_MEMORIES_MAX
from cerememory.protocol.requests import RecallTimeline
from cerememory.protocol.values import RecordId, Timestamp
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.dynamics import Curves
from cerememory.storage.keys import Table, key, pack_time, trailing_id, trailing_time
from cerememory.storage.rows import parse_state_row
from cerememory.storage.vectors import Space, parse_vector, vector_key

PIECE_ROWS = 4_096


class _Found(NamedTuple):
    """A durable memory and its row of `Table.STATE`."""

    record_id: RecordId
    store_code: int
    created_at: int
    row: bytes


Found: TypeAlias = Timeline[_Found]


class Timelines:
    """`stores` in the order of their codes; `curves` are used in one thread at a time, by nobody else."""

    def __init__(self, stores: tuple[Actor, ...], storage: Storage, world: World, curves: Curves) -> None:
        self._stores = stores
        self._storage = storage
        self._world = world
        self._curves = curves
        self._limiter = trio.CapacityLimiter(1)

    async def timeline(self, namespace: int, request: RecallTimeline) -> replies.Timeline:
        """The answer to a validated request."""
        found = await self._world.offload(partial(self._scan, namespace, request), self._limiter)
        shown = [memory for bucket in found.buckets for memory in bucket.items]
        fetched = await fetch(self._stores, namespace, shown)
        is_cut = fetched.count < len(shown)
        return await self._world.offload(partial(_timeline, found, fetched, is_cut=is_cut))

    def _scan(self, namespace: int, request: RecallTimeline) -> Found:
        found: Found = Timeline(request.granularity, TIMELINE_MEMORIES_MAX)
        for piece in self._pieces(namespace, request):
            for memory in piece:
                found.add(memory, memory.created_at)
        return found

    def _pieces(self, namespace: int, request: RecallTimeline) -> Iterator[list[_Found]]:
        """What passes the filters, the oldest first, each piece read in a snapshot of its own."""
        prefix = key(namespace, Table.STATE)
        position = prefix + pack_time(clamp_timestamp(request.range.start))
        stop = prefix + pack_time(clamp_timestamp(request.range.end)) + b"\xff" * 17
        while True:
            with self._storage.read() as reader:
                rows = list(islice(reader.scan(position, stop), PIECE_ROWS))
                passed = self._passed(reader, namespace, request, [_found(*row) for row in rows])
            yield passed
            if len(rows) < PIECE_ROWS:
                return
            position = rows[-1][0] + b"\0"

    def _passed(
        self, reader: Reader, namespace: int, request: RecallTimeline, found: list[_Found]
    ) -> list[_Found]:
        if request.min_fidelity is not None:
            curves, now = self._curves.of(reader, namespace), self._world.now()
            found = [memory for memory in found if _score(memory, curves, now) >= request.min_fidelity]
        if request.emotion_filter is not None:
            found = _alike(reader, namespace, found, request.emotion_filter.axes())
        return found


def _found(row_key: bytes, value: bytes) -> _Found:
    return _Found(trailing_id(row_key), value[0], trailing_time(row_key), value)


def _score(found: _Found, curves: tuple[Curve, ...], now: int) -> float:
    _store_code, state = parse_state_row(found.row)
    return curves[found.store_code].current(state, now).score


def _alike(reader: Reader, namespace: int, found: list[_Found], axes: tuple[float, ...]) -> list[_Found]:
    """Those that felt like `axes`; a memory without a vector is neutral."""
    vectors = reader.get_many([vector_key(namespace, Space.EMOTION, len(axes), f.record_id) for f in found])
    return [
        memory
        for memory, vector in zip(found, vectors, strict=True)
        if vector is not None and feels_like(parse_vector(vector), axes)
    ]


def _timeline(found: Found, read: Fitting, *, is_cut: bool) -> replies.Timeline:
    memories = {memory.record_id: memory for memory in read.memories}
    buckets = (_bucket(bucket, memories, is_long=read.is_long) for bucket in found.buckets)
    return replies.Timeline(
        buckets=listed(buckets, is_long=read.is_long),
        truncated=found.truncated or is_cut or msgspec.UNSET,
    )


def _bucket(bucket: Bucket[_Found], memories: Mapping[RecordId, Memory], *, is_long: bool) -> replies.Bucket:
    """A memory counts by its fidelity; one that is gone by now, or has no room, is counted, but not shown."""
    shown = [memories[found.record_id] for found in bucket.items if found.record_id in memories]
    return replies.Bucket(
        start=Timestamp(bucket.start),
        end=Timestamp(bucket.end),
        memories=listed((recalled(memory, memory.state.score) for memory in shown), is_long=is_long),
        count=bucket.count,
    )
