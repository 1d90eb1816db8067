"""The vector index actor: exact cosine over the vectors of one space and length.

A length's table is read from storage at its first question and follows the commits from then on. All tables
together stay within `cache_bytes_max`: the least recently asked go first, and a length that alone is larger
is scanned in pieces at every question. Vectors of working memory exist only here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import structlog
import trio

from cerememory.actors.actor import Actor, Reply, Request
from cerememory.actors.followers import CommitsUntold, EffectsCommitted
from cerememory.actors.seams import World
from cerememory.actors.working import Evicted, TellAnew, ToldAnew
from cerememory.errors import ActorBusy, ActorStopped
from cerememory.protocol.records import Store
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Address
from cerememory.storage.rows import STORE_CODE
from cerememory.storage.vectors import Near, Space, VectorChange, VectorTable, closeness, vector_range

PIECE_ROWS = 4_096
VALUES_A_NAME = 50  # looking up one record costs as much
VALUES_A_HIT = 500  # as does putting one of the closest in order
INLINE_VALUES_MAX = 1_000_000  # above it a product takes over 2 ms and runs in a thread
WORKING_CODE = STORE_CODE[Store.WORKING]

log = structlog.get_logger(__name__)
Pair = tuple[bytes, bytes]


class Kind(NamedTuple):
    """Vectors that may be compared: those of one table."""

    namespace: int
    space: Space
    dimensions: int


@dataclass(frozen=True, slots=True)
class Nearest(Request[list[Near]]):
    """The `limit` closest to `vector`; `store_codes` None means all stores, `among` None all records.

    `passing`, when given, says whom else to leave out (see `VectorTable.nearest_that`); it is called in a thread,
    and must not raise.
    """

    namespace: int
    space: Space
    vector: tuple[float, ...]
    limit: int
    store_codes: frozenset[int] | None
    among: frozenset[RecordId] | None = None
    passing: Callable[[list[RecordId]], Collection[RecordId]] | None = None

    def search(self, table: VectorTable) -> Callable[[], list[Near]]:
        if self.passing is not None:
            return partial(table.nearest_that, self.vector, self.limit, self.store_codes, self.passing)
        return partial(table.nearest, self.vector, self.limit, self.store_codes, self.among)

    def values_read(self, table: VectorTable) -> int:
        """How much work it is in `table`, as so many values of a product."""
        hits = min(self.limit, len(table))
        return len(table) * table.dimensions + VALUES_A_NAME * len(self.among or ()) + VALUES_A_HIT * hits


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
        self._tables: OrderedDict[Kind, VectorTable] = OrderedDict()
        self._held: dict[tuple[Address, Space], VectorChange] = {}

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
                self._remove([(message.namespace, record_id) for record_id in message.record_ids])
                return None
        return await super().handle(message, reply)

    def takes_note(self, event: object) -> bool:
        """A commit without vectors, as most are."""
        return isinstance(event, EffectsCommitted) and not (event.effects.vectors or event.effects.deletions)

    def _follow(self, changes: list[VectorChange] | tuple[VectorChange, ...]) -> None:
        for change in changes:
            if change.store_code == WORKING_CODE:
                self._hold(change)
            for kind, table in self._tables.items():
                if (kind.namespace, kind.space) == (change.namespace, change.space):
                    _apply(table, change)
        self._shrink()

    def _hold(self, change: VectorChange) -> None:
        place = ((change.namespace, change.record_id), change.space)
        if change.values is None:
            self._held.pop(place, None)
        else:
            self._held[place] = change

    def _remove(self, addresses: list[Address]) -> None:
        for address in addresses:
            for space in Space:
                self._held.pop((address, space), None)
            for kind, table in self._tables.items():
                if kind.namespace == address[0]:
                    table.remove(address[1])

    async def _nearest(self, request: Nearest) -> list[Near]:
        kind = Kind(request.namespace, request.space, len(request.vector))
        table = await self._table(kind)
        if table is None:
            return await self._scan(kind, request)
        search = request.search(table)
        if request.passing is None and request.values_read(table) <= INLINE_VALUES_MAX:
            return search()
        return await self._world.offload(search, self._limiter)

    async def _table(self, kind: Kind) -> VectorTable | None:
        """The table of this kind; None when it would be larger than the cache may be."""
        table = self._tables.get(kind)
        if table is None:
            table = await self._world.offload(partial(self._load, kind), self._limiter)
            if table is None:
                return None
            self._put_held(table, kind)
            if not len(table):
                return table  # a kind that nothing has is not worth keeping
            self._tables[kind] = table
        self._tables.move_to_end(kind)
        self._shrink()
        return table

    def _load(self, kind: Kind) -> VectorTable | None:
        table = VectorTable(kind.dimensions)
        for piece in self._pieces(kind):
            table.load(piece)
            if table.size_bytes > self._cache_bytes_max:
                return None
        return table

    def _put_held(self, table: VectorTable, kind: Kind) -> None:
        for change in self._held.values():
            if (kind.namespace, kind.space) == (change.namespace, change.space):
                _apply(table, change)

    def _shrink(self) -> None:
        while self._size_bytes() > self._cache_bytes_max:
            self._tables.popitem(last=False)

    def _size_bytes(self) -> int:
        return sum(table.size_bytes for table in self._tables.values())

    async def _scan(self, kind: Kind, request: Nearest) -> list[Near]:
        held = VectorTable(kind.dimensions)
        self._put_held(held, kind)
        found = await self._world.offload(request.search(held), self._limiter)
        found += await self._world.offload(partial(self._scan_stored, kind, request), self._limiter)
        return sorted(found, key=closeness)[: request.limit]

    def _scan_stored(self, kind: Kind, request: Nearest) -> list[Near]:
        best: list[Near] = []
        for piece in self._pieces(kind):
            table = VectorTable(kind.dimensions)
            table.load(piece)
            best += request.search(table)()
            best = sorted(best, key=closeness)[: request.limit]
        return best

    def _pieces(self, kind: Kind) -> Iterator[list[Pair]]:
        """All stored vectors of one kind, each piece read in a snapshot of its own."""
        position, stop = vector_range(*kind)
        while True:
            with self._storage.read() as reader:
                piece = list(islice(reader.scan(position, stop), PIECE_ROWS))
            if not piece:
                return
            yield piece
            position = piece[-1][0] + b"\0"


def _apply(table: VectorTable, change: VectorChange) -> None:
    """Also takes out a vector whose record now has one of another length."""
    if change.values is not None and len(change.values) == table.dimensions:
        table.put(change)
    else:
        table.remove(change.record_id)
