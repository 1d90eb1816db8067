"""Namespaces: each name has one number for ever, counted up from 1, and is known by the first thing under it."""

from __future__ import annotations

import pytest

from cerememory.errors import ValidationFailed
from cerememory.protocol.namespaces import DEFAULT_NAME
from cerememory.protocol.requests import RecallMode
from cerememory.storage import namespaces
from cerememory.storage.contract import Storage
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.modes import SetModes
from cerememory.storage.namespaces import OpenNamespace, names_in, namespace_of, namespaces_of
from tests.support.committing import a_record, commit, storing, storing_raw
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def opened(storage: Storage, *names: str) -> list[object]:
    """The numbers that the names are given in one transaction."""
    answers, _finished = commit(storage, *map(OpenNamespace, names))
    return answers


def known(storage: Storage, name: str) -> int | None:
    with storage.read() as reader:
        return namespace_of(reader, name)


def test_names_are_counted_up_in_the_order_in_which_they_came(storage: MemoryStorage) -> None:
    assert [opened(storage, name) for name in ("work", "home", "a")] == [[1], [2], [3]]
    assert [known(storage, name) for name in ("work", "home", "a")] == [1, 2, 3]


def test_a_name_keeps_its_number_and_asking_again_writes_nothing(storage: MemoryStorage) -> None:
    opened(storage, "work", "home")
    before = storage.rows()
    assert opened(storage, "work", "home") == [1, 2]
    assert storage.rows() == before
    assert len(storage.commits) == 1


def test_two_at_once_get_one_number(storage: MemoryStorage) -> None:
    assert opened(storage, "work", "work", "home", "work") == [1, 1, 2, 1]
    assert opened(storage, "next") == [3]


def test_a_name_that_nobody_opened_is_not_known(storage: MemoryStorage) -> None:
    opened(storage, "work")
    assert known(storage, "home") is None
    assert known(storage, "wor") is None
    assert known(storage, "works") is None


def test_the_default_one_is_always_there_and_has_no_row(storage: MemoryStorage) -> None:
    assert known(storage, DEFAULT_NAME) == DEFAULT_NAMESPACE
    assert storage.rows() == {}


def test_names_differ_by_case(storage: MemoryStorage) -> None:
    assert opened(storage, "Work", "work") == [1, 2]


def test_their_number_is_bounded_and_those_that_are_there_stay(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces, "NAMESPACES_MAX", 3)
    opened(storage, "a", "b")
    third, fourth, again = opened(storage, "c", "d", "a")
    assert (third, again) == (3, 1)
    assert isinstance(fourth, ValidationFailed)
    assert "3 already" in str(fourth)
    assert known(storage, "d") is None


def test_those_in_which_something_was_stored_are_listed_ascending(storage: MemoryStorage) -> None:
    assert namespaces_of(storage) == []
    opened(storage, "a", "b", "c")
    assert namespaces_of(storage) == [], "names alone are nothing"
    commit(storage, storing_raw(1, namespace=3))
    commit(storage, storing(a_record(1)), storing(a_record(1, namespace=1)))
    assert namespaces_of(storage) == [DEFAULT_NAMESPACE, 1, 3]


def test_the_names_of_those_in_which_nothing_was_stored_arent_shown(storage: MemoryStorage) -> None:
    opened(storage, "owl", "heron", "fox", "elk")
    assert names_in(storage) == ["default"]
    commit(storage, storing(a_record(1, namespace=1)), storing_raw(2, namespace=3))
    assert names_in(storage) == ["default", "fox", "owl"]
    commit(storage, SetModes(2, RecallMode.PERFECT, None, NOW))
    assert names_in(storage) == ["default", "fox", "heron", "owl"]


def test_more_than_a_byte_of_them_are_listed_ascending_too(storage: MemoryStorage) -> None:
    numbers = [1, 255, 256, 65_536]
    commit(storage, *(storing(a_record(1, namespace=number)) for number in reversed(numbers)))
    assert namespaces_of(storage) == numbers
