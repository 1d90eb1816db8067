"""The raw journal: verbatim entries, oldest first, within what the asker may see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from cerememory.actors.actor import Actor, Reply, Request
from cerememory.actors.seams import World
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, RecordId
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.keys import Table, key, pack_time, trailing_id
from cerememory.storage.rows import STATE_SHOWN_BYTES, RawRow, parse_raw_row, raw_json


@dataclass(frozen=True, slots=True)
class Entry:
    """A raw entry as read."""

    record_id: RecordId
    row: RawRow

    @property
    def shown_bytes(self) -> int:
        """About what it takes in an answer."""
        row = self.row
        return STATE_SHOWN_BYTES + len(row.content) + len(row.metadata) + len(row.meta) + 3 * len(row.derived)

    def json(self) -> bytes:
        return raw_json(self.record_id, self.row)


@dataclass(frozen=True, slots=True)
class FetchedRaw:
    """What is there of the first `count` that were asked for, in their order; suppressed ones never."""

    entries: tuple[Entry, ...]
    count: int


@dataclass(frozen=True, slots=True)
class FetchRaw(Request[FetchedRaw]):
    """As many of the entries as have room, and the one with which it ends."""

    namespace: int
    record_ids: tuple[RecordId, ...]
    room_bytes: int


@dataclass(frozen=True, slots=True)
class Listed:
    """The first of the entries that pass, oldest first, and how many pass in all."""

    record_ids: tuple[RecordId, ...]
    total: int


@dataclass(frozen=True, slots=True)
class ListRaw(Request[Listed]):
    """Entries by session and time (nanoseconds, inclusive), of the allowed visibilities and secrecies."""

    namespace: int
    session_digest: bytes | None
    start: int | None
    end: int | None
    visibility_codes: frozenset[int]
    secrecy_codes: frozenset[int]
    limit: int


class RawJournal(Actor):
    """Reads the journal from storage; entries are written by the writer alone, and never change their text."""

    def __init__(self, storage: Storage, world: World, mailbox_size: int = 256) -> None:
        super().__init__("raw_journal", mailbox_size)
        self._storage = storage
        self._world = world
        self._limiter = trio.CapacityLimiter(1)

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case FetchRaw():
                return self._fetch(message)
            case ListRaw():
                return await self._world.offload(partial(self._list, message), self._limiter)
        return await super().handle(message, reply)

    def _fetch(self, request: FetchRaw) -> FetchedRaw:
        entries: list[Entry] = []
        count, room = 0, request.room_bytes
        with self._storage.read() as reader:
            for record_id in request.record_ids:
                if room <= 0:
                    break
                count += 1
                value = reader.get(key(request.namespace, Table.RAW, record_id))
                entry = None if value is None else Entry(record_id, parse_raw_row(value))
                if entry is not None and not entry.row.suppressed:
                    entries.append(entry)
                    room -= entry.shown_bytes
        return FetchedRaw(tuple(entries), count)

    def _list(self, request: ListRaw) -> Listed:
        """Keys and flags are enough to filter and to count; the rows of the first are read later."""
        first: list[RecordId] = []
        total = 0
        with self._storage.read() as reader:
            for record_id in _passing(reader, request):
                total += 1
                if len(first) < request.limit:
                    first.append(record_id)
        return Listed(tuple(first), total)


def _passing(reader: Reader, request: ListRaw) -> Iterator[RecordId]:
    for row_key, flags in reader.scan(*_key_range(request)):
        if flags[0] in request.visibility_codes and flags[1] in request.secrecy_codes:
            yield trailing_id(row_key)


def _key_range(request: ListRaw) -> tuple[bytes, bytes]:
    if request.session_digest is None:
        prefix = key(request.namespace, Table.RAW_BY_TIME)
    else:
        prefix = key(request.namespace, Table.RAW_BY_SESSION, request.session_digest)
    start = TIMESTAMP_MIN if request.start is None else clamp_timestamp(request.start)
    end = TIMESTAMP_MAX if request.end is None else clamp_timestamp(request.end)
    return prefix + pack_time(start), prefix + pack_time(end) + b"\xff" * 17
