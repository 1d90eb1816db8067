"""Names of namespaces: what may be one, and what is said of what may not."""

from __future__ import annotations

import pytest

from cerememory.errors import ValidationFailed
from cerememory.protocol.namespaces import DEFAULT_NAME, HEADER, check_name

REFUSED = [
    "",
    " ",
    "a b",
    "-a",
    ".hidden",
    "_a",
    "a/b",
    "a\n",
    "\na",
    "a\r\nX-Evil: 1",
    "a\0",
    "über",
    "東京",
    "a" * 65,
    "a" * 100_000,
    "default ",
    "a,b",
    '"a"',
]


@pytest.mark.parametrize("name", [DEFAULT_NAME, "a", "0", "A.b_c:d@e-f", "user:42", "me@example.org", "a" * 64])
def test_letters_digits_and_a_few_signs_are_a_name(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: repr(name[:12]))
def test_anything_else_is_refused_in_one_short_line_that_says_where_it_was(name: str) -> None:
    for where in ("namespace", HEADER):
        with pytest.raises(ValidationFailed) as refused:
            check_name(name, where)
        message = str(refused.value)
        assert message.startswith(f"{where}: expected 1 to 64 ")
        assert len(message.splitlines()) == 1
        assert len(message) < 250
