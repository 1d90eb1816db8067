"""An import that is taken back.

The model is a store that never had the import: whatever was stored, edited, archived and dreamt of before, and
whatever the archive held, an undone import leaves the rows that were there, to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.audit_chain import GENESIS, parse_line
from cerememory.errors import ImportConflict, RecordNotFound
from cerememory.protocol.records import Association, EmotionVector, Store
from cerememory.protocol.replies import ImportUndone
from cerememory.protocol.requests import ConflictResolution, ImportStrategy, UndoImport
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage import archive_mutations, undo_import, undo_rows
from cerememory.storage.archive_mutations import Terms, import_steps
from cerememory.storage.contract import Reader
from cerememory.storage.fsck_rows import Tally, check_namespace
from cerememory.storage.imported import Imported
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    SYSTEM_NAMESPACE,
    Table,
    counters_key,
    digest,
    key,
    namespace_in,
    system_key,
)
from cerememory.storage.ledger import Ledger, Mutation
from cerememory.storage.mutations import Once
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import Head, parse_archived_row, parse_counters, parse_head
from cerememory.storage.series import Committed, Series, run_series
from cerememory.storage.undo_import import UndoPiece, look_at, undo_steps
from cerememory.storage.undo_rows import HeldImport, batch_key, batches, drop_steps, rows_prefix
from tests.support.committing import an_id, commit, storing_raw, updating
from tests.support.engine import NOW, text_block
from tests.support.memory_storage import MemoryStorage
from tests.unit.storage.test_archive_mutations import a_memory, a_raw, edge_to, stored_texts, text_of
from tests.unit.storage.test_forgetting import SCRIPTS, Archive, Script, forget, play, rounded

BATCH, SECOND = an_id(900), an_id(901)
MERGE, REPLACE = ImportStrategy.MERGE, ImportStrategy.REPLACE
IMPORTED = ConflictResolution.KEEP_IMPORTED
LATER = NOW + 1_000


def edges_to(numbers: list[int]) -> tuple[Association, ...]:
    return tuple(map(edge_to, numbers))


ARCHIVED_RECORDS = st.lists(
    st.builds(
        a_memory,
        st.integers(1, 8),
        st.sampled_from(["from elsewhere", "kettle 1"]),
        updated_at=st.sampled_from([NOW - 1, NOW + 3, NOW + 100]),
        store=st.sampled_from([Store.EPISODIC, Store.SEMANTIC]),
        embedding=st.none() | st.just((0.5, 1.0)),
        emotion=st.sampled_from([EmotionVector(), EmotionVector(joy=1.0)]),
        associations=st.lists(st.integers(1, 8), max_size=2, unique=True).map(edges_to),
    )
    | st.builds(a_raw, st.integers(101, 105), updated_at=st.sampled_from([NOW - 1, NOW + 200])),
    max_size=6,
).map(tuple)
TERMS = st.builds(
    Terms,
    st.just("a-1"),
    st.sampled_from(ImportStrategy),
    st.sampled_from(ConflictResolution),
    st.booleans(),
)


def run(storage: MemoryStorage, series: Series[Any]) -> Committed[Any]:
    with storage.read() as reader:
        head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)

    def open_ledger(reader: Reader, at: Head) -> Ledger:
        return Ledger(reader, at, LATER, audited=True, index_applied=0)

    return storage.transact(lambda transaction: run_series(transaction, series, head, open_ledger))


def take_in(
    storage: MemoryStorage,
    *records: Imported,
    terms: Terms | None = None,
    batch: RecordId = BATCH,
    namespace: int = DEFAULT_NAMESPACE,
    held: tuple[HeldImport, ...] = (),
) -> Any:
    """The answer to an import, two records a piece."""
    pieces = [records[i : i + 2] for i in range(0, len(records), 2)]
    how = terms or Terms("a-1", MERGE, IMPORTED, True)
    series = partial(import_steps, namespace, how, pieces, held, NOW, lambda mutation: mutation, batch)
    return run(storage, series).answer.reply


def undo(
    storage: MemoryStorage,
    batch: RecordId = BATCH,
    *,
    namespace: int = DEFAULT_NAMESPACE,
    held: Mapping[RecordId, int] | None = None,
    last: Callable[[Mutation[Any]], Mutation[Any]] = lambda mutation: mutation,
    **asked: Any,
) -> Committed[Any]:
    request = UndoImport(batch_id=batch, **asked)
    return run(storage, partial(undo_steps, namespace, request, held or {}, LATER, last))


def done(committed: Committed[Any]) -> tuple[int, int, int]:
    reply: ImportUndone = committed.answer.reply
    return reply.records_removed, reply.records_restored, reply.records_left


def rows_of(storage: MemoryStorage, namespace: int = DEFAULT_NAMESPACE) -> dict[bytes, Any]:
    """All rows but those of the log, and the counters of the namespace."""
    rows = storage.rows()
    found: dict[bytes, Any] = {
        row_key: value for row_key, value in rows.items() if namespace_in(row_key) != SYSTEM_NAMESPACE
    }
    counters = rounded(parse_counters(rows.get(counters_key(namespace))))
    return {**found, b"counters": {name: value or 0 for name, value in counters.items()}}


def assert_sound(storage: MemoryStorage, namespace: int = DEFAULT_NAMESPACE) -> None:
    with storage.read() as reader:
        assert list(check_namespace(reader, namespace, NOW, Tally())) == []


@given(script=SCRIPTS, records=ARCHIVED_RECORDS, terms=TERMS, pieces=st.sampled_from([1, 2, 500]))
@settings(max_examples=60)
def test_an_import_that_was_undone_never_was(
    script: Script, records: tuple[Imported, ...], terms: Terms, pieces: int
) -> None:
    namespace = script.namespace
    storage = play(script)
    records = tuple(
        replace(record, namespace=namespace) if isinstance(record, NewRecord) else record for record in records
    )
    before = rows_of(storage, namespace)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(archive_mutations, "PIECE_RECORDS", pieces)
        patched.setattr(undo_import, "PIECE_ROWS", pieces)
        reply = take_in(storage, *records, terms=terms, namespace=namespace)
        assert_sound(storage, namespace)
        if reply.batch_id is msgspec.UNSET:
            assert rows_of(storage, namespace) == before
            return
        assert done(undo(storage, namespace=namespace))[2] == 0
    assert_sound(storage, namespace)
    assert rows_of(storage, namespace) == before


@pytest.fixture
def storage() -> MemoryStorage:
    """Two memories, of which an import has replaced the first and added 3; an entry that was there, and 102."""
    storage = MemoryStorage()
    take_in(storage, a_memory(1, "old", associations=(edge_to(2),)), a_memory(2), a_raw(101), batch=SECOND)
    drop_all(storage)
    reply = take_in(
        storage,
        a_memory(1, "new", updated_at=NOW + 1),
        a_memory(3, "added", associations=(edge_to(1),)),
        a_raw(102),
    )
    assert (reply.records_imported, reply.batch_id) == (3, BATCH)
    return storage


def drop_all(storage: MemoryStorage) -> None:
    run(storage, partial(drop_steps, DEFAULT_NAMESPACE))


def kept_in(storage: MemoryStorage) -> list[RecordId]:
    with storage.read() as reader:
        return [batch for batch, _row in batches(reader, DEFAULT_NAMESPACE)]


def undo_rows_of(storage: MemoryStorage) -> list[bytes]:
    prefix = key(DEFAULT_NAMESPACE, Table.UNDO)
    return [row_key for row_key in storage.rows() if row_key.startswith(prefix)]


def test_it_says_what_it_took_back_and_leaves_nothing_to_undo(storage: MemoryStorage) -> None:
    committed = undo(storage)
    assert done(committed) == (2, 1, 0)
    assert stored_texts(storage) == {1: "old", 2: "kettle"}
    assert undo_rows_of(storage) == []
    assert committed.told is not None
    entry = parse_line(committed.told[-1].audit_lines[-1])
    assert (entry.operation, entry.record_ids) == ("lifecycle.undo_import", ())
    assert entry.summary == {
        "archive_id": "a-1",
        "batch_id": format_id(BATCH),
        "removed": 2,
        "restored": 1,
        "left": 0,
    }


def test_the_followers_are_told(storage: MemoryStorage) -> None:
    committed = undo(storage)
    assert committed.told is not None
    changed = {address for finished in committed.told for address in finished.effects.changed}
    deleted = {address for finished in committed.told for address in finished.effects.deletions}
    assert changed == {(0, an_id(number)) for number in (1, 3, 102)}
    assert deleted == {(0, an_id(number)) for number in (3, 102)}


def test_what_was_changed_since_is_named_and_nothing_is_undone(storage: MemoryStorage) -> None:
    commit(storage, updating(1, now=LATER, content={"blocks": [text_block("edited")]}))
    before = rows_of(storage)
    with pytest.raises(ImportConflict, match=f"1 record.* changed since the import: {format_id(an_id(1))};"):
        undo(storage)
    assert rows_of(storage) == before


def test_what_was_changed_since_stays_when_asked(storage: MemoryStorage) -> None:
    commit(storage, updating(1, now=LATER, content={"blocks": [text_block("edited")]}))
    committed = undo(storage, keep_changed=True)
    assert done(committed) == (2, 0, 1)
    assert committed.answer.reply.left_ids == (an_id(1),)
    assert stored_texts(storage) == {1: "edited", 2: "kettle"}
    assert_sound(storage)


def test_what_was_stored_since_stays(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(200))
    undo(storage)
    assert key(DEFAULT_NAMESPACE, Table.RAW, an_id(200)) in storage.rows()


@pytest.mark.parametrize(
    "request_",
    [
        {"numbers": [1]},
        {"store": Store.EPISODIC},
        {"raw_numbers": [101], "numbers": [1], "cascade": True},
    ],
    ids=["id", "store", "cascade"],
)
def test_what_was_forgotten_since_does_not_come_back(request_: dict[str, Any]) -> None:
    storage = MemoryStorage()
    take_in(storage, a_memory(1, "secret"), a_memory(2, associations=(edge_to(1),), store=Store.SEMANTIC))
    terms = Terms("a-2", REPLACE, IMPORTED, True)
    take_in(storage, a_memory(3, store=Store.SEMANTIC), terms=terms, batch=SECOND)
    commit(storage, forget(**request_))
    assert done(undo(storage, SECOND)) == (1, 1, 0)
    assert stored_texts(storage) == {2: "kettle"}
    assert key(DEFAULT_NAMESPACE, Table.EDGES, an_id(2)) not in storage.rows() or "store" in request_
    assert_sound(storage)


def test_forgetting_by_id_looks_at_the_rows_of_these_records_alone(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is kept: many are forgotten one by one."""
    monkeypatch.setattr(undo_rows, "undo_rows", None)
    commit(storage, forget(numbers=[1], raw_numbers=[102]))
    assert done(undo(storage)) == (1, 0, 0)
    assert stored_texts(storage) == {2: "kettle"}
    assert undo_rows_of(storage) == []


