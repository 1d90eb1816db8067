"""The scope of one recall: which of the candidates that its signals find it may answer.

The text index knows of every memory which scopes it is in (`domain.scope`), and searches words within one by
itself. For vectors, times and associations it is asked who is in the scope before any best are chosen, so that
three memories in a scope are found among ten thousand that fit better. All questions of a recall but that of its
words are put to one state of the index, in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from cerememory.actors.actor import Actor
from cerememory.actors.graph import Reached
from cerememory.actors.seams import World
from cerememory.actors.searches import Look, itself
from cerememory.actors.text_index import TextIndexer
from cerememory.actors.vectors import Nearest
from cerememory.protocol.values import RecordId
from cerememory.storage.text_index import Hit, Snapshot, TextIndexError
from cerememory.storage.vectors import Near

FEW_MAX = 20_000  # memories in a scope that are named to the vectors; of more, the vectors' best are looked up
NAMES_MAX = 1_024  # records of which the index is asked at once: it holds the interpreter for 2 ms

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
        """Ever more of the best are looked up, all in one thread: they may be all vectors that there are."""
        if self._snapshot is None:
            return []
        passing = _Passing(self._snapshot, self._namespace, self.terms)
        found: list[Near] = await vectors.ask(replace(nearest, passing=passing))
        if passing.missed:
            self.is_complete = False
            await self._ask(partial(_among, self._namespace, self.terms, passing.missed))
        return found

    async def reached(self, memories: Iterable[Reached]) -> list[Reached]:
        """Those in the scope, in their order."""
        reached = list(memories)
        inside = await self.among(memory.record_id for memory in reached)
        return [memory for memory in reached if memory.record_id in inside]

    async def among(self, record_ids: Iterable[RecordId]) -> set[RecordId]:
        """Those of `record_ids` that are in the scope."""
        inside = set[RecordId]()
        for piece in _pieces(tuple(record_ids)):
            inside |= await self._look(partial(_among, self._namespace, self.terms, piece)) or frozenset()
        return inside

    async def _look(self, look: Callable[[Snapshot], T]) -> T | None:
        """What `look` finds; None without an index. What is damaged is for the index's actor to meet and mend."""
        if self._snapshot is None:
            self._snapshot = await self._ask(itself)
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


class _Passing:
    """Which of some records are in a scope, for whoever asks in a thread. `missed`: those that a damaged index has
    been asked of in vain; of them none passes.
    """

    def __init__(self, index: Snapshot, namespace: int, terms: tuple[str, ...]) -> None:
        self.missed: tuple[RecordId, ...] = ()
        self._index = index
        self._namespace = namespace
        self._terms = terms

    def __call__(self, record_ids: Sequence[RecordId]) -> set[RecordId]:
        inside = set[RecordId]()
        for piece in _pieces(tuple(record_ids)):
            try:
                inside |= _among(self._namespace, self._terms, piece, self._index)
            except TextIndexError:
                self.missed = piece
        return inside


def _pieces(record_ids: tuple[RecordId, ...]) -> Iterator[tuple[RecordId, ...]]:
    for start in range(0, len(record_ids), NAMES_MAX):
        yield record_ids[start : start + NAMES_MAX]


def _among(
    namespace: int, terms: tuple[str, ...], record_ids: tuple[RecordId, ...], index: Snapshot
) -> frozenset[RecordId]:
    return index.among(namespace, terms, record_ids)
