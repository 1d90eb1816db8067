"""An engine and the models of its namespaces, side by side.

A `Stage` opens the engine, restarts it on the same storage, and moves time; a `Place` is one of its namespaces, on
both sides. Time stands still while an operation runs, so that a model knows every time; ids are counted.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from cerememory.actors.engine import Engine, Idempotency
from cerememory.actors.seams import Offload, World, inline
from cerememory.config.settings import (
    DecaySettings,
    EvolutionSettings,
    SecuritySettings,
    Settings,
    StorageSettings,
)
from cerememory.errors import CerememoryError, IdempotencyConflict, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import STORES
from cerememory.protocol.requests import Export
from cerememory.protocol.values import RecordId, format_id, parse_id
from cerememory.storage.contract import Storage
from cerememory.storage.fsck import Finding, Tally, check
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.mutations import Stored
from tests.support.committing import an_id
from tests.support.engine import Running, WallClock, running_engine, settings_for
from tests.support.memory_storage import MemoryStorage
from tests.support.model.memories import Json
from tests.support.model.namespace import Namespace, Rules

SETTLED_S = 0.5  # of the loop's clock: after it what a recall did is committed
CLOSE = 1e-9
UNKNOWN = format_id(an_id(2**64))


class Disagreement(AssertionError):
    """The engine and the model say different things."""


def agree(found: Any, expected: Any, where: str) -> None:
    """Floats are compared to `CLOSE`; of a dict only the keys that are expected. Raises `Disagreement`."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            agree(found.get(key), value, f"{where}.{key}")
    elif isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(found) == len(expected):
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            agree(one, other, f"{where}[{i}]")
    elif isinstance(expected, float) and isinstance(found, (int, float)):
        if not math.isclose(found, expected, rel_tol=CLOSE, abs_tol=CLOSE):
            raise Disagreement(f"{where}: {found!r}, the model says {expected!r}")
    elif found != expected or isinstance(expected, (list, tuple)):
        raise Disagreement(f"{where}: {found!r}, the model says {expected!r}")


def holds(statement: bool, where: str) -> None:
    if not statement:
        raise Disagreement(where)


def decoded(answer: Any) -> Any:
    """An answer as decoded JSON."""
    return msgspec.json.decode(codec.dump(answer))


@dataclass
class CountingClock(WallClock):
    """Stands still but for what a stage adds, and counts the ids that it gives out."""

    step_ns: int = 0
    ids_given: int = 0

    def _next_id(self) -> RecordId:
        self.ids_given += 1
        return an_id(self.ids_given)

    def world(self, offload: Offload = inline) -> World:
        return World(now=self.now, new_id=self._next_id, offload=offload)


