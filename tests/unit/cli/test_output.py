"""Text that can't steer a terminal, and JSON that a person can read."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.cli.output import indented, leaves, pretty
from cerememory.cli.visible import visible

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.text())
def test_no_control_character_is_left_but_tab_and_line_feed(text: str) -> None:
    left = {char for char in visible(text) if unicodedata.category(char) == "Cc"}
    assert left <= {"\t", "\n"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("over\rwritten", "over\\rwritten"),
        ("bell\x07 \x9b", "bell\\x07 \\x9b"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("naïve 東京 🦊", "naïve 東京 🦊"),
    ],
)
def test_what_steers_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_no_line_of_a_text_starts_where_ours_do() -> None:
    assert indented("a\n1. [episodic] score=9") == "   a\n   1. [episodic] score=9"


@given(JSON)
def test_pretty_json_is_the_same_json(value: object) -> None:
    assert json.loads(pretty(value)) == value


def test_numbers_stay_on_one_line() -> None:
    value = {"data": [1, -2, 0.5, 1e-30], "text": "[ 1,\n 2 ]", "empty": [], "mixed": [1, "2"]}
    assert pretty(value) == (
        '{\n  "data": [1, -2, 0.5, 1e-30],\n  "text": "[ 1,\\n 2 ]",\n  "empty": [],\n'
        '  "mixed": [\n    1,\n    "2"\n  ]\n}'
    )


def test_leaves_are_named_by_their_path() -> None:
    value = {"a_b": {"c": 1, "d": None}, "e": [], "f": [1, 2], "g": "x\x00", "h": True}
    assert list(leaves(value)) == [("a b c", "1"), ("f", "[1, 2]"), ("g", "x\\x00"), ("h", "true")]
