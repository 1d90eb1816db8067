"""How many values are in a text, against a reader that makes them all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.mcp import values
from cerememory.mcp.values import too_many

ODD = st.text(st.sampled_from('"\\,[]{}:xé😀\n'))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | ODD,
    lambda inner: st.lists(inner) | st.dictionaries(ODD, inner),
    max_leaves=40,
)


def made(value: Any) -> int:
    """The values in `value`, itself among them."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(made, inner))


def hollow(value: Any) -> int:
    """The empty arrays and objects in it, whose bracket has no value behind it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, (dict, list)) and not value) + sum(map(hollow, inner))


@given(JSON, st.booleans(), st.sampled_from([1, 2, 3, 65_536]))
def test_they_are_counted_as_they_are_made(value: Any, is_ascii: bool, part_bytes: int) -> None:
    data = json.dumps(value, ensure_ascii=is_ascii).encode()
    marks = made(value) - 1 + hollow(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_PART_BYTES", part_bytes)
        assert not too_many(data, marks)
        assert marks == 0 or too_many(data, marks - 1)


@given(JSON, ODD)
def test_what_follows_a_message_hides_none_of_its_values(value: Any, rest: str) -> None:
    data = json.dumps(value).encode()
    marks = made(value) - 1 + hollow(value)
    assert marks == 0 or too_many(data + rest.encode(), marks - 1)


@pytest.mark.parametrize("data", [b"", b'"', b"\\", b'\\"', b"\xff", b'"\\'])
def test_whatever_it_is_it_is_counted(data: bytes) -> None:
    assert not too_many(data, 0)
    assert too_many(data, -1), "which looks at it closely"
    assert too_many(b"," + data, 0)
