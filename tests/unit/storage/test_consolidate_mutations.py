"""What a part of a consolidation leaves in the store."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.audit_chain import AuditEntry
from cerememory.domain.consolidation import LOOK_BACK_NS, Merge, copied_content
from cerememory.domain.decay import STANDARD
from cerememory.domain.derivation import semantic_ids_of
from cerememory.protocol import codec
from cerememory.protocol.records import (
    Association,
    AssociationType,
    ContentBlock,
    MemoryContent,
    MemoryRecord,
    Modality,
    Store,
)
from cerememory.protocol.replies import Consolidated
from cerememory.protocol.requests import ConflictResolution, ImportStrategy
from cerememory.protocol.values import ByteArray, RecordId
from cerememory.storage.archive_mutations import NoteImport, Terms
from cerememory.storage.consolidate_mutations import (
    LOOKING_AT_ALL,
    NOTHING,
    BeginConsolidation,
    ConsolidateBatch,
    NoteConsolidation,
    SemanticCopy,
    added,
    batches_of,
)
from cerememory.storage.decaying import RestoreMemories
from cerememory.storage.episodes import episode_stamp
from cerememory.storage.keys import DEFAULT_NAMESPACE, NOWHERE, Table, counters_key, key
from cerememory.storage.ledger import Finished
from cerememory.storage.mutations import Stored
from cerememory.storage.rows import (
    ContentRow,
    Counters,
    dump_row,
    dump_state_row,
    parse_content_row,
    parse_counters,
    parse_edges,
    record_json,
)
from cerememory.storage.vectors import Space, vector_key
from tests.support.committing import (
    a_record,
    an_id,
    changed,
    commit,
    forgetting,
    state_key_of,
    stored_state,
    storing,
    updating,
)
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage
from tests.unit.storage.test_forgetting import Archive

DAY = 86_400 * 10**9
RUN_AT = NOW + 10 * DAY
KEPT, GONE, FRIEND, COPY = an_id(1), an_id(2), an_id(3), an_id(100)
OTHER = 5


@pytest.fixture
def storage() -> MemoryStorage:
    """Two that say the same and a third, each with an edge to the next."""
    storage = MemoryStorage()
    for number, text in enumerate(["kettle", "Kettle", "teapot"], start=1):
        edge = {"target_id": str(an_id(number % 3 + 1)), "association_type": "causal", "weight": number / 10}
        commit(
            storage, storing(a_record(number, text, NOW + number, embedding=[1.0, number], associations=[edge]))
        )
    return storage


def stamps_of(storage: MemoryStorage) -> dict[RecordId, bytes]:
    prefix = key(DEFAULT_NAMESPACE, Table.CONTENT)
    found = {RecordId(k[len(prefix) :]): value for k, value in rows(storage).items() if k.startswith(prefix)}
    return {record_id: episode_stamp(parse_content_row(value)) for record_id, value in found.items()}


def batch(storage: MemoryStorage, **given: Any) -> ConsolidateBatch:
    """A part of a plan that was made of what is there now, but for what is `given`."""
    nothing: dict[str, Any] = {
        "namespace": DEFAULT_NAMESPACE,
        "now": RUN_AT,
        "last_run_at": LOOKING_AT_ALL,
        "stamps": stamps_of(storage),
        "merges": (),
        "copies": (),
        "faint": (),
        "faint_below": 0.0,
        "kept_until": None,
        "processed": 0,
        "before": NOTHING,
        "is_last": False,
    }
    return ConsolidateBatch(**{**nothing, **given})


def done(storage: MemoryStorage, **given: Any) -> tuple[Consolidated, Finished]:
    [answer], finished = commit(storage, batch(storage, **given), now=RUN_AT)
    assert isinstance(answer, Stored), answer
    assert finished is not None
    return answer.reply, finished


def rows(storage: MemoryStorage) -> dict[bytes, bytes]:
    with storage.read() as reader:
        return dict(reader.scan(b"", b"\xff" * 8))


def row_of(storage: MemoryStorage, record_id: RecordId) -> ContentRow:
    return parse_content_row(rows(storage)[key(DEFAULT_NAMESPACE, Table.CONTENT, record_id)])


def edges_from(storage: MemoryStorage, record_id: RecordId) -> list[tuple[RecordId, str, float]]:
    edges = parse_edges(rows(storage).get(key(DEFAULT_NAMESPACE, Table.EDGES, record_id)))
    return [(edge.target_id, edge.association_type.value, edge.weight) for edge in edges]


def counted(storage: MemoryStorage) -> Counters:
    return parse_counters(rows(storage)[counters_key(DEFAULT_NAMESPACE)])


def mentions(storage: MemoryStorage, record_id: RecordId) -> set[bytes]:
    """The tables of the default namespace with the record in a key."""
    found = rows(storage)
    return {row_key[4:5] for row_key in found if row_key[:4] == b"\0\0\0\0" and row_key.find(record_id) >= 0}


def a_copy(storage: MemoryStorage, original: RecordId, summary: str | None = None) -> SemanticCopy:
    content = codec.parse(row_of(storage, original).content, MemoryContent)
    return SemanticCopy(original, COPY, row_of(storage, original).content, copied_content(content, summary))


def counts(**given: int) -> Consolidated:
    return Consolidated(**{**dict.fromkeys(Consolidated.__struct_fields__, 0), **given})


# Duplicates.


def test_the_one_that_stays_has_the_edges_of_both_and_nobody_points_to_who_went(storage: MemoryStorage) -> None:
    reply, finished = done(storage, merges=(Merge(KEPT, (GONE,)),), processed=3)
    assert reply == counts(records_processed=3, records_compressed=1)
    assert mentions(storage, GONE) == set()
    assert edges_from(storage, KEPT) == [(FRIEND, "causal", 0.2)]
    assert edges_from(storage, FRIEND) == [(KEPT, "causal", 0.3)]
    assert key(DEFAULT_NAMESPACE, Table.EDGES_BY_TARGET, FRIEND, KEPT) in rows(storage)
    assert (DEFAULT_NAMESPACE, GONE) in finished.effects.deletions
    assert counted(storage).records[0] == 2
    assert counted(storage).associations == 2
    assert counted(storage).vectors == 2


def test_whose_edges_changed_was_updated_and_who_else_was_not(storage: MemoryStorage) -> None:
    bystander = an_id(8)
    commit(storage, storing(a_record(8, "bystander")))
    done(storage, merges=(Merge(FRIEND, (KEPT,)),))
    assert {i: row_of(storage, i).updated_at for i in (GONE, FRIEND, bystander)} == {
        GONE: NOW + 2,
        FRIEND: RUN_AT,
        bystander: NOW,
    }
    assert edges_from(storage, GONE) == [(FRIEND, "causal", 0.2)]
    assert edges_from(storage, FRIEND) == [(GONE, "causal", 0.1)]
    assert row_of(storage, FRIEND).version == 1


def test_all_of_a_batch_are_led_to_where_their_targets_went(storage: MemoryStorage) -> None:
    """Each of two pairs points to a member of the other that goes."""
    for number, target in ((4, 5), (5, 2), (2, 5)):
        edge = {"target_id": str(an_id(target)), "association_type": "spatial", "weight": 1.0}
        commit(storage, storing(a_record(number, "pair", NOW + number, associations=[edge])))
    reply, _ = done(storage, merges=(Merge(KEPT, (GONE,)), Merge(an_id(4), (an_id(5),))))
    assert reply.records_compressed == 2
    assert edges_from(storage, KEPT) == [(an_id(4), "spatial", 1.0)]
    assert edges_from(storage, an_id(4)) == [(KEPT, "spatial", 1.0)]
    assert mentions(storage, an_id(5)) == set()


def test_the_copies_of_who_went_are_those_of_who_stays(storage: MemoryStorage) -> None:
    done(storage, copies=(a_copy(storage, GONE),))
    done(storage, merges=(Merge(KEPT, (GONE,)),))
    assert semantic_ids_of(row_of(storage, KEPT).metadata) == [COPY]
    assert (COPY, "semantic", 1.0) in edges_from(storage, KEPT)
    assert (KEPT, "semantic", 1.0) in edges_from(storage, COPY)


@pytest.mark.parametrize("edited", [1, 2])
def test_what_was_edited_since_is_no_duplicate_any_more(storage: MemoryStorage, edited: int) -> None:
    stamps = stamps_of(storage)
    commit(storage, updating(edited, metadata={"a": 1}))
    reply, _ = done(storage, stamps=stamps, merges=(Merge(KEPT, (GONE,)),))
    assert reply == NOTHING
    assert mentions(storage, GONE)


def test_what_was_removed_since_is_not_counted(storage: MemoryStorage) -> None:
    stamps = stamps_of(storage)
    done(storage, merges=(Merge(KEPT, (GONE,)),))
    assert done(storage, stamps=stamps, merges=(Merge(KEPT, (GONE,)), Merge(GONE, (KEPT,))))[0] == NOTHING


def replaced(storage: MemoryStorage, record_id: RecordId, **changes: Any) -> None:
    """Put another memory in the place of one, as an import does, or a redaction: its version may be the same."""
    row = msgspec.structs.replace(row_of(storage, record_id), **changes)
    storage.commit({key(DEFAULT_NAMESPACE, Table.CONTENT, record_id): dump_row(row)})


BLOCK = ContentBlock(modality=Modality.TEXT, format="text/plain", data=ByteArray(b"safe"))
OTHER_CONTENT = codec.dump(MemoryContent(blocks=(BLOCK,)))
REPLACEMENTS = [
    {"content": OTHER_CONTENT},
    {"emotion": b'{"joy":1.0}'},
    {"meta": b'{"intent":"why"}'},
    {"created_at": NOW},
    {"store_code": 1},
]


@pytest.mark.parametrize("changes", REPLACEMENTS, ids=lambda changes: next(iter(changes)))
@pytest.mark.parametrize("which", [KEPT, GONE], ids=["kept", "gone"])
def test_what_was_replaced_since_is_no_duplicate_though_the_version_is_the_same(
    storage: MemoryStorage, which: RecordId, changes: dict[str, Any]
) -> None:
    stamps = stamps_of(storage)
    replaced(storage, which, **changes)
    assert done(storage, stamps=stamps, merges=(Merge(KEPT, (GONE,)),))[0] == NOTHING
    assert mentions(storage, GONE)


def test_what_a_run_writes_itself_is_no_change(storage: MemoryStorage) -> None:
    """Of a large merge each part finds the memory that stays as the part before has left it."""
    commit(storage, storing(a_record(4, "kettle", NOW + 4, embedding=[1.0, 4.0])))
    done(storage, copies=(a_copy(storage, GONE),))
    stamps = stamps_of(storage)
    for gone in (GONE, an_id(4)):
        reply, _ = done(storage, stamps=stamps, merges=(Merge(KEPT, (gone,)),))
        assert reply == counts(records_compressed=1)


# Semantic copies.


def test_a_copy_is_the_original_in_another_store(storage: MemoryStorage) -> None:
    record = a_record(4, "x" * 200, NOW, emotion={"joy": 0.5}, metadata={"a": 1}, meta={"intent": "why"})
    commit(storage, storing(record), updating(4, now=NOW + 5, metadata={"a": 2}))
    with_state(storage, 4, access_count=3, last_accessed_at=NOW + 7, stability=2.5, reinforcement_count=2)
    reply, finished = done(storage, copies=(a_copy(storage, an_id(4)),))
    assert reply == counts(records_migrated=1, semantic_nodes_created=1)
    original, copy = (_on_the_wire(storage, record_id) for record_id in (an_id(4), COPY))
    assert copy["content"].pop("summary") == "x" * 100 + "..."
    assert original["content"].pop("summary") is None
    differing = {name for name in original if original[name] != copy[name]}
    assert differing == {"id", "store", "fidelity", "associations", "metadata", "updated_at"}
    assert (copy["metadata"], copy["updated_at"]) == ({"a": 2}, "2027-01-15T08:00:00.000000005Z")
    assert original["metadata"] == {"a": 2, "_derived": {"semantic_ids": [str(COPY)]}}
    assert (DEFAULT_NAMESPACE, COPY) in finished.effects.changed


def with_state(storage: MemoryStorage, number: int, **given: Any) -> None:
    state = changed(stored_state(rows(storage), an_id(number)), **given)
    storage.commit({state_key_of(rows(storage), an_id(number)): dump_state_row(0, state)})


def _on_the_wire(storage: MemoryStorage, record_id: RecordId) -> dict[str, Any]:
    edges = rows(storage).get(key(DEFAULT_NAMESPACE, Table.EDGES, record_id))
    state = stored_state(rows(storage), record_id)
    whole = record_json(record_id, row_of(storage, record_id), state, edges)
    codec.parse(whole, MemoryRecord)
    parsed: dict[str, Any] = json.loads(whole)
    return parsed


def test_a_copy_is_as_faded_as_its_original_and_fades_more_slowly(storage: MemoryStorage) -> None:
    done(storage, copies=(a_copy(storage, KEPT),))
    original, copy = stored_state(rows(storage), KEPT), stored_state(rows(storage), COPY)
    episodic, semantic = STANDARD[Store.EPISODIC], STANDARD[Store.SEMANTIC]
    assert copy.score == copy.base_score == pytest.approx(11**-0.3)
    assert semantic.current(copy, RUN_AT).score == pytest.approx(episodic.current(original, RUN_AT).score)
    later = RUN_AT + 100 * DAY
    assert copy.base_score * 101**-0.15 == pytest.approx(semantic.current(copy, later).score)
    assert semantic.current(copy, later).score < copy.score
    assert counted(storage).fidelity_sums[1] == pytest.approx(copy.score)


def test_both_are_linked_and_the_copy_has_the_edges_and_the_vector_of_the_original(storage: MemoryStorage) -> None:
    done(storage, copies=(a_copy(storage, KEPT),))
    assert edges_from(storage, KEPT) == [(GONE, "causal", 0.1), (COPY, "semantic", 1.0)]
    assert edges_from(storage, COPY) == [(GONE, "causal", 0.1), (KEPT, "semantic", 1.0)]
    assert vector_key(DEFAULT_NAMESPACE, Space.CONTENT, 2, COPY) in rows(storage)
    assert row_of(storage, KEPT).updated_at == RUN_AT
    assert (counted(storage).records[:2], counted(storage).associations) == ([3, 1], 6)


def test_a_memory_is_copied_once(storage: MemoryStorage) -> None:
    copy = a_copy(storage, KEPT)
    done(storage, copies=(copy,))
    before = rows(storage)
    assert done(storage, copies=(SemanticCopy(KEPT, an_id(101), copy.read, copy.content),))[0] == NOTHING
    assert (
        rows(storage)[key(DEFAULT_NAMESPACE, Table.CONTENT, KEPT)]
        == before[key(DEFAULT_NAMESPACE, Table.CONTENT, KEPT)]
    )
    assert mentions(storage, an_id(101)) == set()


def test_what_was_edited_since_is_not_copied(storage: MemoryStorage) -> None:
    copy, stamps = a_copy(storage, KEPT), stamps_of(storage)
    commit(storage, updating(1, metadata={"a": 1}))
    assert done(storage, stamps=stamps, copies=(copy,))[0] == NOTHING


def test_of_a_content_that_was_another_when_it_was_read_there_is_no_copy(storage: MemoryStorage) -> None:
    """It may have been that for a while only: an import that was taken back."""
    before = row_of(storage, KEPT).content
    replaced(storage, KEPT, content=OTHER_CONTENT)
    copy = a_copy(storage, KEPT)
    replaced(storage, KEPT, content=before)
    assert done(storage, copies=(copy,))[0] == NOTHING
    assert mentions(storage, COPY) == set()


# What is faint.


@pytest.mark.parametrize("kept_until", [None, RUN_AT + DAY], ids=["deleted", "archived"])
def test_a_faint_memory_with_a_copy_goes(storage: MemoryStorage, kept_until: int | None) -> None:
    done(storage, copies=(a_copy(storage, KEPT),))
    reply, _ = done(storage, faint=(KEPT, FRIEND), faint_below=0.5, kept_until=kept_until)
    assert reply == counts(records_pruned=1)
    assert key(DEFAULT_NAMESPACE, Table.CONTENT, KEPT) not in rows(storage)
    assert (key(DEFAULT_NAMESPACE, Table.ARCHIVED, KEPT) in rows(storage)) == (kept_until is not None)
    assert key(DEFAULT_NAMESPACE, Table.CONTENT, FRIEND) in rows(storage)


def test_what_is_not_faint_by_now_stays(storage: MemoryStorage) -> None:
    done(storage, copies=(a_copy(storage, KEPT),))
    assert done(storage, faint=(KEPT,), faint_below=0.4)[0] == NOTHING
    assert 0.4 < stored_state(rows(storage), COPY).score < 0.5


# Counting.


def test_a_batch_adds_to_what_was_done_and_audits_what_it_did_itself(storage: MemoryStorage) -> None:
    before = counts(records_processed=9, records_migrated=4, semantic_nodes_created=4)
    reply, finished = done(storage, copies=(a_copy(storage, KEPT),), before=before, processed=1)
    assert reply == counts(records_processed=10, records_migrated=5, semantic_nodes_created=5)
    [line] = finished.audit_lines
    entry = codec.parse(line, AuditEntry)
    assert (entry.operation, entry.timestamp, entry.record_ids) == ("lifecycle.consolidate", RUN_AT, ())
    assert entry.store_types == ("episodic", "semantic")
    assert entry.summary == {
        "dry_run": False,
        "records_compressed": 0,
        "records_migrated": 1,
        "records_processed": 1,
        "records_pruned": 0,
        "semantic_nodes_created": 1,
    }


def test_only_the_last_batch_ends_the_run(storage: MemoryStorage) -> None:
    begin(storage)
    done(storage)
    assert counted(storage).last_consolidated_at == LOOKING_AT_ALL
    done(storage, is_last=True)
    assert counted(storage).last_consolidated_at == RUN_AT


def begin(storage: MemoryStorage, namespace: int = DEFAULT_NAMESPACE) -> None:
    commit(storage, BeginConsolidation(namespace))


def test_only_the_first_run_has_to_say_that_it_looks_at_all(storage: MemoryStorage) -> None:
    begin(storage)
    done(storage, is_last=True)
    commits = len(storage.commits)
    begin(storage)
    assert (counted(storage).last_consolidated_at, len(storage.commits)) == (RUN_AT, commits)


def test_nothing_begins_where_there_is_nothing() -> None:
    storage = MemoryStorage()
    begin(storage, NOWHERE)
    assert storage.commits == []


@pytest.mark.parametrize("last_run_at", [LOOKING_AT_ALL, RUN_AT - DAY])
def test_after_an_import_beside_a_run_the_next_one_looks_at_all(storage: MemoryStorage, last_run_at: int) -> None:
    begin(storage)
    if last_run_at:
        done(storage, now=last_run_at, is_last=True)
    terms = Terms("any", ImportStrategy.MERGE, ConflictResolution.KEEP_NEWER, has_raw=False)
    commit(storage, NoteImport(DEFAULT_NAMESPACE, terms, 1, (), RUN_AT), now=RUN_AT)
    done(storage, last_run_at=last_run_at, is_last=True)
    assert counted(storage).last_consolidated_at is None
    done(storage, last_run_at=None, is_last=True)
    assert counted(storage).last_consolidated_at is None, "another one may have come since the plan"


def test_what_was_left_out_is_looked_at_again_unless_its_times_say_so(storage: MemoryStorage) -> None:
    begin(storage)
    stamps = stamps_of(storage)
    replaced(storage, KEPT, meta=b'{"intent":"why"}', updated_at=RUN_AT)
    done(storage, stamps=stamps, merges=(Merge(KEPT, (GONE,)),), is_last=True)
    assert counted(storage).last_consolidated_at == RUN_AT
    replaced(storage, KEPT, meta=b"", updated_at=RUN_AT - LOOK_BACK_NS)
    done(storage, last_run_at=RUN_AT, stamps={**stamps, KEPT: b""}, merges=(Merge(KEPT, (GONE,)),))
    done(storage, last_run_at=RUN_AT, is_last=True)
    assert counted(storage).last_consolidated_at is None


def test_so_is_what_was_another_content_when_it_was_read(storage: MemoryStorage) -> None:
    begin(storage)
    copy = dataclasses.replace(a_copy(storage, KEPT), read=b"{}")
    done(storage, copies=(copy,), is_last=True)
    assert counted(storage).last_consolidated_at is None


def test_what_was_removed_since_has_nobody_look_again(storage: MemoryStorage) -> None:
    begin(storage)
    stamps = stamps_of(storage)
    commit(storage, forgetting(2))
    done(storage, stamps=stamps, merges=(Merge(KEPT, (GONE,)),), is_last=True)
    assert counted(storage).last_consolidated_at == RUN_AT


def test_whatever_is_written_once_a_clock_was_set_back_is_looked_at(storage: MemoryStorage) -> None:
    begin(storage)
    done(storage, is_last=True)
    commit(storage, updating(1, now=RUN_AT, metadata={"a": 1}), now=RUN_AT)
    assert counted(storage).last_consolidated_at == RUN_AT
    commit(storage, updating(1, now=RUN_AT - 1, metadata={"a": 2}), now=RUN_AT - 1)
    assert counted(storage).last_consolidated_at is None


def test_what_decay_gives_back_is_looked_at(storage: MemoryStorage) -> None:
    begin(storage)
    done(storage, is_last=True)
    commit(storage, Archive(1), now=RUN_AT)
    commit(storage, RestoreMemories(DEFAULT_NAMESPACE, (an_id(9),), RUN_AT), now=RUN_AT)
    assert counted(storage).last_consolidated_at == RUN_AT
    commit(storage, RestoreMemories(DEFAULT_NAMESPACE, (KEPT,), RUN_AT), now=RUN_AT)
    assert counted(storage).last_consolidated_at is None


def test_a_dry_run_is_audited_and_changes_nothing(storage: MemoryStorage) -> None:
    before = set(rows(storage))
    [answer], finished = commit(storage, NoteConsolidation(DEFAULT_NAMESPACE, RUN_AT, counts(records_migrated=3)))
    assert answer.reply == counts(records_migrated=3)
    assert finished is not None
    [line] = finished.audit_lines
    assert codec.parse(line, AuditEntry).summary["dry_run"] is True
    assert {row_key[:4] for row_key in set(rows(storage)) - before} == {b"\xff" * 4}
    assert counted(storage).last_consolidated_at is None


def test_a_run_where_there_is_nothing_makes_no_namespace_of_it() -> None:
    storage = MemoryStorage()
    done(storage, namespace=NOWHERE, is_last=True)
    assert counters_key(NOWHERE) not in rows(storage)


def test_counts_are_added_name_by_name() -> None:
    one = Consolidated(
        records_processed=1, records_migrated=2, records_compressed=3, records_pruned=4, semantic_nodes_created=5
    )
    assert added(one, one) == Consolidated(
        records_processed=2, records_migrated=4, records_compressed=6, records_pruned=8, semantic_nodes_created=10
    )


def absorbed_in(batches: Iterable[tuple[Merge, ...]]) -> list[list[int]]:
    return [[len(merge.absorbed) for merge in merges] for merges in batches]


def test_batches_of_merges_absorb_only_so_many() -> None:
    merges = [Merge(KEPT, tuple(map(an_id, range(2, 2 + size)))) for size in (2, 3, 1, 9)]
    assert absorbed_in(batches_of(merges, 4)) == [[2], [3, 1], [4], [4], [1]]
    assert batches_of([], 4) == []
    [cut] = batches_of([merges[0]], 4)
    assert cut == (merges[0],)


def test_a_kept_record_keeps_all_types_of_edges() -> None:
    """An edge is only joined with one of its own type."""
    storage = MemoryStorage()
    kinds = [AssociationType.CAUSAL, AssociationType.TEMPORAL]
    for number, kind in enumerate(kinds, start=1):
        edge = {"target_id": str(FRIEND), "association_type": kind.value, "weight": 0.5}
        commit(storage, storing(a_record(number, "same", associations=[edge])))
    done(storage, merges=(Merge(KEPT, (GONE,)),))
    assert sorted(edges_from(storage, KEPT)) == [(FRIEND, "causal", 0.5), (FRIEND, "temporal", 0.5)]
    assert isinstance(parse_edges(rows(storage)[key(DEFAULT_NAMESPACE, Table.EDGES, KEPT)])[0], Association)


# Whatever is asked of it, the rows agree.

NUMBERS = range(1, 7)
EDGES = st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)), max_size=10)
GROUPS = st.lists(st.integers(0, 3), min_size=len(NUMBERS), max_size=len(NUMBERS))


def merges_of(groups: list[int]) -> tuple[Merge, ...]:
    """Memories of one group say the same; those of group 0 nothing that another says."""
    members = [[an_id(n) for n, group in zip(NUMBERS, groups, strict=True) if group == i] for i in (1, 2, 3)]
    return tuple(Merge(kept, tuple(absorbed)) for kept, *absorbed in filter(None, members) if absorbed)


@given(edges=EDGES, groups=GROUPS, copied=st.sets(st.sampled_from(NUMBERS)), as_one=st.booleans())
def test_rows_and_counters_agree_after_any_batches(
    edges: list[tuple[int, int]], groups: list[int], copied: set[int], as_one: bool
) -> None:
    storage = MemoryStorage()
    for number in NUMBERS:
        own = [
            {"target_id": str(an_id(target)), "association_type": "causal", "weight": 0.5}
            for source, target in edges
            if source == number != target
        ]
        commit(storage, storing(a_record(number, "x", NOW + number, embedding=[1.0], associations=own)))
    copies = tuple(dataclasses.replace(a_copy(storage, an_id(n)), copy_id=an_id(100 + n)) for n in sorted(copied))
    merges = merges_of(groups)
    if as_one:
        commit(storage, batch(storage, merges=merges, copies=copies))
    else:
        parts = [batch(storage, merges=(merge,)) for merge in merges]
        commit(storage, *parts, *(batch(storage, copies=(copy,)) for copy in copies))
    gone = {record_id for merge in merges for record_id in merge.absorbed}
    assert all(mentions(storage, record_id) == set() for record_id in gone)
    check_rows(storage)
    assert counted(storage).records[0] == len(NUMBERS) - len(gone)
    assert counted(storage).records[1] == len({an_id(n) for n in copied} - gone)


def check_rows(storage: MemoryStorage) -> None:
    tables: dict[bytes, dict[bytes, bytes]] = {}
    for row_key, value in rows(storage).items():
        if row_key[:4] == b"\0\0\0\0":
            tables.setdefault(row_key[4:5], {})[row_key[5:]] = value
    found = {source: parse_edges(value) for source, value in tables.get(Table.EDGES.value, {}).items()}
    pairs = {edge.target_id + source for source, edges in found.items() for edge in edges}
    assert set(tables.get(Table.EDGES_BY_TARGET.value, {})) == pairs
    assert all(edges for edges in found.values())
    contents = set(tables[Table.CONTENT.value])
    assert set(found) <= contents
    assert {row_key[-16:] for row_key in tables[Table.STATE.value]} == contents
    assert {row_key[-16:] for row_key in tables[Table.VECTORS.value]} == contents
    counters = counted(storage)
    assert counters.associations == sum(map(len, found.values()))
    assert counters.vectors == sum(counters.records) == len(contents)
    assert sum(counters.fidelity_sums) == pytest.approx(
        sum(stored_state(rows(storage), RecordId(i)).score for i in contents)
    )
