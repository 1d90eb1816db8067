"""`make bench`: how fast the daemon is, beside what could be had at most on this machine.

Each round measures every case once, floors and product in turn, with the same client: whatever else the
machine does falls on all of them. A case's figure is the median of its rounds. The exit code is 0 whatever the
figures are, unless the bench itself broke.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script's imports are looked for beside it

from bench.cases import Case
from bench.client import BenchFailed
from bench.report import Run, as_json, machine, medians, table
from bench.rounds import QUICK, Plan, Rounds, Servers

SEED = 20_250_101
RESULTS = Path(__file__).resolve().parent / "results"


def measured(plan: Plan, seed: int, folder: Path) -> dict[Case, list[float]]:
    """A sample of each case from each round."""
    samples: dict[Case, list[float]] = {}
    with ExitStack() as stack:
        rounds = Rounds(plan, seed, Servers(folder, stack))
        for number in range(1, plan.rounds + 1):
            print(f"round {number} of {plan.rounds}", file=sys.stderr)
            for case, figure in rounds.round():
                samples.setdefault(case, []).append(figure)
        print("what is measured once", file=sys.stderr)
        for case, figure in rounds.once():
            samples.setdefault(case, []).append(figure)
    return samples


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    plan = QUICK if options.quick else Plan()
    run = Run(machine(), options.seed, plan.rounds, plan.duration_s, os.getloadavg()[0])
    options.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        samples = measured(plan, options.seed, Path(folder))
    figures = medians(samples)
    print(table(run, figures))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(as_json(run, samples, figures))))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Measure the daemon beside its floors.")
    parser.add_argument("--quick", action="store_true", help="a short run: a look, no figures to quote")
    parser.add_argument("--seed", type=int, default=SEED, help="of the texts and questions (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there, too")
    parser.add_argument(
        "--dir", type=Path, default=RESULTS, metavar="DIR", help="disk under measurement (%(default)s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BenchFailed as error:
        sys.exit(f"bench: {error}")
