"""Text that can't steer a terminal or hide anything from its reader."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.visible import visible, visible_json

UNSEEN = st.sampled_from(
    "\x00\x08\r\x1b\x7f\x9b\xad\u061c\u200b\u200d\u200f\u2028\u202e\u2066\u2060\ufe0f\ufeff\U000e0041"
)
TEXTS = st.lists(st.text() | UNSEEN | st.just("\n")).map("".join)


@given(TEXTS)
def test_no_control_or_format_character_is_left_but_those_of_lines_and_shapes(text: str) -> None:
    left = {char for char in visible(text) if unicodedata.category(char) in ("Cc", "Zl", "Zp")}
    assert left <= {"\t", "\n", "\r"}
    assert "\r" not in visible(text).replace("\r\n", "")


@given(TEXTS)
def test_what_is_visible_stays_so(text: str) -> None:
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("over\rwritten", "over\\rwritten"),
        ("bell\x07 \x9b", "bell\\x07 \\x9b"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("zero\u200bwidth\ufeff\u2060", "zero\\u200bwidth\\ufeff\\u2060"),
        ("\u200d", "\\u200d"),
        ("a\u200d\u200db", "a\\u200d\\u200db"),
        ("a\ufe00\ufe01b", "a\\ufe00\\ufe01b"),
        ("\U0001f3f4\U000e0067\U000e0062", "\U0001f3f4\\U000e0067\\U000e0062"),
    ],
)
def test_what_steers_or_hides_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "tab\tand\nline\r\n",
        "naïve 東京 🦊",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with the joiner that its spelling asks for
        "\u2764\ufe0f\u200d\U0001f525 \U0001f469\u200d\U0001f469\u200d\U0001f467",  # emoji of several
        "\u845b\U000e0100",  # the variant of a Japanese name
    ],
)
def test_what_a_script_needs_is_left(text: str) -> None:
    assert visible(text) == text


@given(TEXTS)
def test_json_keeps_its_value_in_escapes(text: str) -> None:
    document = visible_json(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(document) == {"a": text}
    assert visible(document) == document
