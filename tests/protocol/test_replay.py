"""What the reference was recorded to answer, ours answers too; what is still to come is listed, and really is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import Daemon
from tests.support.replay import Compared, replay

CASES = Path(__file__).parents[1] / "fixtures" / "reference" / "http" / "cases.json"
PENDING = frozenset((Path(__file__).parent / "pending.txt").read_text().splitlines())


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> list[Compared]:
    with Daemon(tmp_path_factory.mktemp("replay") / "data", env=UNLIMITED) as daemon:
        daemon.wait_until_searchable()
        with Caller(daemon.address) as caller:
            return replay(CASES, caller)


def test_every_case_that_is_not_pending_is_answered_as_the_reference_did(compared: list[Compared]) -> None:
    assert {c.name: c.differences for c in compared if c.differences and c.name not in PENDING} == {}


def test_a_pending_case_is_still_to_come(compared: list[Compared]) -> None:
    assert {c.name for c in compared if c.differences} == PENDING


def test_the_recorded_cases_are_all_there(compared: list[Compared]) -> None:
    assert len(compared) == 56
    assert {c.name for c in compared} >= PENDING
