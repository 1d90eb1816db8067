"""The user's home, and what is said where nobody knows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cerememory.errors import ValidationFailed
from cerememory.home import expanded, user_home
from tests.support.nobody import no_home


def test_it_is_where_home_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert user_home("it") == Path("/home/ada")
    assert expanded(Path("~/spool"), "it") == Path("/home/ada/spool")
    assert expanded(Path("spool"), "it") == Path("spool")


def test_without_one_whoever_needs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    no_home(monkeypatch)
    with pytest.raises(ValidationFailed, match=r"^--user needs HOME to be set$"):
        user_home("--user")
    with pytest.raises(ValidationFailed, match=r"^~/spool needs HOME to be set$"):
        expanded(Path("~/spool"), "~/spool")
    assert expanded(Path("/spool"), "/spool") == Path("/spool")


def test_a_user_whom_nobody_knows_is_named() -> None:
    with pytest.raises(ValidationFailed, match="needs the home of 'no-such-user', whom"):
        expanded(Path("~no-such-user/spool"), "it")
