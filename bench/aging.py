"""What a decay tick costs, at a size of memory: its arithmetic, the whole of it, and what others notice of it.

The memories are written into a store as rows, for a million would take a client minutes; the tick is the
daemon's own, decay actor and writer, on a disk. Half of what is measured is other people's: how long one commit
of the tick holds the write lock, and how long an encode takes that comes meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import trio

from cerememory.actors.decay import Decayer, Tick
from cerememory.actors.seams import World, new_id
from cerememory.actors.writer import Commit, Writer
from cerememory.config.settings import DecaySettings
from cerememory.domain.curve import Rules
from cerememory.domain.decay import STANDARD
from cerememory.protocol import codec
from cerememory.protocol.records import Store
from cerememory.protocol.requests import EncodeStore
from cerememory.protocol.values import NANOS
from cerememory.storage import prepare
from cerememory.storage.contract import Changes
from cerememory.storage.decaying import PIECE_ROWS
from cerememory.storage.dynamics import Curves
from cerememory.storage.frames import Frames
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, counters_key, key, state_key
from cerememory.storage.lmdb import GIB, LmdbStorage
from cerememory.storage.mutations import StoreRecords
from cerememory.storage.rows import (
    STORE_CODE,
    ContentRow,
    Counters,
    dump_counters,
    dump_row,
    dump_state_row,
    parse_state_rows,
)
from cerememory.telemetry.metrics import Metrics

DAY_NS = 86_400 * NANOS
NOW = 1_800_000_000 * NANOS
WRITTEN_AT_ONCE = 20_000
CODE = STORE_CODE[Store.EPISODIC]
CONTENT = (
    b'{"blocks":[{"modality":"text","format":"text/plain","data":[107,101],"embedding":null}],"summary":null}'
)
BODY: dict[str, Any] = {"content": {"blocks": [{"modality": "text", "format": "text/plain", "text": "kettle"}]}}


@dataclass(frozen=True, slots=True)
class Aged:
    """Seconds each: the whole tick, its longest commit, and the median encode without and during it."""

    tick_s: float
    longest_commit_s: float
    encode_alone_s: float
    encode_meanwhile_s: float


def compute_s(count: int) -> float:
    """The arithmetic of a tick over `count` states alone, in the pieces that a tick has."""
    state = STANDARD[Store.EPISODIC].fresh(NOW)
    rows = parse_state_rows([dump_state_row(CODE, state)] * min(count, PIECE_ROWS))
    started = time.perf_counter()
    for start in range(0, count, PIECE_ROWS):
        STANDARD[Store.EPISODIC].ticked_rows(rows[: count - start], NOW + DAY_NS)
    return time.perf_counter() - started


def aged(folder: Path, count: int) -> Aged:
    """A tick over `count` memories that are a day old."""
    storage = _Timed(folder / "store", map_size_bytes=GIB, map_size_bytes_max=None, min_free_bytes=0)
    try:
        fill(storage, count)
        return trio.run(_measure, storage)
    finally:
        storage.close()


def fill(storage: LmdbStorage, count: int) -> None:
    """`count` untouched memories, made a nanosecond apart."""
    for start in range(0, count, WRITTEN_AT_ONCE):
        storage.commit(dict(_rows(range(start, min(start + WRITTEN_AT_ONCE, count)))))
    counters = Counters.empty()
    counters.records[CODE], counters.fidelity_sums[CODE] = count, float(count)
    storage.commit({counters_key(DEFAULT_NAMESPACE): dump_counters(counters)})


def _rows(numbers: range) -> Iterator[tuple[bytes, bytes]]:
    for number in numbers:
        at, record_id = NOW + number, new_id()
        row = ContentRow(CODE, 1, at, at, CONTENT, b"", b"{}", b"")
        yield key(DEFAULT_NAMESPACE, Table.CONTENT, record_id), dump_row(row)
        state = STANDARD[Store.EPISODIC].fresh(at)
        yield state_key(DEFAULT_NAMESPACE, at, record_id), dump_state_row(CODE, state)


class _Timed(LmdbStorage):
    """Knows how long its longest commit took."""

    longest_s = 0.0

    def commit(self, changes: Changes) -> None:
        started = time.perf_counter()
        super().commit(changes)
        self.longest_s = max(self.longest_s, time.perf_counter() - started)


async def _measure(storage: _Timed) -> Aged:
    world = World(now=lambda: NOW + DAY_NS)
    metrics = Metrics([store.value for store in Store])
    curves, frames = Curves(Rules()), Frames(0)
    writer = Writer(storage, world, metrics, curves=curves, frames=frames, group_commit_s=0.002, audited=True)
    decayer = Decayer(storage, world, writer, metrics, DecaySettings(background_interval_secs=0))
    async with _running(writer, decayer):
        alone = [await _encode(writer) for _ in range(200)]
        storage.longest_s = 0.0
        meanwhile: list[float] = []
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_encode_on, writer, meanwhile)
            await decayer.ask(Tick(DEFAULT_NAMESPACE, None, lambda mutation: mutation))
            tick_s = time.perf_counter() - started
            nursery.cancel_scope.cancel()
    return Aged(tick_s, storage.longest_s, median(alone), median(meanwhile or alone))


@asynccontextmanager
async def _running(writer: Writer, decayer: Decayer) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for actor in (writer, decayer):
            await actor.load()
            nursery.start_soon(actor.run)
        yield
        for actor in (decayer, writer):
            actor.close_mailbox()


async def _encode_on(writer: Writer, taken: list[float]) -> None:
    while True:
        taken.append(await _encode(writer))


async def _encode(writer: Writer) -> float:
    """How long one takes from the writer's mailbox to its answer."""
    record = prepare.new_record(DEFAULT_NAMESPACE, codec.parse(codec.dump(BODY), EncodeStore), new_id(), NOW)
    audit = prepare.store_audit(record, NOW)
    started = time.perf_counter()
    await writer.ask(Commit(StoreRecords(DEFAULT_NAMESPACE, (record,), audit, None)))
    return time.perf_counter() - started
