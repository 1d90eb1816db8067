"""The archive of decay: what goes in, comes back, and is dropped; and what removing takes along on either side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from cerememory.domain.audit_chain import parse_line
from cerememory.domain.decay import STANDARD
from cerememory.protocol.records import Store
from cerememory.protocol.requests import ConflictResolution
from cerememory.protocol.values import RecordId
from cerememory.storage.archive_mutations import ImportPiece
from cerememory.storage.decaying import PRUNED_AT_ONCE, DropArchived, RestoreMemories
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    NAMESPACE_BYTES,
    SYSTEM_NAMESPACE,
    Table,
    counters_key,
    key,
    pack_namespace,
    pack_time,
)
from cerememory.storage.ledger import Ledger
from cerememory.storage.likenesses import BuildLikenesses
from cerememory.storage.removal import archive_memory, remove_archived, remove_memory, remove_raw, remove_rows
from cerememory.storage.rows import (
    ArchivedRow,
    Counters,
    parse_archived_row,
    parse_content_row,
    parse_counters,
    parse_edges,
    parse_state_row,
)
from tests.support.committing import (
    a_record,
    an_id,
    commit,
    state_key_of,
    stored_state,
    storing,
    storing_raw,
    updating,
)
from tests.support.engine import NOW, text_block
from tests.support.memory_storage import MemoryStorage

DAY = 86_400 * 10**9
KEPT_UNTIL = NOW + 30 * DAY
LATER = NOW + 5 * DAY


@dataclass(frozen=True)
class Does:
    """A mutation made of a function of the ledger."""

    apply: Any
    namespace: int = DEFAULT_NAMESPACE


def archiving(*numbers: int, kept_until: int = KEPT_UNTIL) -> Does:
    def apply(ledger: Ledger) -> None:
        for number in numbers:
            value = ledger.get(ledger.key(Table.CONTENT, an_id(number)))
            assert value is not None
            archive_memory(ledger, an_id(number), parse_content_row(value), kept_until)

    return Does(apply)


def removing(number: int) -> Does:
    return Does(lambda ledger: remove_memory(ledger, an_id(number), LATER))


def restoring(*numbers: int, now: int = LATER) -> RestoreMemories:
    return RestoreMemories(DEFAULT_NAMESPACE, tuple(map(an_id, numbers)), now)


def edge(number: int) -> dict[str, Any]:
    return {"target_id": str(an_id(number)), "association_type": "causal", "weight": 0.5}


def rich(number: int, *targets: int) -> Any:
    """With something in every table."""
    return storing(
        a_record(
            number,
            f"kettle {number}",
            NOW + number,
            embedding=[1.0, 0.5],
            emotion={"joy": 0.5},
            context={"session_id": "s"},
            associations=[edge(target) for target in targets],
        )
    )


def edited(number: int) -> Any:
    return updating(number, content={"blocks": [text_block("edited", embedding=[1.0])]})


@pytest.fixture
def storage() -> MemoryStorage:
    """Three memories that point to each other, and likenesses; the first was edited."""
    storage = MemoryStorage()
    commit(storage, BuildLikenesses(DEFAULT_NAMESPACE, None))
    for number, targets in ((1, (2, 3, 99)), (2, (1,)), (3, (1, 2))):
        commit(storage, rich(number, *targets))
    commit(storage, edited(1))
    return storage


def rows(storage: MemoryStorage) -> dict[bytes, bytes]:
    """Without the system's."""
    return {k: v for k, v in storage.rows().items() if not k.startswith(pack_namespace(SYSTEM_NAMESPACE))}


def tables_about(storage: MemoryStorage, number: int) -> set[Table]:
    """Which tables have a row whose key names the record, or its counterpart there."""
    about = [row_key for row_key in rows(storage) if row_key.find(an_id(number)) >= 0]
    named = {row_key[NAMESPACE_BYTES : NAMESPACE_BYTES + 1] for row_key in about}
    return {table for table in Table if table.value in named}


def counters(storage: MemoryStorage) -> Counters:
    return parse_counters(storage.rows()[counters_key(DEFAULT_NAMESPACE)])


def archived_row(storage: MemoryStorage, number: int) -> ArchivedRow:
    return parse_archived_row(rows(storage)[key(DEFAULT_NAMESPACE, Table.ARCHIVED, an_id(number))])


def targets_of(storage: MemoryStorage, number: int) -> list[RecordId]:
    return [
        e.target_id for e in parse_edges(rows(storage).get(key(DEFAULT_NAMESPACE, Table.EDGES, an_id(number))))
    ]