def test_an_entry_whose_session_was_forgotten_does_not_come_back(storage: MemoryStorage) -> None:
    take_in(storage, a_raw(103, session="s-2"), terms=Terms("a-2", REPLACE, IMPORTED, True), batch=SECOND)
    commit(storage, forget(session_id="s-1"))
    undo(storage, SECOND)
    assert not [row for row in storage.rows() if row.startswith(key(DEFAULT_NAMESPACE, Table.RAW))]
    assert_sound(storage)


def test_what_was_dreamt_of_forgotten_entries_does_not_come_back() -> None:
    storage = MemoryStorage()
    origin = msgspec.Raw(b'{"_origin":{"raw_record_ids":["%b"]}}' % format_id(an_id(101)).encode())
    take_in(storage, a_memory(1, "a dream", metadata=origin), a_raw(101))
    take_in(storage, a_memory(2), terms=Terms("a-2", REPLACE, IMPORTED, False), batch=SECOND)
    commit(storage, forget(raw_numbers=[101], cascade=True))
    undo(storage, SECOND)
    assert stored_texts(storage) == {}


def test_nor_does_what_was_dreamt_of_a_forgotten_session_that_is_only_kept() -> None:
    storage = MemoryStorage()
    origin = msgspec.Raw(b'{"_origin":{"raw_record_ids":["%b"]}}' % format_id(an_id(101)).encode())
    take_in(storage, a_memory(1, "a dream", metadata=origin), a_raw(101))
    take_in(storage, a_raw(103, session="s-2"), terms=Terms("a-2", REPLACE, IMPORTED, True), batch=SECOND)
    commit(storage, forget(session_id="s-1", cascade=True))
    undo(storage, SECOND)
    assert stored_texts(storage) == {}


