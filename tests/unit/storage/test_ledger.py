"""The ledger: a mutation that raises leaves no trace, a key is written once, lines are chained, rows trimmed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.audit_chain import GENESIS, AuditDraft, parse_line, verify_lines
from cerememory.domain.decay import STANDARD
from cerememory.errors import InternalError
from cerememory.protocol.records import Store
from cerememory.protocol.values import RecordId
from cerememory.storage import ledger as ledger_module
from cerememory.storage.contract import Storage
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    Table,
    after,
    counters_key,
    key,
    pack_sequence,
    parse_addresses,
    system_key,
    unpack_sequence,
)
from cerememory.storage.ledger import Finished, Ledger, commit_alone
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import Head, LogRow, parse_counters, parse_head, parse_log_row
from cerememory.storage.text_index import IndexDocument
from cerememory.storage.vectors import Space, VectorChange
from tests.support.memory_storage import MemoryStorage

NOW = 1_800_000_000_000_000_000
ID = RecordId(bytes(range(16)))
HERE = (DEFAULT_NAMESPACE, ID)
VECTOR = VectorChange(DEFAULT_NAMESPACE, Space.CONTENT, ID, 0, NOW, (1.0,))


@dataclass(frozen=True)
class Does:
    """A mutation made of a function."""

    apply: Callable[[Ledger], Any]
    namespace: int = DEFAULT_NAMESPACE


def put(key: bytes, value: bytes) -> Does:
    return Does(lambda ledger: ledger.put(key, value))


def draft(operation: str = "encode.store") -> AuditDraft:
    return AuditDraft(NOW, operation, (ID,), ("episodic",), {"n": 1})


def audited(ledger: Ledger) -> None:
    ledger.put(b"k", b"v")
    ledger.audit(draft())


def everything(ledger: Ledger) -> None:
    """Leaves a trace of every kind."""
    ledger.put(b"row", b"1")
    ledger.delete(b"there")
    ledger.counters().records[0] += 1
    ledger.audit(draft())
    ledger.index(ID)
    ledger.vector(VECTOR)


def failing_after_everything(ledger: Ledger) -> None:
    everything(ledger)
    raise InternalError("failed")


def head_of(storage: Storage) -> Head:
    with storage.read() as reader:
        return parse_head(reader.get(system_key(Table.HEAD)), GENESIS)


def finish(
    storage: Storage, *mutations: Does, audited: bool = True, index_applied: int = 0, synced: int = 0
) -> Finished | None:
    """One group of `mutations`, of which those that raise a known error fail alone; not committed."""
    head = head_of(storage)
    head = replace(head, audit_synced=max(head.audit_synced, synced))
    with storage.read() as reader:
        ledger = Ledger(reader, head, NOW, audited=audited, index_applied=index_applied)
        for mutation in mutations:
            try:
                ledger.attempt(mutation)
            except InternalError:
                continue
        return ledger.finish()


def commit(storage: Storage, *mutations: Does, **given: Any) -> Finished:
    finished = finish(storage, *mutations, **given)
    assert finished is not None
    storage.commit(finished.changes)
    return finished


@pytest.fixture
def storage() -> MemoryStorage:
    opened = MemoryStorage()
    opened.commit({b"there": b"before"})
    return opened


def test_a_mutation_that_raises_leaves_no_trace_in_its_group(storage: MemoryStorage) -> None:
    good = [put(b"a", b"1"), put(b"b", b"2")]
    alone = finish(storage, *good)
    together = finish(storage, good[0], Does(failing_after_everything), good[1])
    assert together == alone


def test_a_group_in_which_everything_failed_is_no_transaction(storage: MemoryStorage) -> None:
    assert finish(storage, Does(failing_after_everything)) is None
    assert finish(storage) is None


def test_a_failed_mutation_can_be_followed_by_one_that_reads_what_was_before(storage: MemoryStorage) -> None:
    seen: list[bytes | None] = []
    finish(storage, Does(failing_after_everything), Does(lambda ledger: seen.append(ledger.get(b"there"))))
    assert seen == [b"before"]


def test_a_mutation_reads_what_it_and_those_before_it_wrote(storage: MemoryStorage) -> None:
    seen: list[bytes | None] = []

    def second(ledger: Ledger) -> None:
        seen.append(ledger.get(b"a"))
        ledger.put(b"a", b"2")
        seen.append(ledger.get(b"a"))
        ledger.delete(b"there")
        seen.append(ledger.get(b"there"))

    finish(storage, put(b"a", b"1"), Does(second), Does(lambda ledger: seen.append(ledger.get(b"there"))))
    assert seen == [b"1", b"2", None, None]


def test_a_scan_shows_what_the_mutations_before_left_and_the_own_edits_and_no_own_additions(
    storage: MemoryStorage,
) -> None:
    storage.commit({b"three": b"before", b"two": b"before"})
    seen: list[list[tuple[bytes, bytes]]] = []

    def scans(ledger: Ledger) -> None:
        ledger.put(b"there", b"edited")
        ledger.delete(b"two")
        ledger.put(b"tt", b"added")
        seen.append(list(ledger.scan(b"t", b"u")))

    finish(storage, put(b"t", b"1"), Does(failing_after_everything), put(b"three", b"3"), Does(scans))
    assert seen == [[(b"t", b"1"), (b"there", b"edited"), (b"three", b"3")]]


def test_of_two_values_under_one_key_only_the_last_is_written(storage: MemoryStorage) -> None:
    finished = commit(storage, put(b"a", b"a long first value"), put(b"a", b"2"))
    assert finished.changes[b"a"] == b"2"
    assert b"a long first value" not in b"".join(value or b"" for value in finished.changes.values())


def test_a_key_that_was_put_and_deleted_in_one_group_is_only_deleted(storage: MemoryStorage) -> None:
    finished = commit(storage, put(b"a", b"1"), Does(lambda ledger: ledger.delete(b"a")))
    assert finished.changes[b"a"] is None
    assert b"a" not in storage.rows()


def test_counters_add_up_over_the_mutations_of_a_group_and_over_groups(storage: MemoryStorage) -> None:
    def count(ledger: Ledger) -> None:
        ledger.put(b"k", b"v")
        ledger.counters().records[1] += 1
        ledger.counters().recalls += 1

    commit(storage, Does(count), Does(failing_after_everything), Does(count))
    commit(storage, Does(count))
    counters = parse_counters(storage.rows()[counters_key(DEFAULT_NAMESPACE)])
    assert (counters.records, counters.recalls) == ([0, 3, 0, 0, 0], 3)


def test_counters_of_namespaces_are_kept_apart(storage: MemoryStorage) -> None:
    def count(ledger: Ledger) -> None:
        ledger.put(b"k", b"v")
        ledger.counters().vectors += 2

    commit(storage, Does(count, 7), Does(failing_after_everything, 8), Does(count, 9), Does(count, 7))
    commit(storage, Does(count, 9))
    assert parse_counters(storage.rows()[counters_key(7)]).vectors == 4
    assert parse_counters(storage.rows()[counters_key(9)]).vectors == 4
    assert counters_key(DEFAULT_NAMESPACE) not in storage.rows()
    assert counters_key(8) not in storage.rows()


def test_a_mutation_makes_keys_of_its_namespace(storage: MemoryStorage) -> None:
    def mark(ledger: Ledger) -> None:
        ledger.put(ledger.key(Table.CONTENT, ID), b"%d" % ledger.namespace)

    commit(storage, Does(mark, 7), Does(mark), Does(mark, 9))
    marked = {number: storage.rows()[key(number, Table.CONTENT, ID)] for number in (7, DEFAULT_NAMESPACE, 9)}
    assert marked == {7: b"7", DEFAULT_NAMESPACE: b"0", 9: b"9"}


def test_each_group_has_the_next_commit_number(storage: MemoryStorage) -> None:
    assert [commit(storage, put(b"a", b"%d" % i)).head.commit_sequence for i in range(3)] == [1, 2, 3]
    assert head_of(storage).commit_sequence == 3


def test_the_lines_of_all_groups_are_one_chain_and_the_head_is_its_end(storage: MemoryStorage) -> None:
    groups = [commit(storage, *[Does(audited)] * count) for count in (1, 3, 2)]
    lines = [line for group in groups for line in group.audit_lines]
    verified = verify_lines(lines)
    head = head_of(storage)
    assert (verified.entries, verified.last_sequence, verified.head_hash) == (6, 6, head.audit_hash)
    assert head.audit_sequence == 6


def test_a_failed_mutation_takes_no_audit_sequence(storage: MemoryStorage) -> None:
    finished = commit(storage, Does(audited), Does(failing_after_everything), Does(audited))
    assert [parse_line(line).sequence for line in finished.audit_lines] == [1, 2]


def test_a_group_leaves_one_log_row_with_its_lines_and_their_first_sequence(storage: MemoryStorage) -> None:
    commit(storage, Does(audited), Does(audited))
    finished = commit(storage, Does(audited), Does(audited), Does(audited))
    row = log_row(storage, 2)
    assert (row.first_line, row.end_line) == (3, 6)
    assert row.lines == b"".join(finished.audit_lines)
    assert row.changed == b""
    assert rows_of(storage, Table.LOG) == [1, 2]


def test_lines_and_changes_of_a_group_share_its_log_row(storage: MemoryStorage) -> None:
    finished = commit(storage, Does(everything), Does(everything))
    row = log_row(storage, 1)
    assert row.lines == b"".join(finished.audit_lines)
    assert parse_addresses(row.changed) == [HERE] * 2


def test_a_group_that_no_follower_needs_leaves_no_log_row(storage: MemoryStorage) -> None:
    commit(storage, put(b"a", b"1"))
    assert rows_of(storage, Table.LOG) == []
    assert head_of(storage).commit_sequence == 1


def test_without_an_audit_log_there_are_no_lines(storage: MemoryStorage) -> None:
    finished = commit(storage, Does(audited), audited=False)
    assert finished.audit_lines == ()
    assert finished.head.audit_sequence == 0
    assert not rows_of(storage, Table.LOG)


def test_changes_without_an_audit_log_are_a_row_without_lines(storage: MemoryStorage) -> None:
    commit(storage, Does(everything), audited=False)
    row = log_row(storage, 1)
    assert (row.first_line, row.end_line, row.lines) == (1, 1, b"")
    assert parse_addresses(row.changed) == [HERE]


def test_an_audit_entry_alone_is_a_transaction(storage: MemoryStorage) -> None:
    finished = commit(storage, Does(lambda ledger: ledger.audit(draft("audit.repaired"))))
    assert [parse_line(line).operation for line in finished.audit_lines] == ["audit.repaired"]


def test_durable_documents_enter_the_log_and_others_do_not(storage: MemoryStorage) -> None:
    other = RecordId(bytes(16))
    held = IndexDocument(namespace=DEFAULT_NAMESPACE, record_id=other, store_code=4, created_at=NOW, text="")

    def index(ledger: Ledger) -> None:
        ledger.index_held(held)
        ledger.index(ID)

    finished = commit(storage, Does(index))
    assert (finished.effects.held, finished.effects.changed) == ([held], [HERE])
    assert parse_addresses(log_row(storage, 1).changed) == [HERE]


def test_effects_come_in_the_order_in_which_they_happened(storage: MemoryStorage) -> None:
    fresh = STANDARD[Store.EPISODIC].fresh(NOW)
    state = SavedState(DEFAULT_NAMESPACE, ID, NOW, 0, fresh, fresh)

    def first(ledger: Ledger) -> None:
        everything(ledger)
        ledger.saved(state)

    finished = commit(storage, Does(first), Does(everything))
    assert finished.effects.changed == [HERE, HERE]
    assert finished.effects.vectors == [VECTOR, VECTOR]
    assert finished.effects.saved == [state]
    assert finished.effects.concern_indexes


def log_row(storage: MemoryStorage, sequence: int) -> LogRow:
    return parse_log_row(storage.rows()[system_key(Table.LOG, pack_sequence(sequence))])


def rows_of(storage: MemoryStorage, table: Table) -> list[int]:
    """The sequences under which a system table has rows."""
    prefix = system_key(table)
    with storage.read() as reader:
        return [unpack_sequence(key[len(prefix) :]) for key, _ in reader.scan(prefix, after(prefix))]


def index_and_audit(ledger: Ledger) -> None:
    ledger.index(ID)
    ledger.audit(draft())
    ledger.audit(draft())


def floor_of(storage: MemoryStorage) -> int | None:
    value = storage.rows().get(system_key(Table.LOG_FLOOR))
    return None if value is None else unpack_sequence(value)


@pytest.mark.parametrize(
    ("index_applied", "synced", "kept", "first"),
    [
        (10, 20, 4, 9),  # the newest lines stay
        (10, 20, 0, 11),
        (10, 20, 3, 9),  # line 18 is one of the kept: the row of 17 and 18 stays whole
        (10, 9, 0, 5),  # the file may lack line 10, of row 5
        (10, 10, 0, 6),
        (10, 11, 0, 6),
        (7, 20, 0, 8),  # the index lacks row 8
        (7, 9, 0, 5),
        (7, 20, 12, 5),
        (0, 20, 0, 1),
        (10, 0, 0, 1),
    ],
)
def test_a_log_row_is_dropped_when_file_and_index_have_it_and_its_lines_are_old(
    storage: MemoryStorage,
    monkeypatch: pytest.MonkeyPatch,
    index_applied: int,
    synced: int,
    kept: int,
    first: int,
) -> None:
    """Each of eleven groups has two lines; the last trims what the ten before it left."""
    monkeypatch.setattr(ledger_module, "TRIM_EVERY", 11)
    monkeypatch.setattr(ledger_module, "OUTBOX_LINES_KEPT", kept)
    for sequence in range(1, 12):
        assert rows_of(storage, Table.LOG) == list(range(1, sequence)), "between two trims nothing is dropped"
        commit(storage, Does(index_and_audit), index_applied=index_applied, synced=synced)
    held = rows_of(storage, Table.LOG)
    assert held == list(range(first, 12))
    assert log_row(storage, held[0]).first_line <= synced + 1, "the file may lack the lines behind what is synced"
    assert log_row(storage, held[0]).first_line <= 20 - kept + 1
    assert held[0] <= index_applied + 1, "the index may lack the changes behind what it has applied"
    assert floor_of(storage) == (first - 1 or None)


def test_nothing_is_dropped_while_nobody_says_what_it_has(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "TRIM_EVERY", 1)
    monkeypatch.setattr(ledger_module, "OUTBOX_LINES_KEPT", 0)
    for _ in range(5):
        commit(storage, Does(index_and_audit))
    assert rows_of(storage, Table.LOG) == [1, 2, 3, 4, 5]
    assert floor_of(storage) is None


def test_rows_without_changes_do_not_wait_for_an_index_that_is_never_told_of_them(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index stays at the last commit that changed a document; the floor stays there, too."""
    monkeypatch.setattr(ledger_module, "TRIM_EVERY", 6)
    monkeypatch.setattr(ledger_module, "OUTBOX_LINES_KEPT", 0)
    for mutation in (index_and_audit, *[audited] * 5):
        commit(storage, Does(mutation), index_applied=1, synced=6)
    assert rows_of(storage, Table.LOG) == [6]
    assert floor_of(storage) == 1


