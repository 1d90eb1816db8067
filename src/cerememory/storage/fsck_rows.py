"""Whether the rows of a namespace add up: every row against those that say the same, found by tables.

There are four tables that say something by themselves: memories, what decay archived, entries of the raw
journal, kept answers. All others follow from them. So each row of the four is asked which others there must be,
and these are looked up; and where a table has more rows than were found so, those that nobody asked for are named.
Nothing is kept but counts, so that a store of any size can be checked.

An edge may lead to what isn't there: it was stored before its target, or its target is in working memory. It is
listed by its target all the same, and counted as dangling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from cerememory.domain.derivation import is_processed
from cerememory.errors import CerememoryError
from cerememory.protocol import codec
from cerememory.protocol.records import DURABLE_STORES, STORES, EmotionVector, MemoryContent
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.contract import Reader
from cerememory.storage.groups import place_of
from cerememory.storage.keys import (
    ID_BYTES,
    NAMESPACE_BYTES,
    TIME_BYTES,
    Table,
    after,
    counters_key,
    digest,
    key,
    pack_time,
    state_key,
    trailing_time,
    unpack_time,
)
from cerememory.storage.likenesses import BUILDING, likeness_key
from cerememory.storage.mutations import axes_of, embedding_of
from cerememory.storage.pending import pending_key
from cerememory.storage.rows import (
    STORE_CODE,
    ArchivedRow,
    ContentRow,
    Counters,
    KeptAnswer,
    RawRow,
    dump_counters,
    parse_archived_row,
    parse_content_row,
    parse_counters,
    parse_edges,
    parse_kept_answer,
    parse_raw_row,
    parse_state_row,
)
from cerememory.storage.undo_rows import batch_in, batches, undo_keys
from cerememory.storage.vectors import Space, VectorChange, dump_vector, vector_key

DURABLE_CODES = frozenset(STORE_CODE[store] for store in DURABLE_STORES)
COUNTED = ("records", "associations", "vectors", "raw_records", "raw_pending_dream")
ROUNDING = 1e-6  # of a sum of fidelities, which every commit has added to

Rows: TypeAlias = dict[bytes, bytes | None]
"""Keys of rows that must be there, with their values; None where any will do."""

FOLLOWING: dict[Table, tuple[Table, ...]] = {  # the tables that follow from others, and from which
    Table.STATE: (Table.CONTENT,),
    Table.VECTORS: (Table.CONTENT,),
    Table.GROUPS: (Table.CONTENT,),
    Table.LIKENESS: (Table.CONTENT,),
    Table.EDGES: (Table.CONTENT,),
    Table.EDGES_BY_TARGET: (Table.CONTENT, Table.ARCHIVED),
    Table.ARCHIVED_BY_EXPIRY: (Table.ARCHIVED,),
    Table.RAW_BY_SESSION: (Table.RAW,),
    Table.RAW_BY_TIME: (Table.RAW,),
    Table.RAW_PENDING: (Table.RAW,),
    Table.IDEMPOTENCY_BY_EXPIRY: (Table.IDEMPOTENCY,),
}
TABLES = {table.value: table for table in Table}
DERIVED = frozenset(  # those of them whose rows hold nothing of their own
    {
        *(Table.GROUPS, Table.LIKENESS, Table.EDGES_BY_TARGET, Table.ARCHIVED_BY_EXPIRY),
        *(Table.RAW_BY_SESSION, Table.RAW_BY_TIME, Table.RAW_PENDING, Table.IDEMPOTENCY_BY_EXPIRY),
    }
)

Fix: TypeAlias = tuple[bytes, bytes | None]
"""A row as it must be: its key, and its value; None where there must be none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong: `part` is a table or a file, `namespace` None where it is of none.

    `fix` is what mends it without touching anything that says something by itself; None where nothing does.
    """

    part: str
    what: str
    namespace: int | None = None
    fix: Fix | None = field(default=None, compare=False, repr=False)

    def described(self) -> dict[str, Any]:
        return {"part": self.part, "what": self.what, "namespace": self.namespace}

    def __str__(self) -> str:
        where = f" (namespace {self.namespace})" if self.namespace else ""
        return f"{self.part}{where}: {self.what}"


@dataclass(slots=True)
class Tally:
    """What was looked at. `notes` say what wasn't, and why."""

    memories: int = 0
    archived: int = 0
    raw_entries: int = 0
    dangling_edges: int = 0
    namespaces: int = 0
    notes: list[str] = field(default_factory=list)


def check_namespace(reader: Reader, namespace: int, now: int, tally: Tally) -> Iterator[Finding]:
    """All that contradicts in the rows of a namespace; `now` (nanoseconds) is what kept answers expire by."""
    return _Namespace(reader, namespace, now, tally).findings()


