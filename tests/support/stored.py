"""What lies in a data dir, read beside its owner or after its end, and whether it adds up.

Reads the rows themselves, not what the daemon says of them, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cerememory.domain.audit_chain import GENESIS, verify_lines
from cerememory.domain.derivation import is_processed
from cerememory.protocol import codec
from cerememory.protocol.records import STORES, MemoryContent
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.audit_file import plan_repair
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.contract import Reader
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    NAMESPACE_BYTES,
    SYSTEM_NAMESPACE,
    Table,
    after,
    counters_key,
    counters_range,
    key,
    pack_namespace,
    state_key,
    system_key,
    trailing_id,
    unpack_namespace,
)
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.rows import (
    Counters,
    Head,
    parse_content_row,
    parse_counters,
    parse_edges,
    parse_head,
    parse_log_row,
    parse_raw_row,
    parse_state_row,
)
from cerememory.storage.vectors import Space

ROUNDING = 1e-6  # sums of fidelities, added up in another order


@dataclass(frozen=True, slots=True)
class Kept:
    """What one namespace holds: the text of each durable memory and raw entry by its id."""

    counters: Counters
    texts: dict[str, str]
    raw_texts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """`names` are those of the namespaces but for the default one."""

    head: Head
    namespaces: dict[int, Kept]
    names: dict[str, int]
    audit_lines_in_file: int

    @property
    def texts(self) -> dict[str, str]:
        """Of the default namespace."""
        return self.namespaces[DEFAULT_NAMESPACE].texts

    @property
    def raw_texts(self) -> dict[str, str]:
        """Of the default namespace."""
        return self.namespaces[DEFAULT_NAMESPACE].raw_texts

    @property
    def record_ids(self) -> set[str]:
        """Of the default namespace."""
        return set(self.texts)


def stored_in(data_dir: Path) -> Stored:
    """The rows of `data_dir`; fails when they contradict each other.

    That is, in any namespace: counters that differ from a count of the rows, rows that an index key points to
    and that aren't there; a namespace that nobody named; and, for the whole, a log with a gap, an audit chain in
    it that is broken or ends elsewhere than the head says, and an audit file that isn't a beginning of it.
    """
    storage = LmdbStorage.open_readonly(data_dir / "store")
    try:
        with storage.read() as reader:
            head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
            namespaces = {number: _check_namespace(reader, number) for number in _namespaces(reader)}
            names = _check_names(reader, set(namespaces))
            _check_log(reader, head)
        outbox = StoredOutbox(storage)
        lines = [line for _sequence, line in outbox.lines(outbox.oldest_sequence)]
        if outbox.oldest_sequence == 1:
            assert verify_lines(lines).head == (head.audit_sequence, head.audit_hash)
        in_file = plan_repair(data_dir / "audit.jsonl", outbox).last.sequence
    finally:
        storage.close()
    assert in_file <= head.audit_sequence
    return Stored(head, namespaces, names, in_file)


def _namespaces(reader: Reader) -> set[int]:
    """Those that have a row of any kind or counters, and the default one."""
    prefix, stop = counters_range()
    counted = {unpack_namespace(row_key[len(prefix) :]) for row_key, _value in reader.scan(prefix, stop)}
    rows = reader.scan(b"", pack_namespace(SYSTEM_NAMESPACE))
    return {DEFAULT_NAMESPACE} | counted | {unpack_namespace(row_key[:NAMESPACE_BYTES]) for row_key, _ in rows}


def _check_namespace(reader: Reader, namespace: int) -> Kept:
    counters = parse_counters(reader.get(counters_key(namespace)))
    texts = _check_memories(reader, namespace, counters)
    return Kept(counters, texts, _check_raw(reader, namespace, counters))


def _check_memories(reader: Reader, namespace: int, counters: Counters) -> dict[str, str]:
    counted = [0] * len(STORES)
    sums = [0.0] * len(STORES)
    texts: dict[str, str] = {}
    edges = 0
    for record_id, value in _rows(reader, namespace, Table.CONTENT):
        row = parse_content_row(value)
        state_row = reader.get(state_key(namespace, row.created_at, record_id))
        assert state_row is not None
        store_code, state = parse_state_row(state_row)
        assert store_code == row.store_code
        counted[store_code] += 1
        sums[store_code] += state.score
        edges += len(parse_edges(reader.get(key(namespace, Table.EDGES, record_id))))
        texts[format_id(record_id)] = _text(row.content)
    assert counters.records == counted
    assert all(abs(a - b) < ROUNDING for a, b in zip(counters.fidelity_sums, sums, strict=True))
    assert counters.associations == edges
    assert _count(reader, namespace, Table.STATE) == len(texts)
    assert _count(reader, namespace, Table.VECTORS, Space.CONTENT.value) == counters.vectors
    return texts


def _check_raw(reader: Reader, namespace: int, counters: Counters) -> dict[str, str]:
    rows = _rows(reader, namespace, Table.RAW)
    texts = {format_id(i): _text(parse_raw_row(value).content) for i, value in rows}
    assert counters.raw_records == len(texts)
    by_time, by_session = Table.RAW_BY_TIME, Table.RAW_BY_SESSION
    assert _count(reader, namespace, by_time) == _count(reader, namespace, by_session) == len(texts)
    waiting = {record_id for record_id, value in rows if not is_processed(parse_raw_row(value).metadata)}
    assert {record_id for record_id, _ in _rows(reader, namespace, Table.RAW_PENDING)} == waiting
    assert counters.raw_pending_dream == len(waiting)
    return texts


def _check_names(reader: Reader, namespaces: set[int]) -> dict[str, int]:
    """Each name has a number of its own, counted up from 1, and no namespace goes without a name."""
    prefix = system_key(Table.NAMESPACES)
    rows = reader.scan(prefix, after(prefix))
    names = {row_key[len(prefix) :].decode(): unpack_namespace(value) for row_key, value in rows}
    assert sorted(names.values()) == list(range(1, len(names) + 1))
    assert unpack_namespace(reader.get(system_key(Table.LAST_NAMESPACE)) or b"") == len(names)
    assert namespaces - {DEFAULT_NAMESPACE} <= set(names.values())
    return names


def _check_log(reader: Reader, head: Head) -> None:
    """The lines of the rows follow one on the other, up to the head."""
    prefix = system_key(Table.LOG)
    rows = [parse_log_row(value) for _key, value in reader.scan(prefix, after(prefix))]
    assert all(row.end_line == following.first_line for row, following in pairwise(rows))
    assert not rows or rows[-1].end_line == head.audit_sequence + 1


def _text(content: bytes) -> str:
    return bytes(codec.parse(content, MemoryContent).blocks[0].data).decode()


def _rows(reader: Reader, namespace: int, table: Table) -> list[tuple[RecordId, bytes]]:
    prefix = key(namespace, table)
    return [(trailing_id(row_key), value) for row_key, value in reader.scan(prefix, after(prefix))]


def _count(reader: Reader, namespace: int, table: Table, *parts: bytes) -> int:
    prefix = key(namespace, table, *parts)
    return sum(1 for _pair in reader.scan(prefix, after(prefix)))
