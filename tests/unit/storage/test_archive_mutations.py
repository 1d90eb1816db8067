"""What an import writes: which record stays, what makes room, what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from cerememory.domain.decay import STANDARD
from cerememory.protocol import codec
from cerememory.protocol.records import (
    Association,
    AssociationType,
    ContentBlock,
    EmotionVector,
    MemoryContent,
    MemoryRecord,
    Modality,
    RawJournalRecord,
    RawSource,
    SecrecyLevel,
    Speaker,
    Store,
    Visibility,
)
from cerememory.protocol.requests import ConflictResolution, ImportStrategy
from cerememory.protocol.values import ByteArray, Timestamp
from cerememory.storage import archive_mutations
from cerememory.storage.archive_mutations import (
    CURATED_TABLES,
    RAW_TABLES,
    ImportPiece,
    Tally,
    Terms,
    import_steps,
    is_taken,
    planned,
)
from cerememory.storage.contract import Reader
from cerememory.storage.imported import Imported, imported_memory, imported_raw
from cerememory.storage.keys import Table, after, counters_key, key
from cerememory.storage.ledger import Ledger
from cerememory.storage.rows import Counters, Head, parse_content_row, parse_counters, parse_edges, parse_head
from cerememory.storage.series import Committed, run_series
from cerememory.storage.undo_rows import HeldImport
from tests.support.committing import an_id, commit
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage

EXISTING, IMPORTED, NEWER = (
    ConflictResolution.KEEP_EXISTING,
    ConflictResolution.KEEP_IMPORTED,
    ConflictResolution.KEEP_NEWER,
)
# What isn't part of what a namespace remembers, and stays when an archive replaces that.
STAYING = {Table.IDEMPOTENCY, Table.IDEMPOTENCY_BY_EXPIRY, Table.UNDO}
OF_THE_SYSTEM = {
    *(Table.NAMESPACES, Table.LAST_NAMESPACE, Table.LOG_FLOOR, Table.LOG, Table.HEAD, Table.COUNTERS),
    *(Table.DYNAMICS, Table.MODES, Table.ENRICHED, Table.PROBE, Table.KEYRING, Table.SEALS, Table.AUDIT_TILES),
    Table.AUDIT_FILES,
}


def a_memory(number: int, text: str = "kettle", *, updated_at: int = NOW, **given: Any) -> Imported:
    block = ContentBlock(
        modality=Modality.TEXT,
        format="text/plain",
        data=ByteArray(text.encode()),
        embedding=given.pop("embedding", None),
    )
    record = MemoryRecord(
        id=an_id(number),
        store=given.pop("store", Store.EPISODIC),
        created_at=Timestamp(given.pop("created_at", NOW)),
        updated_at=Timestamp(updated_at),
        content=MemoryContent(blocks=(block,)),
        **given,
    )
    return imported_memory(0, record, STANDARD[record.store], NOW)


def a_raw(
    number: int, text: str = "said", *, updated_at: int = NOW, session: str = "s-1", **given: Any
) -> Imported:
    block = ContentBlock(modality=Modality.TEXT, format="text/plain", data=ByteArray(text.encode()))
    record = RawJournalRecord(
        id=an_id(number),
        session_id=session,
        source=RawSource.CONVERSATION,
        speaker=Speaker.USER,
        visibility=Visibility.NORMAL,
        secrecy_level=SecrecyLevel.PUBLIC,
        updated_at=Timestamp(updated_at),
        content=MemoryContent(blocks=(block,)),
        **given,
    )
    return imported_raw(record, NOW)


def edge_to(number: int) -> Association:
    at = Timestamp(NOW)
    return Association(
        target_id=an_id(number),
        association_type=AssociationType.SEMANTIC,
        weight=1.0,
        created_at=at,
        last_co_activation=at,
    )


def terms(
    strategy: ImportStrategy = ImportStrategy.MERGE,
    resolution: ConflictResolution = NEWER,
    *,
    has_raw: bool = True,
) -> Terms:
    return Terms("a-1", strategy, resolution, has_raw)


def imported(storage: MemoryStorage, how: Terms, *pieces: tuple[Imported, ...], held: int = 0) -> Committed[Any]:
    """With so many records for working memory."""
    with storage.read() as reader:
        head = parse_head(reader.get(key(0xFFFF_FFFF, Table.HEAD)), "0" * 64)

    def open_ledger(reader: Reader, at: Head) -> Ledger:
        return Ledger(reader, at, NOW, audited=True, index_applied=0)

    def steps() -> Any:
        noted = (HeldImport(b"i" * 16, NOW),) * held
        return import_steps(0, how, pieces, noted, NOW, lambda mutation: mutation, an_id(900))

    return storage.transact(lambda transaction: run_series(transaction, steps, head, open_ledger))


def stored_texts(storage: MemoryStorage) -> dict[int, str]:
    with storage.read() as reader:
        prefix = key(0, Table.CONTENT)
        return {
            int.from_bytes(row_key[-16:], "big"): text_of(parse_content_row(value).content)
            for row_key, value in reader.scan(prefix, after(prefix))
        }


def text_of(content: bytes) -> str:
    return bytes(codec.parse(content, MemoryContent).blocks[0].data).decode()


def counters(storage: MemoryStorage) -> Counters:
    with storage.read() as reader:
        return parse_counters(reader.get(counters_key(0)))


def count(storage: MemoryStorage, table: Table) -> int:
    with storage.read() as reader:
        prefix = key(0, table)
        return sum(1 for _ in reader.scan(prefix, after(prefix)))


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.mark.parametrize(
    ("resolution", "archived_at", "taken"),
    [
        (EXISTING, NOW + 1, False),
        (IMPORTED, NOW - 1, True),
        (NEWER, NOW - 1, False),
        (NEWER, NOW, False),
        (NEWER, NOW + 1, True),
    ],
)
@pytest.mark.parametrize("make", [a_memory, a_raw])
def test_which_of_two_records_stays(
    storage: MemoryStorage,
    make: Callable[..., Imported],
    resolution: ConflictResolution,
    archived_at: int,
    taken: bool,
) -> None:
    assert is_taken(resolution, NOW, archived_at) is taken
    commit(storage, ImportPiece(0, (make(1, "old"),), NEWER))
    piece = (make(1, "new", updated_at=archived_at),)
    with storage.read() as reader:
        foreseen = planned(reader, 0, piece, terms(resolution=resolution))
    [tally], _ = commit(storage, ImportPiece(0, piece, resolution))
    assert tally == foreseen == (Tally(replaced=1) if taken else Tally(kept=1))


def test_new_records_are_added_with_all_their_rows(storage: MemoryStorage) -> None:
    emotional = EmotionVector(joy=1.0)
    first = a_memory(1, embedding=(1.0, 2.0), emotion=emotional, associations=(edge_to(2), edge_to(99)))
    done = imported(storage, terms(), (first, a_memory(2, store=Store.SEMANTIC)), (a_raw(3),))
    assert done.answer.reply.records_imported == 3
    found = counters(storage)
    assert found.records == [1, 1, 0, 0, 0]
    assert (found.associations, found.vectors, found.raw_records, found.raw_pending_dream) == (2, 1, 1, 1)
    assert count(storage, Table.VECTORS) == 2
    assert count(storage, Table.EDGES_BY_TARGET) == 2


def test_an_entry_that_was_dreamt_of_does_not_wait_for_it_again(storage: MemoryStorage) -> None:
    marked = msgspec.Raw(b'{"_dream":{"processed_at":"2026-01-01T00:00:00+00:00"}}')
    imported(storage, terms(), (a_raw(1, metadata=marked), a_raw(2)))
    assert counters(storage).raw_pending_dream == 1
    assert count(storage, Table.RAW_PENDING) == 1


def test_a_record_that_is_replaced_leaves_nothing_of_itself(storage: MemoryStorage) -> None:
    old = a_memory(
        1,
        "old",
        created_at=NOW - 5,
        embedding=(1.0, 2.0, 3.0),
        emotion=EmotionVector(fear=1.0),
        associations=(edge_to(2),),
        metadata=msgspec.Raw(b'{"_context":{"session_id":"s-1"}}'),
    )
    neighbour = a_memory(2, associations=(edge_to(1),))
    imported(storage, terms(), (old, neighbour))
    done = imported(storage, terms(), (a_memory(1, "new", updated_at=NOW + 1, store=Store.SEMANTIC),))
    assert stored_texts(storage) == {1: "new", 2: "kettle"}
    found = counters(storage)
    assert found.records == [1, 1, 0, 0, 0]
    assert (found.associations, found.vectors) == (1, 0)
    assert count(storage, Table.STATE) == 2
    assert (count(storage, Table.VECTORS), count(storage, Table.GROUPS)) == (0, 0)
    assert done.told is not None
    [gone] = [finished.effects.vectors for finished in done.told if finished.effects.vectors]
    assert [change.values for change in gone] == [None, None]


def test_a_record_that_is_replaced_keeps_the_edges_of_others_to_it(storage: MemoryStorage) -> None:
    imported(storage, terms(), (a_memory(1), a_memory(2, associations=(edge_to(1),))))
    imported(storage, terms(), (a_memory(1, "new", updated_at=NOW + 1),))
    with storage.read() as reader:
        assert [edge.target_id for edge in parse_edges(reader.get(key(0, Table.EDGES, an_id(2))))] == [an_id(1)]
        assert reader.get(key(0, Table.EDGES_BY_TARGET, an_id(1), an_id(2))) == b""


@pytest.mark.parametrize(
    ("given", "is_told"), [({}, False), ({"store": Store.SEMANTIC}, True), ({"created_at": NOW - 5}, True)]
)
def test_the_graph_is_told_of_one_that_comes_in_another_store_or_from_another_time(
    storage: MemoryStorage, given: dict[str, Any], is_told: bool
) -> None:
    """It keeps both, of memories without edges too."""
    imported(storage, terms(), (a_memory(1),))
    done = imported(storage, terms(), (a_memory(1, "new", updated_at=NOW + 1, **given),))
    assert done.told is not None
    told = [address for finished in done.told for address in finished.effects.relinked]
    assert told == [(0, an_id(1))] * is_told


def test_a_raw_entry_that_is_replaced_leaves_its_session(storage: MemoryStorage) -> None:
    imported(storage, terms(), (a_raw(1, session="s-1"),))
    imported(storage, terms(), (a_raw(1, session="s-2", updated_at=NOW + 1),))
    assert (counters(storage).raw_records, count(storage, Table.RAW_BY_SESSION)) == (1, 1)


def test_of_two_with_one_id_in_an_archive_the_resolution_decides(storage: MemoryStorage) -> None:
    done = imported(storage, terms(), (a_memory(1, "older"), a_memory(1, "newer", updated_at=NOW + 1)))
    assert stored_texts(storage) == {1: "newer"}
    assert done.answer.reply.records_imported == 2
    assert counters(storage).records == [1, 0, 0, 0, 0]


def test_the_same_archive_again_imports_nothing(storage: MemoryStorage) -> None:
    pieces: Iterable[tuple[Imported, ...]] = ((a_memory(1), a_memory(2)), (a_raw(3),))
    imported(storage, terms(), *pieces)
    before = storage.rows()
    for resolution in (NEWER, EXISTING):
        assert imported(storage, terms(resolution=resolution), *pieces).answer.reply.records_imported == 0
    changed = {row_key for row_key, value in storage.rows().items() if before.get(row_key) != value}
    assert {row_key[4:5] for row_key in changed} == {Table.HEAD.value, Table.LOG.value}


def test_every_table_of_a_namespace_is_cleared_or_stays_on_purpose() -> None:
    assert {*CURATED_TABLES, *RAW_TABLES, *STAYING, *OF_THE_SYSTEM} == set(Table)


@pytest.mark.parametrize("rows_a_step", [1, 3, 2_000])
def test_replacing_clears_what_was_there(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, rows_a_step: int
) -> None:
    monkeypatch.setattr(archive_mutations, "CLEARED_ROWS", rows_a_step)
    before = (
        a_memory(1, embedding=(1.0,), associations=(edge_to(2),)),
        *(a_memory(number) for number in range(2, 9)),
        *(a_raw(number) for number in range(20, 23)),
    )
    imported(storage, terms(), before)
    new = (a_memory(2, "new"), a_raw(30))
    done = imported(storage, terms(ImportStrategy.REPLACE, EXISTING), new)
    assert done.answer.reply.records_imported == 2
    assert stored_texts(storage) == {2: "new"}
    found = counters(storage)
    assert found.records == [1, 0, 0, 0, 0]
    assert found.fidelity_sums == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert (found.associations, found.vectors, found.raw_records, found.raw_pending_dream) == (0, 0, 1, 1)
    assert {table: count(storage, table) for table in (Table.STATE, Table.EDGES, Table.VECTORS, Table.RAW)} == {
        Table.STATE: 1,
        Table.EDGES: 0,
        Table.VECTORS: 0,
        Table.RAW: 1,
    }
    assert done.told is not None
    told = [finished.effects for finished in done.told]
    deleted = {address[1] for effects in told for address in effects.deletions}
    assert deleted == {an_id(number) for number in (*range(1, 9), 20, 21, 22)}


def test_replacing_by_curated_records_leaves_the_raw_journal_alone(storage: MemoryStorage) -> None:
    imported(storage, terms(), (a_memory(1), a_raw(2)))
    imported(storage, terms(ImportStrategy.REPLACE, has_raw=False), (a_memory(3),))
    assert stored_texts(storage) == {3: "kettle"}
    assert (counters(storage).raw_records, count(storage, Table.RAW)) == (1, 1)


def test_replacing_leaves_other_namespaces_alone(storage: MemoryStorage) -> None:
    elsewhere = key(7, Table.CONTENT, an_id(1))
    storage.commit({elsewhere: b"row"})
    imported(storage, terms(ImportStrategy.REPLACE), (a_memory(1),))
    assert storage.rows()[elsewhere] == b"row"


def test_what_replacing_would_import_is_all(storage: MemoryStorage) -> None:
    imported(storage, terms(), (a_memory(1), a_raw(2)))
    piece = (a_memory(1), a_raw(2))
    with storage.read() as reader:
        assert planned(reader, 0, piece, terms(ImportStrategy.REPLACE)) == Tally(added=2)
        assert planned(reader, 0, piece, terms(ImportStrategy.REPLACE, has_raw=False)) == Tally(added=1, kept=1)


def test_the_audit_entry_says_what_was_asked_and_done(storage: MemoryStorage) -> None:
    done = imported(storage, terms(ImportStrategy.REPLACE, IMPORTED), (a_memory(1),), held=2)
    assert done.told is not None
    [line] = done.told[-1].audit_lines
    entry = msgspec.json.decode(line)
    assert (entry["operation"], entry["record_ids"], entry["store_types"]) == ("lifecycle.import", [], [])
    assert entry["summary"] == {
        "archive_id": "a-1",
        "conflict_resolution": "keep_imported",
        "imported": 3,
        "strategy": "replace",
    }
    assert done.answer.sequence == done.head.commit_sequence
