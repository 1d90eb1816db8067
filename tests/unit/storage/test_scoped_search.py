"""Searching the text index within a scope: who is in it, in which order, and with which scores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cerememory.domain.dialogue import Surroundings
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN
from cerememory.storage import text_search
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.text_index import IndexDocument, TextIndex
from tests.support.indexed import EPISODIC, SEMANTIC, an_id, found, hits, memory, numbers, put, raw

RED, BLUE = "0" * 32, "1" * 32
ALWAYS = (TIMESTAMP_MIN, TIMESTAMP_MAX)


@pytest.fixture
def index() -> Iterator[TextIndex]:
    opened = TextIndex.open(None)
    yield opened
    opened.close()


def kettles(count: int) -> list[IndexDocument]:
    """Every third is red, every fifth blue; the others are in front of both by their words."""
    scopes = [tuple(term for term, every in ((RED, 3), (BLUE, 5)) if i % every == 0) for i in range(count)]
    texts = ["a kettle stood on the stove" if scope else "kettle" for scope in scopes]
    return [
        memory(i, text, scope=scope, store_code=i % 2)
        for i, (scope, text) in enumerate(zip(scopes, texts, strict=True))
    ]


@pytest.mark.parametrize(
    ("scope", "every"), [((RED,), 3), ((BLUE,), 5), ((RED, BLUE), 15), ((BLUE, RED, RED), 15)]
)
def test_only_those_with_all_terms_are_found(index: TextIndex, scope: tuple[str, ...], every: int) -> None:
    put(index, *kettles(60))
    expected = list(range(0, 60, every))
    assert sorted(found(index, "kettle", scope=scope)) == expected
    assert found(index, "kettle", 2, scope=scope) == expected[-1:-3:-1], "equally good ones: the newest"
    assert found(index, "saucer", scope=scope) == []
    newest = index.snapshot().newest_within(scope, None, *ALWAYS, 100)
    assert sorted(numbers(newest)) == expected
    assert index.snapshot().few_within(scope, 100) == frozenset(map(an_id, expected))


def test_a_scope_leaves_scores_as_they_are_and_their_parts_too(index: TextIndex) -> None:
    put(index, *kettles(40), memory(99, "the copper kettle", scope=(RED,), summary="an heirloom"))
    every = {hit.record_id: hit for hit in hits(index, "kettle stove copper heirloom", explain=True)}
    within = hits(index, "kettle stove copper heirloom", explain=True, scope=(RED,))
    assert len(within) == 15
    assert [every[hit.record_id] for hit in within] == within
    assert all(hit.parts is not None and sum(hit.parts) == pytest.approx(hit.score) for hit in within)


def test_a_store_filter_holds_in_a_scope_too(index: TextIndex) -> None:
    put(index, *kettles(30))
    assert sorted(found(index, "kettle", scope=(RED,), stores={SEMANTIC})) == [3, 9, 15, 21, 27]
    assert numbers(index.snapshot().newest_within((RED,), {EPISODIC}, *ALWAYS, 2)) == [24, 18]


def test_what_is_outside_doesnt_say_how_much_a_name_counts_inside(index: TextIndex) -> None:
    """Outside something fits the words so well that a share of its score is more than the words give inside."""
    put(
        index,
        memory(1, "a kettle " + "and other things of the house " * 20, scope=(RED,)),
        memory(2, "tea", scope=(RED,), speaker="Ada"),
        memory(3, "kettle kettle", around=Surroundings(context=("kettle", "kettle"))),
        *(memory(100 + i, "tea") for i in range(50)),
    )
    within = hits(index, "Did Ada have a kettle?", scope=(RED,), explain=True)
    assert numbers(within) == [1, 2]
    parts = {number: hit.parts for number, hit in zip(numbers(within), within, strict=True) if hit.parts}
    assert parts[2].who == pytest.approx(2 * sum(parts[1]) / 3, rel=1e-3), (
        "a third for saying it, one for being there"
    )
    everywhere = found(index, "Did Ada have a kettle?")
    assert everywhere.index(2) < everywhere.index(1), "else nothing is shown here"


def test_the_newest_are_within_a_span_and_come_with_whoever_ties_with_the_last(index: TextIndex) -> None:
    times = (-5, 1, 2, 2, 2, 3, 4)
    put(index, *(memory(i, "kettle", created_at=at, scope=(RED,)) for i, at in enumerate(times)))
    put(index, memory(50, "kettle", created_at=2, scope=(BLUE,)), raw(60, "kettle", created_at=2))
    snapshot = index.snapshot()
    assert numbers(snapshot.newest_within((RED,), None, *ALWAYS, 2)) == [6, 5]
    assert sorted(numbers(snapshot.newest_within((RED,), None, *ALWAYS, 3))) == [2, 3, 4, 5, 6]
    assert sorted(numbers(snapshot.newest_within((RED,), None, -5, 1, 9))) == [0, 1]
    assert [hit.created_at for hit in snapshot.newest_within((RED,), None, -9, 0, 9)] == [-5]


def test_few_are_named_and_more_are_not(index: TextIndex) -> None:
    put(index, *kettles(30))
    assert index.snapshot().few_within((RED,), 9) is None
    few = index.snapshot().few_within((RED,), 10)
    assert few is not None
    assert len(few) == 10
    assert index.snapshot().few_within(("2" * 32,), 10) == frozenset()


def test_of_records_those_in_the_scope_are_named(index: TextIndex) -> None:
    put(index, *kettles(30))
    asked = [an_id(number) for number in (0, 1, 3, 5, 15, 77)]
    among = index.snapshot().among(DEFAULT_NAMESPACE, (RED,), asked)
    assert among == {an_id(0), an_id(3), an_id(15)}
    assert index.snapshot().among(DEFAULT_NAMESPACE + 1, (RED,), asked) == frozenset()
    assert index.snapshot().among(DEFAULT_NAMESPACE, (RED,), []) == frozenset()


def test_a_document_in_another_scope_takes_the_place_of_the_old_one(index: TextIndex) -> None:
    put(index, memory(1, "kettle", scope=(RED,)))
    put(index, memory(1, "kettle", scope=(BLUE,)))
    assert (found(index, "kettle", scope=(RED,)), found(index, "kettle", scope=(BLUE,))) == ([], [1])


def test_ties_within_a_scope_beyond_the_bound_still_give_as_many_as_asked(
    index: TextIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_search, "TIES_MAX", 3)
    monkeypatch.setattr(text_search, "TIES_FIRST", 1)
    put(index, *(memory(i, "kettle", created_at=7, scope=(RED,)) for i in range(40)))
    assert len(index.snapshot().newest_within((RED,), None, *ALWAYS, 10)) >= 10
    assert len(found(index, "kettle", 10, scope=(RED,))) == 10
