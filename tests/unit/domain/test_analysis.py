"""The analyzer: which tokens a text has, and which of a query's words are looked for."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain import analysis
from cerememory.domain.analysis import STOP_WORDS, document_terms, fold, query_terms, telling, tokens

# Plain `text()` seldom puts two characters of one script side by side.
SCRIPTS = st.text(
    st.sampled_from(
        "abzA9éßİøﬁ _-'\u0301東京都庁へ行ぶプｶﾞ\u3099한국ㅋㅠ\u1112\u1161हिन्दीครับмир\u05d0\u05b8\U00020000²"
    )
)
TEXTS = st.one_of(st.text(), st.text(st.characters()), SCRIPTS)
WORDS = st.text(st.sampled_from("abcxyz019éñü東京猫한국"), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("don't e.g. user_name a.b@example.com", "don t e g user name a b example com"),
        ("Café NAÏVE Łódź Øre", "cafe naive lodz ore"),
        ("Straße ﬁne ① Ｐｙｔｈｏｎ", "strasse fine 1 python"),
        ("Москва ёлка ΣΊΣΥΦΟΣ", "москва елка σισυφοσ"),
        ("co\u00adoperate", "cooperate"),
        ("מְנַחֵם مُحَمَّد", "מנחם محمد"),
        ("हिन्दी भाषा।", "हिन्दी भाषा"),
        ("🎉 -- ... ???", ""),
        ("", ""),
    ],
)
def test_words_are_folded_runs_of_letters_and_digits(text: str, expected: str) -> None:
    assert tokens(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("東京都庁", "東京 京都 都庁"),
        ("猫", "猫"),
        ("猫 犬", "猫 犬"),
        ("我爱北京。", "我爱 爱北 北京"),
        ("서울에서 만나요", "서울 울에 에서 만나 나요"),
        ("コーヒー・ﾐﾙｸ", "コー ーヒ ヒー ミル ルク"),
        ("佐々木", "佐々 々木"),
        ("ไทย", "ไท ทย"),
    ],
)
def test_scripts_without_spaces_become_overlapping_pairs(text: str, expected: str) -> None:
    assert tokens(text) == expected.split()


def test_a_change_of_script_ends_a_word() -> None:
    assert tokens("東京都庁へ行くby Python3") == [
        "東京",
        "京都",
        "都庁",
        "庁へ",
        "へ行",
        "行く",
        "by",
        "python3",
    ]
    assert tokens("3月にLinuxで") == ["3", "月に", "linux", "で"]


def test_a_document_also_has_the_single_characters_of_its_pairs() -> None:
    assert document_terms("猫がcat") == ["猫", "猫が", "が", "cat"]
    assert document_terms("猫") == ["猫"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who did the dishes?", "dishes"),
        ("What kind of music does Ann's brother like?", "music ann brother like"),
        ("tell me how many cats", "cats"),
        ("cats cats CATS", "cats"),
    ],
)
def test_stop_words_leave_a_query_while_another_word_stays(text: str, expected: str) -> None:
    assert query_terms(text) == expected.split()


def test_a_query_of_stop_words_alone_keeps_them() -> None:
    assert query_terms("The Who") == ["the", "who"]


def test_stop_words_stay_in_documents() -> None:
    assert document_terms("The Who") == ["the", "who"]


def test_stop_words_are_tokens_themselves() -> None:
    assert all(tokens(word) == [word] for word in STOP_WORDS)


def test_a_long_word_is_cut_on_both_sides_alike() -> None:
    word = "x" * 100
    assert tokens(word) == query_terms(word) == ["x" * analysis.TOKEN_CHARS_MAX]


def test_the_number_of_tokens_is_bounded() -> None:
    assert len(tokens("a " * (analysis.TOKENS_MAX + 5))) == analysis.TOKENS_MAX
    assert len(query_terms(" ".join(f"w{i}" for i in range(1_000)))) == analysis.QUERY_TOKENS_MAX


def test_a_text_that_grows_by_folding_stays_bounded() -> None:
    four_words_in_one_character = "\ufdfa"
    text = four_words_in_one_character * (analysis.TOKENS_MAX // 2)
    assert len(tokens(text)) == analysis.TOKENS_MAX


@given(TEXTS)
def test_any_text_gives_tokens_of_bounded_length_without_spaces(text: str) -> None:
    found = document_terms(text)
    assert all(0 < len(token) <= analysis.TOKEN_CHARS_MAX for token in found)
    assert not re.search(r"\s", "".join(found))


@given(st.text(st.characters(categories=["Cs", "Cc", "Co", "Cn", "Lo"])))
def test_lone_surrogates_never_reach_the_index(text: str) -> None:
    assert " ".join(document_terms(f"a {text}")).encode().startswith(b"a")


@given(TEXTS)
def test_the_tokens_of_tokens_are_the_same(text: str) -> None:
    once = tokens(text)
    assert tokens(" ".join(once)) == once


@given(TEXTS)
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_folding_any_single_character_twice_changes_nothing() -> None:
    assigned = " ".join(c for c in map(chr, range(0x110000)) if unicodedata.category(c)[0] != "C")
    assert fold(fold(assigned)) == fold(assigned)


@given(TEXTS)
def test_normalization_forms_do_not_matter(text: str) -> None:
    forms = {tuple(tokens(unicodedata.normalize(form, text))) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert forms == {tuple(tokens(text))}


@given(before=TEXTS, word=WORDS, after=TEXTS)
def test_every_word_of_a_document_finds_it(before: str, word: str, after: str) -> None:
    document = set(document_terms(f"{before} {word} {after}"))
    assert set(query_terms(word)) <= document


@given(st.text(st.sampled_from("東京都庁猫한국ไทย"), min_size=1), st.data())
def test_every_part_of_text_without_spaces_finds_it(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    assert set(query_terms(text[start:end])) <= set(document_terms(text))


@given(TEXTS)
def test_a_query_looks_only_for_tokens_of_its_text(text: str) -> None:
    wanted, all_tokens = query_terms(text), tokens(text)
    assert set(wanted) <= set(all_tokens)
    assert bool(wanted) == bool(all_tokens)
    assert len(wanted) == len(set(wanted))


@pytest.mark.parametrize(
    ("words", "besides", "expected"),
    [
        ("the red red kettle", "", "red kettle"),
        ("the red kettle", "red", "kettle"),
        ("the red", "red", "red"),
        ("the one", "red", "the one"),
        ("", "red", ""),
    ],
)
def test_words_that_tell_nothing_stay_when_no_other_is_left(words: str, besides: str, expected: str) -> None:
    assert telling(words.split(), besides.split()) == expected.split()
