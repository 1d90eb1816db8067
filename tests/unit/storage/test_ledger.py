"""The ledger: a mutation that raises leaves no trace, a key is written once, lines are chained, rows trimmed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cerememory.domain.audit_chain import GENESIS, AuditDraft, parse_line, verify_lines
from cerememory.domain.fidelity import fresh
from cerememory.errors import InternalError
from cerememory.protocol.records import Store
from cerememory.protocol.values import RecordId
from cerememory.storage import ledger as ledger_module
from cerememory.storage.contract import Storage
from cerememory.storage.keys import (
    Table,
    after,
    counters_key,
    pack_sequence,
    system_key,
    unpack_sequence,
)
from cerememory.storage.ledger import Finished, Ledger, commit_alone
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import Head, parse_counters, parse_head, parse_ids
from cerememory.storage.text_index import IndexDocument
from cerememory.storage.vectors import Space, VectorChange
from tests.support.memory_storage import MemoryStorage

NOW = 1_800_000_000_000_000_000
ID = RecordId(bytes(range(16)))
DOCUMENT = IndexDocument(record_id=ID, store_code=0, created_at=NOW, text="kettle")
VECTOR = VectorChange(Space.CONTENT, ID, 0, NOW, (1.0,))


@dataclass(frozen=True)
class Does:
    """A mutation made of a function."""

    apply: Callable[[Ledger], Any]


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
    ledger.index(DOCUMENT)
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
    head = Head(head.commit_sequence, head.audit_sequence, head.audit_hash, max(head.audit_synced, synced))
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


def test_a_scan_of_what_is_committed_does_not_show_the_transaction(storage: MemoryStorage) -> None:
    seen: list[list[tuple[bytes, bytes]]] = []
    finish(storage, put(b"t", b"1"), Does(lambda ledger: seen.append(list(ledger.scan_committed(b"t", b"u")))))
    assert seen == [[(b"there", b"before")]]


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
    counters = parse_counters(storage.rows()[counters_key()])
    assert (counters.records, counters.recalls) == ([0, 3, 0, 0, 0], 3)


def test_counters_of_namespaces_are_kept_apart(storage: MemoryStorage) -> None:
    def count(ledger: Ledger) -> None:
        ledger.put(b"k", b"v")
        ledger.counters(7).vectors += 2

    commit(storage, Does(count))
    assert parse_counters(storage.rows()[counters_key(7)]).vectors == 2
    assert counters_key() not in storage.rows()


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


def test_the_lines_of_a_group_are_committed_with_it_under_their_first_sequence(storage: MemoryStorage) -> None:
    commit(storage, Does(audited))
    finished = commit(storage, Does(audited), Does(audited))
    row = storage.rows()[system_key(Table.AUDIT_OUTBOX, pack_sequence(2))]
    assert row == b"".join(finished.audit_lines)


def test_without_an_audit_log_there_are_no_lines(storage: MemoryStorage) -> None:
    finished = commit(storage, Does(audited), audited=False)
    assert finished.audit_lines == ()
    assert finished.head.audit_sequence == 0
    assert not rows_of(storage, Table.AUDIT_OUTBOX)


def test_an_audit_entry_alone_is_a_transaction(storage: MemoryStorage) -> None:
    finished = commit(storage, Does(lambda ledger: ledger.audit(draft("audit.repaired"))))
    assert [parse_line(line).operation for line in finished.audit_lines] == ["audit.repaired"]


def test_durable_documents_enter_the_feed_and_others_do_not(storage: MemoryStorage) -> None:
    other = RecordId(bytes(16))
    held = IndexDocument(record_id=other, store_code=4, created_at=NOW, text="")

    def index(ledger: Ledger) -> None:
        ledger.index(held, durable=False)
        ledger.index(DOCUMENT)

    finished = commit(storage, Does(index))
    assert finished.effects.documents == [held, DOCUMENT]
    assert parse_ids(storage.rows()[system_key(Table.FEED, pack_sequence(1))]) == [ID]


def test_effects_come_in_the_order_in_which_they_happened(storage: MemoryStorage) -> None:
    state = SavedState(ID, 0, fresh(Store.EPISODIC, NOW), 0.0)

    def first(ledger: Ledger) -> None:
        everything(ledger)
        ledger.saved(state)

    finished = commit(storage, Does(first), Does(everything))
    assert finished.effects.documents == [DOCUMENT, DOCUMENT]
    assert finished.effects.vectors == [VECTOR, VECTOR]
    assert finished.effects.saved == [state]
    assert finished.effects.concern_indexes


def rows_of(storage: MemoryStorage, table: Table) -> list[int]:
    """The sequences under which a system table has rows."""
    prefix = system_key(table)
    with storage.read() as reader:
        return [unpack_sequence(key[len(prefix) :]) for key, _ in reader.scan(prefix, after(prefix))]


def index_and_audit(ledger: Ledger) -> None:
    ledger.index(DOCUMENT)
    ledger.audit(draft())
    ledger.audit(draft())


def test_the_feed_is_dropped_up_to_what_the_index_has_and_says_so(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "TRIM_EVERY", 10)
    for sequence in range(1, 11):
        commit(storage, Does(index_and_audit), index_applied=7)
        assert len(rows_of(storage, Table.FEED)) == sequence or sequence == 10
    assert rows_of(storage, Table.FEED) == [8, 9, 10]
    assert storage.rows()[system_key(Table.FEED_FLOOR)] == pack_sequence(7)


def test_nothing_is_dropped_while_nobody_says_what_it_has(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "TRIM_EVERY", 1)
    monkeypatch.setattr(ledger_module, "OUTBOX_LINES_KEPT", 0)
    for _ in range(5):
        commit(storage, Does(index_and_audit))
    assert rows_of(storage, Table.FEED) == [1, 2, 3, 4, 5]
    assert rows_of(storage, Table.AUDIT_OUTBOX) == [1, 3, 5, 7, 9]
    assert system_key(Table.FEED_FLOOR) not in storage.rows()


@pytest.mark.parametrize(
    ("synced", "kept", "first"), [(20, 4, 15), (9, 4, 9), (10, 4, 9), (11, 4, 11), (20, 0, 19)]
)
def test_the_outbox_keeps_the_newest_lines_and_all_that_the_file_may_lack(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, synced: int, kept: int, first: int
) -> None:
    """Each of eleven groups has two lines; the last trims what the ten before it left."""
    monkeypatch.setattr(ledger_module, "TRIM_EVERY", 11)
    monkeypatch.setattr(ledger_module, "OUTBOX_LINES_KEPT", kept)
    for _ in range(11):
        commit(storage, Does(index_and_audit), synced=synced)
    held = rows_of(storage, Table.AUDIT_OUTBOX)
    assert held == list(range(first, 22, 2))
    assert held[0] <= synced + 1, "the file may lack the lines behind what is synced"
    assert held[0] <= 20 - kept + 1


def test_one_transaction_drops_a_bounded_number_of_rows(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "TRIM_EVERY", 20)
    monkeypatch.setattr(ledger_module, "TRIM_ROWS_MAX", 5)
    for _ in range(20):
        commit(storage, Does(index_and_audit), index_applied=20)
    left = rows_of(storage, Table.FEED)
    assert 20 - 6 <= len(left) <= 20 - 5
    assert left == list(range(21 - len(left), 21))


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
