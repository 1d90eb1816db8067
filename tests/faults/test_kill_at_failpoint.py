"""A process is killed (SIGKILL) at each failpoint that one mutation passes, from its beginning to the end.

What is on the disk is one of the states that the undisturbed mutation goes through, row by row, and the last one
when it was acknowledged; it adds up, and the audit log has no entry that the store lacks. Started again and asked
again with the same idempotency key, everything is as if nothing had been cut short, and nothing is there twice.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.crashes import Mutator, Subject, crashed_behind, study
from tests.support.reports import Report, report
from tests.support.scenarios import SCENARIOS, START, Scenario
from tests.support.sweep import seeded, swept

SAMPLE = 3  # kills of each mutation


def sweep(subject: Subject, folder: Path) -> None:
    """Kill at each passage of a failpoint, or a sample of them."""
    name = subject.scenario.name
    passages = swept(seeded(), range(1, len(subject.passed) + 1), SAMPLE)
    lost = {}
    for passage in passages:
        data_dir = subject.copy(folder)
        ran = subject.mutator.run(subject.order(data_dir, kill_at=passage))
        assert ran.killed
        if problems := subject.problems(data_dir, ran):
            lost[f"{subject.passed[passage - 1]} ({passage})"] = problems
    what = "SIGKILL at every failpoint that a mutation passes"
    points = len({subject.passed[passage - 1] for passage in passages})
    found = Report(
        what=what, runs=len(passages), points=points, losses=len(lost), details={"runs": {name: len(passages)}}
    )
    report(f"failpoint {name}", found)
    assert lost == {}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_kill_at_a_failpoint_leaves_one_of_the_states_of_a_mutation(
    scenario: Scenario, mutator: Mutator, base: Path, fast_path: Path
) -> None:
    sweep(study(mutator, scenario, base, fast_path), fast_path)


def test_a_kill_while_it_recovers_from_a_kill_loses_nothing(mutator: Mutator, base: Path, fast_path: Path) -> None:
    crashed = crashed_behind(mutator, base, fast_path)
    sweep(study(mutator, START, crashed, fast_path), fast_path)