class _Namespace:
    """One pass over a namespace. `present` counts, by table, the rows that had to be there and are."""

    def __init__(self, reader: Reader, namespace: int, now: int, tally: Tally) -> None:
        self._reader = reader
        self._namespace = namespace
        self._now = now
        self._tally = tally
        self._present: Counter[Table] = Counter()
        self._counted = Counters.empty()
        self._likeness = reader.get(key(namespace, Table.LIKENESS))

    def findings(self) -> Iterator[Finding]:
        for table in (Table.CONTENT, Table.ARCHIVED, Table.RAW, Table.IDEMPOTENCY):
            for row_key, value in self._rows(table):
                yield from self._check_row(table, row_key[-ID_BYTES:], value)
        yield from self._check_history()
        yield from self._check_undo()
        for table in FOLLOWING:
            if self._count(table) > self._present[table]:
                yield from self._strays(table)
        yield from self._check_counters()

    def _rows(self, table: Table) -> Iterator[tuple[bytes, bytes]]:
        prefix = key(self._namespace, table)
        return self._reader.scan(prefix + b"\0", after(prefix))  # the prefix alone is no row but a flag

    def _count(self, table: Table) -> int:
        return sum(1 for _pair in self._rows(table))

    def _check_row(self, table: Table, name: bytes, value: bytes) -> Iterator[Finding]:
        try:
            yield from self._checked(table, name, value)
        except CerememoryError as error:
            yield self._finding(table, name, f"can't be read: {error}")

    def _checked(self, table: Table, name: bytes, value: bytes) -> Iterator[Finding]:
        yield from self._compare(name, self._rows_by(table, name, value))
        match table:
            case Table.CONTENT:
                yield from self._check_memory(RecordId(name), parse_content_row(value))
            case Table.ARCHIVED:
                yield from self._check_archived(RecordId(name), parse_archived_row(value))
            case Table.RAW:
                self._count_entry(parse_raw_row(value))

    def _rows_by(self, table: Table, name: bytes, value: bytes) -> Rows:
        """What must be there because of a row."""
        match table:
            case Table.CONTENT:
                return self._rows_of_memory(RecordId(name), parse_content_row(value))
            case Table.ARCHIVED:
                return _rows_of_archived(self._namespace, RecordId(name), parse_archived_row(value))
            case Table.RAW:
                return _rows_of_entry(self._namespace, RecordId(name), parse_raw_row(value))
            case _:
                return _rows_of_answer(self._namespace, name, parse_kept_answer(value))

    def _rows_of_memory(self, record_id: RecordId, row: ContentRow) -> Rows:
        rows = _rows_of_memory(self._namespace, record_id, row)
        edges_key = key(self._namespace, Table.EDGES, record_id)
        edges = self._reader.get(edges_key)
        if edges is not None:
            rows[edges_key] = edges
            rows |= _rows_of_edges(self._namespace, record_id, edges)
        if self._likeness is not None:
            rows[likeness_key(self._namespace, record_id, row)] = b""
        return rows

    def _compare(self, name: bytes, rows: Rows) -> Iterator[Finding]:
        for row_key, wanted in rows.items():
            table, found = _table_of(row_key), self._reader.get(row_key)
            fix = (row_key, wanted) if table in DERIVED else None
            if found is None:
                if table is not Table.LIKENESS or self._likeness != BUILDING:
                    yield self._finding(table, name, "is missing", fix)
                continue
            self._present[table] += 1
            if wanted is not None and found != wanted:
                yield self._finding(table, name, "says something else than what it follows from", fix)

    def _check_memory(self, record_id: RecordId, row: ContentRow) -> Iterator[Finding]:
        self._tally.memories += 1
        if row.store_code not in DURABLE_CODES:
            yield self._finding(Table.CONTENT, record_id, f"is of store {row.store_code}, which keeps no rows")
            return
        self._counted.records[row.store_code] += 1
        yield from self._check_state(record_id, row)
        edges = parse_edges(self._reader.get(key(self._namespace, Table.EDGES, record_id)))
        self._counted.associations += len(edges)
        self._counted.vectors += embedding_of(codec.parse(row.content, MemoryContent)) is not None
        self._tally.dangling_edges += sum(not self._is_there(edge.target_id) for edge in edges)

    def _check_state(self, record_id: RecordId, row: ContentRow) -> Iterator[Finding]:
        value = self._reader.get(state_key(self._namespace, row.created_at, record_id))
        if value is None:
            return
        store_code, state = parse_state_row(value)
        self._counted.fidelity_sums[row.store_code] += state.score
        if store_code != row.store_code:
            yield self._finding(Table.STATE, record_id, "is of another store than its memory")

    def _is_there(self, record_id: RecordId) -> bool:
        tables = (Table.CONTENT, Table.ARCHIVED)
        return any(self._reader.get(key(self._namespace, table, record_id)) is not None for table in tables)

    def _check_archived(self, record_id: RecordId, archived: ArchivedRow) -> Iterator[Finding]:
        self._tally.archived += 1
        store_code, _state = parse_state_row(archived.state)
        if store_code != archived.content.store_code:
            yield self._finding(Table.ARCHIVED, record_id, "has a state of another store")
        if self._reader.get(key(self._namespace, Table.CONTENT, record_id)) is not None:
            yield self._finding(Table.ARCHIVED, record_id, "is among the others, too")

    def _count_entry(self, row: RawRow) -> None:
        self._tally.raw_entries += 1
        self._counted.raw_records += 1
        self._counted.raw_pending_dream += not is_processed(row.metadata)

    def _check_history(self) -> Iterator[Finding]:
        """Versions from before the one that is stored, of memories that are stored or archived."""
        prefix = key(self._namespace, Table.HISTORY)
        record_id, current = b"", 0
        for row_key, value in self._rows(Table.HISTORY):
            named = row_key[len(prefix) : len(prefix) + ID_BYTES]
            if named != record_id:
                record_id, current = named, self._version_of(named)
            version = int.from_bytes(row_key[len(prefix) + ID_BYTES :], "big")
            if not current:
                yield self._finding(Table.HISTORY, named, f"has version {version} of a memory that isn't there")
            elif not version < current:
                yield self._finding(
                    Table.HISTORY, named, f"has version {version} of a memory at version {current}"
                )
            else:
                yield from self._check_version(named, version, value)

    def _version_of(self, record_id: bytes) -> int:
        """0 for a memory that isn't there."""
        for table, parse in ((Table.CONTENT, parse_content_row), (Table.ARCHIVED, _archived_content)):
            value = self._reader.get(key(self._namespace, table, record_id))
            if value is not None:
                return _version_in(parse, value)
        return 0

    def _check_version(self, record_id: bytes, version: int, value: bytes) -> Iterator[Finding]:
        try:
            row = parse_content_row(value)
        except CerememoryError as error:
            yield self._finding(Table.HISTORY, record_id, f"version {version} can't be read: {error}")
        else:
            if row.version != version:
                yield self._finding(Table.HISTORY, record_id, f"version {version} says that it is {row.version}")

    def _check_undo(self) -> Iterator[Finding]:
        """What is kept of imports can be read, and belongs to one that is kept."""
        try:
            kept = {batch for batch, _row in batches(self._reader, self._namespace)}
            for row_key in undo_keys(self._reader, self._namespace):
                if (batch := batch_in(row_key)) not in kept:
                    what = f"is kept of {format_id(batch)}, which isn't"
                    yield self._finding(Table.UNDO, row_key[-ID_BYTES:], what, (row_key, None))
        except CerememoryError as error:
            yield Finding(_word(Table.UNDO), str(error), self._namespace)

    def _strays(self, table: Table) -> Iterator[Finding]:
        """The rows that nothing asks for."""
        for row_key, _value in self._rows(table):
            name = row_key[-ID_BYTES:]
            if row_key not in self._rows_by_owners(table, name) and not self._may_be_left(table, row_key):
                yield self._finding(table, name, self._reason(table, row_key), self._removal(table, row_key))

    def _rows_by_owners(self, table: Table, name: bytes) -> Rows:
        rows: Rows = {}
        for owner in FOLLOWING[table]:
            value = self._reader.get(key(self._namespace, owner, name))
            if value is not None:
                rows |= self._readable_rows(owner, name, value)
        return rows

    def _readable_rows(self, owner: Table, name: bytes, value: bytes) -> Rows:
        try:
            return self._rows_by(owner, name, value)
        except CerememoryError:  # which is a finding of its own
            return {}

    def _removal(self, table: Table, row_key: bytes) -> Fix | None:
        """What takes a stray away: not as long as a row that might ask for it can't be read."""
        if table not in DERIVED:
            return None
        name = row_key[-ID_BYTES:]
        for owner in FOLLOWING[table]:
            value = self._reader.get(key(self._namespace, owner, name))
            if value is not None and not self._is_readable(owner, name, value):
                return None
        return row_key, None

    def _is_readable(self, owner: Table, name: bytes, value: bytes) -> bool:
        try:
            self._rows_by(owner, name, value)
        except CerememoryError:
            return False
        return True

    def _may_be_left(self, table: Table, row_key: bytes) -> bool:
        """An answer whose key is used anew leaves its expiry behind until that has come."""
        return table is Table.IDEMPOTENCY_BY_EXPIRY and trailing_time(row_key) <= self._now

    def _reason(self, table: Table, row_key: bytes) -> str:
        owners = FOLLOWING[table]
        keys = [key(self._namespace, owner, row_key[-ID_BYTES:]) for owner in owners]
        if all(self._reader.get(owner_key) is None for owner_key in keys):
            return f"follows from nothing: there is no {' or '.join(_word(owner) for owner in owners)} of it"
        if table is Table.STATE:
            at = unpack_time(row_key[-ID_BYTES - TIME_BYTES : -ID_BYTES])
            return f"stands under {at}, when its memory wasn't made"
        return "isn't what its " + " or ".join(_word(owner) for owner in owners) + " asks for"

    def _check_counters(self) -> Iterator[Finding]:
        row_key = counters_key(self._namespace)
        try:
            stored = parse_counters(self._reader.get(row_key))
        except CerememoryError as error:
            yield Finding("counters", f"can't be read: {error}", self._namespace, (row_key, self._mended(None)))
            return
        fix: Fix | None = (row_key, self._mended(stored))
        for what in self._miscounted(stored):
            yield Finding("counters", what, self._namespace, fix)
            fix = None  # it was one row

    def _miscounted(self, stored: Counters) -> Iterator[str]:
        counted = self._counted
        for name in COUNTED:
            if getattr(stored, name) != getattr(counted, name):
                yield f"{name} is {getattr(stored, name)}, counted {getattr(counted, name)}"
        for store, total, found in zip(STORES, stored.fidelity_sums, counted.fidelity_sums, strict=True):
            if not abs(total - found) <= ROUNDING * (1 + found):
                yield f"the fidelities of {store.value} are {total} in all, counted {found}"

    def _mended(self, stored: Counters | None) -> bytes:
        """What was counted, and what can't be (recalls, dreams) as it is stored."""
        counted = {name: getattr(self._counted, name) for name in (*COUNTED, "fidelity_sums")}
        return dump_counters(msgspec.structs.replace(stored or Counters.empty(), **counted))

    def _finding(self, table: Table, name: bytes, what: str, fix: Fix | None = None) -> Finding:
        shown = name.hex() if table in (Table.IDEMPOTENCY, Table.IDEMPOTENCY_BY_EXPIRY) else format_id(name)
        return Finding(_word(table), f"{shown} {what}", self._namespace, fix)


