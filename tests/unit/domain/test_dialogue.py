"""What a memory gets from the conversation that it is a turn of."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.capture import with_context
from cerememory.domain.dialogue import (
    ALONE,
    LENT_CHARS_MAX,
    NO_CONTEXT,
    Context,
    Surroundings,
    Turn,
    context_of,
    name_terms,
    speaker_of,
    surroundings,
    when_terms,
)
from cerememory.protocol.requests import EncodeContext
from cerememory.protocol.values import NANOS

DAY = ["2021", "2021-05", "2021-05-08", "--05", "--05-08"]
MADE_ON_DAY = 1_620_432_000 * NANOS
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["_context", "session_id"]), inner)
    ),
)


def said(*texts: str) -> list[Turn]:
    return [Turn(text, None) for text in texts]


def test_the_context_of_an_encode_is_read_back_from_the_metadata_it_went_into() -> None:
    given = EncodeContext(source="Ann", session_id="s", temporal=msgspec.Raw(b'{"at":"2021-05-08"}'))
    context = context_of(bytes(with_context(msgspec.Raw(b'{"of":"the caller"}'), given)))
    assert (context.session, context.speaker, context.temporal) == ("s", "Ann", {"at": "2021-05-08"})
    assert context_of(bytes(with_context(msgspec.Raw(b"[1]"), given))) == context


@pytest.mark.parametrize(
    "metadata",
    [
        "{}",
        "null",
        '"_context"',
        '{"_context": null}',
        '{"_context": 5}',
        '{"_context": ["s"]}',
        '{"x": "_context"}',
        '{"_context": {"session_id": 5, "source": {}, "temporal": []}}',
        '{"_context": {"session_id": " ", "source": ""}}',
        '{"_context": ' + '{"a":' * 2_000,
    ],
)
def test_metadata_without_a_context_that_can_be_used_has_none(metadata: str) -> None:
    context = context_of(metadata.encode())
    assert (context.session, context.speaker) == (None, None)
    assert when_terms(context, MADE_ON_DAY) == DAY


@given(JSON)
def test_any_metadata_is_read(metadata: Any) -> None:
    context = context_of(json.dumps(metadata).encode())
    assert speaker_of(context, "text") is None or context.speaker
    assert when_terms(context, 0)


@pytest.mark.parametrize(
    ("text", "speaker"),
    [
        ("Ann: hello", "Ann"),
        ("  Ann Lee: hello", "Ann Lee"),
        ("Élodie :\thello", "Élodie"),
        ("田中：こんにちは", "田中"),
        ("안나: 안녕", "안나"),
        ("ann: hello", None),
        ("Remember to: buy milk", None),
        ("A B C D E: five words", None),
        ("https://example.com", None),
        ("Ann:hello", None),
        ("12: noon", None),
        (f"{'A' * 80}: too long", None),
        ("Ann\nsays: hello", None),
        ("hello", None),
        ("", None),
    ],
)
def test_a_name_in_front_of_a_text_is_its_speaker(text: str, speaker: str | None) -> None:
    found = speaker_of(NO_CONTEXT, text)
    assert (None if found is None else found.strip()) == speaker


def test_the_source_it_was_stored_with_goes_before_a_name_in_front() -> None:
    assert speaker_of(Context(source="Ben"), "Ann: hello") == "Ben"


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("Ann", "ann"),
        ("Ann Lee", "ann_lee ann lee"),
        ("agent-7", "agent_7 agent"),
        ("The Who", "the_who"),
        ("J. Doe", "j_doe doe"),
        ("田中太郎", "田中_中太_太郎 田中 中太 太郎"),
        ("!?", ""),
        ("", ""),
    ],
)
def test_a_speaker_is_known_by_the_whole_name_and_by_its_words(name: str, terms: str) -> None:
    assert name_terms(name) == tuple(terms.split())


@pytest.mark.parametrize(
    ("temporal", "expected"),
    [
        ("on 8 May 2021, late", DAY),
        ({"at": "2021-05-08T23:30:00-05:00"}, DAY),
        ({"start": "2021-05-08T00:00:00Z", "end": "2021-05-08T09:00:00Z"}, DAY),
        ({"start": "2021-05-08T00:00:00Z"}, DAY),
        ({"end": "2021-05-08"}, DAY),
        ("June", ["--06"]),
        (
            {"start": "2021-05-31", "end": "2021-06-01"},
            ["--05", "--05-31", "--06", "--06-01", "2021", "2021-05", "2021-05-31", "2021-06", "2021-06-01"],
        ),
    ],
)
def test_when_it_happened_is_what_the_context_says(temporal: Any, expected: list[str]) -> None:
    assert sorted(when_terms(Context(temporal=temporal), 0)) == sorted(expected)


@pytest.mark.parametrize("temporal", [None, "some other time", {}, {"at": "?"}, {"at": 5}, 7, ["2020-01-01"]])
def test_else_it_is_the_day_on_which_it_was_made(temporal: Any) -> None:
    assert when_terms(Context(temporal=temporal), MADE_ON_DAY) == DAY


def test_two_turns_on_either_side_lend_their_words_in_their_order() -> None:
    found = surroundings(said("one", "two", "three"), said("five", "six", "seven"))
    assert found.context == ("two", "three", "five", "six")


@pytest.mark.parametrize("question", ["how are you?", "元気ですか？ ", "كيف حالك؟", "really?\n"])
def test_a_question_right_in_front_is_what_was_asked(question: str) -> None:
    assert surroundings(said("no?", question), said("yes?")).asked == question
    assert surroundings(said(question, "well"), []).asked == ""
    assert surroundings([], said(question)).asked == ""


def test_of_a_long_turn_the_end_is_lent() -> None:
    long = "x" * LENT_CHARS_MAX + "y?"
    found = surroundings(said(long), [])
    assert (len(found.context[0]), found.context[0][-2:]) == (LENT_CHARS_MAX, "y?")
    assert found.asked == found.context[0]


def test_who_spoke_around_it_is_known_once_each() -> None:
    before, behind = [Turn("a", "Ann"), Turn("b", None)], [Turn("c", "Ben"), Turn("d", "Ann")]
    assert surroundings(before, behind).speakers == ("Ann", "Ben")


def test_alone_is_without_surroundings() -> None:
    assert surroundings([], []) == ALONE == Surroundings((), "", ())
