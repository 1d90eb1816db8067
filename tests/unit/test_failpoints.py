"""Failpoints: armed ones act at their passage, watched ones are told, and without either nothing happens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cerememory import failpoints
from cerememory.failpoints import InjectedCrash, failpoint


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


def test_one_acts_at_its_passage_and_only_then() -> None:
    failpoints.arm("here", passage=2)
    failpoint("here")
    failpoint("there")
    with pytest.raises(InjectedCrash, match="here"):
        failpoint("here")
    failpoint("here")


def test_whoever_watches_is_shown_every_passage_until_it_is_disarmed() -> None:
    seen: list[str] = []
    failpoints.watch(seen.append)
    for name in ("here", "there", "here"):
        failpoint(name)
    failpoints.disarm()
    failpoint("here")
    assert seen == ["here", "there", "here"]


def test_an_environment_arms_what_it_names() -> None:
    assert not failpoints.arm_from({})
    assert failpoints.arm_from({failpoints.VARIABLE: "here, there=crash@2"})
    failpoint("there")
    for name in ("here", "there"):
        with pytest.raises(InjectedCrash, match=name):
            failpoint(name)
