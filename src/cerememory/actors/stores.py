"""The durable stores: one actor for each memory type, which answers reads of its memories.

What recalls do to a memory (it is counted, and harder to forget) lives here first: the store keeps the touched
state until the writer says that it is on disk, so that the next reader sees it at once. Contents are written
by the writer alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from cerememory.actors.actor import Actor, Reply, Request
from cerememory.actors.writer import StatesCommitted
from cerememory.domain.fidelity import State, retrieved
from cerememory.protocol.records import Association, Store
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.keys import Table, key
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import (
    STORE_CODE,
    ContentRow,
    parse_content_row,
    parse_edges,
    parse_state,
    record_json,
)

TOUCHED_MAX = 4_096


class Memory(msgspec.Struct, frozen=True):
    """A memory as read: its rows, not yet joined."""

    record_id: RecordId
    row: ContentRow
    state: State
    edges: bytes | None

    def associations(self) -> tuple[Association, ...]:
        return parse_edges(self.edges)

    def json(self) -> bytes:
        return record_json(self.record_id, self.row, self.state, self.edges)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The memories that are there, in the order asked; with a touch, what it did to the durable ones."""

    memories: tuple[Memory, ...]
    saved: tuple[SavedState, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetch(Request[Fetched]):
    """Read memories; `touch_at` (nanoseconds) makes each a retrieval at that time."""

    record_ids: tuple[RecordId, ...]
    touch_at: int | None = None


@dataclass(frozen=True, slots=True)
class Scores(Request[dict[RecordId, float]]):
    """The fidelity of each of the memories that are there."""

    record_ids: tuple[RecordId, ...]


class DurableStore(Actor):
    """Reads the memories of one store."""

    def __init__(self, store: Store, storage: Storage, mailbox_size: int = 256) -> None:
        super().__init__(store.value, mailbox_size)
        self._store = store
        self._storage = storage
        self._touched: OrderedDict[RecordId, State] = OrderedDict()

    async def load(self) -> None:
        self._touched.clear()

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case Fetch():
                return self._fetch(message)
            case Scores():
                return self._scores(message.record_ids)
            case StatesCommitted():
                self._forget_saved(message.states)
                return None
        return await super().handle(message, reply)

    def _fetch(self, request: Fetch) -> Fetched:
        with self._storage.read() as reader:
            found = [self._read(reader, record_id) for record_id in request.record_ids]
        memories = tuple(memory for memory in found if memory is not None)
        if request.touch_at is None:
            return Fetched(memories)
        return self._touch(memories, request.touch_at)

    def _read(self, reader: Reader, record_id: RecordId) -> Memory | None:
        content, state, edges = reader.get_many(
            [key(table, record_id) for table in (Table.CONTENT, Table.STATE, Table.EDGES)]
        )
        if content is None or state is None:
            return None
        current = self._touched.get(record_id) or parse_state(state)
        return Memory(record_id, parse_content_row(content), current, edges)

    def _touch(self, memories: Iterable[Memory], now: int) -> Fetched:
        touched, saved = [], []
        for memory in memories:
            state = retrieved(memory.state, self._store, now)
            self._keep(memory.record_id, state)
            touched.append(Memory(memory.record_id, memory.row, state, memory.edges))
            change = state.score - memory.state.score
            saved.append(SavedState(memory.record_id, STORE_CODE[self._store], state, change))
        return Fetched(tuple(touched), tuple(saved))

    def _keep(self, record_id: RecordId, state: State) -> None:
        self._touched[record_id] = state
        self._touched.move_to_end(record_id)
        if len(self._touched) > TOUCHED_MAX:
            self._touched.popitem(last=False)

    def _forget_saved(self, states: Iterable[SavedState]) -> None:
        for saved in states:
            if self._touched.get(saved.record_id) is saved.state:
                del self._touched[saved.record_id]

    def _scores(self, record_ids: tuple[RecordId, ...]) -> dict[RecordId, float]:
        with self._storage.read() as reader:
            values = reader.get_many([key(Table.STATE, record_id) for record_id in record_ids])
        return {
            record_id: (self._touched.get(record_id) or parse_state(value)).score
            for record_id, value in zip(record_ids, values, strict=True)
            if value is not None
        }
