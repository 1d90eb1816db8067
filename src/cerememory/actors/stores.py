"""The durable stores: one actor for each memory type, which answers reads of its memories.

What recalls do to a memory (it is counted, and harder to forget) lives here first: the store keeps the touched
state until the writer says that it is on disk, so that the next reader sees it at once. Contents are written
by the writer alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from cerememory.actors.actor import Actor, Reply, Request
from cerememory.actors.seams import World
from cerememory.actors.writer import RecordsGone, StatesCommitted
from cerememory.domain.curve import Curve
from cerememory.domain.fidelity import State
from cerememory.protocol.records import Association, Store
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.dynamics import Curves
from cerememory.storage.keys import Address, Table, key, pack_time, state_key
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import (
    STORE_CODE,
    ContentRow,
    parse_content_row,
    parse_edges,
    parse_state_row,
    record_json,
)

R = TypeVar("R")
TOUCHED_MAX = 4_096
READ_TABLES = (Table.CONTENT, Table.STATE, Table.EDGES)


class Memory(msgspec.Struct, frozen=True):
    """A memory as read: its rows, not yet joined."""

    record_id: RecordId
    row: ContentRow
    state: State
    edges: bytes | None

    def with_state(self, state: State) -> Memory:
        return Memory(self.record_id, self.row, state, self.edges)

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

    namespace: int
    record_ids: tuple[RecordId, ...]
    touch_at: int | None = None


class Seen(NamedTuple):
    """A memory as it is at a moment, its state as it was last kept, and what it fades by.

    `is_stored`: it was kept in storage, and no recall has touched it since.
    """

    memory: Memory
    kept: State
    curve: Curve
    is_stored: bool


@dataclass(frozen=True, slots=True)
class Look(Request[list[Seen]]):
    """Read the memories that are there, in the order asked, as they are at `now` (nanoseconds)."""

    namespace: int
    record_ids: tuple[RecordId, ...]
    now: int


@dataclass(frozen=True, slots=True)
class Touch(Request[Fetched]):
    """Make a retrieval at `now` of each of the memories that were `seen` then."""

    namespace: int
    seen: tuple[Seen, ...]
    now: int


@dataclass(frozen=True, slots=True)
class Scores(Request[dict[RecordId, float]]):
    """The fidelity of each of the memories that are there; `records` are their ids and creation times."""

    namespace: int
    records: tuple[tuple[RecordId, int], ...]


class DurableStore(Actor):
    """Reads the memories of one store."""

    def __init__(
        self, store: Store, storage: Storage, world: World, curves: Curves, mailbox_size: int = 256
    ) -> None:
        super().__init__(store.value, mailbox_size)
        self._code = STORE_CODE[store]
        self._storage = storage
        self._world = world
        self._curves = curves
        self._touched: OrderedDict[Address, State] = OrderedDict()

    async def load(self) -> None:
        self._touched.clear()

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case StatesCommitted():
                self._forget_saved(message.states)
                return None
            case RecordsGone():
                for address in message.addresses:
                    self._touched.pop(address, None)
                return None
        answer = self._answer_of(message)
        return await super().handle(message, reply) if answer is None else answer

    def answer_nowait(self, request: Request[R]) -> R | None:
        """The answer to a read, when nothing waits in front of it; None: `ask`, of which the way costs as much."""
        return self._answer_of(request) if self.is_idle else None

    def _answer_of(self, request: Any) -> Any:
        """None: it isn't one of the requests for memories."""
        match request:
            case Look():
                return self._look(request)
            case Touch():
                return self._touch(request)
            case Scores():
                return self._scores(request)
            case Fetch():
                return self._fetch(request)
        return None

    def _fetch(self, request: Fetch) -> Fetched:
        now = self._world.now() if request.touch_at is None else request.touch_at
        seen = self._look(Look(request.namespace, request.record_ids, now))
        if request.touch_at is not None:
            return self._touch(Touch(request.namespace, tuple(seen), now))
        return Fetched(tuple(each.memory for each in seen))

    def _look(self, request: Look) -> list[Seen]:
        namespace, touched = request.namespace, self._touched
        with self._storage.read() as reader:
            curve = self._curves.of(reader, namespace)[self._code]
            stored = read_memories(reader, namespace, request.record_ids)
        seen = []
        for memory in stored:
            kept = touched.get((namespace, memory.record_id)) or memory.state
            here = memory.with_state(curve.current(kept, request.now))
            seen.append(Seen(here, kept, curve, is_stored=kept is memory.state))
        return seen

    def _touch(self, request: Touch) -> Fetched:
        namespace, now = request.namespace, request.now
        touched, saved = [], []
        for memory, kept, curve, is_stored in request.seen:
            address = namespace, memory.record_id
            before, here = self._touched.get(address, kept), memory.state
            if before is not kept:  # another recall has touched it since
                here = curve.current(before, now)
            state, row = curve.recalled(here, now), memory.row
            self._keep(address, state)
            touched.append(memory.with_state(state))
            was_stored = is_stored and before is kept
            place = namespace, memory.record_id, row.created_at, row.store_code
            saved.append(SavedState(*place, before, state, was_stored))
        return Fetched(tuple(touched), tuple(saved))

    def _keep(self, address: Address, state: State) -> None:
        self._touched[address] = state
        self._touched.move_to_end(address)
        if len(self._touched) > TOUCHED_MAX:
            self._touched.popitem(last=False)

    def _forget_saved(self, states: Iterable[SavedState]) -> None:
        for saved in states:
            address = saved.namespace, saved.record_id
            if self._touched.get(address) is saved.state:
                del self._touched[address]

    def _scores(self, request: Scores) -> dict[RecordId, float]:
        namespace, now = request.namespace, self._world.now()
        keys = [state_key(namespace, created_at, record_id) for record_id, created_at in request.records]
        with self._storage.read() as reader:
            curve = self._curves.of(reader, namespace)[self._code]
            values = reader.get_many(keys)
        scores: dict[RecordId, float] = {}
        for (record_id, _created_at), value in zip(request.records, values, strict=True):
            if value is not None:
                state = self._touched.get((namespace, record_id)) or parse_state_row(value)[1]
                scores[record_id] = curve.score(state, now)
        return scores


def read_memories(reader: Reader, namespace: int, record_ids: Sequence[RecordId]) -> list[Memory]:
    """Those of `record_ids` that are stored, in their order; with their states as written."""
    content_table, state_table, edge_table = (key(namespace, table) for table in READ_TABLES)
    contents = reader.get_many([content_table + record_id for record_id in record_ids])
    rows = [
        (record_id, parse_content_row(content))
        for record_id, content in zip(record_ids, contents, strict=True)
        if content is not None
    ]
    keys = [state_table + pack_time(row.created_at) + record_id for record_id, row in rows]
    values = reader.get_many(keys + [edge_table + record_id for record_id, _row in rows])
    states, edges = values[: len(rows)], values[len(rows) :]
    return [
        Memory(record_id, row, parse_state_row(state)[1], found)
        for (record_id, row), state, found in zip(rows, states, edges, strict=True)
        if state is not None
    ]