def test_what_is_archived_is_nowhere_else_but_in_its_history_and_in_the_edges_of_others(
    storage: MemoryStorage,
) -> None:
    before = counters(storage)
    _answers, finished = commit(storage, archiving(1))
    assert tables_about(storage, 1) == {
        *(Table.ARCHIVED, Table.ARCHIVED_BY_EXPIRY, Table.HISTORY, Table.EDGES_BY_TARGET),
    }
    assert targets_of(storage, 3) == [an_id(1), an_id(2)]
    after = counters(storage)
    assert (after.records[0], after.vectors, after.associations) == (2, 2, before.associations - 3)
    assert finished is not None
    assert finished.effects.deletions == [(DEFAULT_NAMESPACE, an_id(1))]
    assert len(finished.effects.left) == 1


def test_what_comes_back_is_as_if_it_had_never_been_away(storage: MemoryStorage) -> None:
    """But for its state: it fades on from what it had left."""
    before, counted = rows(storage), counters(storage)
    state_key = state_key_of(before, an_id(1))
    commit(storage, archiving(1))
    [stored], finished = commit(storage, restoring(1))
    assert stored.reply.records_restored == 1
    after = rows(storage)
    assert {**after, state_key: b""} == {**before, state_key: b""}
    old, new = stored_state(before, an_id(1)), stored_state(after, an_id(1))
    assert new == STANDARD[Store.EPISODIC].rebased(old, LATER)
    again = counters(storage)
    assert again.fidelity_sums[0] == pytest.approx(counted.fidelity_sums[0] - old.score + new.score)
    assert (again.records, again.associations, again.vectors) == (
        *(counted.records, counted.associations, counted.vectors),
    )
    assert finished is not None
    assert finished.effects.changed == [(DEFAULT_NAMESPACE, an_id(1))]
    assert {change.values for change in finished.effects.vectors} == {(1.0,), (0.5, *[0.0] * 7)}


def test_a_restore_says_in_one_audit_entry_what_came_back(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(4, store="semantic")))
    commit(storage, archiving(1, 4))
    [stored], finished = commit(storage, restoring(1, 2, 77, 4, 1))
    assert stored.reply.records_restored == 2
    assert finished is not None
    [entry] = map(parse_line, finished.audit_lines)
    assert (entry.operation, entry.record_ids) == ("lifecycle.restore", (an_id(1), an_id(4)))
    assert (entry.store_types, entry.summary) == (("episodic", "semantic"), {"restored": 2})
    [stored], finished = commit(storage, restoring(1))
    assert (stored.reply.records_restored, finished) == (0, None)


def test_another_namespace_s_archive_is_its_own(storage: MemoryStorage) -> None:
    commit(storage, archiving(1))
    [stored], _finished = commit(storage, RestoreMemories(7, (an_id(1),), LATER))
    assert stored.reply.records_restored == 0
    assert Table.ARCHIVED in tables_about(storage, 1)


def test_to_what_is_removed_meanwhile_an_archived_memory_has_no_edge_when_it_comes_back(
    storage: MemoryStorage,
) -> None:
    commit(storage, archiving(1))
    commit(storage, removing(2))
    assert archived_row(storage, 1).content.updated_at == LATER
    assert tables_about(storage, 2) == set()
    commit(storage, restoring(1))
    assert targets_of(storage, 1) == [an_id(3), an_id(99)]
    assert counters(storage).associations == 2 + 1


def test_the_same_holds_when_both_are_archived(storage: MemoryStorage) -> None:
    commit(storage, archiving(1, 2))
    commit(storage, Does(lambda ledger: remove_archived(ledger, an_id(2), LATER)))
    assert tables_about(storage, 2) == set()
    commit(storage, restoring(1))
    assert targets_of(storage, 1) == [an_id(3), an_id(99)]


def test_what_the_archive_lets_go_of_leaves_what_a_removal_leaves(storage: MemoryStorage) -> None:
    twin = MemoryStorage()
    twin.commit(storage.rows())
    commit(storage, archiving(1))
    commit(storage, DropArchived(DEFAULT_NAMESPACE, KEPT_UNTIL + 1))
    commit(twin, Does(lambda ledger: remove_memory(ledger, an_id(1), KEPT_UNTIL + 1)))
    assert rows(storage) == rows(twin)
    assert counters(storage).associations == counters(twin).associations == 1