@pytest.mark.parametrize("is_archived", [False, True])
def test_an_edge_lost_to_what_was_forgotten_is_no_change(storage: MemoryStorage, is_archived: bool) -> None:
    commit(storage, *([Archive(3)] if is_archived else []), forget(numbers=[1]))
    assert done(undo(storage)) == (2, 0, 0)
    assert stored_texts(storage) == {2: "kettle"}


@pytest.mark.parametrize("number", [1, 3])
def test_what_decay_has_archived_since_is_undone_too(storage: MemoryStorage, number: int) -> None:
    commit(storage, Archive(number))
    assert done(undo(storage)) == (2, 1, 0)
    assert stored_texts(storage) == {1: "old", 2: "kettle"}
    assert_sound(storage)


def test_what_decay_had_archived_is_archived_again() -> None:
    storage = MemoryStorage()
    take_in(storage, a_memory(1, "faint", associations=(edge_to(2),)))
    commit(storage, updating(1, content={"blocks": [text_block("fainter")]}), Archive(1))
    before = rows_of(storage)
    drop_all(storage)
    take_in(storage, a_memory(1, "again"))
    assert done(undo(storage)) == (0, 1, 0)
    archived = storage.rows()[key(DEFAULT_NAMESPACE, Table.ARCHIVED, an_id(1))]
    assert text_of(parse_archived_row(archived).content.content) == "fainter"
    assert {k: v for k, v in before.items() if k[4:5] != Table.UNDO.value} == rows_of(storage)


