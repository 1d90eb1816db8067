"""What an archive does to the namespace that it is imported into.

`lines` are the records of an archive in their order, as decoded JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cerememory.protocol.values import parse_timestamp
from tests.support.model.memories import Edge, Entry, Json, Memory
from tests.support.model.namespace import CAPACITY, Namespace


class Terms(NamedTuple):
    strategy: str
    resolution: str

    def takes(self, stored_at: int, archived_at: int) -> bool:
        return {
            "keep_existing": False,
            "keep_imported": True,
            "keep_newer": archived_at > stored_at,
        }[self.resolution]


def take_in(
    namespace: Namespace, curated: Iterable[Json], raw: Iterable[Json] | None, terms: Terms, now: int
) -> int:
    """How many records were imported; `raw` None: an archive without the journal."""
    if terms.strategy == "replace":
        _clear(namespace, has_raw=raw is not None)
    memories = [_memory(namespace, line, now) for line in curated]
    imported = sum(_take_durable(namespace, m, terms) for m in memories if not m.is_held)
    imported += _take_held(namespace, [memory for memory in memories if memory.is_held][-CAPACITY:], terms)
    imported += sum(_take_entry(namespace, _entry(line), terms) for line in raw or ())
    if imported:
        namespace.consolidated_at = None  # what came in, whenever it was made, has changed since
    return imported


def _clear(namespace: Namespace, *, has_raw: bool) -> None:
    namespace.durable.clear()
    namespace.working.clear()
    namespace.archived.clear()
    if has_raw:
        namespace.journal.clear()


def _take_durable(namespace: Namespace, memory: Memory, terms: Terms) -> bool:
    known = namespace.durable.get(memory.id)
    if known is not None and not terms.takes(known.updated_at, memory.updated_at):
        return False
    namespace.archived.pop(memory.id, None)
    namespace.put(memory)
    return True


def _take_held(namespace: Namespace, memories: list[Memory], terms: Terms) -> int:
    """What lasts leaves working memory, and doesn't come in again."""
    for record_id in namespace.durable:
        namespace.working.pop(record_id, None)
    taken = [memory for memory in memories if _is_taken_held(namespace, memory, terms)]
    for memory in taken:
        namespace.put(memory)
    return len(taken)


def _is_taken_held(namespace: Namespace, memory: Memory, terms: Terms) -> bool:
    known = namespace.working.get(memory.id)
    wins = known is None or terms.takes(known.updated_at, memory.updated_at)
    return memory.id not in namespace.durable and wins


def _take_entry(namespace: Namespace, entry: Entry, terms: Terms) -> bool:
    known = namespace.journal.get(entry.id)
    if known is not None and not terms.takes(known.updated_at, entry.updated_at):
        return False
    namespace.put_entry(entry)
    return True


def _memory(namespace: Namespace, line: Json, now: int) -> Memory:
    """As it is in the archive; it fades from now on."""
    fidelity = line["fidelity"]
    return Memory(
        id=line["id"],
        store=line["store"],
        created_at=parse_timestamp(line["created_at"]),
        updated_at=parse_timestamp(line["updated_at"]),
        content=line["content"],
        emotion=line["emotion"],
        metadata=line["metadata"],
        meta=line["meta"],
        edges=[_edge(edge) for edge in line["associations"]],
        base_at=namespace.clock(now),
        decay_rate=fidelity["decay_rate"],
        last_accessed_at=parse_timestamp(line["last_accessed_at"]),
        last_tick_at=parse_timestamp(fidelity["last_decay_tick"]),
        version=line["version"],
        base_score=fidelity["score"],
        base_noise=fidelity["noise_level"],
        written=fidelity["score"],
        stability=fidelity["stability"],
        anchor=fidelity["emotional_anchor"],
        access_count=line["access_count"],
        reinforcement_count=fidelity["reinforcement_count"],
    )


def _edge(line: Json) -> Edge:
    return Edge(
        line["target_id"],
        line["association_type"],
        line["weight"],
        parse_timestamp(line["created_at"]),
        parse_timestamp(line["last_co_activation"]),
    )


def _entry(line: Json) -> Entry:
    return Entry(
        id=line["id"],
        session=line["session_id"],
        topic=line["topic_id"],
        visibility=line["visibility"],
        secrecy=line["secrecy_level"],
        created_at=parse_timestamp(line["created_at"]),
        updated_at=parse_timestamp(line["updated_at"]),
        content=line["content"],
        metadata=line["metadata"],
        meta=line["meta"],
        derived=list(line["derived_memory_ids"]),
    )
