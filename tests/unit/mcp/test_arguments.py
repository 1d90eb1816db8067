"""What a tool's parameter may be given as, and how the rest is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cerememory.errors import ValidationFailed
from cerememory.mcp.arguments import (
    Choice,
    Choices,
    Count,
    Emotion,
    FilledText,
    Flag,
    Id,
    Ids,
    Items,
    JsonObject,
    Kind,
    Parameter,
    Text,
    Time,
    object_schema,
    read_arguments,
)
from cerememory.protocol.records import EmotionVector
from cerememory.protocol.values import Timestamp, parse_id

ID = "0191aaaa-0000-7000-8000-00000000000a"
OTHER_ID = "0191aaaa-0000-7000-8000-00000000000b"
NOW = Timestamp(1_000)
COLOURS = ("red", "green")
ITEM = (Parameter("content", FilledText(), required=True), Parameter("emotion", Emotion()))


def read(kind: Kind, value: object) -> Any:
    return Parameter("x", kind, required=True).read(value, NOW, "x")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Text(), " as it is ", " as it is "),
        (FilledText(), "words", "words"),
        (Choice(COLOURS), "green", "green"),
        (Choices(COLOURS), ["green", "red"], ["green", "red"]),
        (Choices(COLOURS), "green, red", ["green", "red"]),
        (Choices(COLOURS), '["green"]', ["green"]),
        (Choices(COLOURS), [], None),
        (Choices(COLOURS), " , ", None),
        (Flag(), False, False),
        (Count(1, 9), 9, 9),
        (Count(1, 9, is_cut=True), 0, 1),
        (Count(1, 9, is_cut=True), 10**30, 9),
        (Id(), "{" + ID.upper() + "}", parse_id(ID)),
        (Ids(), [ID, OTHER_ID], [parse_id(ID), parse_id(OTHER_ID)]),
        (Ids(), [], None),
        (Ids(), " , ", None),
        (Ids(), f"{ID},{OTHER_ID},", [parse_id(ID), parse_id(OTHER_ID)]),
        (Ids(), json.dumps([ID]), [parse_id(ID)]),
        (Ids(), ID, [parse_id(ID)]),
        (Time(), "1970-01-01T01:00:00.000000001+01:00", Timestamp(1)),
        (Emotion(), "Happy", EmotionVector(joy=1.0, intensity=1.0, valence=1.0)),
        (Emotion(), {"fear": 0.5, "other": 1}, EmotionVector(fear=0.5)),
        (JsonObject(), {"intent": "x"}, {"intent": "x"}),
        (JsonObject(), '{"intent": "x"}', {"intent": "x"}),
        (Items(ITEM), [{"content": "a"}], [{"content": "a", "emotion": None}]),
        (Items(ITEM), '[{"content": "a", "unknown": 1}]', [{"content": "a", "emotion": None}]),
        (Items(ITEM), "[]", []),
    ],
)
def test_native_values_and_their_string_forms_are_read(kind: Kind, value: object, expected: object) -> None:
    assert read(kind, value) == expected


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Text(), 1, "x: expected string, got integer"),
        (FilledText(), " \n", "x: must not be blank"),
        (FilledText(), "", "x: must not be blank"),
        (Choice(COLOURS), "blue", "x: expected red or green, got 'blue'"),
        (Choices(COLOURS), "red,blue", "x[1]: expected red or green, got 'blue'"),
        (Choices(COLOURS), ["red", 2], "x[1]: expected string, got integer"),
        (Choices(COLOURS), {"a": 1}, "x: expected array, got object"),
        (Choices(COLOURS), '["red"', "x: not readable as JSON"),
        (Flag(), "true", "x: expected boolean, got string"),
        (Flag(), 1, "x: expected boolean, got integer"),
        (Count(1, 9), True, "x: expected integer, got boolean"),
        (Count(1, 9), 2.0, "x: expected integer, got number"),
        (Count(1, 9), "2", "x: expected integer, got string"),
        (Count(1, 9), 10, "x: must be from 1 to 9, got 10"),
        (Id(), "42", "x: expected a UUID, got '42'"),
        (Ids(), [ID, "42"], "x[1]: expected a UUID, got '42'"),
        (Time(), "yesterday", "x: expected an RFC 3339 timestamp, got 'yesterday'"),
        (Emotion(), "bliss", "x: unknown label 'bliss'"),
        (Emotion(), {"joy": "much"}, "x.joy: expected number, got string"),
        (Emotion(), 1, "x: expected string, got integer"),
        (JsonObject(), [1], "x: expected object, got array"),
        (JsonObject(), "[1]", "x: expected object, got array"),
        (JsonObject(), "{intent}", "x: not readable as JSON"),
        (Items(ITEM), {"content": "a"}, "x: expected array, got object"),
        (Items(ITEM), '{"content": "a"}', "x: expected array, got object"),
        (Items(ITEM), [{"content": "a"}, 2], "x[1]: expected object, got integer"),
        (Items(ITEM), [{"content": "a"}, {"content": " "}], "x[1].content: must not be blank"),
        (Items(ITEM), [{"emotion": "joy"}], "x[0].content: missing"),
        (Items(ITEM), '[{"content": "a", "emotion": "bliss"}]', "x[0].emotion: unknown label"),
    ],
)
def test_another_value_is_refused_by_name(kind: Kind, value: object, message: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        read(kind, value)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("given", [{}, {"x": None}])
def test_a_required_argument_must_be_there(given: dict[str, object]) -> None:
    with pytest.raises(ValidationFailed, match="x: missing"):
        read_arguments((Parameter("x", Text(), required=True),), given, NOW)


@pytest.mark.parametrize("given", [{}, {"x": None}, {"x": ""}])
def test_an_optional_argument_that_is_missing_null_or_empty_has_its_default(given: dict[str, object]) -> None:
    assert read_arguments((Parameter("x", Choice(COLOURS), default="red"),), given, NOW) == {"x": "red"}


def test_a_default_may_depend_on_the_moment() -> None:
    parameter = Parameter("x", Time(), default=lambda now: now - 1)
    assert read_arguments((parameter,), {}, NOW) == {"x": 999}


def test_an_empty_text_that_must_not_be_blank_is_refused_though_optional() -> None:
    with pytest.raises(ValidationFailed, match="x: must not be blank"):
        read_arguments((Parameter("x", FilledText()),), {"x": ""}, NOW)


def test_unknown_arguments_are_ignored() -> None:
    assert read_arguments((Parameter("x", Text()),), {"x": "a", "y": 1}, NOW) == {"x": "a"}


def test_the_schema_says_what_the_reader_enforces() -> None:
    parameters = (
        Parameter("colour", Choice(COLOURS), "Of the kettle", default="red"),
        Parameter("count", Count(1, 9), required=True),
        Parameter("since", Time(), default=lambda now: now),
    )
    assert object_schema(parameters) == {
        "type": "object",
        "properties": {
            "colour": {
                "type": "string",
                "enum": ["red", "green"],
                "description": "Of the kettle",
                "default": "red",
            },
            "count": {"type": "integer", "minimum": 1, "maximum": 9},
            "since": {"type": "string", "format": "date-time"},
        },
        "required": ["count"],
    }