def test_the_later_of_two_imports_of_a_record_is_undone_first(storage: MemoryStorage) -> None:
    take_in(storage, a_memory(1, "newest", updated_at=NOW + 2), batch=SECOND)
    with pytest.raises(ImportConflict):
        undo(storage)
    undo(storage, SECOND)
    undo(storage)
    assert stored_texts(storage) == {1: "old", 2: "kettle"}


def test_an_import_that_brought_a_record_again_is_undone_first(storage: MemoryStorage) -> None:
    """From the same archive, with the same version and time; the later one keeps what was edited in between."""
    commit(storage, updating(1, now=LATER, content={"blocks": [text_block("edited")]}))
    take_in(storage, a_memory(1, "new", updated_at=NOW + 1), batch=SECOND)
    with pytest.raises(ImportConflict, match=f": {format_id(an_id(1))};"):
        undo(storage)
    assert done(undo(storage, keep_changed=True)) == (2, 0, 1)
    undo(storage, SECOND)
    assert stored_texts(storage)[1] == "edited"


def test_a_record_that_comes_twice_gets_back_what_it_was_at_first(storage: MemoryStorage) -> None:
    records = [a_memory(1, text, updated_at=NOW + 10 + i) for i, text in enumerate(("once", "twice"))]
    take_in(storage, *records, batch=SECOND)
    undo(storage, SECOND)
    assert stored_texts(storage)[1] == "new"


def test_an_import_that_is_not_kept_is_refused_with_those_that_are(storage: MemoryStorage) -> None:
    with pytest.raises(RecordNotFound, match=rf"is no import .*; kept are {format_id(BATCH)} \(a-1, 20"):
        undo(storage, SECOND)
    drop_all(storage)
    with pytest.raises(RecordNotFound, match="none is kept"):
        undo(storage)


def test_an_import_that_changed_nothing_is_not_kept(storage: MemoryStorage) -> None:
    terms = Terms("a-1", MERGE, ConflictResolution.KEEP_EXISTING, True)
    reply = take_in(storage, a_memory(1), batch=SECOND, terms=terms)
    assert (reply.batch_id, kept_in(storage)) == (msgspec.UNSET, [BATCH])


def test_the_newest_imports_are_kept(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo_rows, "DROPPED_ROWS", 2)
    ids = [an_id(1_000 + i) for i in range(undo_rows.BATCHES_MAX)]
    for i, batch in enumerate(ids):
        take_in(storage, a_memory(1, updated_at=NOW + 2 + i), batch=batch)
    assert kept_in(storage) == ids
    assert len(undo_rows_of(storage)) == 2 * len(ids)