@dataclass
class Stage:
    """`is_on_disk`: on LMDB and with an index that is kept, else in memory."""

    path: Path
    rules: Rules
    is_on_disk: bool = False
    clock: CountingClock = field(default_factory=CountingClock)
    places: dict[str, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._storage: Storage = MemoryStorage()
        self._running: Running | None = None
        self._closing = AsyncExitStack()

    @property
    def engine(self) -> Engine:
        assert self._running is not None
        return self._running.engine

    async def open(self) -> None:
        if self.is_on_disk:
            self._storage = LmdbStorage(self.path / "lmdb", map_size_bytes=64 << 20)
        running = running_engine(self.path, storage=self._storage, settings=self._settings(), clock=self.clock)
        self._running = await self._closing.enter_async_context(running)

    async def close(self) -> None:
        """What is left must add up."""
        await self._closing.aclose()
        try:
            agree([str(finding) for finding in self._findings()], [], "fsck")
        finally:
            if self.is_on_disk:
                self._storage.close()

    def _findings(self) -> Iterator[Finding]:
        settings = self._settings()
        index_path = settings.data_dir / "index" if self.is_on_disk else None
        audit_path = settings.security.audit_log_path
        return check(self._storage, index_path=index_path, audit_path=audit_path, now=self.clock.at, tally=Tally())

    async def restart(self) -> None:
        await self.close()
        await self.open()
        for place in self.places.values():
            place.model.restart()

    def _settings(self) -> Settings:
        decay = DecaySettings(
            background_interval_secs=0,
            time_unit_secs=self.rules.time_unit_s,
            prune=self.rules.prune,
            archive_days=self.rules.archive_days,
        )
        return settings_for(
            self.path,
            decay=decay,
            security=SecuritySettings(persist_search_indexes=self.is_on_disk),
            evolution=EvolutionSettings(enabled=self.rules.evolves),
            storage=StorageSettings(history_versions=self.rules.versions_kept),
        )

    async def place(self, name: str) -> Place:
        if name not in self.places:
            number = await self.engine.namespace(name, create=True)
            self.places[name] = Place(self, name, number, Namespace(self.rules))
        return self.places[name]

    async def settle(self) -> None:
        await trio.sleep(SETTLED_S)


@dataclass
class Place:
    """A namespace of the engine, and the model of it."""

    stage: Stage
    name: str
    number: int
    model: Namespace

    @property
    def engine(self) -> Engine:
        return self.stage.engine

    @property
    def now(self) -> int:
        return self.stage.clock.at

    def pick(self, number: int) -> str:
        """One of the ids that were ever seen here, by a number; an unknown one for a negative number."""
        return _picked([*self.model.known], number)

    def pick_raw(self, number: int) -> str:
        return _picked([*self.model.known_raw], number)

    def pick_id(self, number: int) -> RecordId:
        return parse_id(self.pick(number))

    async def asked(self, call: Awaitable[Any]) -> Any:
        """The answer, decoded; of a mutation the reply."""
        answer = await call
        return decoded(answer.reply if isinstance(answer, Stored) else answer)

    async def refuses(self, call: Awaitable[Any], *kinds: type[CerememoryError]) -> None:
        """It is refused, with one of these errors."""
        said = " or ".join(kind.__name__ for kind in kinds)
        try:
            answer = await call
        except kinds:
            return
        except CerememoryError as error:
            raise Disagreement(f"{type(error).__name__} ({error}), the model says {said}") from error
        raise Disagreement(f"answered {answer!r}, the model says {said}")

    async def lines(self) -> tuple[list[Json], list[Json]]:
        """All that the engine holds here: memories, working ones last, and entries of the journal."""
        exported = await self.engine.lifecycle_export(
            Export(stores=STORES, include_raw_journal=True), namespace=self.number
        )
        records = [msgspec.json.decode(line) for line in bytes(exported.archive_data).splitlines()[1:-1]]
        kinds = ("memory_record", "raw_journal_record")
        curated, raw = ([r["data"] for r in records if r["kind"] == kind] for kind in kinds)
        return curated, raw

    async def compare(self) -> None:
        """Everything, as an archive has it."""
        model, at = self.model, self.model.clock(self.now)
        curated, raw = await self.lines()
        durable = [model.durable[i].shown(at) for i in sorted(model.durable)]
        held = [memory.shown(at) for memory in model.working.values()]
        entries = [model.journal[i].shown() for i in sorted(model.journal)]
        for found, expected, kind in ((curated, durable + held, "memories"), (raw, entries, "entries")):
            agree([line["id"] for line in found], [line["id"] for line in expected], kind)
            agree(found, expected, kind)
        await self._compare_stats()

    async def _compare_stats(self) -> None:
        stats = decoded(await self.engine.introspect_stats(namespace=self.number))
        agree(stats, self.model.stats(), "stats")
        adjusted = stats["evolution_metrics"]["parameter_adjustments"]
        found = {(each["store"], each["parameter"]): each["current_value"] for each in adjusted}
        agree(found, self.model.adjustments(), "adjustments")
        agree([*found], [*self.model.adjustments()], "adjusted parameters")


def _picked(known: list[str], number: int) -> str:
    return known[number % len(known)] if known and number >= 0 else UNKNOWN


class Change(ABC):
    """A mutation that may come with an idempotency key: `key` None is without."""

    key: str | None = None

    @abstractmethod
    def body(self, place: Place) -> bytes:
        """What tells this request from another one under the same key."""

    def refusal(self, place: Place) -> type[CerememoryError] | None:
        """The error that the model answers, None when it is none."""
        return None

    @abstractmethod
    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]: ...

    @abstractmethod
    async def learn(self, place: Place, reply: Any) -> None:
        """Compare the reply with the model's, and do in the model what was done."""


async def perform(place: Place, change: Change) -> None:
    """A kept answer comes before what the model would say now, unless the request can't be read at all."""
    body, refusal = change.body(place), change.refusal(place)
    retry = None if change.key is None else Idempotency("open", change.key, body)
    call = change.call(place, retry)
    try:
        kept = place.model.kept_answer(change.key, body, place.now)
    except IdempotencyConflict:
        await place.refuses(call, IdempotencyConflict, *([refusal] if refusal is ValidationFailed else []))
        return
    if kept is not None:
        agree(await place.asked(call), kept.reply, "replayed")
    elif refusal is not None:
        await place.refuses(call, refusal)
    else:
        reply = await place.asked(call)
        await change.learn(place, reply)
        place.model.keep_answer(change.key, body, reply, place.now)


@asynccontextmanager
async def staged(path: Path, rules: Rules, *, is_on_disk: bool = False) -> AsyncIterator[Stage]:
    stage = Stage(path, rules, is_on_disk)
    await stage.open()
    try:
        yield stage
    finally:
        await stage.close()
