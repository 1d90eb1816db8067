"""Which raw entries wait for a dream, and how a tick finds them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cerememory.domain.dreaming import DAY_NS
from cerememory.errors import StorageDamaged
from cerememory.protocol.records import SecrecyLevel, Visibility
from cerememory.storage import pending
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, counters_key, digest, key
from cerememory.storage.ledger import Ledger
from cerememory.storage.pending import Wanted, oldest_pending_at, pending_groups
from cerememory.storage.removal import remove_raw
from cerememory.storage.rows import dump_row, parse_counters, parse_raw_row
from tests.support.committing import an_id, commit, storing_raw
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage

OTHER = 5
NORMAL, ALL = frozenset({0}), frozenset({0, 1, 2})
USUAL = Wanted(NORMAL, frozenset({0, 1}))
EVERYTHING = Wanted(ALL, ALL)
PROCESSED = {"_dream": {"processed_at": "2026-01-01T00:00:00+00:00"}}


class RemoveRaw:
    namespace = DEFAULT_NAMESPACE

    def __init__(self, number: int) -> None:
        self.number = number

    def apply(self, ledger: Ledger) -> None:
        assert remove_raw(ledger, an_id(self.number)) is not None


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def found(storage: MemoryStorage, wanted: Wanted = USUAL, groups_max: int = 99, **given: Any) -> list[list[int]]:
    with storage.read() as reader:
        groups = pending_groups(reader, given.get("namespace", DEFAULT_NAMESPACE), wanted, groups_max)
    return [[int.from_bytes(entry.record_id, "big") for entry in group.entries] for group in groups]


def waiting(storage: MemoryStorage, namespace: int = DEFAULT_NAMESPACE) -> tuple[int, int]:
    """What the counter says, and how many rows there are."""
    prefix = key(namespace, Table.RAW_PENDING)
    with storage.read() as reader:
        counters = parse_counters(reader.get(counters_key(namespace)))
        return counters.raw_pending_dream, len(list(reader.scan(prefix, after(prefix))))


def test_what_is_stored_raw_waits(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(1), storing_raw(2), storing_raw(3, namespace=OTHER))
    assert waiting(storage) == (2, 2)
    assert waiting(storage, OTHER) == (1, 1)
    assert found(storage) == [[1, 2]]
    assert found(storage, namespace=OTHER) == [[3]]


def test_what_was_dreamt_of_before_it_came_does_not_wait(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(1, metadata=PROCESSED), storing_raw(2, metadata={"_dream": {}}))
    assert waiting(storage) == (1, 1)
    assert found(storage) == [[2]]


def test_what_is_removed_does_not_wait(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(1), storing_raw(2), storing_raw(3, metadata=PROCESSED))
    commit(storage, RemoveRaw(1), RemoveRaw(3))
    assert waiting(storage) == (1, 1)
    assert found(storage) == [[2]]


def test_a_tick_sees_what_it_may_in_the_order_of_time(storage: MemoryStorage) -> None:
    kinds = [(visibility, secrecy) for visibility in Visibility for secrecy in SecrecyLevel]
    for i, (visibility, secrecy) in enumerate(kinds):
        commit(storage, storing_raw(i, created_at=NOW - i, visibility=visibility, secrecy_level=secrecy))
    assert waiting(storage) == (9, 9)
    assert found(storage) == [[1, 0]]
    assert found(storage, EVERYTHING) == [[8, 7, 6, 5, 4, 3, 2, 1, 0]]
    assert found(storage, Wanted(frozenset({2}), frozenset({2}))) == [[8]]
    assert found(storage, Wanted(NORMAL, frozenset())) == []


def test_a_session_can_be_asked_for(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(1, session_id="s-1"), storing_raw(2, session_id="s-2"))
    assert found(storage, Wanted(NORMAL, NORMAL, digest("s-2"))) == [[2]]
    assert found(storage, Wanted(NORMAL, NORMAL, digest("s-3"))) == []


def test_suppressed_entries_are_passed_by(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(1), storing_raw(2))
    row_key = key(DEFAULT_NAMESPACE, Table.RAW, an_id(1))
    with storage.read() as reader:
        row = parse_raw_row(reader.get(row_key) or b"")
    storage.commit({row_key: dump_row(msgspec.structs.replace(row, suppressed=True))})
    assert found(storage) == [[2]]


def test_the_oldest_groups_come_first_and_later_days_are_not_read_for_them(storage: MemoryStorage) -> None:
    for i in range(4):
        commit(storage, storing_raw(i, created_at=NOW + i * DAY_NS))
    doomed = key(DEFAULT_NAMESPACE, Table.RAW, an_id(3))
    storage.commit({doomed: None})
    assert found(storage, groups_max=2) == [[0], [1]]
    assert found(storage, groups_max=0) == []
    with pytest.raises(StorageDamaged):
        found(storage)


def test_of_a_day_only_so_many_entries_are_read(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "DAY_ENTRIES_MAX", 2)
    commit(storage, *(storing_raw(i, created_at=NOW + i) for i in range(3)))
    commit(storage, storing_raw(9, created_at=NOW + DAY_NS))
    assert found(storage) == [[0, 1], [9]]


def test_an_entry_is_read_as_it_stands(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(1, "the tide\nis high", topic_id="tides", visibility="sealed"))
    with storage.read() as reader:
        [group] = pending_groups(reader, DEFAULT_NAMESPACE, EVERYTHING, 1)
    [entry] = group.entries
    assert (entry.text, entry.topic_id, entry.visibility) == ("the tide is high", "tides", Visibility.SEALED)
    assert (entry.session_id, entry.secrecy_level, entry.created_at) == ("s-1", SecrecyLevel.PUBLIC, NOW)


def test_the_oldest_time_is_that_of_what_may_be_seen(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(1, created_at=NOW - 5, visibility="sealed"), storing_raw(2, created_at=NOW))
    with storage.read() as reader:
        assert oldest_pending_at(reader, DEFAULT_NAMESPACE, USUAL) == NOW
        assert oldest_pending_at(reader, DEFAULT_NAMESPACE, EVERYTHING) == NOW - 5
        assert oldest_pending_at(reader, OTHER, EVERYTHING) is None