@pytest.mark.parametrize("dropped_rows", [1, 2_000])
def test_what_is_kept_of_an_import_that_is_not_goes_with_the_next(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, dropped_rows: int
) -> None:
    monkeypatch.setattr(undo_rows, "DROPPED_ROWS", dropped_rows)
    take_in(storage, a_memory(1, updated_at=NOW + 2), a_memory(2, updated_at=NOW + 2), batch=SECOND)
    storage.commit({batch_key(DEFAULT_NAMESPACE, SECOND): None})
    assert take_in(storage, a_memory(1, updated_at=NOW + 3), batch=an_id(902)).batch_id == an_id(902)
    assert kept_in(storage) == [BATCH, an_id(902)]
    assert_sound(storage)
    assert done(undo(storage, an_id(902))) == (0, 1, 0)


def test_of_nothing_that_is_kept_a_row_is_left(storage: MemoryStorage) -> None:
    take_in(storage, a_memory(1, updated_at=NOW + 2), batch=SECOND)
    storage.commit({batch_key(DEFAULT_NAMESPACE, SECOND): None})
    run(storage, partial(drop_steps, DEFAULT_NAMESPACE))
    assert undo_rows_of(storage) == []


def test_what_is_kept_has_a_size_at_most(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    with storage.read() as reader:
        [(_batch, row)] = batches(reader, DEFAULT_NAMESPACE)
    prefix = rows_prefix(DEFAULT_NAMESPACE, BATCH)
    size_bytes = sum(len(k) + len(v) for k, v in storage.rows().items() if k.startswith(prefix))
    assert row.size_bytes == size_bytes
    monkeypatch.setattr(undo_rows, "UNDO_BYTES_MAX", size_bytes + 100)
    assert take_in(storage, a_memory(4), batch=SECOND).batch_id == SECOND
    assert kept_in(storage) == [BATCH, SECOND]
    assert take_in(storage, a_memory(1, updated_at=NOW + 9), batch=an_id(902)).batch_id == an_id(902)
    assert kept_in(storage) == [SECOND, an_id(902)]


@pytest.mark.parametrize("strategy", [MERGE, REPLACE])
def test_an_import_that_is_too_large_for_it_leaves_nothing_to_undo(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, strategy: ImportStrategy
) -> None:
    monkeypatch.setattr(archive_mutations, "UNDO_BYTES_MAX", 100)
    records = [a_memory(number, "large", updated_at=NOW + 2) for number in (1, 2, 3)]
    reply = take_in(storage, *records, batch=SECOND, terms=Terms("a-2", strategy, IMPORTED, True))
    assert (reply.records_imported, reply.batch_id) == (3, msgspec.UNSET)
    assert kept_in(storage) == [BATCH]
    assert all(bytes(BATCH) in row_key for row_key in undo_rows_of(storage))


def test_a_step_of_an_undo_has_a_size_at_most(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo_import, "PIECE_BYTES", 1)
    assert commit(storage, UndoPiece(DEFAULT_NAMESPACE, BATCH))[0] == [True]
    assert len(undo_rows_of(storage)) == 3, "two records and the batch"


def test_a_retry_is_answered_as_the_first_try(storage: MemoryStorage) -> None:
    def once(mutation: Mutation[Any]) -> Mutation[Any]:
        return Once(mutation, digest("k"), b"body" * 4, LATER, LATER + 1_000, ImportUndone)

    first = undo(storage, last=once).answer
    again = undo(storage, last=once).answer
    assert (first.replayed, again.replayed) == (False, True)
    assert again.reply == first.reply


def test_what_went_into_working_memory_goes_unless_it_was_changed() -> None:
    storage = MemoryStorage()
    held = tuple(HeldImport(bytes(an_id(number)), NOW) for number in (1, 2, 3))
    assert take_in(storage, held=held).batch_id == BATCH
    now = {an_id(1): NOW, an_id(2): NOW + 1}
    with pytest.raises(ImportConflict, match=format_id(an_id(2))):
        undo(storage, held=now)
    committed = undo(storage, held=now, keep_changed=True)
    assert done(committed) == (1, 0, 1)
    assert committed.told is not None
    assert committed.told[-1].effects.dropped == [(0, an_id(1))]


def test_a_look_changes_nothing_and_says_the_same(storage: MemoryStorage) -> None:
    with storage.read() as reader:
        looked = look_at(reader, DEFAULT_NAMESPACE, BATCH, None)
    assert looked.position is None
    assert looked.undone[:3] == done(undo(storage))
