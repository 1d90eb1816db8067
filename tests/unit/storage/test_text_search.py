"""Searching the text index: what is found, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tantivy import DocAddress

from cerememory.domain.analysis import tokens
from cerememory.domain.dialogue import Surroundings
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN
from cerememory.storage import text_search
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.text_index import Hit, Hits, RawFound, TextIndex
from cerememory.storage.text_search import MADE_AT_ONCE, SCORE_STEPS, _InOrder
from tests.support.indexed import (
    EPISODIC,
    OTHER_SESSION,
    SEMANTIC,
    SESSION,
    WORKING,
    an_id,
    found,
    hits,
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
    assert hits(index, query) == []
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
    assert found(index, "same", 3) == [29, 28, 27]


def test_ties_beyond_the_bound_still_give_as_many_as_asked(
    index: TextIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_search, "TIES_MAX", 5)
    put(index, *(memory(i, "same") for i in range(40)))
    assert len(found(index, "same")) == 40
    assert len(hits(index, "same", 3)) == 3


def test_a_hit_says_what_it_is(index: TextIndex) -> None:
    document = memory(2**64 - 1, "alpha", store_code=SEMANTIC, created_at=-5)
    put(index, document)
    (hit,) = hits(index, "alpha", 1)
    assert (hit.record_id, hit.store_code, hit.created_at) == (document.record_id, SEMANTIC, -5)
    assert hit.score > 0


def test_a_word_that_is_everywhere_still_has_a_score(index: TextIndex) -> None:
    put(index, *(memory(i, "everywhere") for i in range(2_000)))
    assert all(hit.score > 0 for hit in hits(index, "everywhere", 5))


def test_no_more_than_the_limit_is_answered(index: TextIndex) -> None:
    put(index, *(memory(i, "alpha") for i in range(5)))
    assert [len(hits(index, "alpha", limit)) for limit in (0, 1, 2, 9)] == [0, 1, 2, 5]


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
    assert sorted(found(index, "alpha", stores=stores)) == expected


def test_a_store_filter_leaves_scores_as_they_are(index: TextIndex) -> None:
    put(index, memory(1, "alpha beta"), memory(2, "alpha", store_code=SEMANTIC))
    everywhere = hits(index, "alpha", 10)
    assert hits(index, "alpha", stores={SEMANTIC}) == [everywhere[0]]


def test_raw_entries_change_nothing_in_the_ranking_of_memories(index: TextIndex) -> None:
    put(index, *(memory(i, f"{'alpha ' * (i % 3)}{'beta ' * (i % 5)}gamma") for i in range(200)))
    before = hits(index, "alpha beta", 50)
    put(index, *(raw(i, "alpha") for i in range(1_000, 3_000)))
    after = hits(index, "alpha beta", 50)
    assert [hit.record_id for hit in after] == [hit.record_id for hit in before]
    assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], rel=0.02)


def lent(*texts: str, asked: str = "", speakers: tuple[str, ...] = ()) -> Surroundings:
    return Surroundings(texts, asked, speakers)


def test_a_memory_is_found_by_the_words_around_it_behind_those_that_have_them(index: TextIndex) -> None:
    around = lent("sanding the canoe", "more varnish")
    put(index, memory(1, "it takes a week", around=around), memory(2, "the canoe"), memory(3, "something else"))
    assert found(index, "canoes") == [2, 1]


def test_of_two_answers_the_one_to_the_question_comes_first(index: TextIndex) -> None:
    question = "how was the journey"
    put(index, memory(1, "long", around=lent(question, asked=question)), memory(2, "short", around=lent(question)))
    assert found(index, "the journey") == [1, 2]


def test_of_two_who_said_the_same_the_one_that_is_named_comes_first(index: TextIndex) -> None:
    put(index, memory(1, "a red kettle", speaker="Ann Lee"), memory(2, "a red kettle", speaker="Ben"))
    for name, expected in (("Ann", [1, 2]), ("ann lee", [1, 2]), ("Lee", [1, 2]), ("BEN", [2, 1])):
        assert found(index, f"the kettle of {name}") == expected


def test_with_two_named_what_both_took_part_in_comes_first(index: TextIndex) -> None:
    with_ann, with_ben = lent(speakers=("Ann",)), lent(speakers=("Ben",))
    put(
        index,
        memory(1, "kettle", speaker="Ann"),
        memory(2, "kettle", speaker="Ann", around=with_ben),
        memory(3, "kettle", speaker="Cleo", around=with_ann),
        memory(4, "kettle", speaker="Cleo"),
        memory(5, "hello", speaker="Ben"),
    )
    assert found(index, "the kettle of Ann and Ben") == [2, 3, 1, 4, 5]


def test_a_name_that_nobody_has_is_a_word(index: TextIndex) -> None:
    put(index, memory(1, "Ann has a kettle"), memory(2, "a kettle"))
    assert found(index, "Ann kettle") == [1, 2]
    put(index, memory(3, "hello", speaker="Ann"))
    assert found(index, "Ann") == [1, 3]


def test_a_date_prefers_what_happened_then_and_keeps_out_nothing(index: TextIndex) -> None:
    may, june = ("--05", "2021", "2021-05"), ("--06", "2021", "2021-06")
    put(
        index,
        memory(1, "the kettle", dates=may),
        memory(2, "the kettle", dates=june),
        memory(3, "a cup", dates=june),
    )
    assert found(index, "the kettle of June 2021") == [2, 1, 3]
    assert found(index, "what happened in June 2021") == [3, 2]
    assert found(index, "the kettle of May") == [1, 2]
    assert sorted(found(index, "in 2021")) == [1, 2, 3]


def test_a_bare_word_is_no_date(index: TextIndex) -> None:
    put(index, memory(1, "the kettle", dates=("--05",)), memory(2, "may we have the kettle"))
    assert found(index, "may")[0] == 2


SIGNALS = memory(
    1,
    "the canoe",
    speaker="Ann",
    dates=("2021",),
    around=lent("how is the canoe", asked="how is the canoe"),
)


def test_an_explained_hit_has_a_part_for_each_signal_and_they_sum_to_its_score(index: TextIndex) -> None:
    put(
        index,
        SIGNALS,
        memory(2, "canoes and more words", summary="canoe"),
        memory(3, "Ben said so", speaker="Ben"),
    )
    explained = hits(index, "Ann's canoe in 2021", explain=True)
    plain = hits(index, "Ann's canoe in 2021")
    assert [(hit.record_id, hit.score) for hit in explained] == [(hit.record_id, hit.score) for hit in plain]
    assert all(hit.parts is None for hit in plain)
    parts = [hit.parts for hit in explained if hit.parts is not None]
    assert all(part > 0 for part in parts[0])
    assert [part > 0 for part in parts[1]] == [False, True, False, False, False]
    assert [sum(each) for each in parts] == pytest.approx([hit.score for hit in explained], abs=1e-9)


def test_each_signal_alone_is_the_whole_of_what_it_found(index: TextIndex) -> None:
    put(index, SIGNALS, memory(2, "of no account"))
    for query, signal in (("in 2021", "when"), ("of Ann, not", "who")):
        [hit] = hits(index, query, explain=True)
        assert hit.parts is not None
        assert getattr(hit.parts, signal) > 0, query


def test_who_and_when_weigh_a_third_and_two_thirds_of_the_best_score_by_words(index: TextIndex) -> None:
    put(index, SIGNALS, memory(2, "nothing", speaker="Ann"), memory(3, "nothing", dates=("2021",)))
    best, when, who = hits(index, "Ann's canoe in 2021", explain=True)
    assert best.parts is not None
    by_words = best.parts.text + best.parts.context + best.parts.asked
    assert (who.score, when.score) == pytest.approx((2 / 3 * by_words, 2 / 3 * by_words), rel=1e-4)
    assert best.parts.who == pytest.approx(2 / 3 * by_words, rel=1e-4), "for saying it, and for taking part"


def test_a_namespace_sees_nothing_of_another(index: TextIndex) -> None:
    put(index, memory(1, "kettle"), memory(1, "teapot", namespace=7), memory(2, "a teapot", namespace=7))
    put(index, raw(5, "kettle"), raw(5, "teapot", namespace=7))
    assert (found(index, "kettle teapot"), found(index, "kettle teapot", namespace=7)) == ([1], [1, 2])
    assert found(index, "kettle", namespace=8) == []
    assert [search_raw(index, "kettle", namespace=n).total for n in (0, 7, 8)] == [1, 0, 0]
    assert [search_raw(index, namespace=n).total for n in (0, 7, 8)] == [1, 1, 0]


def test_nor_do_its_speakers_change_what_a_word_means(index: TextIndex) -> None:
    put(index, memory(1, "ann has a kettle"), memory(2, "a kettle"), memory(3, "x", speaker="Ann", namespace=7))
    assert found(index, "Ann's kettle") == [1, 2]


def test_the_same_id_in_two_namespaces_is_replaced_and_deleted_in_one(index: TextIndex) -> None:
    put(index, memory(1, "kettle"), memory(1, "kettle", namespace=7), memory(1, "teapot", namespace=7))
    assert (found(index, "kettle"), found(index, "kettle", namespace=7)) == ([1], [])
    index.apply([], [(DEFAULT_NAMESPACE, an_id(1))], 2)
    index.commit()
    assert (found(index, "kettle"), found(index, "teapot", namespace=7)) == ([], [1])


@settings(max_examples=25)
@given(
    texts=st.lists(st.text(st.sampled_from("ab "), min_size=1, max_size=9), min_size=1, max_size=8),
    query=st.text(st.sampled_from("ab "), min_size=1, max_size=9),
    speakers=st.lists(st.sampled_from(["ab", "ba", None]), min_size=8, max_size=8),
)
def test_parts_always_sum_to_the_score(texts: list[str], query: str, speakers: list[str | None]) -> None:
    index = TextIndex.open(None)
    turns = enumerate(zip(texts, speakers, strict=False))
    put(index, *(memory(i, text, speaker=speaker, around=lent(texts[i - 1])) for i, (text, speaker) in turns))
    for hit in hits(index, query, explain=True):
        assert hit.parts is not None
        assert sum(hit.parts) == pytest.approx(hit.score, abs=1e-9)
    index.close()


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


@settings(max_examples=25)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=8))
def test_every_document_is_found_by_each_of_its_words(texts: list[str]) -> None:
    index = TextIndex.open(None)
    put(index, *(memory(i, text) for i, text in enumerate(texts)))
    for i, text in enumerate(texts):
        for word in tokens(text):
            assert i in found(index, word)
    index.close()


# --- Hits that are made when they are come to

NEAR = 0.4 / SCORE_STEPS  # less than a step: two scores that differ by that may tie
SCORES = st.one_of(
    st.sampled_from([1.0, 1.0 + NEAR, 1.0 - NEAR, 1.0 + 2 * NEAR, 2.5, 0.3]), st.floats(0.0625, 50.0, width=32)
)
FOUND = st.lists(st.tuples(SCORES, st.integers(0, 2)), max_size=5 * MADE_AT_ONCE)


def rank(hit: Hit) -> tuple[float, int, bytes]:
    return -hit.score, -hit.created_at, hit.record_id


def in_order(found_: Sequence[tuple[float, int]]) -> _InOrder:
    """What a search of documents with these scores and times gives, best first as tantivy has them."""
    scored = sorted(found_, key=lambda each: -each[0])
    columns = {place: (an_id(place * 7 % 61), EPISODIC, at) for place, (_score, at) in enumerate(scored)}
    address = cast(DocAddress, None)  # nothing is looked up any more
    return _InOrder([(score, address) for score, _at in scored], list(columns), columns)


@given(FOUND, st.integers(0, 6 * MADE_AT_ONCE))
def test_hits_that_are_made_a_few_at_a_time_are_those_that_are_sorted_at_once(
    found_: list[tuple[float, int]], limit: int
) -> None:
    eager = sorted(in_order(found_).made(), key=rank)[:limit]
    hits_ = Hits(in_order(found_), min(limit, len(found_)))
    assert list(hits_) == eager
    assert len(hits_) == len(eager)
    assert bool(hits_) == bool(eager)
    next(iter(hits_), None)
    assert list(hits_) == eager, "however far they were gone through before"


@pytest.mark.parametrize("tied_from", range(2 * MADE_AT_ONCE + 1))
@pytest.mark.parametrize("tied", [1, 2, MADE_AT_ONCE, MADE_AT_ONCE + 1, 2 * MADE_AT_ONCE + 1])
def test_ties_across_the_bounds_of_what_is_made_at_once_are_broken_among_all(tied_from: int, tied: int) -> None:
    scores = [100.0 - i for i in range(tied_from)] + [50.0] * tied + [20.0 - i for i in range(5)]
    found_ = [(score, i % 3) for i, score in enumerate(scores)]
    assert list(Hits(in_order(found_), len(found_))) == sorted(in_order(found_).made(), key=rank)


def test_only_what_is_come_to_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    really_make = _InOrder.made

    def noting(self: _InOrder, start: int = 0, end: int | None = None) -> list[Hit]:
        found_ = really_make(self, start, end)
        made.append(len(found_))
        return found_

    monkeypatch.setattr(_InOrder, "made", noting)
    hits_ = iter(Hits(in_order([(100.0 - i, 0) for i in range(60)]), 60))
    for _ in range(10):
        next(hits_)
    assert made == [MADE_AT_ONCE]
    assert len(list(hits_)) == 50
    assert sum(made) == 60


def test_hits_of_a_list_are_counted_by_themselves() -> None:
    one = Hit(an_id(1), EPISODIC, 5, 1.0)
    assert (len(Hits()), list(Hits()), bool(Hits())) == (0, [], False)
    assert (len(Hits([one, one])), list(Hits([one, one]))) == (2, [one, one])


TEXTS = ("same", "same same", "same other words here", "same and something else")


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.sampled_from(TEXTS), st.integers(0, 3)), min_size=1, max_size=60),
    st.lists(st.integers(0, 70), min_size=1, max_size=6),
    st.integers(1, 3),
)
def test_any_limit_gives_the_first_of_all_that_are_found(
    texts: list[tuple[str, int]], limits: list[int], commits: int
) -> None:
    """Whatever segments the documents are in."""
    index = TextIndex.open(None)
    documents = [memory(i, text, created_at=at) for i, (text, at) in enumerate(texts)]
    for start in range(commits):
        put(index, *documents[start::commits])
    everything = hits(index, "same", 1_000)
    assert sorted(numbers(everything)) == list(range(len(texts)))
    assert everything == sorted(everything, key=rank)
    for limit in limits:
        some = index.snapshot().search(DEFAULT_NAMESPACE, "same", None, limit)
        assert len(some) == min(limit, len(texts))
        assert list(some) == list(some) == everything[:limit]
    index.close()


def test_hits_can_be_made_when_the_index_has_moved_on(index: TextIndex) -> None:
    """Their columns were read in the search."""
    put(index, *(memory(i, "same") for i in range(40)))
    before = index.snapshot().search(DEFAULT_NAMESPACE, "same", None, 40)
    first = list(before)[:3]
    put(index, *(memory(i, "another") for i in range(40)))
    index.close()
    assert list(before)[:3] == first
    assert numbers(list(before)) == list(range(39, -1, -1))
