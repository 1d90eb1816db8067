"""A process is killed (SIGKILL) at each system call by which one mutation changes files: before it, in the middle
of a write, and when it is done.

Writes, syncs, renames, truncations and removals, of the store, the audit log, the text index and whatever else
is in the data dir; what has to hold afterwards is what `test_kill_at_failpoint.py` asks for. tantivy renames its
files past the preloaded library: the disk before and after that is the disk at the calls on either side.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from tests.support.crashes import Mutator, Subject, crashed_behind, study
from tests.support.reports import Report, report
from tests.support.scenarios import BY_NAME, START
from tests.support.shim import CHANGES, Moment, Shim
from tests.support.sweep import seeded, swept

NAMES = [
    "encode.store",
    "lifecycle.forget",
    "lifecycle.import, merge",
    "lifecycle.import, replace",
    "lifecycle.compact",
    "lifecycle.rotate_audit",
    "migrate-store-encryption",
]
SAMPLE = 8  # kills of each mutation
MOMENTS: tuple[Moment, ...] = get_args(Moment)


def count_calls(subject: Subject, shim: Shim, folder: Path) -> int:
    shim.heal()
    rules, data_dir = [], subject.copy(folder)
    ran = subject.mutator.run(
        subject.order(data_dir, waits=True),
        lambda: rules.append(shim.count(CHANGES, str(data_dir))),
    )
    assert ran.acknowledged and not ran.failure, ran.failure
    return rules[0].matched


def sweep(subject: Subject, shim: Shim, folder: Path) -> None:
    name = subject.scenario.name
    calls = count_calls(subject, shim, folder)
    kills = swept(seeded(), [*product(range(1, calls + 1), MOMENTS)], SAMPLE)
    lost = {}
    for number, moment in kills:
        data_dir = subject.copy(folder)
        shim.heal()
        arm = partial(shim.kill, CHANGES, str(data_dir), first=number, moment=moment)
        ran = subject.mutator.run(subject.order(data_dir, waits=True), arm)
        assert ran.killed, (number, moment)
        shim.heal()
        if problems := subject.problems(data_dir, ran):
            lost[f"{moment} call {number}"] = problems
    found = Report(
        what="SIGKILL before, within and after every system call of a mutation that changes files",
        runs=len(kills),
        points=len({number for number, _moment in kills}),
        losses=len(lost),
        details={"runs": {name: len(kills)}},
    )
    report(f"syscall {name}", found)
    assert lost == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_a_system_call_leaves_one_of_the_states_of_a_mutation(
    name: str, mutator: Mutator, mutator_shim: Shim, base: Path, fast_path: Path
) -> None:
    sweep(study(mutator, BY_NAME[name], base, fast_path), mutator_shim, fast_path)


def test_a_kill_at_a_system_call_of_a_start_after_a_kill_loses_nothing(
    mutator: Mutator, mutator_shim: Shim, base: Path, fast_path: Path
) -> None:
    crashed = crashed_behind(mutator, base, fast_path)
    sweep(study(mutator, START, crashed, fast_path), mutator_shim, fast_path)
