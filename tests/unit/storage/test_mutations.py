"""Mutations: what each operation writes, when it is refused, and how often it happens."""

from __future__ import annotations

from typing import Any

import pytest

from cerememory.domain.audit_chain import parse_line
from cerememory.domain.decay import STANDARD
from cerememory.errors import (
    CerememoryError,
    IdempotencyConflict,
    PreconditionFailed,
    RecordNotFound,
)
from cerememory.protocol import codec
from cerememory.protocol.records import (
    STORES,
    EmotionVector,
    MetaMemory,
    SecrecyLevel,
    Store,
    Visibility,
)
from cerememory.protocol.replies import Encoded
from cerememory.protocol.requests import EncodeUpdate
from cerememory.protocol.values import parse_id
from cerememory.storage import prepare
from cerememory.storage.documents import row_document
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    SYSTEM_NAMESPACE,
    Table,
    counters_key,
    digest,
    key,
    pack_namespace,
    pack_sequence,
    pack_time,
    state_key,
    system_key,
)
from cerememory.storage.ledger import Finished, Mutation
from cerememory.storage.mutations import (
    EXPIRED_DROPPED_MAX,
    NoteAudit,
    Once,
    Stored,
    StoreRecords,
    UpdateHeld,
    UpdateRecord,
)
from cerememory.storage.prepared import NewRecord
from cerememory.storage.recalling import SaveRecall
from cerememory.storage.rows import (
    ContentRow,
    Counters,
    parse_content_row,
    parse_counters,
    parse_edges,
    parse_state_row,
)
from cerememory.storage.vectors import Space, vector_key
from tests.support.committing import a_record, an_id, changed, commit, saved_state, storing, storing_raw, updating
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage

LATER = NOW + 60_000_000_000
LIFE_NS = 1_000
EPISODIC = STANDARD[Store.EPISODIC]
DIGEST = digest("open\0k-1")
BODY, OTHER_BODY = b"b" * 16, b"o" * 16
TARGET = parse_id("0191aaaa-0000-7000-8000-0000000000ff")


def later(number: int, expected: int | None = None, **given: Any) -> UpdateRecord:
    return updating(number, expected, now=LATER, **given)


class LedgerStore:
    """A store that mutations are committed to one by one, or in groups."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.finished: Finished | None = None

    def do(self, mutation: Mutation[Any]) -> Any:
        """The answer of a group of one; a known error is raised and nothing is committed."""
        [answer] = self.group(mutation)
        if isinstance(answer, CerememoryError):
            raise answer
        return answer

    def group(self, *mutations: Mutation[Any]) -> list[Any]:
        """The answers of `mutations` in one transaction; a known error stands for the answer it took."""
        answers, self.finished = commit(self.storage, *mutations)
        return answers

    @property
    def rows(self) -> dict[bytes, bytes]:
        return self.storage.rows()

    def content(self, number: int) -> ContentRow:
        return parse_content_row(self.rows[key(DEFAULT_NAMESPACE, Table.CONTENT, an_id(number))])

    @property
    def counters(self) -> Counters:
        return parse_counters(self.rows.get(counters_key(DEFAULT_NAMESPACE)))

    @property
    def operations(self) -> list[str]:
        """Of the last transaction's audit lines."""
        assert self.finished is not None
        return [parse_line(line).operation for line in self.finished.audit_lines]


@pytest.fixture
def store() -> LedgerStore:
    return LedgerStore()


@pytest.mark.parametrize("name", [store for store in STORES if store is not Store.WORKING])
def test_a_stored_record_has_its_rows_and_is_counted(store: LedgerStore, name: Store) -> None:
    record = a_record(1, store=name)
    assert store.do(storing(record)) == Stored(prepare.encoded(record), 1)
    assert store.content(1).store is name
    state_row = store.rows[state_key(DEFAULT_NAMESPACE, NOW, an_id(1))]
    assert parse_state_row(state_row) == (STORES.index(name), record.state)
    assert store.counters.records == [int(each is name) for each in STORES]
    assert store.counters.fidelity_sums[STORES.index(name)] == 1.0
    assert store.operations == ["encode.store"]