def _word(table: Table) -> str:
    return table.name.lower()


def _table_of(row_key: bytes) -> Table:
    return TABLES[row_key[NAMESPACE_BYTES : NAMESPACE_BYTES + 1]]


def _archived_content(value: bytes) -> ContentRow:
    return parse_archived_row(value).content


def _version_in(parse: Callable[[bytes], ContentRow], value: bytes) -> int:
    try:
        return parse(value).version
    except CerememoryError:  # which is a finding of its own
        return 0


def _rows_of_memory(namespace: int, record_id: RecordId, row: ContentRow) -> Rows:
    rows: Rows = {state_key(namespace, row.created_at, record_id): None}
    place = place_of(namespace, record_id, row)
    if place is not None:
        rows[place] = b""
    embedding = embedding_of(codec.parse(row.content, MemoryContent))
    axes = axes_of(codec.parse(row.emotion, EmotionVector)) if row.emotion else None
    for space, values in ((Space.CONTENT, embedding), (Space.EMOTION, axes)):
        if values is not None:
            change = VectorChange(namespace, space, record_id, row.store_code, row.created_at, values)
            rows[vector_key(namespace, space, len(values), record_id)] = dump_vector(change)
    return rows


def _rows_of_edges(namespace: int, source: RecordId, edges: bytes) -> Rows:
    return {key(namespace, Table.EDGES_BY_TARGET, edge.target_id, source): b"" for edge in parse_edges(edges)}


def _rows_of_archived(namespace: int, record_id: RecordId, archived: ArchivedRow) -> Rows:
    expiry = key(namespace, Table.ARCHIVED_BY_EXPIRY, pack_time(archived.kept_until), record_id)
    return {expiry: b"", **_rows_of_edges(namespace, record_id, archived.edges)}


def _rows_of_entry(namespace: int, record_id: RecordId, row: RawRow) -> Rows:
    at, flags = pack_time(row.created_at), bytes([row.visibility_code, row.secrecy_code])
    session = digest(row.session_id)
    rows: Rows = {
        key(namespace, Table.RAW_BY_SESSION, session, at, record_id): flags,
        key(namespace, Table.RAW_BY_TIME, at, record_id): flags,
    }
    if not is_processed(row.metadata):
        rows[pending_key(namespace, record_id, row)] = session
    return rows


def _rows_of_answer(namespace: int, key_digest: bytes, answer: KeptAnswer) -> Rows:
    return {key(namespace, Table.IDEMPOTENCY_BY_EXPIRY, pack_time(answer.expires_at), key_digest): b""}
