"""Archived records as rows: what they were is kept, through the spool and back."""

from __future__ import annotations

from pathlib import Path
from tempfile import gettempdir

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.decay import STANDARD
from cerememory.protocol import codec
from cerememory.protocol.records import (
    CaptureStatus,
    MemoryRecord,
    MetaMemory,
    RawJournalRecord,
    Store,
)
from cerememory.storage import imported
from cerememory.storage.imported import PIECE_RECORDS, Imported, ImportSpool, imported_memory, imported_raw
from cerememory.storage.mutations import NewRaw
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import dump_edges, raw_json, record_json
from tests.support.archives import CURATED, memory_records, raw_records
from tests.support.engine import NOW

RECORD = codec.parse(CURATED.splitlines()[1], MemoryRecord)
RAW = codec.parse(
    b'{"id":"0191aaaa-0000-7000-8000-000000000001","session_id":"s","source":"conversation","speaker":"user",'
    b'"visibility":"normal","secrecy_level":"public",'
    b'"content":{"blocks":[{"modality":"text","format":"text/plain","data":[65]}]}}',
    RawJournalRecord,
)


def memory(record: MemoryRecord) -> NewRecord:
    return imported_memory(0, record, STANDARD[record.store], NOW)


def spooled(directory: Path, records: list[Imported]) -> list[Imported]:
    with ImportSpool(directory) as spool:
        for record in records:
            spool.add(record)
        spool.flush()
        assert list(spool.pieces(0)) == list(spool.pieces(0))
        return [record for piece in spool.pieces(0) for record in piece]


@settings(max_examples=50)
@given(st.lists(memory_records, max_size=3), st.lists(raw_records, max_size=3))
def test_any_records_come_out_of_the_spool_as_they_went_in(
    memories: list[MemoryRecord], raws: list[RawJournalRecord]
) -> None:
    records: list[Imported] = [*map(memory, memories), *(imported_raw(record, NOW) for record in raws)]
    assert spooled(Path(gettempdir()), records) == records


@settings(max_examples=50)
@given(memory_records)
def test_the_json_of_an_imported_memory_is_that_of_the_archive(record: MemoryRecord) -> None:
    new = memory(record)
    edges = dump_edges(new.associations) if new.associations else None
    shown = codec.parse(record_json(new.record_id, new.row, new.state, edges), MemoryRecord)
    assert shown == record


@settings(max_examples=50)
@given(raw_records)
def test_the_json_of_an_imported_raw_record_is_that_of_the_archive(record: RawJournalRecord) -> None:
    new = imported_raw(record, NOW)
    assert codec.parse(raw_json(new.record_id, new.row), RawJournalRecord) == record


def test_what_is_missing_is_filled_in() -> None:
    bare = MemoryRecord(id=RECORD.id, store=Store.SEMANTIC, content=RECORD.content)
    row = memory(bare).row
    assert (row.created_at, row.updated_at, row.version) == (NOW, NOW, 1)
    assert (row.emotion, row.meta, row.metadata) == (b"", b"", b"{}")
    state = memory(bare).state
    assert (state.score, state.last_accessed_at, state.last_decay_tick_at) == (1.0, NOW, NOW)
    raw = imported_raw(RAW, NOW).row
    assert (raw.created_at, raw.updated_at, raw.derived, raw.suppressed) == (NOW, NOW, b"", False)


def test_the_score_of_the_archive_is_where_it_fades_from() -> None:
    state = memory(RECORD).state
    assert (state.base_score, state.base_at) == (RECORD.fidelity.score, NOW)


def test_working_memories_are_not_durable() -> None:
    assert not memory(msgspec.structs.replace(RECORD, store=Store.WORKING)).durable
    assert memory(RECORD).durable


@pytest.mark.parametrize("status", [None, CaptureStatus.LEGACY])
def test_a_meta_without_a_status_is_one_from_before_there_was_any(status: CaptureStatus | None) -> None:
    record = msgspec.structs.replace(RECORD, meta=MetaMemory(capture_status=status))
    assert codec.parse(memory(record).row.meta, MetaMemory).capture_status is CaptureStatus.LEGACY


def test_a_raw_entry_without_text_is_known_as_one() -> None:
    assert imported_raw(RAW, NOW).has_text
    blank = codec.parse(codec.dump(RAW).replace(b"[65]", b"[]"), RawJournalRecord)
    assert not imported_raw(blank, NOW).has_text


def test_pieces_are_of_a_bounded_number_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw: NewRaw = imported_raw(RAW, NOW)
    with ImportSpool(tmp_path) as spool:
        for _ in range(2 * PIECE_RECORDS + 1):
            spool.add(raw)
        spool.flush()
        spool.flush()
        assert [len(piece) for piece in spool.pieces(0)] == [PIECE_RECORDS, PIECE_RECORDS, 1]
    monkeypatch.setattr(imported, "PIECE_BYTES", len(raw.row.content) + 1)
    with ImportSpool(tmp_path) as spool:
        for _ in range(3):
            spool.add(raw)
        spool.flush()
        assert [len(piece) for piece in spool.pieces(0)] == [1, 1, 1]


def test_an_empty_spool_has_no_pieces(tmp_path: Path) -> None:
    assert spooled(tmp_path, []) == []