def test_the_indexes_are_told_of_a_stored_record(store: LedgerStore) -> None:
    record = a_record(1, "kettle", embedding=[3.0, 4.0])
    store.do(storing(record))
    assert store.finished is not None
    assert store.finished.effects.changed == [(DEFAULT_NAMESPACE, an_id(1))]
    [vector] = store.finished.effects.vectors
    assert (vector.space, vector.record_id, vector.values) == (Space.CONTENT, an_id(1), (3.0, 4.0))
    assert vector_key(DEFAULT_NAMESPACE, Space.CONTENT, 2, an_id(1)) in store.rows
    assert store.counters.vectors == 1


def test_a_felt_record_has_its_emotion_among_the_vectors_and_a_neutral_one_has_not(store: LedgerStore) -> None:
    store.do(storing(a_record(1, emotion={"joy": 0.5, "intensity": 1.0})))
    store.do(storing(a_record(2, emotion={"intensity": 1.0})))
    assert vector_key(DEFAULT_NAMESPACE, Space.EMOTION, 8, an_id(1)) in store.rows
    assert vector_key(DEFAULT_NAMESPACE, Space.EMOTION, 8, an_id(2)) not in store.rows
    assert store.counters.vectors == 0, "only embeddings are counted"


def test_given_associations_are_stored_one_way_and_found_by_their_target(store: LedgerStore) -> None:
    edge = {"target_id": str(TARGET), "association_type": "causal", "weight": 0.5}
    store.do(storing(a_record(1, associations=[edge])))
    [stored] = parse_edges(store.rows[key(DEFAULT_NAMESPACE, Table.EDGES, an_id(1))])
    assert (stored.target_id, stored.association_type, stored.weight) == (TARGET, "causal", 0.5)
    assert key(DEFAULT_NAMESPACE, Table.EDGES_BY_TARGET, TARGET, an_id(1)) in store.rows
    assert key(DEFAULT_NAMESPACE, Table.EDGES, TARGET) not in store.rows
    assert store.counters.associations == 1


def test_a_batch_is_one_transaction_with_one_audit_entry(store: LedgerStore) -> None:
    records = tuple(a_record(i) for i in range(1, 4))
    audit = prepare.batch_audit(records, 0, NOW)
    store.do(StoreRecords(DEFAULT_NAMESPACE, records, audit, None))
    assert store.counters.records[0] == 3
    assert store.operations == ["encode.batch"]
    assert len(store.storage.commits) == 1


def test_a_working_record_has_no_rows_but_an_entry_and_is_told_of(store: LedgerStore) -> None:
    record = a_record(1, store="working", embedding=[1.0], emotion={"joy": 1.0})
    store.do(storing(record))
    assert not [row for row in store.rows if row.startswith(b"\0\0\0\0")]
    assert store.counters == Counters.empty()
    assert store.operations == ["encode.store"]
    assert store.finished is not None
    assert store.finished.effects.held == [row_document(DEFAULT_NAMESPACE, an_id(1), record.row)]
    assert store.finished.effects.changed == []
    assert {change.space for change in store.finished.effects.vectors} == set(Space)


def test_an_update_replaces_what_is_given_and_leaves_the_rest(store: LedgerStore) -> None:
    store.do(storing(a_record(1, "before", metadata={"a": 1}, emotion={"joy": 1.0})))
    before = store.content(1)
    state = store.rows[state_key(DEFAULT_NAMESPACE, NOW, an_id(1))]
    assert store.do(later(1, metadata={"b": 2})) == Stored(None, 2)
    after = store.content(1)
    assert (after.version, after.updated_at, after.metadata) == (2, LATER, b'{"b":2}')
    assert (after.content, after.emotion, after.meta) == (before.content, before.emotion, before.meta)
    assert after.created_at == before.created_at
    assert store.rows[state_key(DEFAULT_NAMESPACE, NOW, an_id(1))] == state, (
        "fidelity and access fields are left alone"
    )
    assert store.operations == ["encode.update"]


