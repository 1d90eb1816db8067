"""The outbox over the log: the audit lines of its rows, one after the other, from any sequence on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cerememory.domain.audit_chain import AuditDraft, verify_lines
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, after, pack_sequence, system_key
from cerememory.storage.ledger import commit_alone, record_audit_synced
from cerememory.storage.mutations import NoteAudit
from cerememory.storage.rows import LogRow, dump_row
from tests.support.committing import a_record, commit, storing
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage

NAMESPACE = 7
CHANGED = b"n" * 20


def noting(count: int) -> list[NoteAudit]:
    return [NoteAudit(NAMESPACE, AuditDraft(NOW, "recall.query", (), (), {"n": n})) for n in range(count)]


def row_key(sequence: int) -> bytes:
    return system_key(Table.LOG, pack_sequence(sequence))


@pytest.fixture
def storage() -> MemoryStorage:
    """Four commits, of 2, 1, 3 and 2 lines."""
    made = MemoryStorage()
    for count in (2, 1, 3, 2):
        commit(made, *noting(count))
    return made


def row_without_lines(storage: MemoryStorage, sequence: int, first_line: int) -> None:
    """What a commit leaves that changed documents and had nothing to audit."""
    storage.commit({row_key(sequence): dump_row(LogRow(first_line, b"", CHANGED))})


def sequences(lines: Iterator[tuple[int, bytes]]) -> list[int]:
    return [sequence for sequence, _line in lines]


def committed_lines(storage: Storage) -> list[bytes]:
    return [line for _sequence, line in StoredOutbox(storage).lines(1)]


def test_an_empty_store_has_nothing_to_tell() -> None:
    outbox = StoredOutbox(MemoryStorage())
    assert (outbox.head.sequence, outbox.synced, outbox.oldest_sequence) == (0, 0, 1)
    assert list(outbox.lines(1)) == []


def test_the_lines_are_those_of_all_rows_in_one_chain(storage: MemoryStorage) -> None:
    outbox = StoredOutbox(storage)
    assert sequences(outbox.lines(1)) == list(range(1, 9))
    assert verify_lines(committed_lines(storage)).head == outbox.head
    assert (outbox.head.sequence, outbox.oldest_sequence) == (8, 1)


@pytest.mark.parametrize("first", range(1, 10))
def test_they_are_read_from_any_sequence_on_the_middle_of_a_row_too(storage: MemoryStorage, first: int) -> None:
    whole = committed_lines(storage)
    found = list(StoredOutbox(storage).lines(first))
    assert found == [(sequence, whole[sequence - 1]) for sequence in range(first, 9)]


@pytest.mark.parametrize("first", [1, 3, 4, 8, 9])
def test_rows_without_lines_between_them_hide_none(storage: MemoryStorage, first: int) -> None:
    """At the beginning, between two rows with lines, and at the end."""
    rows = storage.rows()
    storage.commit({row_key(sequence): None for sequence in range(1, 5)})
    row_without_lines(storage, 1, 1)
    for sequence, old in ((2, 1), (3, 2), (6, 3), (8, 4)):
        storage.commit({row_key(sequence): rows[row_key(old)]})
    row_without_lines(storage, 4, 4)
    row_without_lines(storage, 5, 4)
    row_without_lines(storage, 9, 9)
    outbox = StoredOutbox(storage)
    assert outbox.oldest_sequence == 1
    assert sequences(outbox.lines(first)) == list(range(first, 9))


def test_rows_without_lines_alone_are_no_lines() -> None:
    storage = MemoryStorage()
    row_without_lines(storage, 1, 1)
    row_without_lines(storage, 2, 1)
    outbox = StoredOutbox(storage)
    assert outbox.oldest_sequence == 1
    assert list(outbox.lines(1)) == []


def test_a_row_that_the_ledger_wrote_without_an_audit_log_is_one_without_lines() -> None:
    storage = MemoryStorage()
    commit(storage, storing(a_record(1)), audited=False)
    commit(storage, *noting(2))
    outbox = StoredOutbox(storage)
    assert (outbox.oldest_sequence, outbox.head.sequence) == (1, 2)
    assert sequences(outbox.lines(1)) == [1, 2]


@pytest.mark.parametrize(("dropped", "oldest"), [(1, 3), (2, 4), (3, 7), (4, 9)])
def test_what_was_trimmed_is_not_there_and_the_oldest_line_says_so(
    storage: MemoryStorage, dropped: int, oldest: int
) -> None:
    storage.commit({row_key(sequence): None for sequence in range(1, dropped + 1)})
    outbox = StoredOutbox(storage)
    assert outbox.oldest_sequence == oldest
    assert sequences(outbox.lines(oldest)) == list(range(oldest, 9))


def test_nothing_is_read_across_a_gap(storage: MemoryStorage) -> None:
    """Lines that were asked for and are gone end the reading: what follows would look like the next ones."""
    storage.commit({row_key(1): None})
    assert sequences(StoredOutbox(storage).lines(1)) == []
    assert sequences(StoredOutbox(storage).lines(2)) == []


def test_reading_stops_when_a_trim_overtakes_it(storage: MemoryStorage) -> None:
    lines = StoredOutbox(storage).lines(1)
    assert next(lines)[0] == 1
    storage.commit({row_key(2): None, row_key(3): None})
    assert sequences(lines) == [2], "of the row that it has"


def test_what_is_committed_while_it_is_read_follows(storage: MemoryStorage) -> None:
    lines = StoredOutbox(storage).lines(8)
    assert next(lines)[0] == 8
    commit_alone(storage, noting(1)[0], NOW)
    assert sequences(lines) == [9]


def test_each_attribute_is_read_anew(storage: MemoryStorage) -> None:
    outbox = StoredOutbox(storage)
    commit(storage, *noting(1))
    record_audit_synced(storage, 5)
    assert (outbox.head.sequence, outbox.synced) == (9, 5)
    prefix = system_key(Table.LOG)
    with storage.read() as reader:
        rows = [key for key, _value in reader.scan(prefix, after(prefix))]
    storage.commit(dict.fromkeys(rows))
    assert outbox.oldest_sequence == 10
