"""python -m tests.simulation: many lives by their seeds, or one with its history. See the package."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import msgspec

from tests.simulation.bugs import BUGS, NONE
from tests.simulation.life import live
from tests.simulation.sweep import Sum, first_found, sweep
from tests.support.reports import Report

PLANTED_SEEDS = range(200)  # within which each planted bug is to be found
PROGRESS_EVERY = 500


def main() -> int:
    arguments = _parsed()
    if arguments.seed is not None:
        return _show(arguments.seed, arguments.bug)
    if arguments.bug is not None:
        return 1 if _first_seed(arguments.bug) is None else 0
    total = _sweep(arguments.seeds, arguments.processes)
    found = {bug: _first_seed(bug) for bug in BUGS}
    if arguments.report is not None:
        arguments.report.write_bytes(msgspec.json.encode(_report(total, found)))
    return 1 if total.wrong or None in found.values() else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=_range, default=range(10_000), metavar="FROM:TO", help="0:10000")
    parser.add_argument("--seed", type=int, help="one life, with its history")
    parser.add_argument("--bug", choices=BUGS, help="plant a bug, and look for it")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the sums as JSON")
    return parser.parse_args()


def _range(text: str) -> range:
    start, _, stop = text.partition(":")
    return range(int(start), int(stop))


def _show(seed: int, bug: str | None) -> int:
    outcome = live(seed, BUGS[bug] if bug else NONE)
    print(*outcome.lines, sep="\n")
    print(f"seed {seed}: {outcome.operations} operations, {outcome.acknowledged} acknowledged,", end=" ")
    print(f"{outcome.cuts} power cuts in {outcome.runs} runs; history {outcome.digest}")
    if outcome.violation is not None:
        print(f"WRONG: {outcome.violation}")
    return 0 if outcome.violation is None else 1


def _sweep(seeds: range, processes: int) -> Sum:
    print(f"seeds {seeds.start}:{seeds.stop}, {processes} processes", flush=True)
    total, started = Sum(), time.monotonic()
    for outcomes in sweep(seeds, processes):
        for outcome in outcomes:
            total.add(outcome)
            if outcome.violation is not None:
                print(f"seed {outcome.seed}: {outcome.violation}")
                print(f"  again: python -m tests.simulation --seed {outcome.seed}", flush=True)
            if total.seeds % PROGRESS_EVERY == 0:
                print(f"  {total.seeds} lives, {time.monotonic() - started:.0f} s", flush=True)
    print(f"{total.seeds} lives, {total.operations} operations, {total.acknowledged} acknowledged,", end=" ")
    print(f"{total.cuts} power cuts, {len(total.wrong)} wrong")
    return total


def _first_seed(bug: str) -> int | None:
    found = first_found(bug, PLANTED_SEEDS)
    if found is None:
        print(f"{bug}: not found within {len(PLANTED_SEEDS)} seeds")
        return None
    print(f"{bug}: found by seed {found.seed}: {found.violation}")
    return found.seed


def _report(total: Sum, found: dict[str, int | None]) -> Report:
    """Its points are the power cuts: each is at another moment of another life."""
    details = {
        "operations": total.operations,
        "acknowledged": total.acknowledged,
        "planted bugs, found by seed": found,
    }
    return Report(what="simulation", runs=total.seeds, points=total.cuts, losses=len(total.wrong), details=details)


if __name__ == "__main__":
    sys.exit(main())
