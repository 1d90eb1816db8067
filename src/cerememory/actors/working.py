"""Working memory: seven records that live in this actor alone, and are lost at a restart.

The least recently accessed makes room for a new one, and leaves the indexes with it. A record enters when its
audit entry is committed: whatever touches working memory is handed to the writer from here, one after the
other, and shows when the writer has answered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cerememory.actors.actor import Actor, Reply, Request
from cerememory.actors.stores import Fetch, Fetched, Memory, Scores
from cerememory.actors.writer import Commit, Writer
from cerememory.domain.fidelity import retrieved
from cerememory.errors import RecordNotFound
from cerememory.protocol import codec
from cerememory.protocol.records import EmotionVector, MemoryContent, Store
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.documents import edited_document
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

    record_id: RecordId
    edit: Edit
    expected_version: int | None
    now: int
    keep_answer: Callable[[Mutation[Stored[None]]], Mutation[Stored[None]]]


@dataclass(frozen=True, slots=True)
class Held(Request[tuple[Memory, ...]]):
    """All working records, the least recently accessed first."""


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

    record_ids: tuple[RecordId, ...]


class WorkingMemory(Actor):
    """Holds the records themselves, the least recently accessed first."""

    def __init__(self, writer: Writer, mailbox_size: int = 256) -> None:
        super().__init__(Store.WORKING.value, mailbox_size)
        self._writer = writer
        self._indexes: tuple[Actor, ...] = ()
        self._held: OrderedDict[RecordId, NewRecord] = OrderedDict()

    def tell(self, indexes: tuple[Actor, ...]) -> None:
        self._indexes = indexes

    async def load(self) -> None:
        """After a crash: empty, and the indexes know it."""
        gone = tuple(self._held)
        self._held.clear()
        await self._tell_evicted(gone)

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case Fetch():
                return self._fetch(message)
            case Scores():
                return self._scores(message.record_ids)
            case Held():
                return tuple(_memory(record) for record in self._held.values())
            case Remember():
                return await self._commit(message.mutation, message.records)
            case UpdateWorking():
                return await self._update(message)
            case TellAnew():
                await message.index.inform(self._told_anew())
                return None
        return await super().handle(message, reply)

    def _fetch(self, request: Fetch) -> Fetched:
        memories = []
        for record_id in request.record_ids:
            record = self._held.get(record_id)
            if record is not None:
                self._held.move_to_end(record_id)  # a read counts as an access
                memories.append(_memory(self._touch(record, request.touch_at)))
        return Fetched(tuple(memories))

    def _touch(self, record: NewRecord, touch_at: int | None) -> NewRecord:
        if touch_at is not None:
            record = replace(record, state=retrieved(record.state, Store.WORKING, touch_at))
            self._held[record.record_id] = record
        return record

    def _scores(self, record_ids: tuple[RecordId, ...]) -> dict[RecordId, float]:
        return {i: self._held[i].state.score for i in record_ids if i in self._held}

    async def _update(self, request: UpdateWorking) -> Stored[None]:
        record = self._held.get(request.record_id)
        if record is None:
            raise RecordNotFound(f"Record not found: {format_id(request.record_id)}")
        edited = _edited(record, request)
        update = UpdateHeld(edited, request.edit, request.expected_version)
        return await self._commit(request.keep_answer(update), (edited,))

    async def _commit(self, mutation: Mutation[Stored[Any]], records: tuple[NewRecord, ...]) -> Stored[Any]:
        stored = await self._writer.ask(Commit(mutation))
        if not stored.replayed:
            await self._hold(records)
        return stored

    async def _hold(self, records: tuple[NewRecord, ...]) -> None:
        for record in records:
            self._held[record.record_id] = record
            self._held.move_to_end(record.record_id)
        evicted = []
        while len(self._held) > WORKING_CAPACITY:
            record_id, _record = self._held.popitem(last=False)
            evicted.append(record_id)
        await self._tell_evicted(tuple(evicted))

    async def _tell_evicted(self, record_ids: tuple[RecordId, ...]) -> None:
        if record_ids:
            for index in self._indexes:
                await index.inform(Evicted(record_ids))

    def _told_anew(self) -> ToldAnew:
        vectors = [change for record in self._held.values() for change in _vectors(record)]
        return ToldAnew(tuple(record.document for record in self._held.values()), tuple(vectors))


def _memory(record: NewRecord) -> Memory:
    edges = dump_edges(record.associations) if record.associations else None
    return Memory(record.record_id, record.row, record.state, edges)


def _edited(record: NewRecord, request: UpdateWorking) -> NewRecord:
    row = request.edit.applied(record.row, request.now)
    content = codec.parse(row.content, MemoryContent)
    return replace(
        record,
        row=row,
        document=edited_document(record.record_id, row),
        embedding=embedding_of(content),
        emotion=codec.parse(row.emotion, EmotionVector) if row.emotion else None,
    )


def _vectors(record: NewRecord) -> list[VectorChange]:
    axes = record.emotion.axes() if record.emotion is not None and any(record.emotion.axes()) else None
    return [
        VectorChange(space, record.record_id, record.row.store_code, record.row.created_at, values)
        for space, values in ((Space.CONTENT, record.embedding), (Space.EMOTION, axes))
        if values is not None
    ]
