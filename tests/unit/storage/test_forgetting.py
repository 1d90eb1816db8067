"""What forgetting removes: everything that speaks of a record, and nothing else.

The model of a store that has forgotten is a store that never knew: after any memories and entries were stored,
edited, archived and answered for, a store from which some are forgotten has the same rows as one in which the
others alone were stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.audit_chain import AuditDraft, parse_line
from cerememory.protocol.records import Association, Store, TemporalRange
from cerememory.protocol.replies import Encoded, Forgotten, RawEncoded
from cerememory.protocol.requests import Forget
from cerememory.protocol.values import RecordId, Timestamp, format_id
from cerememory.storage import prepare, removal
from cerememory.storage.forgetting import ForgetRecords, HeldMemory
from cerememory.storage.fsck_rows import Tally, check_namespace
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    NAMESPACE_BYTES,
    NOWHERE,
    SYSTEM_NAMESPACE,
    Table,
    counters_key,
    digest,
    key,
    pack_namespace,
)
from cerememory.storage.ledger import Finished, Ledger, Mutation
from cerememory.storage.likenesses import BuildLikenesses
from cerememory.storage.mutations import Once, Stored, StoreRaw
from cerememory.storage.recalling import SaveRecall
from cerememory.storage.removal import archive_memory
from cerememory.storage.rows import (
    Counters,
    dump_edges,
    parse_archived_row,
    parse_content_row,
    parse_counters,
    parse_kept_answer,
)
from tests.support.committing import (
    a_record,
    an_id,
    changed,
    commit,
    saved_state,
    storing,
    storing_raw,
    updating,
)
from tests.support.engine import NOW, text_block
from tests.support.memory_storage import MemoryStorage

OTHER = 7
HOUR = 3_600 * 10**9
LATER = NOW + 10 * HOUR


def forget(
    namespace: int = DEFAULT_NAMESPACE, held: dict[RecordId, HeldMemory] | None = None, **given: Any
) -> Any:
    """The mutation of a request; memories by number."""
    numbers, raw_numbers = given.pop("numbers", None), given.pop("raw_numbers", None)
    request = Forget(
        record_ids=None if numbers is None else tuple(map(an_id, numbers)),
        raw_record_ids=None if raw_numbers is None else tuple(map(an_id, raw_numbers)),
        confirm=True,
        **given,
    )
    return ForgetRecords(namespace, request, held or {}, LATER)


def forgotten(storage: MemoryStorage, **given: Any) -> tuple[int, Finished]:
    """How many were deleted, and what was committed."""
    [answer], finished = commit(storage, forget(**given))
    assert isinstance(answer, Stored), answer
    assert finished is not None
    assert isinstance(answer.reply, Forgotten)
    return answer.reply.records_deleted, finished


@dataclass(frozen=True)
class Archive:
    """Decay takes a memory away, until `LATER`."""

    number: int
    namespace: int = DEFAULT_NAMESPACE

    def apply(self, ledger: Ledger) -> None:
        record_id = an_id(self.number)
        value = ledger.get(ledger.key(Table.CONTENT, record_id))
        assert value is not None
        archive_memory(ledger, record_id, parse_content_row(value), LATER)


def edge(number: int) -> dict[str, Any]:
    return {"target_id": str(an_id(number)), "association_type": "causal", "weight": 0.5}


@dataclass(frozen=True)
class Memory:
    store: Store
    session: str | None
    embedding: tuple[float, ...] | None
    joy: float
    targets: tuple[int, ...]
    edits: int
    is_archived: bool
    is_retried: bool


@dataclass(frozen=True)
class Entry:
    session: str
    visibility: str
    is_processed: bool
    is_retried: bool


@dataclass(frozen=True)
class Script:
    """Memories are numbered from 1, entries from 101; likenesses are kept from the `liked`-th memory on."""

    memories: tuple[Memory, ...]
    entries: tuple[Entry, ...]
    liked: int | None
    namespace: int


VECTORS = st.none() | st.lists(st.sampled_from([-1.0, 0.5, 1.0]), min_size=1, max_size=2).map(tuple)
SESSIONS = st.sampled_from(["s", "t"])
MEMORIES = st.builds(
    Memory,
    store=st.sampled_from([Store.EPISODIC, Store.SEMANTIC]),
    session=st.none() | SESSIONS,
    embedding=VECTORS,
    joy=st.sampled_from([0.0, 0.5]),
    targets=st.lists(st.integers(1, 6), max_size=3, unique=True).map(tuple),
    edits=st.integers(0, 2),
    is_archived=st.booleans(),
    is_retried=st.booleans(),
)
ENTRIES = st.builds(
    Entry,
    session=SESSIONS,
    visibility=st.sampled_from(["normal", "sealed"]),
    is_processed=st.booleans(),
    is_retried=st.booleans(),
)
SCRIPTS = st.builds(
    Script,
    memories=st.lists(MEMORIES, min_size=1, max_size=5).map(tuple),
    entries=st.lists(ENTRIES, max_size=3).map(tuple),
    liked=st.none() | st.integers(0, 4),
    namespace=st.sampled_from([DEFAULT_NAMESPACE, OTHER]),
)


def play(script: Script, without: frozenset[int] = frozenset()) -> MemoryStorage:
    """A store in which all of `script` was done, but for what is about the numbers in `without`."""
    storage = MemoryStorage()
    for number, memory in enumerate(script.memories, 1):
        if script.liked == number - 1:
            commit(storage, BuildLikenesses(script.namespace, None))
        if number not in without:
            commit(storage, *_of_memory(script.namespace, number, memory, without))
    for number, entry in enumerate(script.entries, 101):
        if number not in without:
            commit(storage, _of_entry(script.namespace, number, entry))
    for number, memory in enumerate(script.memories, 1):
        if memory.is_archived and number not in without:
            commit(storage, Archive(number, script.namespace))
    return storage


def _of_memory(namespace: int, number: int, memory: Memory, without: frozenset[int]) -> list[Mutation[Any]]:
    record = a_record(
        number,
        f"kettle {number % 3}",
        NOW + number,
        namespace=namespace,
        store=memory.store,
        embedding=memory.embedding,
        emotion={"joy": memory.joy},
        context=None if memory.session is None else {"session_id": memory.session},
        associations=[edge(target) for target in memory.targets if target not in {number, *without}],
    )
    store = storing(record)
    store = replace(store, reply=msgspec.structs.replace(store.reply, associations_created=0))
    state = changed(record.state, access_count=3, score=0.5)
    audit = AuditDraft(NOW, "recall.query.reconsolidate", (), (), {})
    return [
        once(store, number, Encoded) if memory.is_retried else store,
        SaveRecall(namespace, (saved_state(record, state),), audit, None),
        *(
            updating(
                number,
                namespace=namespace,
                now=NOW + number + i,
                content={"blocks": [text_block(f"edited {i}", embedding=[1.0, float(i)])]},
                emotion={"fear": 0.5},
            )
            for i in range(memory.edits)
        ),
    ]


def _of_entry(namespace: int, number: int, entry: Entry) -> Mutation[Any]:
    store = storing_raw(
        number,
        f"said {number}",
        NOW + number,
        namespace=namespace,
        session_id=entry.session,
        visibility=entry.visibility,
        metadata={"_dream": {"processed_at": "2026-01-01"}} if entry.is_processed else {},
    )
    if not entry.is_retried:
        return store
    reply = prepare.raw_encoded(store.records[0])
    return once(StoreRaw(namespace, store.records, store.audits, reply), number, RawEncoded)


def once(mutation: Mutation[Any], number: int, reply_type: type[Any]) -> Once[Any]:
    return Once(mutation, digest(f"key {number}"), b"body" * 4, NOW, NOW + HOUR, reply_type)


def comparable(storage: MemoryStorage, namespace: int) -> dict[bytes, Any]:
    """The rows, without what says when they were changed and by which commit, and without the log."""
    found: dict[bytes, Any] = {}
    for row_key, value in storage.rows().items():
        if row_key.startswith(pack_namespace(SYSTEM_NAMESPACE)):
            continue
        table = row_key[NAMESPACE_BYTES : NAMESPACE_BYTES + 1]
        found[row_key] = _comparable(table, value)
    found[b"counters"] = rounded(parse_counters(storage.rows().get(counters_key(namespace))))
    return found


def _comparable(table: bytes, value: bytes) -> Any:
    if table == Table.CONTENT.value:
        return msgspec.structs.replace(parse_content_row(value), updated_at=0)
    if table == Table.ARCHIVED.value:
        row = parse_archived_row(value)
        return msgspec.structs.replace(row, content=msgspec.structs.replace(row.content, updated_at=0))
    if table == Table.IDEMPOTENCY.value:
        return msgspec.structs.replace(parse_kept_answer(value), commit_sequence=0)
    return value


def rounded(counters: Counters) -> dict[str, Any]:
    fields = {**msgspec.structs.asdict(counters), "recalls": 0}
    return {**fields, "fidelity_sums": [round(total, 9) for total in counters.fidelity_sums]}


@given(script=SCRIPTS, data=st.data())
@settings(max_examples=60)
def test_a_store_that_has_forgotten_is_one_that_never_knew(script: Script, data: st.DataObject) -> None:
    numbers = [*range(1, len(script.memories) + 1), *range(101, 101 + len(script.entries))]
    chosen = data.draw(st.sets(st.sampled_from(numbers), min_size=1))
    storage = play(script)
    count, _finished = forgotten(
        storage,
        namespace=script.namespace,
        numbers=[number for number in chosen if number < 101],
        raw_numbers=[number for number in chosen if number > 100],
    )
    assert count == len(chosen)
    with storage.read() as reader:
        assert list(check_namespace(reader, script.namespace, NOW, Tally())) == []
    never_knew = play(script, frozenset(chosen))
    assert comparable(storage, script.namespace) == comparable(never_knew, script.namespace)


@pytest.fixture
def storage() -> MemoryStorage:
    """Four memories in a ring of edges, one an hour, the second semantic; three entries of two sessions."""
    storage = MemoryStorage()
    for number in range(1, 5):
        store = Store.SEMANTIC if number == 2 else Store.EPISODIC
        record = a_record(number, "kettle", NOW + number * HOUR, store=store, associations=[edge(number % 4 + 1)])
        commit(storage, storing(record))
    for number, session_id in ((101, "s"), (102, "s"), (103, "t")):
        commit(storage, storing_raw(number, session_id=session_id))
    return storage


def left(storage: MemoryStorage, table: Table = Table.CONTENT, namespace: int = DEFAULT_NAMESPACE) -> list[int]:
    """The numbers of what a table still has."""
    prefix = key(namespace, table)
    return sorted(int.from_bytes(row[len(prefix) :], "big") for row in storage.rows() if row.startswith(prefix))


def entries_of(finished: Finished) -> list[tuple[str, list[int], tuple[str, ...], dict[str, Any]]]:
    found = [parse_line(line) for line in finished.audit_lines]
    return [
        (entry.operation, [int.from_bytes(i, "big") for i in entry.record_ids], entry.store_types, entry.summary)
        for entry in found
    ]


def test_unknown_ids_are_ignored_and_one_audit_entry_says_what_went(storage: MemoryStorage) -> None:
    count, finished = forgotten(storage, numbers=[2, 99, 3, 2])
    assert count == 2
    assert left(storage) == [1, 4]
    summary = {"deleted": 2, "cascade": False}
    assert entries_of(finished) == [("lifecycle.forget", [2, 3], ("semantic", "episodic"), summary)]


def test_when_nothing_of_it_is_there_the_entry_says_so(storage: MemoryStorage) -> None:
    count, finished = forgotten(storage, numbers=[99])
    assert count == 0
    assert entries_of(finished) == [("lifecycle.forget", [], (), {"deleted": 0, "cascade": False})]
    assert finished.effects.changed == []


def test_a_dry_run_counts_what_would_go_and_changes_nothing(storage: MemoryStorage) -> None:
    before = storage.rows()
    for given_ in (
        {"numbers": [1, 99]},
        {"store": Store.EPISODIC},
        {"session_id": "s"},
        {"numbers": [1], "cascade": True},
    ):
        [counted], finished = commit(storage, forget(dry_run=True, **given_))
        assert finished is None
        assert storage.rows() == before
        [done], _finished = commit(another(storage), forget(**given_))
        assert counted.reply == done.reply


def another(storage: MemoryStorage) -> MemoryStorage:
    copy = MemoryStorage()
    copy.commit(storage.rows())
    return copy


@pytest.mark.parametrize(
    ("given_", "remaining"),
    [
        ({"numbers": [1]}, [2, 3, 4]),
        ({"numbers": [1], "cascade": True}, [3, 4]),
        ({"numbers": [1, 2], "cascade": True}, [4]),
        ({"store": Store.SEMANTIC}, [1, 3, 4]),
        ({"store": Store.EPISODIC}, [2]),
        ({"store": Store.PROCEDURAL}, [1, 2, 3, 4]),
        ({"temporal_range": (2, 3)}, [1, 4]),
        ({"temporal_range": (2, 2)}, [1, 3, 4]),
        ({"temporal_range": (-9, 0)}, [1, 2, 3, 4]),
        ({"temporal_range": (-(10**7), 10**7)}, []),  # years that no key holds; found by fuzzing
        ({"temporal_range": (10**7, 2 * 10**7)}, [1, 2, 3, 4]),
        ({"store": Store.SEMANTIC, "temporal_range": (4, 9), "numbers": [1]}, [3]),
    ],
)
def test_what_is_selected_goes_and_nothing_else(
    storage: MemoryStorage, given_: dict[str, Any], remaining: list[int]
) -> None:
    if "temporal_range" in given_:
        start, end = given_["temporal_range"]
        given_ = {**given_, "temporal_range": hours(start, end)}
    count, _finished = forgotten(storage, **given_)
    assert left(storage) == remaining
    assert count == 4 - len(remaining)
    assert left(storage, Table.RAW) == [101, 102, 103]


def hours(start: int, end: int) -> TemporalRange:
    return TemporalRange(start=Timestamp(NOW + start * HOUR), end=Timestamp(NOW + end * HOUR))


def test_archived_memories_are_selected_as_others_are(storage: MemoryStorage) -> None:
    for number in (1, 2, 4):
        commit(storage, Archive(number))
    assert forgotten(another(storage), store=Store.EPISODIC)[0] == 3
    assert forgotten(another(storage), temporal_range=hours(1, 2))[0] == 2
    assert forgotten(another(storage), numbers=[1], cascade=True)[0] == 2
    assert forgotten(storage, numbers=[1, 2, 4])[0] == 3
    assert left(storage, Table.ARCHIVED) == []
    assert left(storage, Table.ARCHIVED_BY_EXPIRY) == []


def test_entries_go_by_id_and_by_session_with_an_audit_entry_of_their_own(storage: MemoryStorage) -> None:
    count, finished = forgotten(storage, numbers=[1], raw_numbers=[103, 99], session_id="s")
    assert count == 4
    assert left(storage, Table.RAW) == []
    assert [(operation, ids, stores) for operation, ids, stores, _summary in entries_of(finished)] == [
        ("lifecycle.forget", [1], ("episodic",)),
        ("lifecycle.forget", [103, 101, 102], ()),
    ]
    _count, finished = forgotten(storage, session_id="s")
    assert len(entries_of(finished)) == 1


def test_only_the_own_namespace_is_forgotten(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(1, namespace=OTHER)), storing_raw(101, namespace=OTHER))
    forgotten(storage, namespace=OTHER, numbers=[1, 2], store=Store.EPISODIC, session_id="s-1")
    assert left(storage) == [1, 2, 3, 4]
    assert left(storage, Table.RAW) == [101, 102, 103]
    assert left(storage, namespace=OTHER) == left(storage, Table.RAW, OTHER) == []
    assert forgotten(storage, namespace=NOWHERE, numbers=[1])[0] == 0
    assert left(storage) == [1, 2, 3, 4]


def test_who_pointed_to_it_has_lost_that_edge_and_is_changed(storage: MemoryStorage) -> None:
    _count, finished = forgotten(storage, numbers=[2])
    rows = storage.rows()
    assert {row.updated_at - NOW for row in contents(rows)} == {10 * HOUR, 3 * HOUR, 4 * HOUR}
    assert parse_counters(rows[counters_key(DEFAULT_NAMESPACE)]).associations == 2
    assert set(finished.effects.relinked) == {(DEFAULT_NAMESPACE, an_id(1)), (DEFAULT_NAMESPACE, an_id(2))}


def contents(rows: dict[bytes, bytes]) -> list[Any]:
    prefix = key(DEFAULT_NAMESPACE, Table.CONTENT)
    return [parse_content_row(value) for row_key, value in rows.items() if row_key.startswith(prefix)]


def test_one_of_two_edges_between_two_memories_does_not_stay() -> None:
    storage = MemoryStorage()
    twice = [edge(2), {**edge(2), "association_type": "semantic"}, edge(3)]
    commit(storage, storing(a_record(1, associations=twice)), storing(a_record(2)))
    forgotten(storage, numbers=[2])
    assert parse_counters(storage.rows()[counters_key(DEFAULT_NAMESPACE)]).associations == 1


@pytest.mark.parametrize("is_archived", [False, True])
def test_who_pointed_to_many_is_written_once(monkeypatch: pytest.MonkeyPatch, is_archived: bool) -> None:
    """Else forgetting all that a hub has edges to takes as long as their number squared."""
    storage, targets, written = MemoryStorage(), list(range(2, 12)), list[int]()
    hub = a_record(1, associations=[edge(number) for number in [*targets, 99]])
    commit(storage, *(storing(a_record(number)) for number in targets), storing(hub))
    if is_archived:
        commit(storage, Archive(1))

    def counted(edges: tuple[Association, ...]) -> bytes:
        written.append(len(edges))
        return dump_edges(edges)

    monkeypatch.setattr(removal, "dump_edges", counted)
    assert forgotten(storage, numbers=targets)[0] == len(targets)
    assert written == [1]


def test_the_indexes_are_told_of_it_and_of_the_place_that_it_left(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(9, context={"session_id": "s"})))
    _count, finished = forgotten(storage, numbers=[9, 1], raw_numbers=[101])
    gone = [(DEFAULT_NAMESPACE, an_id(number)) for number in (9, 1, 101)]
    assert finished.effects.deletions == finished.effects.changed == gone
    assert len(finished.effects.left) == 1


def test_what_working_memory_holds_is_dropped_and_edges_to_it_go(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(9, associations=[edge(50), edge(1)])))
    held = {
        an_id(50): HeldMemory(NOW, (an_id(3), an_id(51))),
        an_id(51): HeldMemory(NOW + 9 * HOUR, ()),
        an_id(52): HeldMemory(NOW + 9 * HOUR, ()),
    }
    count, finished = forgotten(storage, held=held, numbers=[50], cascade=True)
    assert count == 3
    assert left(storage) == [1, 2, 4, 9]
    assert finished.effects.dropped == [(DEFAULT_NAMESPACE, an_id(50)), (DEFAULT_NAMESPACE, an_id(51))]
    assert entries_of(finished)[0][1:3] == ([50, 3, 51], ("working", "episodic", "working"))
    assert parse_counters(storage.rows()[counters_key(DEFAULT_NAMESPACE)]).associations == 4 - 2 + 1
    assert forgotten(storage, held=held, temporal_range=hours(9, 9))[0] == 2
    assert forgotten(storage, held=held, store=Store.WORKING)[0] == 3


def dream_of(number: int, *raw_numbers: int, **given: Any) -> Mutation[Any]:
    """A memory that says that it was dreamt of these entries."""
    origin = {"raw_record_ids": [str(an_id(raw)) for raw in raw_numbers]}
    return storing(a_record(number, "summary", metadata={"_origin": origin}, **given))


@pytest.mark.parametrize("archived", [False, True])
def test_with_cascade_what_was_dreamt_of_nothing_else_goes_too(storage: MemoryStorage, archived: bool) -> None:
    commit(storage, dream_of(11, 101, 102), dream_of(12, 101, 103), dream_of(13, 102, store="semantic"))
    commit(storage, storing(a_record(14, metadata={"_origin": 5})), storing(a_record(15, metadata=[1])))
    commit(storage, storing(a_record(16, metadata={"_origin": {"raw_record_ids": "x"}})), dream_of(17))
    if archived:
        commit(storage, Archive(11), Archive(12))
    assert forgotten(another(storage), session_id="s")[0] == 2
    count, _finished = forgotten(storage, session_id="s", cascade=True)
    assert count == 4
    kept = {1, 2, 3, 4, 12, 14, 15, 16, 17}
    assert set(left(storage)) | set(left(storage, Table.ARCHIVED)) == kept
    assert forgotten(storage, raw_numbers=[103], cascade=True)[0] == 1, "of what 12 was dreamt of, a part is left"


def test_a_kept_answer_goes_with_any_record_that_it_names_and_no_other(storage: MemoryStorage) -> None:
    for number in (21, 22):
        commit(storage, once(storing(a_record(number)), number, Encoded))
    forgotten(storage, numbers=[1])
    assert len(answers(storage)) == 2
    forgotten(storage, numbers=[21])
    [(_key, kept)] = answers(storage)
    assert format_id(an_id(22)).encode() in kept
    assert len(left(storage, Table.IDEMPOTENCY_BY_EXPIRY)) == 1


def answers(storage: MemoryStorage) -> list[tuple[bytes, bytes]]:
    prefix = key(DEFAULT_NAMESPACE, Table.IDEMPOTENCY)
    return [(row_key, value) for row_key, value in storage.rows().items() if row_key.startswith(prefix)]


def test_a_state_that_a_recall_saves_late_brings_nothing_back(storage: MemoryStorage) -> None:
    record = a_record(1, created_at=NOW + HOUR)
    audit = AuditDraft(NOW, "recall.query.reconsolidate", (), (), {})
    save = SaveRecall(
        DEFAULT_NAMESPACE, (saved_state(record, changed(record.state, access_count=9)),), audit, None
    )
    forgotten(storage, numbers=[1])
    before = storage.rows()
    commit(storage, save)
    assert storage.rows().keys() - before.keys() <= log_rows(storage)
    states = key(DEFAULT_NAMESPACE, Table.STATE)
    assert sum(row.startswith(states) for row in storage.rows()) == 3
    counters = parse_counters(storage.rows()[counters_key(DEFAULT_NAMESPACE)])
    assert counters.fidelity_sums[0] == pytest.approx(2.0)


def log_rows(storage: MemoryStorage) -> set[bytes]:
    return {row for row in storage.rows() if row.startswith(key(SYSTEM_NAMESPACE, Table.LOG))}


def test_in_one_transaction_a_memory_can_be_stored_and_forgotten(storage: MemoryStorage) -> None:
    before = comparable(storage, DEFAULT_NAMESPACE)
    commit(storage, storing(a_record(31, associations=[edge(1)])), updating(31, metadata={}), forget(numbers=[31]))
    assert comparable(storage, DEFAULT_NAMESPACE) == before


def test_of_very_many_the_entry_names_some_and_counts_all() -> None:
    storage = MemoryStorage()
    records = [a_record(number) for number in range(1, 1_203)]
    for start in range(0, len(records), 600):
        commit(storage, storing(*records[start : start + 600]))
    count, finished = forgotten(storage, store=Store.EPISODIC)
    [(_operation, ids, stores, summary)] = entries_of(finished)
    assert count == summary["deleted"] == summary["record_ids_total"] == 1_202
    assert len(ids) == len(stores) == 1_000
    assert storage.rows().keys() == {row for row in storage.rows() if row[:4] == pack_namespace(SYSTEM_NAMESPACE)}
