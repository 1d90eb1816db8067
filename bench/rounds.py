"""The servers under measurement, the requests they get, and one round over all cases.

Two daemons serve: one takes the writes and grows, the other holds a memory of fixed size and is asked. A third,
started anew in every round on an empty data dir, shows what a start costs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path

from bench.aging import aged, compute_s
from bench.cases import MANY, Case
from bench.client import Address, BenchFailed, Connection, get, post, requests_per_s
from bench.commands import (
    HELP_MODULES,
    PROXY_MODULES,
    command_s,
    installed_mib,
    loading_s,
    proxy_s,
    recall_s,
    wheel_mib,
)
from bench.corpus import HITS, Corpus
from bench.floors import floor_server, puts_per_s
from bench.product import serving

BATCH_RECORDS = 500
ARCHIVE_S_MAX = 300.0
BATCHES = 8  # different ones; they are sent in turn
QUESTION = "what was it"  # of the recall as a command: most of its time is not the daemon's
TEXTS = 1_000  # different ones that are encoded in turn

Measure = Callable[[], float]


@dataclass(frozen=True)
class Plan:
    """How much is measured. `rest_s` lets what the case before left behind (index, merges) come to an end."""

    rounds: int = 5
    duration_s: float = 2.0
    warm_up_s: float = 0.3
    rest_s: float = 0.7
    records: int = 10_000
    questions: int = 1_000
    linked: int = 2_000
    aged: tuple[int, int, int] = (1_000, 100_000, 1_000_000)


QUICK = Plan(
    rounds=3,
    duration_s=0.4,
    warm_up_s=0.1,
    rest_s=0.3,
    records=2_000,
    questions=200,
    linked=1_000,
    aged=(1_000, 10_000, 50_000),
)


class Servers:
    """They run until `stack` is closed; their data lies below `folder`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self.client = stack.enter_context(floor_server("client"))
        self.empty = stack.enter_context(floor_server("empty"))
        self.hypercorn = stack.enter_context(floor_server("hypercorn"))
        self.written = stack.enter_context(serving(self.new_folder())).address
        self.asking = stack.enter_context(serving(self.new_folder()))
        self.asked = self.asking.address
        self.linked = stack.enter_context(serving(self.new_folder())).address
        self.filled = stack.enter_context(serving(self.new_folder())).address

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))


