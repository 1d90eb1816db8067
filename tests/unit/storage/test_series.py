"""A series: many commits in one transaction, whole or not at all, told in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cerememory import failpoints
from cerememory.domain.audit_chain import GENESIS, AuditDraft, verify_lines
from cerememory.errors import RecordNotFound
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, parse_addresses, system_key, unpack_sequence
from cerememory.storage.ledger import Ledger
from cerememory.storage.rows import Head, parse_log_row
from cerememory.storage.series import TOLD_MAX, Committed, Series, Steps, run_series
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage

START = Head(4, 0, GENESIS, 0)


@dataclass(frozen=True)
class Does:
    """A mutation made of a function of the ledger."""

    apply: Callable[[Ledger], Any]
    namespace: int = DEFAULT_NAMESPACE


def put(name: bytes, value: bytes = b"v") -> Does:
    return Does(lambda ledger: ledger.put(name, value))


def told_of(*numbers: int) -> Does:
    """Writes a row, and tells of these records."""

    def apply(ledger: Ledger) -> int:
        for number in numbers:
            ledger.put(b"%d" % number, b"")
            ledger.index(an_id(number))
        return ledger.sequence

    return Does(apply)


def an_id(number: int) -> RecordId:
    return RecordId(number.to_bytes(16, "big"))


def audited(operation: str) -> Does:
    return Does(lambda ledger: ledger.audit(AuditDraft(NOW, operation, (), (), {})))


def run(storage: MemoryStorage, series: Series[Any], head: Head = START) -> Committed[Any]:
    def open_ledger(reader: Reader, at: Head) -> Ledger:
        return Ledger(reader, at, NOW, audited=True, index_applied=0)

    return storage.transact(lambda transaction: run_series(transaction, series, head, open_ledger))


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def test_each_step_is_a_commit_with_its_number_and_all_are_one_transaction(storage: MemoryStorage) -> None:
    def steps() -> Steps[list[int]]:
        first = yield told_of(1)
        second = yield told_of(2)
        return [first, second]

    committed = run(storage, steps)
    assert committed.answer == [5, 6]
    assert committed.head.commit_sequence == 6
    assert len(storage.commits) == 1


def test_a_step_sees_what_those_before_it_wrote(storage: MemoryStorage) -> None:
    def steps() -> Steps[bytes | None]:
        yield put(b"a", b"1")
        yield put(b"a", b"2")
        seen: bytes | None = yield Does(lambda ledger: ledger.get(b"a"))
        return seen

    assert run(storage, steps).answer == b"2"


def test_a_step_that_changes_nothing_takes_no_number(storage: MemoryStorage) -> None:
    def steps() -> Steps[int]:
        yield Does(lambda ledger: None)
        number: int = yield told_of(1)
        return number

    assert run(storage, steps).answer == 5


def test_the_audit_lines_of_all_steps_are_one_chain(storage: MemoryStorage) -> None:
    def steps() -> Steps[None]:
        yield audited("one")
        yield put(b"a")
        yield audited("two")

    committed = run(storage, steps)
    assert committed.told is not None
    lines = [line for finished in committed.told for line in finished.audit_lines]
    assert verify_lines(lines).head == (2, committed.head.audit_hash)


@pytest.mark.parametrize("error", [RecordNotFound("no"), KeyError("bug")])
def test_a_step_that_raises_leaves_nothing_and_its_steps_are_closed(
    storage: MemoryStorage, error: Exception
) -> None:
    closed = []

    def fail(ledger: Ledger) -> None:
        ledger.put(b"b", b"")
        raise error

    def steps() -> Steps[None]:
        try:
            yield told_of(1)
            yield Does(fail)
        finally:
            closed.append(True)

    with pytest.raises(type(error)):
        run(storage, steps)
    assert (storage.rows(), closed) == ({}, [True])


def test_steps_may_raise_between_two_mutations(storage: MemoryStorage) -> None:
    def steps() -> Steps[None]:
        yield told_of(1)
        raise RecordNotFound("gone")

    with pytest.raises(RecordNotFound):
        run(storage, steps)
    assert storage.rows() == {}


def test_the_log_has_the_changes_of_each_step_in_a_row_of_its_own(storage: MemoryStorage) -> None:
    def steps() -> Steps[None]:
        yield told_of(1, 2)
        yield put(b"a")
        yield told_of(3)

    run(storage, steps)
    prefix = system_key(Table.LOG)
    with storage.read() as reader:
        rows = {
            unpack_sequence(row_key[len(prefix) :]): parse_log_row(value)
            for row_key, value in reader.scan(prefix, after(prefix))
        }
    changed = {
        sequence: [record_id for _, record_id in parse_addresses(row.changed)] for sequence, row in rows.items()
    }
    assert changed == {5: [an_id(1), an_id(2)], 7: [an_id(3)]}


def test_what_was_done_is_told_commit_by_commit_without_its_rows(storage: MemoryStorage) -> None:
    def steps() -> Steps[None]:
        yield told_of(1)
        yield told_of(2)

    told = run(storage, steps).told
    assert told is not None
    assert [finished.head.commit_sequence for finished in told] == [5, 6]
    assert [finished.effects.changed for finished in told] == [[(0, an_id(1))], [(0, an_id(2))]]
    assert [dict(finished.changes) for finished in told] == [{}, {}]


@pytest.mark.parametrize(("records", "is_told"), [(TOLD_MAX, True), (TOLD_MAX + 1, False)])
def test_too_much_is_not_told(storage: MemoryStorage, records: int, is_told: bool) -> None:
    def steps() -> Steps[None]:
        yield told_of(*range(records // 2))
        yield told_of(*range(records // 2, records))

    committed = run(storage, steps)
    assert (committed.told is not None) is is_told
    assert committed.head.commit_sequence == 6


def test_a_series_can_be_broken_off_at_every_step(storage: MemoryStorage) -> None:
    def steps() -> Steps[str]:
        yield put(b"a")
        yield put(b"b")
        return "done"

    for step in (1, 2):
        failpoints.arm("writer.series.step", passage=step)
        with pytest.raises(failpoints.InjectedCrash):
            run(storage, steps)
        assert storage.rows() == {}
    assert run(storage, steps).answer == "done"
