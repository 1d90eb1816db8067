"""What the index gets to know of a record, and of whom when another one changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.dialogue import ALONE
from cerememory.protocol.values import RecordId
from cerememory.storage.documents import changed_documents, stored_documents
from cerememory.storage.keys import DEFAULT_NAMESPACE, Address, Table, after, key, trailing_id
from cerememory.storage.ledger import Mutation
from cerememory.storage.text_index import IndexDocument
from tests.support.committing import a_record, an_id, commit, forgetting, storing, storing_raw, updating
from tests.support.engine import NOW, text_block
from tests.support.memory_storage import MemoryStorage

OTHER_NAMESPACE = 7


def turn(number: int, text: str, session: str | None = "s", **given: Any) -> Mutation[Any]:
    context = {"session_id": session, **given.pop("context", {})}
    return storing(a_record(number, text, NOW + number, context=context, **given))


def documents(storage: MemoryStorage, *numbers: int, namespace: int = DEFAULT_NAMESPACE) -> list[IndexDocument]:
    with storage.read() as reader:
        return stored_documents(reader, [(namespace, an_id(number)) for number in numbers])[0]


def document(storage: MemoryStorage, number: int, **given: Any) -> IndexDocument:
    [found] = documents(storage, number, **given)
    return found


@pytest.fixture
def storage() -> MemoryStorage:
    """A conversation of five turns."""
    made = MemoryStorage()
    said = ("one", "two?", "three", "four", "five")
    commit(made, *(turn(i, text, context={"source": "Ann" if i % 2 else "Ben"}) for i, text in enumerate(said, 1)))
    return made


def test_a_turn_has_words_of_two_turns_on_either_side(storage: MemoryStorage) -> None:
    contexts = [found.around.context for found in documents(storage, 1, 2, 3, 4, 5)]
    assert contexts == [
        ("two?", "three"),
        ("one", "three", "four"),
        ("one", "two?", "four", "five"),
        ("two?", "three", "five"),
        ("three", "four"),
    ]


def test_the_answer_to_a_question_has_its_words_once_more(storage: MemoryStorage) -> None:
    assert [found.around.asked for found in documents(storage, 1, 2, 3, 4, 5)] == ["", "", "two?", "", ""]


def test_a_turn_knows_its_speaker_and_who_spoke_around_it(storage: MemoryStorage) -> None:
    found = document(storage, 1)
    assert (found.speaker, found.around.speakers) == ("Ann", ("Ben", "Ann"))


def test_without_a_source_the_name_in_front_is_the_speaker() -> None:
    storage = MemoryStorage()
    commit(storage, storing(a_record(1, "Ann: hello")), storing(a_record(2, "hello")))
    assert [found.speaker for found in documents(storage, 1, 2)] == ["Ann", None]


def test_when_it_happened_is_told_by_the_context_or_by_when_it_was_made() -> None:
    storage = MemoryStorage()
    commit(storage, turn(1, "x", context={"temporal": {"at": "2021-05-08T10:00:00Z"}}), turn(2, "x"))
    given, made = documents(storage, 1, 2)
    assert "2021-05-08" in given.dates
    assert "2027-01-15" in made.dates


def test_what_is_said_about_a_turn_is_not_lent() -> None:
    storage = MemoryStorage()
    commit(storage, turn(1, "one", summary="short", meta={"intent": "why"}), turn(2, "two"))
    assert (document(storage, 1).text, document(storage, 1).summary) == ("one\nwhy", "short")
    assert document(storage, 2).around.context == ("one",)


def test_nothing_is_lent_to_another_session_or_namespace(storage: MemoryStorage) -> None:
    commit(storage, turn(6, "six", "t"), turn(7, "seven", None), turn(8, "eight", namespace=OTHER_NAMESPACE))
    assert [found.around.context for found in documents(storage, 6, 7)] == [(), ()]
    assert document(storage, 8, namespace=OTHER_NAMESPACE).around.context == ()
    assert document(storage, 5).around.context == ("three", "four")


@pytest.mark.parametrize("hidden", [{}, {"visibility": "sealed"}, {"secrecy_level": "secret"}])
def test_raw_entries_lend_nothing_to_anybody(storage: MemoryStorage, hidden: dict[str, Any]) -> None:
    before = documents(storage, 1, 2, 3, 4, 5)
    commit(storage, storing_raw(6, "password?", NOW + 3, session_id="s", **hidden))
    commit(storage, storing_raw(7, "said behind it", NOW + 4, session_id="s"))
    assert documents(storage, 1, 2, 3, 4, 5) == before
    raw = document(storage, 7)
    assert (raw.text, raw.around, raw.speaker) == ("said behind it", ALONE, None)


def indexed(storage: MemoryStorage, *mutations: Mutation[Any]) -> list[int]:
    """Whose documents are made anew by a commit of these."""
    _, finished = commit(storage, *mutations)
    assert finished is not None
    with storage.read() as reader:
        found, _missing = changed_documents(reader, finished.effects.changed, finished.effects.left)
    return sorted(int.from_bytes(each.record_id, "big") for each in found)


def test_a_new_turn_makes_the_two_before_it_anew(storage: MemoryStorage) -> None:
    assert indexed(storage, turn(6, "six")) == [4, 5, 6]


def test_a_batch_makes_each_once(storage: MemoryStorage) -> None:
    assert indexed(storage, turn(6, "six"), turn(7, "seven"), turn(8, "eight")) == [4, 5, 6, 7, 8]


def test_an_edit_makes_the_neighbours_anew(storage: MemoryStorage) -> None:
    assert indexed(storage, updating(2, content={"blocks": [text_block("edited")]})) == [1, 2, 3, 4]
    assert document(storage, 3).around.asked == ""


def test_what_is_forgotten_is_in_no_neighbours_words(storage: MemoryStorage) -> None:
    assert indexed(storage, forgetting(2)) == [1, 3, 4]
    assert "two?" not in str(documents(storage, 1, 3, 4, 5))


def test_two_forgotten_at_once_are_in_nobodys_words(storage: MemoryStorage) -> None:
    assert indexed(storage, forgetting(2), forgetting(3)) == [1, 4, 5]


def test_a_move_to_another_session_makes_both_anew(storage: MemoryStorage) -> None:
    commit(storage, turn(6, "six", "t"))
    moved = indexed(storage, updating(3, metadata={"_context": {"session_id": "t"}}))
    assert moved == [1, 2, 3, 4, 5, 6]
    assert document(storage, 6).around.context == ("three",)


def test_a_memory_of_no_session_is_made_anew_alone(storage: MemoryStorage) -> None:
    assert indexed(storage, storing(a_record(9, "alone"))) == [9]


NUMBERS, SESSIONS = st.integers(1, 9), st.sampled_from(["s", "t", None])
OPERATIONS = st.one_of(
    st.tuples(st.just("store"), NUMBERS, SESSIONS, st.integers(0, 9)),
    st.tuples(st.just("edit"), NUMBERS, st.sampled_from(["x?", "y"])),
    st.tuples(st.just("move"), NUMBERS, SESSIONS),
    st.tuples(st.just("forget"), NUMBERS),
)


class Followed:
    """A store, and the documents of one who hears of its commits, some of them late and together."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.documents: dict[Address, IndexDocument] = {}
        self._changed: list[Address] = []
        self._left: list[bytes] = []

    def do(self, operation: tuple[Any, ...]) -> None:
        _, finished = commit(self.storage, self._mutation(*operation))
        if finished is not None:
            self._changed += finished.effects.changed
            self._left += finished.effects.left

    def _mutation(self, kind: str, number: int, *given: Any) -> Mutation[Any]:
        match kind:
            case "store" if self._is_stored(number):
                return updating(number, emotion={"joy": 1.0})
            case "store":
                session, at = given
                context = {"session_id": session, "source": f"speaker {number % 2}"}
                return storing(a_record(number, f"text {number}?", NOW + at, context=context))
            case "edit":
                return updating(number, content={"blocks": [text_block(given[0])]})
            case "move":
                return updating(number, metadata={"_context": {"session_id": given[0]}})
            case _:
                return forgetting(number)

    def _is_stored(self, number: int) -> bool:
        return key(DEFAULT_NAMESPACE, Table.CONTENT, an_id(number)) in self.storage.rows()

    def follow(self) -> None:
        with self.storage.read() as reader:
            made, missing = changed_documents(reader, self._changed, self._left)
        self.documents |= {(each.namespace, each.record_id): each for each in made}
        for address in missing:
            self.documents.pop(address, None)
        self._changed, self._left = [], []

    def anew(self) -> dict[Address, IndexDocument]:
        """The documents as a rebuild makes them."""
        with self.storage.read() as reader:
            made, _ = stored_documents(reader, [(DEFAULT_NAMESPACE, each) for each in self._stored()])
        return {(each.namespace, each.record_id): each for each in made}

    def _stored(self) -> Iterable[RecordId]:
        prefix = key(DEFAULT_NAMESPACE, Table.CONTENT)
        with self.storage.read() as reader:
            return [trailing_id(row_key) for row_key, _ in reader.scan(prefix, after(prefix))]


@settings(max_examples=60)
@given(st.lists(st.tuples(OPERATIONS, st.booleans()), min_size=5, max_size=40))
def test_whatever_happened_and_whenever_it_was_heard_of_documents_are_those_of_a_rebuild(
    history: list[tuple[tuple[Any, ...], bool]],
) -> None:
    followed = Followed()
    for operation, is_heard in history:
        followed.do(operation)
        if is_heard:
            followed.follow()
            assert followed.documents == followed.anew()
    followed.follow()
    assert followed.documents == followed.anew()
