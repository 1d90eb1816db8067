"""What a text that is searched for asks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.analysis import query_terms
from cerememory.domain.dialogue import name_terms
from cerememory.domain.question import Question, read

SPEAKERS = {term for name in ("Ann Lee", "Ben", "April", "田中太郎", "agent-7") for term in name_terms(name)}


def asked(text: str) -> Question:
    return read(text, SPEAKERS.__contains__)


@pytest.mark.parametrize(
    ("text", "words", "names", "dates"),
    [
        ("What did Ben say about the kettle?", "kettle", ["ben"], []),
        ("Ben's kettle", "kettle", ["ben"], []),
        ("what did ann lee buy", "buy", ["ann_lee"], []),
        ("what did Ann buy from Lee", "buy", ["ann", "lee"], []),
        ("did Ben or Ann buy it for Ben", "buy", ["ben", "ann"], []),
        ("did agent 7 boil the kettle", "boil kettle", ["agent_7"], []),
        ("7 kettles", "7 kettles", [], []),
        ("who boiled the kettle in May 2021", "boiled kettle may 2021", [], ["2021-05"]),
        ("April in April 2021", "2021", ["april"], ["2021-04"]),
        ("What did April do?", "april", ["april"], []),
        ("What happened in June?", "happened june", [], ["--06"]),
        ("田中太郎のやかん", "郎の のや やか かん", ["田中_中太_太郎"], []),
        ("Ben", "ben", ["ben"], []),
        ("and Ben and Ann?", "ben ann", ["ben", "ann"], []),
        ("who is it", "who is it", [], []),
        ("", "", [], []),
    ],
)
def test_names_and_dates_are_told_from_words(text: str, words: str, names: list[str], dates: list[str]) -> None:
    assert asked(text) == Question(words.split(), names, dates)


def test_one_person_is_meant_when_one_is_named() -> None:
    assert asked("Ben and the kettle").speaker == "ben"
    assert asked("Ben and Ann").speaker is None
    assert asked("the kettle").speaker is None


@given(st.text())
def test_without_speakers_the_words_are_all_that_tell_something(text: str) -> None:
    found = read(text, lambda name: False)
    assert (found.words, found.names) == (query_terms(text), [])


@given(st.text() | st.text(st.sampled_from("ann lee be7田中太郎 ")))
def test_any_text_with_a_word_leaves_one_to_look_for(text: str) -> None:
    assert bool(asked(text).words) == bool(query_terms(text))