def test_an_update_completes_its_meta_and_names_its_trigger(store: LedgerStore) -> None:
    store.do(storing(a_record(1)))
    store.do(later(1, meta={"intent": "why"}))
    meta = codec.parse(store.content(1).meta, MetaMemory)
    assert (meta.intent, meta.trigger, meta.captured_at, meta.capture_status) == (
        "why",
        "encode.update",
        LATER,
        "provided",
    )


def test_an_update_is_indexed_anew(store: LedgerStore) -> None:
    store.do(storing(a_record(1, "before")))
    store.do(later(1, content={"blocks": [{"modality": "text", "format": "txt", "text": "after"}]}))
    assert store.finished is not None
    assert store.finished.effects.changed == [(DEFAULT_NAMESPACE, an_id(1))]


VECTOR_UPDATES = [
    ([1.0, 0.0], [0.0, 1.0], {2}, 1),
    ([1.0, 0.0], [1.0, 0.0], {2}, 1),
    ([1.0, 0.0], [1.0], {1}, 1),
    ([1.0, 0.0], None, set(), 0),
    (None, [1.0, 2.0, 3.0], {3}, 1),
    (None, None, set(), 0),
]


@pytest.mark.parametrize(("old", "new", "lengths", "counted"), VECTOR_UPDATES)
def test_an_update_of_content_leaves_exactly_the_new_embedding(
    store: LedgerStore, old: list[float] | None, new: list[float] | None, lengths: set[int], counted: int
) -> None:
    store.do(storing(a_record(1, embedding=old)))
    block = {"modality": "text", "format": "txt", "text": "x", "embedding": new}
    store.do(later(1, content={"blocks": [block]}))
    stored = {
        length
        for length in range(1, 4)
        if vector_key(DEFAULT_NAMESPACE, Space.CONTENT, length, an_id(1)) in store.rows
    }
    assert (stored, store.counters.vectors) == (lengths, counted)


def test_an_update_that_gives_no_content_keeps_the_embedding(store: LedgerStore) -> None:
    store.do(storing(a_record(1, embedding=[1.0, 2.0])))
    store.do(later(1, metadata={}))
    assert vector_key(DEFAULT_NAMESPACE, Space.CONTENT, 2, an_id(1)) in store.rows
    assert store.counters.vectors == 1


@pytest.mark.parametrize(("new", "stays"), [({"joy": 0.0, "fear": 1.0}, True), ({"intensity": 1.0}, False)])
def test_an_update_of_emotion_leaves_exactly_the_new_one(
    store: LedgerStore, new: dict[str, float], stays: bool
) -> None:
    store.do(storing(a_record(1, emotion={"joy": 1.0})))
    store.do(later(1, emotion=new))
    assert (vector_key(DEFAULT_NAMESPACE, Space.EMOTION, 8, an_id(1)) in store.rows) == stays
    assert codec.parse(store.content(1).emotion, EmotionVector).joy == 0.0
    assert store.finished is not None
    [told] = store.finished.effects.vectors
    assert (told.values is not None) == stays


def test_an_update_of_an_unknown_record_is_refused_and_writes_nothing(store: LedgerStore) -> None:
    with pytest.raises(RecordNotFound, match="00000000-0000-0000-0000-000000000009"):
        store.do(later(9, metadata={}))
    assert store.storage.commits == []


def test_an_update_against_the_current_version_is_done_and_against_another_refused(store: LedgerStore) -> None:
    store.do(storing(a_record(1)))
    store.do(later(1, 1, metadata={"n": 1}))
    before = store.rows
    with pytest.raises(PreconditionFailed) as refused:
        store.do(later(1, 1, metadata={"n": 2}))
    assert refused.value.details == {"current_version": 2}
    assert store.rows == before


def test_of_two_updates_against_one_version_in_one_group_the_second_is_refused(store: LedgerStore) -> None:
    store.do(storing(a_record(1)))
    first, second = store.group(later(1, 1, metadata={"n": 1}), later(1, 1, metadata={"n": 2}))
    assert first == Stored(None, 2)
    assert isinstance(second, PreconditionFailed)
    assert store.content(1).metadata == b'{"n":1}'


