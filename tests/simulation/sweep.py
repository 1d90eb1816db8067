"""Many lives, over all cores: what they have in sum, and which went wrong."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice

from tests.simulation.bugs import BUGS, NONE
from tests.simulation.life import Outcome, live

CHUNK = 20  # seeds that a process is given at once
HANGING_S = 120  # of real time; a life takes a fraction of a second


@dataclass(slots=True)
class Sum:
    """Of lives that were lived; `wrong` are those that have a violation, without their lines."""

    seeds: int = 0
    cuts: int = 0
    operations: int = 0
    acknowledged: int = 0
    wrong: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.cuts += outcome.cuts
        self.operations += outcome.operations
        self.acknowledged += outcome.acknowledged
        if outcome.violation is not None:
            self.wrong.append(outcome)


def live_all(seeds: Sequence[int], bug: str | None = None) -> list[Outcome]:
    """One after the other, in this process, which ends with all stacks printed when one of them hangs."""
    outcomes = []
    for seed in seeds:
        faulthandler.dump_traceback_later(HANGING_S, exit=True)
        outcomes.append(replace(live(seed, BUGS[bug] if bug else NONE), lines=()))
        faulthandler.cancel_dump_traceback_later()
    return outcomes


def sweep(seeds: Sequence[int], processes: int, bug: str | None = None) -> Iterator[list[Outcome]]:
    """The outcomes of all seeds, a chunk at a time, as they come."""
    chunks = (seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK))
    with ProcessPoolExecutor(processes) as pool:
        futures = (pool.submit(live_all, chunk, bug) for chunk in chunks)
        waiting = set(islice(futures, 2 * processes))
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            waiting |= set(islice(futures, len(done)))
            yield from (future.result() for future in done)


def first_found(bug: str, seeds: Sequence[int]) -> Outcome | None:
    """The first of `seeds` whose life finds the planted bug."""
    return next((outcome for seed in seeds if (outcome := live(seed, BUGS[bug])).violation is not None), None)
