"""What a dream leaves in the store: its memories, its entries marked, and one audit entry, all or nothing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from cerememory.domain.audit_chain import AuditEntry
from cerememory.domain.dream_records import Dream, Plan, dream_of
from cerememory.domain.dreaming import dream_text
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent, RawJournalRecord, Store
from cerememory.protocol.replies import Dreamt
from cerememory.storage.dream_mutations import NOTHING, NoteTick, StoreDream, new_memories
from cerememory.storage.keys import DEFAULT_NAMESPACE, NOWHERE, Table, after, counters_key, key
from cerememory.storage.ledger import Finished
from cerememory.storage.mutations import Stored
from cerememory.storage.pending import Wanted, pending_groups
from cerememory.storage.rows import (
    Counters,
    RawRow,
    dump_row,
    parse_content_row,
    parse_counters,
    parse_edges,
    parse_ids,
    parse_raw_row,
    raw_json,
)
from tests.support.committing import an_id, commit, stored_state, storing_raw
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage

TICK_AT = NOW + 1_000
MADE_AT = NOW + 2_000
SUMMARY, SEMANTIC = an_id(100), an_id(101)
EVERYTHING = Wanted(frozenset({0, 1, 2}), frozenset({0, 1, 2}))
OTHER = 5


@pytest.fixture
def storage() -> MemoryStorage:
    storage = MemoryStorage()
    for number, text in enumerate(["tide was high", "noted"]):
        commit(storage, storing_raw(number, text, NOW + number, topic_id="tides", metadata={"mine": number}))
    return storage


def a_dream(storage: MemoryStorage, namespace: int = DEFAULT_NAMESPACE, *, promote: bool = True) -> Dream:
    with storage.read() as reader:
        [group] = pending_groups(reader, namespace, EVERYTHING, 1)
    return dream_of(group, dream_text(group), Plan(TICK_AT, MADE_AT, SUMMARY, SEMANTIC), promote=promote)


def storing_dream(dream: Dream, before: Dreamt = NOTHING, namespace: int = DEFAULT_NAMESPACE) -> StoreDream:
    return StoreDream(namespace, dream, new_memories(namespace, dream), before)


def dreamt(storage: MemoryStorage, **given: Any) -> tuple[Stored[Dreamt], Finished]:
    [answer], finished = commit(storage, storing_dream(a_dream(storage, **given)))
    assert finished is not None
    return answer, finished


def raw_row(storage: MemoryStorage, number: int) -> RawRow:
    with storage.read() as reader:
        value = reader.get(key(DEFAULT_NAMESPACE, Table.RAW, an_id(number)))
    assert value is not None
    return parse_raw_row(value)


def replaced(storage: MemoryStorage, number: int, **changes: Any) -> None:
    row = msgspec.structs.replace(raw_row(storage, number), **changes)
    storage.commit({key(DEFAULT_NAMESPACE, Table.RAW, an_id(number)): dump_row(row)})


def counted(storage: MemoryStorage, namespace: int = DEFAULT_NAMESPACE) -> Counters:
    with storage.read() as reader:
        return parse_counters(reader.get(counters_key(namespace)))


def entry_of(finished: Finished | None) -> AuditEntry:
    assert finished is not None
    [line] = finished.audit_lines
    return codec.parse(line, AuditEntry)


def rows(storage: MemoryStorage) -> dict[bytes, bytes]:
    with storage.read() as reader:
        return dict(reader.scan(b"", b"\xff" * 8))


def test_a_dream_answers_what_the_tick_has_done_so_far(storage: MemoryStorage) -> None:
    before = Dreamt(
        groups_processed=3, raw_records_processed=9, episodic_summaries_created=3, semantic_nodes_created=1
    )
    [answer], _ = commit(storage, storing_dream(a_dream(storage), before))
    assert answer.reply == Dreamt(
        groups_processed=4, raw_records_processed=11, episodic_summaries_created=4, semantic_nodes_created=2
    )


def test_its_memories_are_stored_with_their_edges_and_told_to_the_index(storage: MemoryStorage) -> None:
    _, finished = dreamt(storage)
    for record_id, store, decay_rate, target in (
        (SUMMARY, Store.EPISODIC, 0.3, SEMANTIC),
        (SEMANTIC, Store.SEMANTIC, 0.15, SUMMARY),
    ):
        row = parse_content_row(rows(storage)[key(DEFAULT_NAMESPACE, Table.CONTENT, record_id)])
        assert (row.store, row.version, row.updated_at) == (store, 1, row.created_at)
        content = codec.parse(row.content, MemoryContent)
        assert content.summary == "Dream summary for session s-1 / topic tides: tide was high | noted"
        state = stored_state(rows(storage), record_id)
        assert (state.score, state.decay_rate, state.access_count) == (1.0, decay_rate, 0)
        [edge] = parse_edges(rows(storage)[key(DEFAULT_NAMESPACE, Table.EDGES, record_id)])
        assert edge.target_id == target
        assert key(DEFAULT_NAMESPACE, Table.EDGES_BY_TARGET, target, record_id) in rows(storage)
        assert (DEFAULT_NAMESPACE, record_id) in finished.effects.changed


def test_its_entries_are_marked_and_otherwise_as_they_were(storage: MemoryStorage) -> None:
    before = [raw_row(storage, number) for number in (0, 1)]
    dreamt(storage)
    for number, old in enumerate(before):
        row = raw_row(storage, number)
        metadata = json.loads(row.metadata)
        assert metadata["mine"] == number
        assert metadata["_dream"]["last_summary_id"] == str(SUMMARY)
        assert metadata["_derived"] == {"episodic_summary_ids": [str(SUMMARY)], "semantic_ids": [str(SEMANTIC)]}
        assert parse_ids(row.derived) == [SUMMARY, SEMANTIC]
        assert row.updated_at == TICK_AT
        assert (
            msgspec.structs.replace(row, metadata=old.metadata, derived=old.derived, updated_at=old.updated_at)
            == old
        )
        codec.parse(raw_json(an_id(number), row), RawJournalRecord)


def test_the_counters_follow(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(7, "elsewhere", session_id="s-2", created_at=NOW + 9))
    dreamt_before = counted(storage)
    assert (dreamt_before.raw_pending_dream, dreamt_before.last_dream_tick_at) == (3, None)
    commit(storage, storing_dream(a_dream(storage)))
    after_it = counted(storage)
    assert (after_it.raw_pending_dream, after_it.raw_records) == (1, 3)
    assert (after_it.dream_episodic_summaries, after_it.dream_semantic_nodes) == (1, 1)
    assert (after_it.records[0], after_it.records[1], after_it.associations) == (1, 1, 2)
    assert after_it.last_dream_tick_at == TICK_AT


def test_without_promotion_there_is_one_memory(storage: MemoryStorage) -> None:
    answer, finished = dreamt(storage, promote=False)
    assert answer.reply.semantic_nodes_created == 0
    counters = counted(storage)
    assert (counters.records[:2], counters.dream_semantic_nodes, counters.associations) == ([1, 0], 0, 0)
    entry = entry_of(finished)
    assert (entry.record_ids, entry.store_types) == ((SUMMARY,), ("episodic",))


def test_the_audit_entry_names_the_memories_and_counts_the_group(storage: MemoryStorage) -> None:
    [_], finished = commit(storage, storing_dream(a_dream(storage), NOTHING))
    entry = entry_of(finished)
    assert (entry.operation, entry.timestamp) == ("lifecycle.dream_tick", MADE_AT)
    assert (entry.record_ids, entry.store_types) == ((SUMMARY, SEMANTIC), ("episodic", "semantic"))
    assert entry.summary == {
        "dry_run": False,
        "episodic_summaries_created": 1,
        "groups_processed": 1,
        "raw_records_processed": 2,
        "semantic_nodes_created": 1,
    }


def test_what_was_processed_is_not_processed_again(storage: MemoryStorage) -> None:
    dream = a_dream(storage)
    commit(storage, storing_dream(dream))
    left = rows(storage)
    [answer], finished = commit(storage, storing_dream(dream))
    assert answer.reply == NOTHING
    assert finished is None
    assert rows(storage) == left
    with storage.read() as reader:
        assert pending_groups(reader, DEFAULT_NAMESPACE, EVERYTHING, 9) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"suppressed": True},
        {"metadata": b'{"_dream":{"processed_at":"x"}}'},
        {"content": b'{"blocks":[]}'},
        {"meta": b"{}"},
        {"secrecy_code": 2},
        {"visibility_code": 1},
        {"session_id": "s-2"},
        None,
    ],
    ids=str,
)
def test_a_group_whose_entries_changed_meanwhile_is_left_whole(
    storage: MemoryStorage, changes: dict[str, Any] | None
) -> None:
    dream = a_dream(storage)
    if changes is None:
        storage.commit({key(DEFAULT_NAMESPACE, Table.RAW, an_id(1)): None})
    else:
        replaced(storage, 1, **changes)
    left = rows(storage)
    head = len(storage.commits)
    [answer], finished = commit(storage, storing_dream(dream))
    assert (answer.reply, finished, len(storage.commits)) == (NOTHING, None, head)
    assert answer.sequence == 2  # the two commits that stored the entries
    assert rows(storage) == left


def test_a_dream_stays_in_its_namespace(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(0, "theirs", namespace=OTHER), storing_raw(1, "theirs too", namespace=OTHER))
    commit(storage, storing_dream(a_dream(storage, OTHER), namespace=OTHER))
    assert counted(storage).raw_pending_dream == 2
    assert counted(storage).records[0] == 0
    assert counted(storage, OTHER).raw_pending_dream == 0
    assert counted(storage, OTHER).dream_episodic_summaries == 1


@pytest.mark.parametrize("is_dry_run", [True, False])
def test_a_tick_that_stores_nothing_is_audited(storage: MemoryStorage, is_dry_run: bool) -> None:
    before = rows(storage)
    [answer], finished = commit(storage, NoteTick(DEFAULT_NAMESPACE, NOW, NOTHING, is_dry_run))
    assert answer.reply == NOTHING
    entry = entry_of(finished)
    assert (entry.record_ids, entry.store_types, entry.summary["dry_run"]) == ((), (), is_dry_run)
    assert counted(storage).last_dream_tick_at == (None if is_dry_run else NOW)
    kept = {row_key for row_key in before if row_key[:4] == b"\0\0\0\0"}
    assert {row_key for row_key in rows(storage) if row_key[:4] == b"\0\0\0\0"} == kept


def test_a_tick_where_there_is_nothing_makes_no_namespace_of_it() -> None:
    storage = MemoryStorage()
    commit(storage, NoteTick(NOWHERE, NOW, NOTHING, is_dry_run=False))
    prefix = counters_key(NOWHERE)
    with storage.read() as reader:
        assert list(reader.scan(prefix, after(prefix))) == []
