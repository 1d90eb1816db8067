"""Reading memories of several stores: each store is asked for its own, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from cerememory.actors.actor import Actor
from cerememory.actors.stores import Fetch, Fetched, Memory
from cerememory.protocol.replies import RecalledMemory
from cerememory.protocol.values import RecordId
from cerememory.storage.prepared import SavedState

PIECE_RECORDS = 256  # read by one turn of a store's actor: it takes about 2 ms


class Placed(Protocol):
    """Whatever knows the store of a memory, by its code."""

    @property
    def record_id(self) -> RecordId: ...

    @property
    def store_code(self) -> int: ...


def _by_store(found: Iterable[Placed]) -> dict[int, tuple[RecordId, ...]]:
    grouped: dict[int, list[RecordId]] = {}
    for placed in found:
        grouped.setdefault(placed.store_code, []).append(placed.record_id)
    return {code: tuple(record_ids) for code, record_ids in grouped.items()}


async def fetch(
    stores: tuple[Actor, ...], namespace: int, found: Iterable[Placed], touch_at: int | None = None
) -> Fetched:
    """Those of `found` that are there, as `Fetch` answers them; `stores` in the order of their codes."""
    memories: list[Memory] = []
    saved: list[SavedState] = []
    for code, record_ids in _by_store(found).items():
        for i in range(0, len(record_ids), PIECE_RECORDS):
            piece = Fetch(namespace, record_ids[i : i + PIECE_RECORDS], touch_at)
            fetched: Fetched = await stores[code].ask(piece)
            memories += fetched.memories
            saved += fetched.saved
    return Fetched(tuple(memories), tuple(saved))


def recalled(memory: Memory, score: float, path: tuple[RecordId, ...] | None = None) -> RecalledMemory:
    """`memory` as part of an answer, with its content as it was stored."""
    return RecalledMemory(
        record=msgspec.Raw(memory.json()),
        relevance_score=score,
        activation_path=path,
        rendered_content=msgspec.Raw(memory.row.content),
    )
