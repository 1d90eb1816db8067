"""Who belongs together: places of memories in the order of their session."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.storage.groups import before, behind, place_of
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, key, parse_places, trailing_id
from tests.support.committing import a_record, an_id, commit, forgetting, storing, updating
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage


def turn(
    number: int, session: Any = "s", *, created_at: int | None = None, namespace: int = DEFAULT_NAMESPACE
) -> Any:
    at = NOW + number if created_at is None else created_at
    return storing(a_record(number, created_at=at, namespace=namespace, context={"session_id": session}))


def place(number: int, session: str = "s", **given: Any) -> bytes:
    record = a_record(number, created_at=NOW + number, context={"session_id": session}, **given)
    found = place_of(record.namespace, record.record_id, record.row)
    assert found is not None
    return found


def around(storage: MemoryStorage, number: int, session: str = "s") -> tuple[list[int], list[int]]:
    with storage.read() as reader:
        found = before(reader, place(number, session), 2), behind(reader, place(number, session), 2)
    first, last = ([int.from_bytes(trailing_id(each), "big") for each in places] for places in found)
    return first, last


def members(storage: MemoryStorage) -> list[int]:
    prefix = key(DEFAULT_NAMESPACE, Table.GROUPS)
    with storage.read() as reader:
        return [int.from_bytes(trailing_id(row_key), "big") for row_key, _ in reader.scan(prefix, after(prefix))]


def test_the_nearest_on_either_side_come_in_the_order_of_the_session() -> None:
    storage = MemoryStorage()
    commit(storage, *map(turn, (5, 3, 1, 2, 4)))
    assert around(storage, 3) == ([1, 2], [4, 5])
    assert around(storage, 1) == ([], [2, 3])
    assert around(storage, 5) == ([3, 4], [])


def test_other_sessions_other_namespaces_and_what_has_no_session_stand_apart() -> None:
    storage = MemoryStorage()
    commit(storage, turn(1), turn(2, "t"), turn(3), turn(4, None), turn(5, " "), turn(6, namespace=7), turn(7))
    commit(storage, storing(a_record(8, metadata={"_context": "s"})))
    assert around(storage, 3) == ([1], [7])
    assert around(storage, 2, "t") == ([], [])


def test_turns_of_one_moment_are_in_the_order_of_their_ids() -> None:
    storage = MemoryStorage()
    commit(storage, *(turn(number, created_at=NOW + 2) for number in (3, 1, 2)))
    assert around(storage, 2) == ([1], [3])


@given(before_zero=st.integers(-(2**40), -1))
def test_times_before_the_epoch_sort_before_those_behind_it(before_zero: int) -> None:
    storage = MemoryStorage()
    commit(storage, turn(9, created_at=before_zero), turn(1))
    assert around(storage, 1) == ([9], [])


def test_working_memory_has_no_place() -> None:
    storage = MemoryStorage()
    commit(storage, storing(a_record(1, store="working", context={"session_id": "s"})))
    assert members(storage) == []


@pytest.mark.parametrize(
    ("session", "left"), [({"session_id": "t"}, True), ({"session_id": "s", "source": "Ann"}, False), (None, True)]
)
def test_an_edit_of_the_context_moves_a_memory(session: Any, left: bool) -> None:
    storage = MemoryStorage()
    commit(storage, turn(1), turn(2))
    _, finished = commit(storage, updating(1, metadata={"_context": session}))
    assert finished is not None
    assert finished.effects.left == ([place(1)] if left else [])
    assert around(storage, 2) == (([] if left else [1]), [])


def test_what_is_forgotten_leaves_its_place_and_the_log_knows_which() -> None:
    storage = MemoryStorage()
    commit(storage, turn(1), turn(2), turn(3))
    _, finished = commit(storage, forgetting(2), forgetting(1))
    assert finished is not None
    assert finished.effects.left == [place(2), place(1)] == parse_places(place(2) + place(1))
    assert members(storage) == [3]


def test_an_edit_of_the_words_leaves_a_memory_where_it_is() -> None:
    storage = MemoryStorage()
    commit(storage, turn(1), turn(2))
    _, finished = commit(storage, updating(1, emotion={"joy": 1.0}))
    assert finished is not None
    assert (finished.effects.left, finished.effects.changed) == ([], [(DEFAULT_NAMESPACE, an_id(1))])