def test_rows_without_lines_do_not_wait_for_an_audit_file_that_is_never_written(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "TRIM_EVERY", 6)
    for _ in range(6):
        commit(storage, Does(index_and_audit), audited=False, index_applied=4)
    assert rows_of(storage, Table.LOG) == [5, 6]
    assert floor_of(storage) == 4


def test_one_transaction_drops_a_bounded_number_of_rows_and_the_next_goes_on(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "TRIM_EVERY", 20)
    monkeypatch.setattr(ledger_module, "TRIM_ROWS_MAX", 5)
    monkeypatch.setattr(ledger_module, "OUTBOX_LINES_KEPT", 0)
    for _ in range(20):
        commit(storage, Does(index_and_audit), index_applied=40, synced=80)
    assert rows_of(storage, Table.LOG) == list(range(6, 21))
    assert floor_of(storage) == 5
    for _ in range(20):
        commit(storage, Does(index_and_audit), index_applied=40, synced=80)
    assert rows_of(storage, Table.LOG) == list(range(11, 41))
    assert floor_of(storage) == 10


def test_a_mutation_can_be_committed_before_there_is_a_writer(storage: MemoryStorage) -> None:
    commit(storage, Does(audited))

    def repaired(ledger: Ledger) -> str:
        ledger.audit(draft("audit.repaired"))
        return "done"

    assert commit_alone(storage, Does(repaired), NOW) == "done"
    head = head_of(storage)
    assert (head.commit_sequence, head.audit_sequence) == (2, 2)