class Rounds:
    def __init__(self, plan: Plan, seed: int, servers: Servers) -> None:
        """Also gives the daemon that is asked its memory. Raises `BenchFailed` when that isn't found again."""
        self._plan = plan
        self._servers = servers
        corpus = Corpus(seed)
        fill(servers.asked, corpus.batches(BATCH_RECORDS), plan.records)
        fill(servers.linked, corpus.linked_batches(BATCH_RECORDS), plan.linked)
        self._recalls = _requests("/v1/recall/query", corpus.recalls(), plan.questions)
        self._stores = _requests("/v1/encode", corpus.stores(), TEXTS)
        self._batches = _requests("/v1/encode/batch", corpus.batches(BATCH_RECORDS), BATCHES)
        check_hits(servers.asked, next(self._recalls))

    def round(self) -> Iterator[tuple[Case, float]]:
        """Every case once, each near its floor."""
        for case, measure in self._measures().items():
            time.sleep(self._plan.rest_s)
            yield case, measure()
        with serving(self._servers.new_folder()) as daemon:
            yield Case.READY, daemon.ready_s
            yield Case.MEMORY, daemon.memory_mib()
        yield from self._starts()

    def _starts(self) -> Iterator[tuple[Case, float]]:
        yield Case.HELP, command_s("--help")
        yield Case.HELP_LOADING, loading_s(HELP_MODULES)
        yield Case.RECALL_COMMAND, recall_s(self._servers.asked, QUESTION)
        yield Case.PROXY, proxy_s(self._servers.asked)
        yield Case.PROXY_LOADING, loading_s(PROXY_MODULES)

    def _measures(self) -> dict[Case, Measure]:
        servers, nothing = self._servers, cycle([get("/")])
        return {
            Case.CLIENT_1: lambda: self._rate(servers.client, nothing, 1),
            Case.EMPTY_1: lambda: self._rate(servers.empty, nothing, 1),
            Case.HYPERCORN_1: lambda: self._rate(servers.hypercorn, nothing, 1),
            Case.RECALL_1: lambda: self._rate(servers.asked, self._recalls, 1),
            Case.RECALL_LINKED: lambda: self._rate(servers.linked, self._recalls, 1),
            Case.FSYNC: self._puts,
            Case.ENCODE_1: lambda: self._rate(servers.written, self._stores, 1),
            Case.BATCH: lambda: BATCH_RECORDS * self._rate(servers.written, self._batches, 1),
            Case.CLIENT_32: lambda: self._rate(servers.client, nothing, MANY),
            Case.EMPTY_32: lambda: self._rate(servers.empty, nothing, MANY),
            Case.HYPERCORN_32: lambda: self._rate(servers.hypercorn, nothing, MANY),
            Case.ENCODE_32: lambda: self._rate(servers.written, self._stores, MANY),
            Case.RECALL_32: lambda: self._rate(servers.asked, self._recalls, MANY),
        }

    def once(self) -> Iterator[tuple[Case, float]]:
        """What takes long, or leaves more behind than another round could begin with."""
        yield Case.MEMORY_FILLED, self._servers.asking.memory_mib()
        yield Case.WHEEL, wheel_mib()
        yield Case.INSTALLED, installed_mib()
        archive = b""
        for case, measure in ((Case.EXPORT, self._exported), (Case.IMPORT, self._imported)):
            time.sleep(self._plan.rest_s)
            archive, rate = measure(archive)
            yield case, rate
        yield Case.TICK_COMPUTE, compute_s(1_000_000)
        for case, count in zip((Case.TICK_SMALL, Case.TICK_MIDDLE, Case.TICK_LARGE), self._plan.aged, strict=True):
            figures = aged(self._servers.new_folder(), count)
            yield case, figures.tick_s
            if case is Case.TICK_MIDDLE:
                yield Case.TICK_COMMIT, 1_000 * figures.longest_commit_s
                yield Case.ENCODE_ALONE, 1_000 * figures.encode_alone_s
                yield Case.ENCODE_IN_TICK, 1_000 * figures.encode_meanwhile_s

    def _exported(self, _archive: bytes) -> tuple[bytes, float]:
        return self._timed(self._servers.asked, "POST", b"{}", "application/json")

    def _imported(self, archive: bytes) -> tuple[bytes, float]:
        return self._timed(self._servers.filled, "PUT", archive, "application/octet-stream")

    def _timed(self, address: Address, method: str, body: bytes, content_type: str) -> tuple[bytes, float]:
        """The answer, which may come in chunks, and at which rate the records of the memory went by."""
        connection = HTTPConnection(*address, timeout=ARCHIVE_S_MAX)
        with closing(connection):
            started = time.perf_counter()
            connection.request(method, "/v1/archive", body, {"Content-Type": content_type})
            response = connection.getresponse()
            answer = response.read()
            elapsed_s = time.perf_counter() - started
        if response.status != 200:
            raise BenchFailed(f"{method} /v1/archive answered {response.status} {answer[:512]!r}")
        return answer, self._plan.records / elapsed_s

    def _rate(self, address: Address, requests: Iterator[bytes], connections: int) -> float:
        plan = self._plan
        return requests_per_s(address, requests, connections, warm_up_s=plan.warm_up_s, duration_s=plan.duration_s)

    def _puts(self) -> float:
        folder = self._servers.new_folder()
        return puts_per_s(folder, warm_up_s=self._plan.warm_up_s, duration_s=self._plan.duration_s)


def fill(address: Address, batches: Iterator[bytes], records: int) -> None:
    with Connection(address) as connection:
        for body in islice(batches, records // BATCH_RECORDS):
            connection.ask(post("/v1/encode/batch", body))


def check_hits(address: Address, recall: bytes) -> None:
    """A recall that finds less than was asked for would be measured too fast."""
    with Connection(address) as connection:
        found = connection.ask(recall).count(b'"relevance_score"')
    if found != HITS:
        raise BenchFailed(f"a recall found {found} memories, {HITS} were expected")


def _requests(path: str, bodies: Iterator[bytes], count: int) -> Iterator[bytes]:
    """`count` different requests in turn, for ever."""
    return cycle([post(path, body) for body in islice(bodies, count)])