def test_raw_entries_are_found_by_session_and_by_time_with_who_may_see_them(store: LedgerStore) -> None:
    store.do(storing_raw(1, session_id="s-7", visibility="sealed", secrecy_level="secret"))
    flags = bytes([tuple(Visibility).index(Visibility.SEALED), tuple(SecrecyLevel).index(SecrecyLevel.SECRET)])
    assert (
        store.rows[key(DEFAULT_NAMESPACE, Table.RAW_BY_SESSION, digest("s-7"), pack_time(NOW), an_id(1))] == flags
    )
    assert store.rows[key(DEFAULT_NAMESPACE, Table.RAW_BY_TIME, pack_time(NOW), an_id(1))] == flags
    assert (store.counters.raw_records, store.counters.raw_pending_dream) == (1, 1)
    assert store.counters.records == [0] * 5
    assert store.operations == ["encode.store_raw"]


def test_what_a_recall_did_is_saved_and_its_stores_are_told(store: LedgerStore) -> None:
    record = a_record(1)
    store.do(storing(record))
    state = changed(EPISODIC.retrieved(record.state, LATER), score=0.75)
    saved = saved_state(record, state)
    audit = prepare.store_audit(record, LATER)
    store.do(SaveRecall(DEFAULT_NAMESPACE, (saved,), audit, None))
    assert parse_state_row(store.rows[state_key(DEFAULT_NAMESPACE, NOW, an_id(1))]) == (0, state)
    assert (store.counters.recalls, store.counters.fidelity_sums[0]) == (1, 0.75)
    assert store.finished is not None
    assert store.finished.effects.saved == [saved]
    assert not store.finished.effects.concern_indexes
    assert store.content(1).updated_at == NOW, "a recall is no update"


def test_of_two_recalls_that_found_the_same_state_both_count(store: LedgerStore) -> None:
    record = a_record(1)
    store.do(storing(record))
    saved = saved_state(record, EPISODIC.retrieved(record.state, LATER))
    recall = SaveRecall(DEFAULT_NAMESPACE, (saved,), prepare.store_audit(record, LATER), None)
    store.group(recall, recall)
    _code, state = parse_state_row(store.rows[state_key(DEFAULT_NAMESPACE, NOW, an_id(1))])
    assert (state.access_count, state.reinforcement_count, store.counters.recalls) == (2, 2, 2)
    assert state.stability > saved.state.stability


def test_a_memory_that_was_forgotten_since_its_recall_gets_no_state_and_its_store_is_told(
    store: LedgerStore,
) -> None:
    record, forgotten = a_record(1), a_record(2)
    store.do(storing(record))
    before = store.rows
    saved = saved_state(forgotten, EPISODIC.retrieved(forgotten.state, LATER))
    store.do(SaveRecall(DEFAULT_NAMESPACE, (saved,), prepare.store_audit(record, LATER), None))
    written = {row for row, value in store.rows.items() if before.get(row) != value}
    log_row = system_key(Table.LOG, pack_sequence(2))
    assert written == {log_row, system_key(Table.HEAD), counters_key(DEFAULT_NAMESPACE)}
    assert (store.counters.recalls, store.counters.fidelity_sums[0], store.counters.records[0]) == (1, 1.0, 1)
    assert store.finished is not None
    assert store.finished.effects.saved == [saved], "so that it keeps the state no longer"


def counted(*, fidelity: float, recalls: int) -> Counters:
    """The counters of one episodic memory with an embedding."""
    counters = Counters.empty()
    counters.records[0], counters.fidelity_sums[0] = 1, fidelity
    counters.vectors, counters.recalls = 1, recalls
    return counters