def test_a_mutation_alone_that_raises_commits_nothing(storage: MemoryStorage) -> None:
    before = storage.rows()
    with pytest.raises(InternalError):
        commit_alone(storage, Does(failing_after_everything), NOW)
    assert storage.rows() == before


def test_what_changes_nothing_is_answered_with_a_commit_that_there_is(storage: MemoryStorage) -> None:
    answers: list[int] = []
    read = Does(lambda ledger: answers.append(ledger.read_from))

    assert finish(storage, read) is None
    commit(storage, Does(audited))
    assert finish(storage, read) is None
    commit(storage, Does(audited), read)
    assert answers == [0, 1, 2]


KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
ROWS = st.dictionaries(KEYS, st.sampled_from([b"", b"1", b"2"]))
CHANGES = st.dictionaries(KEYS, st.sampled_from([None, b"", b"3", b"4"]))


@given(ROWS, st.lists(CHANGES, max_size=2), CHANGES, st.lists(KEYS, max_size=8))
def test_many_rows_are_those_that_are_read_one_by_one(
    committed: dict[bytes, bytes],
    earlier: list[dict[bytes, bytes | None]],
    own: dict[bytes, bytes | None],
    asked: list[bytes],
) -> None:
    """Of what is committed, what the group's earlier mutations changed, and what the mutation itself did."""
    storage, seen = MemoryStorage(), list[tuple[list[bytes | None], list[bytes | None]]]()
    storage.commit(committed)

    def reading(ledger: Ledger) -> None:
        change(ledger, own)
        seen.append((ledger.get_many(asked), [ledger.get(row_key) for row_key in asked]))

    finish(storage, *(Does(partial(change, changes=changes)) for changes in earlier), Does(reading))
    ((many, singly),) = seen
    assert many == singly
    left: dict[bytes, bytes | None] = {**committed}
    for changes in (*earlier, own):
        left |= changes
    assert many == [left.get(row_key) for row_key in asked]


def change(ledger: Ledger, changes: dict[bytes, bytes | None]) -> None:
    for row_key, value in changes.items():
        if value is None:
            ledger.delete(row_key)
        else:
            ledger.put(row_key, value)
