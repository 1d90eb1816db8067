"""Reading memories of several stores: each store is asked for its own, a piece at a time.

A store in whose mailbox nothing waits answers a short question at once, without a turn of its actor (ADR 20).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import msgspec

from cerememory.actors.actor import Actor, Request
from cerememory.actors.stores import DurableStore, Fetch, Fetched, Memory
from cerememory.protocol.replies import RecalledMemory
from cerememory.protocol.values import RecordId
from cerememory.storage.prepared import SavedState

R = TypeVar("R")
PIECE_RECORDS = 256  # read by one turn of a store's actor: it takes about 2 ms
SHORT_RECORDS = 32  # read by whoever asks


class Placed(Protocol):
    """Whatever knows the store of a memory, by its code."""

    @property
    def record_id(self) -> RecordId: ...

    @property
    def store_code(self) -> int: ...


def pieces_by_store(found: Iterable[Placed]) -> Iterator[tuple[int, tuple[RecordId, ...]]]:
    """Store codes with ids of each, as many as are read at once."""
    grouped: dict[int, list[RecordId]] = {}
    for placed in found:
        grouped.setdefault(placed.store_code, []).append(placed.record_id)
    for code, record_ids in grouped.items():
        for i in range(0, len(record_ids), PIECE_RECORDS):
            yield code, tuple(record_ids[i : i + PIECE_RECORDS])


def answer_nowait(store: Actor, request: Request[R], count: int) -> R | None:
    """What `store` answers to a question about `count` memories, when it can at once; None: `ask`."""
    if count <= SHORT_RECORDS and isinstance(store, DurableStore):
        return store.answer_nowait(request)
    return None


async def fetch(
    stores: tuple[Actor, ...], namespace: int, found: Iterable[Placed], touch_at: int | None = None
) -> Fetched:
    """Those of `found` that are there, as `Fetch` answers them; `stores` in the order of their codes."""
    memories: list[Memory] = []
    saved: list[SavedState] = []
    for code, record_ids in pieces_by_store(found):
        store, request = stores[code], Fetch(namespace, record_ids, touch_at)
        fetched = answer_nowait(store, request, len(record_ids))
        if fetched is None:
            fetched = await store.ask(request)
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
