"""What lies in a data dir, read beside its owner or after its end, and whether it adds up.

Reads the rows themselves, not what the daemon says of them, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cerememory.domain.audit_chain import GENESIS, verify_lines
from cerememory.protocol import codec
from cerememory.protocol.records import STORES, MemoryContent
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.audit_file import plan_repair
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.contract import Reader
from cerememory.storage.keys import Table, after, counters_key, key, pack_time, system_key, trailing_id
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.rows import (
    Counters,
    Head,
    parse_content_row,
    parse_counters,
    parse_edges,
    parse_head,
    parse_raw_row,
    parse_state,
)
from cerememory.storage.vectors import Space

ROUNDING = 1e-6  # sums of fidelities, added up in another order


@dataclass(frozen=True, slots=True)
class Stored:
    """`texts` and `raw_texts` have the text of each durable memory and raw entry by its id."""

    head: Head
    counters: Counters
    texts: dict[str, str]
    raw_texts: dict[str, str]
    audit_lines_in_file: int

    @property
    def record_ids(self) -> set[str]:
        return set(self.texts)


def stored_in(data_dir: Path) -> Stored:
    """The rows of `data_dir`; fails when they contradict each other.

    That is: counters that differ from a count of the rows, rows that an index key points to and that aren't
    there, an audit chain in the store that is broken or ends elsewhere than the head says, and an audit file
    that isn't a beginning of it.
    """
    storage = LmdbStorage.open_readonly(data_dir / "store")
    try:
        with storage.read() as reader:
            head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
            counters = parse_counters(reader.get(counters_key()))
            texts = _check_memories(reader, counters)
            raw_texts = _check_raw(reader, counters)
        outbox = StoredOutbox(storage)
        lines = [line for _sequence, line in outbox.lines(outbox.oldest_sequence)]
        if outbox.oldest_sequence == 1:
            assert verify_lines(lines).head == (head.audit_sequence, head.audit_hash)
        in_file = plan_repair(data_dir / "audit.jsonl", outbox).last.sequence
    finally:
        storage.close()
    assert in_file <= head.audit_sequence
    return Stored(head, counters, texts, raw_texts, in_file)


def _check_memories(reader: Reader, counters: Counters) -> dict[str, str]:
    counted = [0] * len(STORES)
    sums = [0.0] * len(STORES)
    texts: dict[str, str] = {}
    edges = 0
    for record_id, value in _rows(reader, Table.CONTENT):
        row = parse_content_row(value)
        state = reader.get(key(Table.STATE, record_id))
        assert state is not None
        assert reader.get(key(Table.BY_TIME, pack_time(row.created_at), record_id)) is not None
        counted[row.store_code] += 1
        sums[row.store_code] += parse_state(state).score
        edges += len(parse_edges(reader.get(key(Table.EDGES, record_id))))
        texts[format_id(record_id)] = _text(row.content)
    assert counters.records == counted
    assert all(abs(a - b) < ROUNDING for a, b in zip(counters.fidelity_sums, sums, strict=True))
    assert counters.associations == edges
    assert _count(reader, Table.STATE) == _count(reader, Table.BY_TIME) == len(texts)
    assert _count(reader, Table.VECTORS, Space.CONTENT.value) == counters.vectors
    return texts


def _check_raw(reader: Reader, counters: Counters) -> dict[str, str]:
    texts = {format_id(i): _text(parse_raw_row(value).content) for i, value in _rows(reader, Table.RAW)}
    assert counters.raw_records == len(texts)
    assert _count(reader, Table.RAW_BY_TIME) == _count(reader, Table.RAW_BY_SESSION) == len(texts)
    return texts


def _text(content: bytes) -> str:
    return bytes(codec.parse(content, MemoryContent).blocks[0].data).decode()


def _rows(reader: Reader, table: Table) -> list[tuple[RecordId, bytes]]:
    prefix = key(table)
    return [(trailing_id(row_key), value) for row_key, value in reader.scan(prefix, after(prefix))]


def _count(reader: Reader, table: Table, *parts: bytes) -> int:
    prefix = key(table, *parts)
    return sum(1 for _pair in reader.scan(prefix, after(prefix)))
