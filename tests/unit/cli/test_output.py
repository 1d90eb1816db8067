"""Text that can't steer a terminal, and JSON that a person can read."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from cerememory.cli.output import indented, leaves, pretty
from cerememory.domain.visible import visible

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def test_no_line_of_a_text_starts_where_ours_do() -> None:
    assert indented("a\n1. [episodic] score=9") == "   a\n   1. [episodic] score=9"


@given(JSON)
def test_pretty_json_is_the_same_json_and_steers_no_terminal(value: object) -> None:
    shown = pretty(value)
    assert json.loads(shown) == value
    assert visible(shown) == shown


def test_json_escapes_what_would_steer_a_terminal() -> None:
    assert pretty({"\x9b31m": "\x7f\U000e0041"}) == '{\n  "\\u009b31m": "\\u007f\\udb40\\udc41"\n}'


def test_a_name_steers_no_terminal_either() -> None:
    assert list(leaves({"\x1b[2J": {"a_b": "x"}, "tags": ["\x9b1m"]})) == [
        ("\\x1b[2J a b", "x"),
        ("tags", '[\n  "\\u009b1m"\n]'),
    ]


def test_numbers_stay_on_one_line() -> None:
    value = {"data": [1, -2, 0.5, 1e-30], "text": "[ 1,\n 2 ]", "empty": [], "mixed": [1, "2"]}
    assert pretty(value) == (
        '{\n  "data": [1, -2, 0.5, 1e-30],\n  "text": "[ 1,\\n 2 ]",\n  "empty": [],\n'
        '  "mixed": [\n    1,\n    "2"\n  ]\n}'
    )


def test_leaves_are_named_by_their_path() -> None:
    value = {"a_b": {"c": 1, "d": None}, "e": [], "f": [1, 2], "g": "x\x00", "h": True}
    assert list(leaves(value)) == [("a b c", "1"), ("f", "[1, 2]"), ("g", "x\\x00"), ("h", "true")]
