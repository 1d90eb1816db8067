"""`make bench`: how fast the daemon is, beside what it could be at most on this machine.

Each round measures every case once, floors and product in turn, with the same client: whatever else the
machine does falls on all of them. A case's figure is the median of its rounds. Two daemons serve: one takes
the writes and grows, the other holds a memory of fixed size and is asked. A third, started anew in every round
on an empty data dir, shows what a start costs.

The exit code is 0 whatever the figures are, unless the bench itself broke.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, Python only looks in bench/

from bench import report
from bench.cases import MANY, Case
from bench.client import Address, BenchFailed, Connection, get, post, rate, requests_per_s
from bench.corpus import HITS, Corpus
from bench.floors import floor_server, puts_per_s
from bench.product import serving

SEED = 20_250_101
BATCH_RECORDS = 500
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Plan:
    """How much is measured. `rest_s` lets what the case before left behind (index, merges) come to an end."""

    rounds: int = 5
    duration_s: float = 2.0
    warm_up_s: float = 0.3
    rest_s: float = 1.0
    records: int = 10_000
    questions: int = 1_000


QUICK = Plan(rounds=3, duration_s=0.4, warm_up_s=0.1, rest_s=0.3, records=2_000, questions=200)
Measure = Callable[[], float]
Samples = dict[Case, list[float]]


class Bench:
    """The servers under measurement and the requests they get."""

    def __init__(self, plan: Plan, seed: int, folder: Path, stack: ExitStack) -> None:
        self._plan = plan
        self._folder = folder
        self._corpus = Corpus(seed)
        self._folders = iter(range(sys.maxsize))
        self._client_floor = stack.enter_context(floor_server("client"))
        self._empty_floor = stack.enter_context(floor_server("empty"))
        self._written = stack.enter_context(serving(self._new_folder())).address
        self._asked = stack.enter_context(serving(self._new_folder())).address
        self._questions = [post("/v1/recall/query", body) for body in islice(self._corpus.recalls(), plan.questions)]
        self._stores = cycle([post("/v1/encode", body) for body in islice(self._corpus.stores(), plan.questions)])

    def _new_folder(self) -> Path:
        return self._folder / str(next(self._folders))

    def fill(self) -> None:
        """Give the daemon that is asked its memory."""
        batches = self._corpus.batches(BATCH_RECORDS)
        with Connection(self._asked) as connection:
            for body in islice(batches, self._plan.records // BATCH_RECORDS):
                connection.ask(post("/v1/encode/batch", body))
            self._check_hits(connection.ask(self._questions[0]))

    def _check_hits(self, answer: bytes) -> None:
        found = answer.count(b'"relevance_score"')
        if found != HITS:
            raise BenchFailed(f"a recall found {found} memories, {HITS} were expected")

    def round(self) -> Iterator[tuple[Case, float]]:
        """Every case once, in an order that puts a case near its floor."""
        for case, measure in self._measures().items():
            time.sleep(self._plan.rest_s)
            yield case, measure()
        yield from self._start()

    def _measures(self) -> dict[Case, Measure]:
        nothing = cycle([get("/")])
        recalls = cycle(self._questions)
        return {
            Case.CLIENT_1: lambda: self._rate(self._client_floor, nothing, 1),
            Case.CLIENT_32: lambda: self._rate(self._client_floor, nothing, MANY),
            Case.EMPTY_1: lambda: self._rate(self._empty_floor, nothing, 1),
            Case.FSYNC: self._puts,
            Case.ENCODE_1: lambda: self._rate(self._written, self._stores, 1),
            Case.RECALL_1: lambda: self._rate(self._asked, recalls, 1),
            Case.EMPTY_32: lambda: self._rate(self._empty_floor, nothing, MANY),
            Case.ENCODE_32: lambda: self._rate(self._written, self._stores, MANY),
            Case.RECALL_32: lambda: self._rate(self._asked, recalls, MANY),
            Case.BATCH: self._batches,
        }

    def _rate(self, address: Address, requests: Iterator[bytes], connections: int) -> float:
        plan = self._plan
        return requests_per_s(
            address, requests, connections, warm_up_s=plan.warm_up_s, duration_s=plan.duration_s
        )

    def _puts(self) -> float:
        folder = self._new_folder()
        folder.mkdir()
        return puts_per_s(folder, warm_up_s=self._plan.warm_up_s, duration_s=self._plan.duration_s)

    def _batches(self) -> float:
        """Records a second, one batch after the other."""
        bodies = islice(self._corpus.batches(BATCH_RECORDS), 8)
        requests = cycle([post("/v1/encode/batch", body) for body in bodies])
        return BATCH_RECORDS * self._rate(self._written, requests, 1)

    def _start(self) -> Iterator[tuple[Case, float]]:
        with serving(self._new_folder()) as daemon:
            yield Case.READY, daemon.ready_s
            yield Case.MEMORY, daemon.memory_mib()


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    plan = QUICK if options.quick else Plan()
    samples: Samples = {}
    with ExitStack() as stack:
        options.dir.mkdir(parents=True, exist_ok=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.dir)))
        bench = Bench(plan, options.seed, folder, stack)
        bench.fill()
        for number in range(plan.rounds):
            print(f"round {number + 1} of {plan.rounds}", file=sys.stderr)
            for case, figure in bench.round():
                samples.setdefault(case, []).append(figure)
    ...
