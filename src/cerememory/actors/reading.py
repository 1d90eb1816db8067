"""Reading memories of several stores: each store is asked for its own, a piece at a time.

What one answer carries is bounded (`fitting`): a memory alone is always shown, however large it is.

A store in whose mailbox nothing waits answers a short question at once, without a turn of its actor (ADR 20).
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

import msgspec
import trio

from cerememory.actors.actor import Actor, Request
from cerememory.actors.stores import DurableStore, Fetch, Memory
from cerememory.protocol.long import ANSWER_BYTES_MAX, LONG_BYTES
from cerememory.protocol.replies import RecalledMemory
from cerememory.protocol.values import RecordId

R = TypeVar("R")
PIECE_RECORDS = 256  # read by one turn of a store's actor: it takes about 2 ms
SHORT_RECORDS = 32  # read by whoever asks
TURN_BYTES = 8 * 1_048_576  # of an answer, after which others get a turn: it takes about 10 ms


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


class Read(Protocol):
    """Memories of the store with this code, as many as have room (see `Look`)."""

    def __call__(
        self, code: int, record_ids: tuple[RecordId, ...], room_bytes: int
    ) -> Awaitable[Sequence[Memory]]: ...


class Fitting(msgspec.Struct, frozen=True):
    """The memories that are there of the first `count` that were found, in their order, and what they take."""

    memories: list[Memory]
    count: int
    shown_bytes: int

    @property
    def is_long(self) -> bool:
        return self.shown_bytes > LONG_BYTES


async def fitting(found: Sequence[Placed], read: Read) -> Fitting:
    """The first of `found` that fit into one answer."""
    memories: list[Memory] = []
    count, room = 0, ANSWER_BYTES_MAX
    for i in range(0, len(found), PIECE_RECORDS):
        window = found[i : i + PIECE_RECORDS]
        known, is_whole = await _known(window, read, room)
        for placed in window:
            memory = known.pop(placed.record_id, None)
            if memory is None and not is_whole:
                memory = next(iter(await read(placed.store_code, (placed.record_id,), 1)), None)
            if memory is not None:
                if memories and memory.shown_bytes > room:
                    return Fitting(memories, count, ANSWER_BYTES_MAX - room)
                memories.append(memory)
                room -= memory.shown_bytes
            count += 1
    return Fitting(memories, count, ANSWER_BYTES_MAX - room)


async def _known(window: Sequence[Placed], read: Read, room: int) -> tuple[dict[RecordId, Memory], bool]:
    """What there is room for of `window`, by its id, and whether that is all that is there."""
    known: dict[RecordId, Memory] = {}
    for code, record_ids in pieces_by_store(window):
        while record_ids:
            turn = min(room, TURN_BYTES)
            memories = await read(code, record_ids, turn)
            known.update((memory.record_id, memory) for memory in memories)
            size_bytes = sum(memory.shown_bytes for memory in memories)
            if size_bytes < turn:  # that is all that is there
                room -= size_bytes
                break
            room -= size_bytes
            if room <= 0:
                return known, False
            await trio.lowlevel.checkpoint()
            record_ids = tuple(record_id for record_id in record_ids if record_id not in known)
    return known, True


async def fetch(stores: tuple[Actor, ...], namespace: int, found: Sequence[Placed]) -> Fitting:
    """The first of `found` that fit into one answer; `stores` in the order of their codes."""
    return await fitting(found, partial(_fetched, stores, namespace))


async def _fetched(
    stores: tuple[Actor, ...], namespace: int, code: int, record_ids: tuple[RecordId, ...], room_bytes: int
) -> Sequence[Memory]:
    store, request = stores[code], Fetch(namespace, record_ids, room_bytes=room_bytes)
    fetched = answer_nowait(store, request, len(record_ids))
    if fetched is None:
        fetched = await store.ask(request)
    return fetched.memories


def recalled(memory: Memory, score: float, path: tuple[RecordId, ...] | None = None) -> RecalledMemory:
    """`memory` as part of an answer, with its content as it was stored."""
    return RecalledMemory(
        record=msgspec.Raw(memory.json()),
        relevance_score=score,
        activation_path=path,
        rendered_content=msgspec.Raw(memory.row.content),
    )
