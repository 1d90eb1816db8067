"""What working memory holds: the records themselves, by namespace, the least recently accessed first.

Plain state without an event loop; whoever owns it tells the indexes what left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from cerememory.actors.stores import Fetch, Fetched, Memory, Scores
from cerememory.domain.fidelity import DYNAMICS, State, reinforced
from cerememory.protocol.records import Association, Store
from cerememory.protocol.values import RecordId
from cerememory.storage.keys import Address
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import dump_edges

WORKING_CAPACITY = 7


class HeldRecords:
    """At most `WORKING_CAPACITY` of each namespace."""

    def __init__(self) -> None:
        self._held: dict[int, OrderedDict[RecordId, NewRecord]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def __iter__(self) -> Iterator[NewRecord]:
        for held in self._held.values():
            yield from held.values()

    def addresses(self) -> list[Address]:
        return [(record.namespace, record.record_id) for record in self]

    def get(self, namespace: int, record_id: RecordId) -> NewRecord | None:
        return self._in(namespace).get(record_id)

    def memories(self, namespace: int) -> tuple[Memory, ...]:
        """Asking so is no access."""
        return tuple(map(_memory, self._in(namespace).values()))

    def fetch(self, request: Fetch) -> Fetched:
        """A read counts as an access."""
        held, memories = self._in(request.namespace), []
        for record_id in request.record_ids:
            record = held.get(record_id)
            if record is not None:
                if request.touch_at is not None:
                    record = replace(record, state=_touched(record.state, request.touch_at))
                    held[record_id] = record
                held.move_to_end(record_id)
                memories.append(_memory(record))
        return Fetched(tuple(memories))

    def scores(self, request: Scores) -> dict[RecordId, float]:
        held = self._in(request.namespace)
        return {i: held[i].state.score for i, _created_at in request.records if i in held}

    def hold(self, namespace: int, records: Iterable[NewRecord]) -> tuple[RecordId, ...]:
        """Hold these, the newest last; the ids of those that made room for them."""
        held = self._held.setdefault(namespace, OrderedDict())
        for record in records:
            held[record.record_id] = record
            held.move_to_end(record.record_id)
        left = len(held) - WORKING_CAPACITY
        return tuple(held.popitem(last=False)[0] for _ in range(left))

    def let_go(self, namespace: int, record_ids: Iterable[RecordId]) -> None:
        held = self._in(namespace)
        for record_id in record_ids:
            held.pop(record_id, None)

    def drop(self, gone: Collection[Address]) -> list[Address]:
        """Let go of what was removed, here or in storage, with all edges to it; answers which of it was here."""
        dropped = []
        for namespace in {namespace for namespace, _record_id in gone}:
            for record_id, record in list(self._in(namespace).items()):
                if (namespace, record_id) in gone:
                    del self._held[namespace][record_id]
                    dropped.append((namespace, record_id))
                else:
                    self._held[namespace][record_id] = without_edges_to(record, gone)
        return dropped

    def _in(self, namespace: int) -> OrderedDict[RecordId, NewRecord]:
        return self._held.get(namespace) or OrderedDict()


def without_edges_to(record: NewRecord, gone: Collection[Address]) -> NewRecord:
    """`record` itself when no edge leads there."""

    def stays(edge: Association) -> bool:
        return (record.namespace, edge.target_id) not in gone

    if all(map(stays, record.associations)):
        return record
    return replace(record, associations=tuple(filter(stays, record.associations)))


def _touched(state: State, now: int) -> State:
    """No time passes in working memory, so only the access counts."""
    return reinforced(state, DYNAMICS[Store.WORKING].retrieval_boost, now)


def _memory(record: NewRecord) -> Memory:
    edges = dump_edges(record.associations) if record.associations else None
    return Memory(record.record_id, record.row, record.state, edges)
