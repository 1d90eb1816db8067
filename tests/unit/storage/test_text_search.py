"""Searching the text index: what is found, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.analysis import tokens
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN
from cerememory.storage import text_search
from cerememory.storage.text_index import Found, RawFound, TextIndex
from tests.support.indexed import (
    EPISODIC,
    OTHER_SESSION,
    SEMANTIC,
    SESSION,
    WORKING,
    found,
    memory,
    numbers,
    put,
    raw,
    search_raw,
)


@pytest.fixture
def index() -> Iterator[TextIndex]:
    opened = TextIndex.open(None)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("she was running in the hills", "run hill"),
        ("we had meetings about memories", "meeting memory"),
        ("Café Zoë in Łódź", "cafe zoe lodz"),
        ("cafe zoe", "CAFÉ ZOË"),
        ("東京都庁へ行く", "京都"),
        ("昨日は猫と遊んだ", "猫"),
        ("我爱北京天安门", "天安"),
        ("서울에서 만나요", "서울"),
        ("東京都庁へ行くby Python3", "python3"),
        ("Linuxの設定", "設定"),
        ("see config.yaml: max_connections=12", "max_connections"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_a_text_is_found_by_words_in_another_form(index: TextIndex, text: str, query: str) -> None:
    put(index, memory(1, text), memory(2, "something else"))
    assert found(index, query) == [1]


@pytest.mark.parametrize(
    "query",
    [
        '"alpha',
        "alpha)",
        "((alpha",
        "text:alpha",
        "-alpha",
        "+beta alpha^3",
        "alpha~2",
        "NOT alpha",
        "alpha AND missing",
        "id:[* TO *] alpha",
        "alpha\\",
        "alpha OR",
        "\x00alpha\ud800",
    ],
)
def test_query_syntax_is_taken_as_plain_words(index: TextIndex, query: str) -> None:
    put(index, memory(1, "alpha"), memory(2, "gamma"))
    assert found(index, query) == [1]


def test_operators_are_words_that_can_be_found(index: TextIndex) -> None:
    put(index, memory(1, "the boolean AND of two"), memory(2, "neither"))
    assert found(index, "AND") == [1]


@pytest.mark.parametrize("query", ["", "   ", "?!", "🎉", '"" ()'])
def test_a_query_without_words_finds_nothing(index: TextIndex, query: str) -> None:
    put(index, memory(1, "alpha"), raw(2, "alpha"))
    assert index.snapshot().search(query, None, 10) == Found([], 0)
    assert search_raw(index, query) == RawFound([], 0)


def test_a_query_of_stop_words_alone_is_searched(index: TextIndex) -> None:
    put(index, memory(1, "a concert of The Who"), memory(2, "a concert"))
    assert found(index, "the who") == [1]


def test_stop_words_find_nothing_beside_another_word(index: TextIndex) -> None:
    put(index, memory(1, "who is that"), memory(2, "my guitar"))
    assert found(index, "who has the guitar") == [2]


def test_a_summary_is_found_too_behind_the_words_of_a_text(index: TextIndex) -> None:
    put(index, memory(1, "the garden"), memory(2, "notes", summary="the garden"), memory(3, "notes"))
    assert found(index, "garden") == [1, 2]


def test_a_word_as_it_is_written_counts_more_than_its_stem(index: TextIndex) -> None:
    put(index, memory(1, "the kettle is in the kitchen"), memory(2, "kettles boil", summary="kettle fact"))
    assert found(index, "kettle") == [1, 2]


def test_a_memory_with_more_of_the_words_comes_first(index: TextIndex) -> None:
    put(index, memory(1, "red bicycle"), memory(2, "red car"), memory(3, "blue bicycle"))
    assert found(index, "a red bicycle")[0] == 1


def test_equal_scores_are_ordered_newest_first_and_then_by_id(index: TextIndex) -> None:
    put(index, *(memory(i, "same", created_at=[5, 9, 5, 9][i]) for i in range(4)))
    assert found(index, "same") == [1, 3, 0, 2]


def test_ties_at_the_limit_are_broken_the_same_way(index: TextIndex) -> None:
    for i in range(30):
        put(index, memory(i, "same"))
    assert numbers(index.snapshot().search("same", None, 3)) == [29, 28, 27]


def test_ties_beyond_the_bound_still_give_as_many_as_asked(
    index: TextIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_search, "TIES_MAX", 5)
    put(index, *(memory(i, "same") for i in range(40)))
    assert len(found(index, "same")) == 40
    assert len(index.snapshot().search("same", None, 3).hits) == 3


def test_a_hit_says_what_it_is(index: TextIndex) -> None:
    document = memory(2**64 - 1, "alpha", store_code=SEMANTIC, created_at=-5)
    put(index, document)
    (hit,) = index.snapshot().search("alpha", None, 1).hits
    assert hit[:3] == (document.record_id, SEMANTIC, -5)
    assert hit.score > 0


def test_a_word_that_is_everywhere_still_has_a_score(index: TextIndex) -> None:
    put(index, *(memory(i, "everywhere") for i in range(2_000)))
    assert all(hit.score > 0 for hit in index.snapshot().search("everywhere", None, 5).hits)


def test_the_total_counts_what_the_limit_cuts(index: TextIndex) -> None:
    put(index, *(memory(i, "alpha") for i in range(5)))
    assert index.snapshot().search("alpha", None, 0) == Found([], 5)
    assert index.snapshot().search("alpha", None, 2).total == 5


@pytest.mark.parametrize(
    ("stores", "expected"),
    [
        (None, [0, 1, 2, 3, 4]),
        (frozenset({EPISODIC}), [0]),
        (frozenset({SEMANTIC, WORKING}), [1, 4]),
        (frozenset(range(5)), [0, 1, 2, 3, 4]),
        (frozenset(), []),
    ],
)
def test_only_the_stores_asked_for_are_searched(
    index: TextIndex, stores: frozenset[int] | None, expected: list[int]
) -> None:
    put(index, *(memory(code, "alpha", store_code=code) for code in range(5)), raw(9, "alpha"))
    assert sorted(found(index, "alpha", stores)) == expected


def test_a_store_filter_leaves_scores_as_they_are(index: TextIndex) -> None:
    put(index, memory(1, "alpha beta"), memory(2, "alpha", store_code=SEMANTIC))
    everywhere = index.snapshot().search("alpha", None, 10).hits
    assert index.snapshot().search("alpha", frozenset({SEMANTIC}), 10).hits == [everywhere[0]]


def test_raw_entries_change_nothing_in_the_ranking_of_memories(index: TextIndex) -> None:
    put(index, *(memory(i, f"{'alpha ' * (i % 3)}{'beta ' * (i % 5)}gamma") for i in range(200)))
    before = index.snapshot().search("alpha beta", None, 50).hits
    put(index, *(raw(i, "alpha") for i in range(1_000, 3_000)))
    after = index.snapshot().search("alpha beta", None, 50).hits
    assert [hit.record_id for hit in after] == [hit.record_id for hit in before]
    assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], rel=0.02)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [1, 2, 3, 4]),
        ({"session": SESSION}, [1, 3, 4]),
        ({"session": b"u" * 16}, []),
        ({"start_ns": 2}, [2, 3, 4]),
        ({"end_ns": 2}, [1, 2]),
        ({"start_ns": 2, "end_ns": 3}, [2, 3]),
        ({"start_ns": 3, "end_ns": 2}, []),
        ({"start_ns": -(2**70), "end_ns": 2**70}, [1, 2, 3, 4]),
        ({"visibilities": {0, 1, 2}}, [1, 2, 3, 4, 5]),
        ({"visibilities": {2}}, [5]),
        ({"visibilities": set()}, []),
        ({"secrecies": {1}}, [4]),
        ({"secrecies": {0, 1, 2}}, [1, 2, 3, 4, 6]),
        ({"text": "alpha"}, [1, 2, 4]),
        ({"text": "alphas betas"}, [2, 4]),
        ({"text": "which alpha", "session": SESSION, "start_ns": 2}, [4]),
        ({"text": "missing"}, []),
    ],
)
def test_raw_entries_pass_every_filter_oldest_first(
    index: TextIndex, given: dict[str, Any], expected: list[int]
) -> None:
    put(
        index,
        raw(4, "alpha beta", secrecy=1),
        raw(1, "alpha"),
        raw(3, "beta"),
        raw(2, "beta alpha", session=OTHER_SESSION),
        raw(5, "sealed", visibility=2),
        raw(6, "secret", secrecy=2),
        memory(7, "alpha beta"),
    )
    entries = search_raw(index, **given)
    assert (numbers(entries), entries.total) == (expected, len(expected))


def test_raw_entries_of_one_moment_are_ordered_by_id(index: TextIndex) -> None:
    for i in reversed(range(20)):
        put(index, raw(i, "alpha", created_at=TIMESTAMP_MAX))
    put(index, raw(99, "alpha", created_at=TIMESTAMP_MIN))
    entries = search_raw(index, "alpha", limit=4)
    assert (numbers(entries), entries.total) == ([99, 0, 1, 2], 21)
    assert search_raw(index, "alpha", limit=0) == RawFound([], 21)


def test_raw_entries_are_found_by_their_summary(index: TextIndex) -> None:
    put(index, raw(1, "text", summary="in short"))
    assert numbers(search_raw(index, "short")) == [1]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=8))
def test_every_document_is_found_by_each_of_its_words(texts: list[str]) -> None:
    index = TextIndex.open(None)
    put(index, *(memory(i, text) for i, text in enumerate(texts)))
    snapshot = index.snapshot()
    for i, text in enumerate(texts):
        for word in tokens(text):
            assert i in numbers(snapshot.search(word, None, 100))
    index.close()