def test_it_lets_go_at_the_end_of_the_time_and_not_before(storage: MemoryStorage) -> None:
    commit(storage, archiving(1), archiving(2, kept_until=KEPT_UNTIL + DAY))
    [dropped], finished = commit(storage, DropArchived(DEFAULT_NAMESPACE, KEPT_UNTIL))
    assert (dropped, finished) == (0, None)
    [dropped], _finished = commit(storage, DropArchived(DEFAULT_NAMESPACE, KEPT_UNTIL + 1))
    assert dropped == 1
    assert tables_about(storage, 1) == set()
    assert Table.ARCHIVED in tables_about(storage, 2)


def test_it_lets_go_of_a_bounded_number_at_once() -> None:
    storage = MemoryStorage()
    numbers = range(1, PRUNED_AT_ONCE + 11)
    commit(storage, storing(*(a_record(number) for number in numbers)))
    commit(storage, archiving(*numbers))
    assert commit(storage, DropArchived(DEFAULT_NAMESPACE, KEPT_UNTIL + 1))[0] == [PRUNED_AT_ONCE]
    assert commit(storage, DropArchived(DEFAULT_NAMESPACE, KEPT_UNTIL + 1))[0] == [10]
    assert rows(storage) == {}


def test_a_memory_that_an_import_brings_back_is_not_archived_any_more(storage: MemoryStorage) -> None:
    """Else the archive would let go of it one day, and of its history, and of all edges to it."""
    commit(storage, archiving(1))
    imported = a_record(1, "kettle", NOW + 1, associations=[edge(3)])
    commit(storage, ImportPiece(DEFAULT_NAMESPACE, (imported,), ConflictResolution.KEEP_NEWER))
    assert not {Table.ARCHIVED, Table.ARCHIVED_BY_EXPIRY, Table.HISTORY} & tables_about(storage, 1)
    assert targets_of(storage, 2) == [an_id(1)], "edges to it are kept"
    before = rows(storage)
    commit(storage, restoring(1), DropArchived(DEFAULT_NAMESPACE, KEPT_UNTIL + 1))
    assert rows(storage) == before
    by_target = key(DEFAULT_NAMESPACE, Table.EDGES_BY_TARGET)
    assert {row_key for row_key in before if row_key.startswith(by_target) and row_key.endswith(an_id(1))} == {
        by_target + an_id(3) + an_id(1)
    }


def test_removing_rows_leaves_the_edges_of_others_and_tells_no_index(storage: MemoryStorage) -> None:
    def apply(ledger: Ledger) -> None:
        value = ledger.get(ledger.key(Table.CONTENT, an_id(1)))
        assert value is not None
        remove_rows(ledger, an_id(1), parse_content_row(value))

    _answers, finished = commit(storage, Does(apply))
    assert tables_about(storage, 1) == {Table.EDGES_BY_TARGET}
    assert targets_of(storage, 2) == [an_id(1)]
    assert finished is not None
    assert finished.effects.deletions == []


def test_what_is_not_there_is_not_removed(storage: MemoryStorage) -> None:
    before = storage.rows()
    removals = (
        Does(lambda ledger: remove_memory(ledger, an_id(77), LATER)),
        Does(lambda ledger: remove_archived(ledger, an_id(77), LATER)),
        Does(lambda ledger: remove_raw(ledger, an_id(77))),
    )
    assert commit(storage, *removals) == ([None, None, None], None)
    assert storage.rows() == before


@pytest.mark.parametrize("is_processed", [False, True])
def test_an_entry_of_the_journal_is_removed_from_all_its_tables(is_processed: bool) -> None:
    storage = MemoryStorage()
    metadata = {"_dream": {"processed_at": "2026-01-01"}} if is_processed else {}
    commit(storage, storing_raw(1, metadata=metadata), storing_raw(2, created_at=NOW + 1))
    [row], finished = commit(storage, Does(lambda ledger: remove_raw(ledger, an_id(1))))
    assert row.created_at == NOW
    assert tables_about(storage, 1) == set()
    left = counters(storage)
    assert (left.raw_records, left.raw_pending_dream) == (1, 1)
    assert finished is not None
    assert finished.effects.deletions == [(DEFAULT_NAMESPACE, an_id(1))]


def test_the_archive_keeps_the_score_that_a_memory_had(storage: MemoryStorage) -> None:
    before = stored_state(rows(storage), an_id(1))
    commit(storage, archiving(1))
    assert parse_state_row(archived_row(storage, 1).state) == (0, before)
    assert key(DEFAULT_NAMESPACE, Table.ARCHIVED_BY_EXPIRY, pack_time(KEPT_UNTIL), an_id(1)) in rows(storage)
