"""The vector index actor: exact cosine over the vectors of one space and length.

A length's table is read from storage at its first question and follows the commits from then on. All tables
together stay within `cache_bytes_max`: the least recently asked go first, and a length that alone is larger
is scanned in pieces at every question. Vectors of working memory exist only here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import structlog
import trio

from cerememory.actors.actor import Actor, Reply, Request
from cerememory.actors.seams import World
from cerememory.actors.working import Evicted, TellAnew, ToldAnew
from cerememory.actors.writer import CommitsUntold, EffectsCommitted
from cerememory.errors import ActorBusy, ActorStopped
from cerememory.protocol.records import Store
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.rows import STORE_CODE
from cerememory.storage.vectors import Near, Space, VectorChange, VectorTable, closeness, vector_range

PIECE_ROWS = 4_096
INLINE_VALUES_MAX = 1_000_000  # above it a product takes over 2 ms and runs in a thread
WORKING_CODE = STORE_CODE[Store.WORKING]

log = structlog.get_logger(__name__)
Pair = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Nearest(Request[list[Near]]):
    """The `limit` closest to `vector`; `store_codes` None means all stores."""

    space: Space
    vector: tuple[float, ...]
    limit: int
    store_codes: frozenset[int] | None


class VectorIndexer(Actor):
    def __init__(
        self,
        storage: Storage,
        world: World,
        working: Actor,
        *,
        cache_bytes_max: int,
        mailbox_size: int = 256,
    ) -> None:
        super().__init__("vector_index", mailbox_size)
        self._storage = storage
        self._world = world
        self._working = working
        self._cache_bytes_max = cache_bytes_max
        self._limiter = trio.CapacityLimiter(1)
        self._tables: OrderedDict[tuple[Space, int], VectorTable] = OrderedDict()
        self._held: dict[tuple[Space, RecordId], VectorChange] = {}

    async def load(self) -> None:
        self._tables.clear()
        self._held.clear()
        try:
            self._working.post_nowait(TellAnew(self))
        except (ActorBusy, ActorStopped):
            log.warning("working memory isn't found by meaning until its next change")

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case Nearest():
                return await self._nearest(message)
            case EffectsCommitted():
                self._follow(message.effects.vectors)
                self._remove(message.effects.deletions)
                return None
            case CommitsUntold():
                self._tables.clear()  # the next question reads them anew
                return None
            case ToldAnew():
                self._follow(message.vectors)
                return None
            case Evicted():
                self._remove(message.record_ids)
                return None
        return await super().handle(message, reply)

    def _follow(self, changes: list[VectorChange] | tuple[VectorChange, ...]) -> None:
        for change in changes:
            if change.store_code == WORKING_CODE:
                self._hold(change)
            for (space, dimensions), table in self._tables.items():
                if space is change.space:
                    _apply(table, dimensions, change)
        self._shrink()

    def _hold(self, change: VectorChange) -> None:
        if change.values is None:
            self._held.pop((change.space, change.record_id), None)
        else:
            self._held[change.space, change.record_id] = change

    def _remove(self, record_ids: list[RecordId] | tuple[RecordId, ...]) -> None:
        for record_id in record_ids:
            for space in Space:
                self._held.pop((space, record_id), None)
            for table in self._tables.values():
                table.remove(record_id)

    async def _nearest(self, request: Nearest) -> list[Near]:
        table = await self._table(request.space, len(request.vector))
        if table is None:
            return await self._scan(request)
        search = partial(table.nearest, request.vector, request.limit, request.store_codes)
        if len(table) * table.dimensions <= INLINE_VALUES_MAX:
            return search()
        return await self._world.offload(search, self._limiter)

    async def _table(self, space: Space, dimensions: int) -> VectorTable | None:
        """The table of this length; None when it would be larger than the cache may be."""
        table = self._tables.get((space, dimensions))
        if table is None:
            table = await self._world.offload(partial(self._load, space, dimensions), self._limiter)
            if table is None:
                return None
            self._put_held(table, space)
            if not len(table):
                return table  # a length that nothing has is not worth keeping
            self._tables[space, dimensions] = table
        self._tables.move_to_end((space, dimensions))
        self._shrink()
        return table

    def _load(self, space: Space, dimensions: int) -> VectorTable | None:
        table = VectorTable(dimensions)
        for piece in self._pieces(space, dimensions):
            table.load(piece)
            if table.size_bytes > self._cache_bytes_max:
                return None
        return table

    def _put_held(self, table: VectorTable, space: Space) -> None:
        for change in self._held.values():
            if change.space is space:
                _apply(table, table.dimensions, change)

    def _shrink(self) -> None:
        while self._size_bytes() > self._cache_bytes_max:
            self._tables.popitem(last=False)

    def _size_bytes(self) -> int:
        return sum(table.size_bytes for table in self._tables.values())

    async def _scan(self, request: Nearest) -> list[Near]:
        held = VectorTable(len(request.vector))
        self._put_held(held, request.space)
        found = held.nearest(request.vector, request.limit, request.store_codes)
        found += await self._world.offload(partial(self._scan_stored, request), self._limiter)
        return sorted(found, key=closeness)[: request.limit]

    def _scan_stored(self, request: Nearest) -> list[Near]:
        best: list[Near] = []
        for piece in self._pieces(request.space, len(request.vector)):
            table = VectorTable(len(request.vector))
            table.load(piece)
            best += table.nearest(request.vector, request.limit, request.store_codes)
            best = sorted(best, key=closeness)[: request.limit]
        return best

    def _pieces(self, space: Space, dimensions: int) -> Iterator[list[Pair]]:
        """All stored vectors of one length, each piece read in a snapshot of its own."""
        position, stop = vector_range(space, dimensions)
        while True:
            with self._storage.read() as reader:
                piece = list(islice(reader.scan(position, stop), PIECE_ROWS))
            if not piece:
                return
            yield piece
            position = piece[-1][0] + b"\0"


def _apply(table: VectorTable, dimensions: int, change: VectorChange) -> None:
    """Also takes out a vector whose record now has one of another length."""
    if change.values is not None and len(change.values) == dimensions:
        table.put(change)
    else:
        table.remove(change.record_id)