def test_the_same_id_in_another_namespace_is_another_memory(store: LedgerStore) -> None:
    """Rows, counters and what the followers are told are each of their own namespace."""
    here, there = a_record(1, "here", embedding=[1.0]), a_record(1, "there", namespace=7, embedding=[2.0])
    store.do(storing(here))
    before = {row: value for row, value in store.rows.items() if row.startswith(pack_namespace(0))}
    store.do(storing(there))
    assert store.finished is not None
    assert store.finished.effects.changed == [(7, an_id(1))]
    assert [change.namespace for change in store.finished.effects.vectors] == [7]
    state = changed(EPISODIC.retrieved(there.state, LATER), score=0.5)
    store.do(SaveRecall(7, (saved_state(there, state),), prepare.store_audit(there, LATER), None))
    store.do(later(1, namespace=7, metadata={"n": 1}))
    assert {row: value for row, value in store.rows.items() if row.startswith(pack_namespace(0))} == before
    assert parse_state_row(store.rows[state_key(7, NOW, an_id(1))]) == (0, state)
    assert parse_content_row(store.rows[key(7, Table.CONTENT, an_id(1))]).version == 2
    assert store.counters == counted(fidelity=1.0, recalls=0)
    assert parse_counters(store.rows[counters_key(7)]) == counted(fidelity=0.5, recalls=1)


def test_an_update_finds_nothing_in_another_namespace(store: LedgerStore) -> None:
    store.do(storing(a_record(1)))
    before = store.rows
    with pytest.raises(RecordNotFound):
        store.do(later(1, namespace=7, metadata={"n": 1}))
    assert store.rows == before


def test_a_raw_entry_has_its_rows_in_its_namespace(store: LedgerStore) -> None:
    store.do(storing_raw(1, session_id="s-7", namespace=7))
    tables = {row[4:5] for row in store.rows if row.startswith(pack_namespace(7))}
    assert {table.value for table in (Table.RAW, Table.RAW_BY_SESSION, Table.RAW_BY_TIME)} <= tables
    assert {row[:4] for row in store.rows} == {pack_namespace(7), pack_namespace(SYSTEM_NAMESPACE)}
    assert parse_counters(store.rows[counters_key(7)]).raw_records == 1


def test_an_entry_of_its_own_is_committed(store: LedgerStore) -> None:
    store.do(NoteAudit(DEFAULT_NAMESPACE, prepare.store_audit(a_record(1), NOW)))
    assert store.operations == ["encode.store"]


@pytest.mark.parametrize("expected", [None, 1, 2])
def test_an_edit_of_working_memory_is_audited_and_told_unless_it_expects_another_version(
    store: LedgerStore, expected: int | None
) -> None:
    held = a_record(1, "held", store="working")
    request = codec.parse(b'{"metadata":{"n":1}}', EncodeUpdate)
    edit = prepare.edit(request, LATER)
    edited = NewRecord(
        namespace=DEFAULT_NAMESPACE,
        record_id=held.record_id,
        row=edit.applied(held.row, LATER),
        state=held.state,
        associations=(),
        embedding=None,
        emotion=None,
        durable=False,
    )
    mutation = UpdateHeld(edited, edit, expected)
    if expected == 2:
        with pytest.raises(PreconditionFailed):
            store.do(mutation)
        assert store.storage.commits == []
        return
    assert store.do(mutation) == Stored(None, 1)
    assert store.operations == ["encode.update"]
    assert store.finished is not None
    assert store.finished.effects.held == [row_document(DEFAULT_NAMESPACE, an_id(1), edited.row)]
    assert {(change.space, change.values) for change in store.finished.effects.vectors} == {
        (space, None) for space in Space
    }


def once(
    mutation: Mutation[Stored[Any]], now: int = NOW, body: bytes = BODY, key_digest: bytes = DIGEST, **given: Any
) -> Once[Any]:
    reply_type = given.get("reply_type", Encoded)
    return Once(mutation, key_digest, body, now, now + LIFE_NS, reply_type)


def test_the_same_key_answers_the_first_result_and_stores_nothing_again(store: LedgerStore) -> None:
    first = store.do(once(storing(a_record(1))))
    before = store.rows
    again = store.do(once(storing(a_record(2)), NOW + LIFE_NS - 1))
    assert (again.reply, again.sequence, again.replayed) == (first.reply, first.sequence, True)
    assert not first.replayed
    assert store.rows == before


def test_an_answer_without_a_body_is_replayed_too(store: LedgerStore) -> None:
    store.do(storing(a_record(1)))
    first = store.do(once(later(1, metadata={"n": 1}), reply_type=None))
    again = store.do(once(later(1, metadata={"n": 1}), reply_type=None))
    assert again == Stored(None, first.sequence, replayed=True)
    assert store.content(1).version == 2


