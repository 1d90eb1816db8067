"""The decision between a key and what it is used for."""

from __future__ import annotations

import pytest

from cerememory.errors import Forbidden
from cerememory.protocol.access import EVERYTHING, Grant, Needs, Role

ORDER = (Role.READ, Role.WRITE, Role.ADMIN)


@pytest.mark.parametrize("role", ORDER)
@pytest.mark.parametrize("needed", ORDER)
def test_each_role_may_do_what_those_before_it_may(role: Role, needed: Role) -> None:
    assert role.includes(needed) == (ORDER.index(role) >= ORDER.index(needed))


def test_a_refusal_says_what_is_needed() -> None:
    grant = Grant(Role.WRITE, None, "c")
    grant.check(Needs(Role.WRITE), "x")
    with pytest.raises(Forbidden, match=r"^x: needs a key with the role admin, this one has write$"):
        grant.check(Needs(Role.ADMIN), "x")


def test_what_is_about_all_namespaces_needs_a_key_for_all() -> None:
    needs = Needs(Role.READ, is_global=True)
    Grant(Role.READ, None, "c").check(needs, "x")
    with pytest.raises(Forbidden, match=r"^x: needs a key for all namespaces, this one is for 'work' alone$"):
        Grant(Role.ADMIN, "work", "c").check(needs, "x")


@pytest.mark.parametrize("asked", [None, "work", "other", "default"])
def test_a_key_for_all_is_for_the_namespace_that_is_asked_for(asked: str | None) -> None:
    assert Grant(Role.READ, None, "c").namespace_for(asked) == asked
    assert EVERYTHING.namespace_for(asked) == asked


@pytest.mark.parametrize("asked", [None, "work"])
def test_a_key_for_one_is_for_that_one_named_or_not(asked: str | None) -> None:
    assert Grant(Role.READ, "work", "c").namespace_for(asked) == "work"


@pytest.mark.parametrize("asked", ["other", "default", "", "WORK", "work "])
def test_a_key_for_one_is_for_no_other(asked: str) -> None:
    with pytest.raises(Forbidden, match="this key is for the namespace 'work' alone"):
        Grant(Role.ADMIN, "work", "c").namespace_for(asked)
