"""The scope of one recall: which of the candidates that its signals find it may answer.

The text index knows of every memory which scopes it is in (`domain.scope`), and searches words within one by
itself. For vectors, times and associations it is asked who is in the scope before any best are chosen, so that
three memories in a scope are found among ten thousand that fit better. All questions of a recall but that of its
words are put to one state of the index, in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from cerememory.actors.actor import Actor
from cerememory.actors.graph import Reached
from cerememory.actors.seams import World
from cerememory.actors.searches import Look
from cerememory.actors.text_index import TextIndexer
from cerememory.actors.vectors import Nearest
from cerememory.protocol.values import RecordId
from cerememory.storage.text_index import Hit, Snapshot, TextIndexError
from cerememory.storage.vectors import Near

FEW_MAX = 20_000  # memories in a scope that are named to the vectors; of more, the vectors' best are asked for
WIDENING = 4  # times as many of these, when too few of them are in the scope
NAMES_MAX = 4_096  # records of which the index is asked at once

T = TypeVar("T")


class Scoping:
    """`terms` are those of the scope, one or more; `fresh_by`: see `Search`."""

    def __init__(
        self, index: TextIndexer, world: World, namespace: int, terms: tuple[str, ...], fresh_by: float
    ) -> None:
        self.terms = terms
        self.is_complete = True  # whether the index had all that is committed, each time that it was asked
        self._index = index
        self._world = world
        self._namespace = namespace
        self._fresh_by = fresh_by
        self._snapshot: Snapshot | None = None
        self._few: frozenset[RecordId] | None = None
        self._are_counted = False

    async def newest(self, codes: frozenset[int] | None, start: int, end: int, count: int) -> list[Hit]:
        """As `Snapshot.newest_within`."""
        found = await self._look(lambda index: index.newest_within(self.terms, codes, start, end, count))
        return found or []

    async def nearest(self, vectors: Actor, nearest: Nearest) -> list[Near]:
        """Of the memories in the scope those that are nearest."""
        few = await self._those_in_it()
        if few is None:
            return await self._nearest_of_many(vectors, nearest)
        return await vectors.ask(replace(nearest, among=few)) if few else []

    async def _those_in_it(self) -> frozenset[RecordId] | None:
        """None when they are more than `FEW_MAX`."""
        if not self._are_counted:
            self._few = await self._look(lambda index: index.few_within(self.terms, FEW_MAX))
            if self._snapshot is None:
                self._few = frozenset()
            self._are_counted = True
        return self._few

    async def _nearest_of_many(self, vectors: Actor, nearest: Nearest) -> list[Near]:
        """Ever more of the best, until enough of them are in the scope or there are no more."""
        asked: set[RecordId] = set()
        inside: set[RecordId] = set()
        width = nearest.limit
        while True:
            found = await vectors.ask(replace(nearest, limit=width))
            record_ids = {near.record_id for near in found}
            inside |= await self.among(record_ids - asked)
            asked |= record_ids
            kept = [near for near in found if near.record_id in inside]
            if len(kept) >= nearest.limit or len(found) < width:
                return kept[: nearest.limit]
            width *= WIDENING

    async def reached(self, memories: Iterable[Reached]) -> list[Reached]:
        """Those in the scope, in their order."""
        reached = list(memories)
        inside = await self.among(memory.record_id for memory in reached)
        return [memory for memory in reached if memory.record_id in inside]

    async def among(self, record_ids: Iterable[RecordId]) -> set[RecordId]:
        """Those of `record_ids` that are in the scope."""
        names, inside = tuple(record_ids), set[RecordId]()
        for start in range(0, len(names), NAMES_MAX):
            piece = names[start : start + NAMES_MAX]
            inside |= await self._look(partial(_among, self._namespace, self.terms, piece)) or frozenset()
        return inside

    async def _look(self, look: Callable[[Snapshot], T]) -> T | None:
        """What `look` finds; None without an index. What is damaged is for the index's actor to meet and mend."""
        if self._snapshot is None:
            self._snapshot = await self._ask(_itself)
        if self._snapshot is None:
            return None
        try:
            return await self._world.offload(partial(look, self._snapshot))
        except TextIndexError:
            return await self._ask(look)

    async def _ask(self, look: Callable[[Snapshot], T]) -> T | None:
        looked = await self._index.ask(Look(look, self._fresh_by))
        self.is_complete &= looked.complete
        return looked.found


def _itself(index: Snapshot) -> Snapshot:
    return index


def _among(
    namespace: int, terms: tuple[str, ...], record_ids: tuple[RecordId, ...], index: Snapshot
) -> frozenset[RecordId]:
    return index.among(namespace, terms, record_ids)