def test_of_two_at_once_the_second_gets_the_result_of_the_first(store: LedgerStore) -> None:
    first, second = store.group(once(storing(a_record(1))), once(storing(a_record(2))))
    assert second == Stored(first.reply, first.sequence, replayed=True)
    assert store.counters.records[0] == 1
    assert store.operations == ["encode.store"]


def test_the_same_key_with_another_body_is_a_conflict(store: LedgerStore) -> None:
    store.do(once(storing(a_record(1))))
    with pytest.raises(IdempotencyConflict, match="Idempotency-Key"):
        store.do(once(storing(a_record(2)), body=OTHER_BODY))
    assert store.counters.records[0] == 1


def test_other_keys_are_other_requests(store: LedgerStore) -> None:
    store.do(once(storing(a_record(1))))
    store.do(once(storing(a_record(2)), key_digest=digest("other\0k-1")))
    assert store.counters.records[0] == 2


def test_the_same_key_in_another_namespace_is_another_request(store: LedgerStore) -> None:
    store.do(once(storing(a_record(1))))
    assert not store.do(once(storing(a_record(1, namespace=7)), body=OTHER_BODY)).replayed
    assert store.do(once(storing(a_record(2)))).replayed
    assert store.do(once(storing(a_record(2, namespace=7)), body=OTHER_BODY)).replayed


def test_a_failed_request_is_not_kept(store: LedgerStore) -> None:
    with pytest.raises(RecordNotFound):
        store.do(once(later(1, metadata={}), reply_type=None))
    store.do(storing(a_record(1)))
    assert not store.do(once(later(1, metadata={}), body=OTHER_BODY, reply_type=None)).replayed


def test_an_expired_key_is_as_good_as_new(store: LedgerStore) -> None:
    store.do(once(storing(a_record(1))))
    again = store.do(once(storing(a_record(2)), NOW + LIFE_NS, body=OTHER_BODY))
    assert not again.replayed
    assert store.counters.records[0] == 2
    assert store.do(once(storing(a_record(3)), NOW + LIFE_NS + 1, body=OTHER_BODY)).replayed


def test_expired_answers_are_dropped_by_later_requests(store: LedgerStore) -> None:
    for i in range(5):
        store.do(once(storing(a_record(i)), NOW + i, key_digest=digest(f"k-{i}")))
    store.do(once(storing(a_record(9)), NOW + LIFE_NS + 2, key_digest=digest("k-9")))
    kept = {i for i in range(10) if key(DEFAULT_NAMESPACE, Table.IDEMPOTENCY, digest(f"k-{i}")) in store.rows}
    assert kept == {3, 4, 9}
    expiries = [row for row in store.rows if row.startswith(key(DEFAULT_NAMESPACE, Table.IDEMPOTENCY_BY_EXPIRY))]
    assert len(expiries) == 3


def test_one_request_drops_a_bounded_number_of_expired_answers(store: LedgerStore) -> None:
    count = EXPIRED_DROPPED_MAX + 10
    store.group(*(once(storing(a_record(i)), key_digest=digest(f"k-{i}")) for i in range(count)))
    store.do(once(storing(a_record(count)), NOW + LIFE_NS, key_digest=digest("last")))
    left = [row for row in store.rows if row.startswith(key(DEFAULT_NAMESPACE, Table.IDEMPOTENCY))]
    assert len(left) == 10 + 1


def test_dropping_an_old_expiry_spares_the_answer_that_a_reused_key_has_now(store: LedgerStore) -> None:
    many = [once(storing(a_record(i)), NOW - 1, key_digest=digest(f"k-{i}")) for i in range(EXPIRED_DROPPED_MAX)]
    store.group(*many, once(storing(a_record(100)), NOW))
    reused_at = NOW + LIFE_NS
    store.do(once(storing(a_record(101)), reused_at))
    store.do(once(storing(a_record(102)), reused_at + 1, key_digest=digest("another")))
    assert store.do(once(storing(a_record(103)), reused_at + 2)).replayed
