"""One life: the runs of one machine, one after the other, until its seed says that it is enough."""

from __future__ import annotations

import random
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import trio

from cerememory import failpoints
from cerememory.actors.assembly import running
from cerememory.config.settings import (
    DecaySettings,
    DreamSettings,
    SecuritySettings,
    Settings,
    StorageSettings,
)
from cerememory.protocol.records import STORES
from cerememory.storage.datadir import DataDir
from cerememory.telemetry.metrics import Metrics
from tests.simulation.bugs import NONE, Bug
from tests.simulation.checker import Checker
from tests.simulation.clients import Client, Session
from tests.simulation.disk import FakeFiles
from tests.simulation.history import History
from tests.simulation.world import Power, SimulatedWorld, deterministic, jumping_clock

MEMORY_FOLDER = Path("/dev/shm")
LIFE_MAX_S = 60 * 86_400  # on the loop's clock; most take a day
RUNS_MIN, RUNS_MAX = 3, 4
CLIENTS_MAX = 4
ACTIONS_MIN, ACTIONS_MAX = 4, 18  # of each client in a run
OFF_FOR_S = (0, 0, -3_600, 3_600, 30 * 86_400)  # as the wall clock has it
CUT_AFTER = (60, 500, 1_000, 2_000, 4_000)  # points; the first are met while the daemon starts
CRASHING = (  # where actors may crash: at most twice a run, for the third time within a minute ends an actor
    "actor.writer.received",
    "actor.audit.received",
    "actor.text_index.received",
    "actor.vectors.received",
    "actor.graph.received",
    "actor.episodic.handled",
    "actor.semantic.received",
    "actor.working.handled",
    "actor.raw_journal.received",
    "writer.before_reply",
    "writer.series.step",
    "writer.series.committed",
    "decay.piece",
    "text_index.wiped",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a life. `violation` is what the daemon did wrong, if anything; `digest` is of `lines`."""

    seed: int
    runs: int
    cuts: int
    operations: int
    acknowledged: int
    violation: str | None
    lines: tuple[str, ...]
    digest: str


def live(seed: int, bug: Bug = NONE) -> Outcome:
    """The life of `seed`, up to the first thing that goes wrong."""
    folder = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="cerememory-life-", dir=folder) as root, deterministic(seed), _quiet():
        life = _Life(seed, Path(root), bug)
        try:
            with life.files.in_place(), bug.planted(life.rng("bug")):
                trio.run(life.run, clock=jumping_clock(LIFE_MAX_S))
        except Exception:  # noqa: BLE001 - whatever it is, the daemon must not do it
            if life.history.violation is None:
                life.history.violation = traceback.format_exc()
    history = life.history
    return Outcome(
        seed,
        life.runs,
        life.cuts,
        history.asked,
        history.acknowledged,
        history.violation,
        tuple(history.lines),
        history.digest(),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the daemon's log lines; no failpoint stays armed."""
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        failpoints.disarm()
        structlog.reset_defaults()


def _drop(_logger: Any, _name: str, _event: Any) -> Any:
    raise structlog.DropEvent


class _Life:
    def __init__(self, seed: int, root: Path, bug: Bug) -> None:
        self._seed = seed
        self._rng = self.rng("life")
        self._root = root
        self._settings = self._chosen_settings()
        self._store = bug.store(self.rng("store"))
        self._world = SimulatedWorld(self.rng("world"), Power())
        self.files = FakeFiles(root, self.rng("files"))
        self.history = History()
        audit_path = self._settings.security.audit_log_path
        self._checker = Checker(self.history, self._store, audit_path, self.rng("checker"))
        count = self._rng.randint(1, CLIENTS_MAX)
        self._clients = [
            Client(number, self.rng(f"client {number}"), self.history, self._world) for number in range(count)
        ]
        self.runs = 0
        self.cuts = 0

    def rng(self, what: str) -> random.Random:
        """One for each, so that one who draws more often changes nothing for the others."""
        return random.Random(f"{self._seed} {what}")

    def _chosen_settings(self) -> Settings:
        rng = self._rng
        return Settings(
            data_dir=self._root / "data",
            security=SecuritySettings(persist_search_indexes=False),
            decay=DecaySettings(background_interval_secs=rng.choice((0, 600, 3_600))),
            dream=DreamSettings(background_interval_secs=rng.choice((0, 900, 7_200))),
            storage=StorageSettings(
                group_commit_ms=rng.choice((0, 2, 50)), history_versions=rng.choice((0, 1, 100))
            ),
        )

    async def run(self) -> None:
        runs = self._rng.randint(RUNS_MIN, RUNS_MAX)
        with self._world.pauses_before_messages():
            while self.runs < runs:
                await self._run_machine(is_last=self.runs == runs - 1)
                self.runs += 1

    async def _run_machine(self, *, is_last: bool) -> None:
        """Until the clients have done what they wanted, or the power goes."""
        power = self._new_power(is_last=is_last)
        for part in (self._store, self.files, self._world):
            part.start(power)
        self._world.set_by_s += self._rng.choice(OFF_FOR_S)
        self.history.note(f"run {self.runs}")
        try:
            with trio.CancelScope() as scope:
                power.at_cut(scope.cancel)
                await self._run_daemon(power, is_last=is_last)
        except Exception:
            if power.is_on or self.history.violation is not None:
                raise
        failpoints.disarm()
        if not power.is_on:
            self.cuts += 1
            self.history.note(f"the power went at point {power.passed}")
            self.files.lose_unsynced()
        self._store.start(Power())
        self._checker.fsck(self._world.now())

    def _new_power(self, *, is_last: bool) -> Power:
        if is_last or self._rng.random() < 0.15:
            return Power()
        return Power(self._rng.randint(1, self._rng.choice(CUT_AFTER)))

    async def _run_daemon(self, power: Power, *, is_last: bool) -> None:
        metrics = Metrics([store.value for store in STORES])
        self.history.may_crash = False
        with ExitStack() as stack:
            directory = stack.enter_context(DataDir.acquire(self._settings.data_dir))
            world = self._world.world()
            async with running(self._settings, directory, self._store, world, metrics) as engine:
                await self._checker.check(engine)
                self.history.note(f"the check found {len(self.history.items)} items as they must be")
                if not is_last:
                    self._let_things_fail()
                    session = Session(engine, power)
                    async with trio.open_nursery() as nursery:
                        for client in self._clients:
                            nursery.start_soon(client.run, session, self._rng.randint(ACTIONS_MIN, ACTIONS_MAX))
                self._let_all_go_well()

    def _let_things_fail(self) -> None:
        self._store.may_fail = self.files.may_fail = self._rng.random() < 0.7
        self._world.may_be_slow = self._rng.random() < 0.7
        if self._rng.random() < 0.3:
            self.history.may_crash = True
            for name in self._rng.sample(CRASHING, self._rng.randint(1, 2)):
                failpoints.arm(name, "crash", self._rng.randint(1, 12))

    def _let_all_go_well(self) -> None:
        self._store.may_fail = self.files.may_fail = self._world.may_be_slow = False
        failpoints.disarm()
