"""Working memory: seven records of each namespace that live in this actor alone, and are lost at a restart.

The least recently accessed makes room for a new one, and leaves the indexes with it. A record enters when its
audit entry is committed: whatever touches working memory is handed to the writer from here, one after the
other, and shows when the writer has answered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from cerememory.actors.actor import Actor, Reply, Request
from cerememory.actors.followers import RecordsGone
from cerememory.actors.stores import Fetch, Fetched, Memory, Scores
from cerememory.actors.writer import Commit, Writer
from cerememory.domain.fidelity import DYNAMICS, State, reinforced
from cerememory.errors import RecordNotFound
from cerememory.protocol import codec
from cerememory.protocol.records import EmotionVector, MemoryContent, Store
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.documents import row_document
from cerememory.storage.keys import Address
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import Edit, Stored, UpdateHeld, embedding_of
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import dump_edges
from cerememory.storage.text_index import IndexDocument
from cerememory.storage.vectors import Space, VectorChange

WORKING_CAPACITY = 7


@dataclass(frozen=True, slots=True)
class Remember(Request[Stored[Any]]):
    """Commit `mutation`, which tells of `records`, then hold them, the newest last."""

    records: tuple[NewRecord, ...]
    mutation: Mutation[Stored[Any]]


@dataclass(frozen=True, slots=True)
class UpdateWorking(Request[Stored[None]]):
    """Replace parts of a working record; `expected_version` as in `If-Match`.

    `keep_answer` wraps the mutation when it came with an idempotency key.
    """

    namespace: int
    record_id: RecordId
    edit: Edit
    expected_version: int | None
    now: int
    keep_answer: Callable[[Mutation[Stored[None]]], Mutation[Stored[None]]]


@dataclass(frozen=True, slots=True)
class Held(Request[tuple[Memory, ...]]):
    """All working records of the namespace, the least recently accessed first."""

    namespace: int


@dataclass(frozen=True, slots=True)
class CountHeld(Request[int]):
    """How many working records there are in all namespaces."""


@dataclass(frozen=True, slots=True)
class Restock:
    """An event from an import: let go of `gone`, then hold `records`, the newest last."""

    namespace: int
    gone: tuple[RecordId, ...]
    records: tuple[NewRecord, ...]


@dataclass(frozen=True, slots=True)
class ToldAnew:
    """To an index that was reopened: what working memory holds, which no storage has."""

    documents: tuple[IndexDocument, ...]
    vectors: tuple[VectorChange, ...]


@dataclass(frozen=True, slots=True)
class TellAnew:
    """From an index that was reopened: `index` lacks what working memory holds."""

    index: Actor


@dataclass(frozen=True, slots=True)
class Evicted:
    """To the indexes: these records are gone."""

    namespace: int
    record_ids: tuple[RecordId, ...]


class WorkingMemory(Actor):
    """Holds the records themselves, the least recently accessed first."""

    def __init__(self, writer: Writer, mailbox_size: int = 256) -> None:
        super().__init__(Store.WORKING.value, mailbox_size)
        self._writer = writer
        self._indexes: tuple[Actor, ...] = ()
        self._held: dict[int, OrderedDict[RecordId, NewRecord]] = {}

    def tell(self, indexes: tuple[Actor, ...]) -> None:
        self._indexes = indexes

    async def load(self) -> None:
        """After a crash: empty, and the indexes know it."""
        gone, self._held = self._held, {}
        for namespace, held in gone.items():
            await self._tell_evicted(namespace, tuple(held))

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case Fetch():
                return self._fetch(message)
            case Scores():
                return self._scores(message)
            case Held():
                return tuple(_memory(record) for record in self._held_in(message.namespace).values())
            case CountHeld():
                return sum(map(len, self._held.values()))
            case Remember():
                return await self._commit(message.mutation, message.records)
            case UpdateWorking():
                return await self._update(message)
            case Restock():
                await self._restock(message)
                return None
            case RecordsGone():
                await self._drop(message.addresses)
                return None
            case TellAnew():
                await message.index.inform(self._told_anew())
                return None
        return await super().handle(message, reply)

    def _fetch(self, request: Fetch) -> Fetched:
        held, memories = self._held_in(request.namespace), []
        for record_id in request.record_ids:
            record = held.get(record_id)
            if record is not None:
                if request.touch_at is not None:
                    record = replace(record, state=_touched(record.state, request.touch_at))
                    held[record_id] = record
                held.move_to_end(record_id)  # a read counts as an access
                memories.append(_memory(record))
        return Fetched(tuple(memories))

    def _held_in(self, namespace: int) -> OrderedDict[RecordId, NewRecord]:
        return self._held.get(namespace) or OrderedDict()

    def _scores(self, request: Scores) -> dict[RecordId, float]:
        held = self._held_in(request.namespace)
        return {i: held[i].state.score for i, _created_at in request.records if i in held}

    async def _update(self, request: UpdateWorking) -> Stored[None]:
        record = self._held_in(request.namespace).get(request.record_id)
        if record is None:
            raise RecordNotFound(f"Record not found: {format_id(request.record_id)}")
        edited = _edited(record, request)
        update = UpdateHeld(edited, request.edit, request.expected_version)
        return await self._commit(request.keep_answer(update), (edited,))

    async def _commit(self, mutation: Mutation[Stored[Any]], records: tuple[NewRecord, ...]) -> Stored[Any]:
        stored = await self._writer.ask(Commit(mutation))
        if not stored.replayed:
            await self._hold(mutation.namespace, records)
        return stored

    async def _hold(self, namespace: int, records: tuple[NewRecord, ...]) -> None:
        held = self._held.setdefault(namespace, OrderedDict())
        for record in records:
            held[record.record_id] = record
            held.move_to_end(record.record_id)
        evicted = []
        while len(held) > WORKING_CAPACITY:
            record_id, _record = held.popitem(last=False)
            evicted.append(record_id)
        await self._tell_evicted(namespace, tuple(evicted))

    async def _drop(self, addresses: tuple[Address, ...]) -> None:
        """What was removed, here or in storage, is gone with all edges to it."""
        gone = set(addresses)
        for namespace, held in self._held.items():
            dropped = tuple(record_id for record_id in held if (namespace, record_id) in gone)
            for record_id in dropped:
                del held[record_id]
            for record_id, record in held.items():
                left = tuple(edge for edge in record.associations if (namespace, edge.target_id) not in gone)
                if len(left) < len(record.associations):
                    held[record_id] = replace(record, associations=left)
            await self._tell_evicted(namespace, dropped)

    async def _restock(self, request: Restock) -> None:
        held = self._held_in(request.namespace)
        gone = tuple(record_id for record_id in request.gone if held.pop(record_id, None) is not None)
        await self._tell_evicted(request.namespace, gone)
        await self._hold(request.namespace, request.records)
        for index in self._indexes:
            await index.inform(_told_of(request.records))

    async def _tell_evicted(self, namespace: int, record_ids: tuple[RecordId, ...]) -> None:
        if record_ids:
            for index in self._indexes:
                await index.inform(Evicted(namespace, record_ids))

    def _told_anew(self) -> ToldAnew:
        return _told_of([record for held in self._held.values() for record in held.values()])


def _told_of(records: Iterable[NewRecord]) -> ToldAnew:
    told = list(records)
    documents = [row_document(record.namespace, record.record_id, record.row) for record in told]
    return ToldAnew(tuple(documents), tuple(change for record in told for change in _vectors(record)))


def _touched(state: State, now: int) -> State:
    """No time passes in working memory, so only the access counts."""
    return reinforced(state, DYNAMICS[Store.WORKING].retrieval_boost, now)


def _memory(record: NewRecord) -> Memory:
    edges = dump_edges(record.associations) if record.associations else None
    return Memory(record.record_id, record.row, record.state, edges)


def _edited(record: NewRecord, request: UpdateWorking) -> NewRecord:
    row = request.edit.applied(record.row, request.now)
    content = codec.parse(row.content, MemoryContent)
    return replace(
        record,
        row=row,
        embedding=embedding_of(content),
        emotion=codec.parse(row.emotion, EmotionVector) if row.emotion else None,
    )


def _vectors(record: NewRecord) -> list[VectorChange]:
    axes = record.emotion.axes() if record.emotion is not None and any(record.emotion.axes()) else None
    return [
        VectorChange(
            record.namespace, space, record.record_id, record.row.store_code, record.row.created_at, values
        )
        for space, values in ((Space.CONTENT, record.embedding), (Space.EMOTION, axes))
        if values is not None
    ]
