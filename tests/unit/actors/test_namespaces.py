"""Namespaces in the engine: names and their numbers, and that nothing crosses from one namespace to another.

The model of a namespace is an engine of its own: whatever is done in several of them on one engine must be
answered as an engine answers that only ever saw what was done in that one. Ids are counted in each namespace,
so that the same id is in several of them; time stands still during an operation. What is done in all namespaces
at the beginning and at the end of each script is done in turns, so that it meets what is still under way.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cerememory.actors.engine import Engine, Idempotency
from cerememory.actors.seams import Offload, World, inline
from cerememory.errors import CerememoryError, StorageUnavailable, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import STORES, Store
from cerememory.protocol.requests import (
    EncodeBatch,
    EncodeBatchRaw,
    EncodeUpdate,
    RecallRawQuery,
)
from cerememory.protocol.values import NANOS, RecordId
from cerememory.storage import namespaces
from cerememory.storage.keys import DEFAULT_NAMESPACE, NOWHERE
from cerememory.storage.mutations import Stored
from tests.support.committing import an_id
from tests.support.engine import (
    NOW,
    Running,
    WallClock,
    raw_body,
    running_engine,
    store_body,
    text_block,
    to_introspect,
    to_recall,
    to_store,
    to_store_raw,
)
from tests.support.memory_storage import MemoryStorage

NAMES = ("default", "work", "home")
# One a text: what a word is worth beside another is told by counts over all of the index.
WORDS = ("kettle", "anchor", "parrot")
VECTORS = ([1.0, 0.0], [0.5, 0.5], [1.0])
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)  # a failure would take minutes to shrink
SETTLED_S = 2.0  # after it what recalls do is counted


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def running(tmp_path: Path, storage: MemoryStorage) -> AsyncIterator[Running]:
    async with running_engine(tmp_path, storage=storage) as opened:
        yield opened


async def test_the_default_one_is_number_nought_and_needs_no_commit(
    running: Running, storage: MemoryStorage
) -> None:
    assert await running.engine.namespace("default") == DEFAULT_NAMESPACE
    assert await running.engine.namespace("default", create=True) == DEFAULT_NAMESPACE
    assert storage.commits == []


async def test_a_name_that_nothing_was_stored_under_is_nowhere_until_it_is_created(
    running: Running, storage: MemoryStorage
) -> None:
    engine = running.engine
    assert await engine.namespace("work") == NOWHERE
    assert storage.commits == []
    assert await engine.namespace("work", create=True) == 1
    assert await engine.namespace("home", create=True) == 2
    assert [await engine.namespace(name) for name in ("work", "home", "Work")] == [1, 2, NOWHERE]
    commits = len(storage.commits)
    assert await engine.namespace("work", create=True) == 1
    assert len(storage.commits) == commits


async def test_nowhere_holds_nothing(running: Running) -> None:
    await running.engine.encode_store(to_store("kettle"))
    nowhere = await running.engine.namespace("work")
    assert (await running.engine.recall_query(to_recall("kettle"), namespace=nowhere)).total_candidates == 0
    assert (await running.engine.introspect_stats(namespace=nowhere)).total_records == 0


async def test_those_who_create_one_name_at_once_get_one_number(running: Running) -> None:
    numbers: list[int] = []

    async def create(name: str) -> None:
        numbers.append(await running.engine.namespace(name, create=True))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(create, "work")
    assert numbers == [1] * 10
    assert await running.engine.namespace("home", create=True) == 2


async def test_names_keep_their_numbers_over_a_restart(tmp_path: Path) -> None:
    storage = MemoryStorage()
    for _ in range(2):
        async with running_engine(tmp_path, storage=storage) as running:
            created = [await running.engine.namespace(name, create=True) for name in ("work", "home")]
            assert created == [1, 2]


async def test_a_name_whose_commit_failed_is_not_remembered(
    running: Running, storage: MemoryStorage, autojump_clock: MockClock
) -> None:
    storage.break_disk()
    with pytest.raises(StorageUnavailable):
        await running.engine.namespace("work", create=True)
    assert await running.engine.namespace("work") == NOWHERE
    storage.mend_disk()
    await trio.sleep(SETTLED_S)
    assert await running.engine.namespace("work", create=True) == 1


@pytest.mark.parametrize("create", [True, False])
async def test_what_cannot_be_a_name_is_refused(running: Running, storage: MemoryStorage, create: bool) -> None:
    for name in ("", "no name", "a" * 65):
        with pytest.raises(ValidationFailed, match=r"^namespace: expected 1 to 64 "):
            await running.engine.namespace(name, create=create)
    assert storage.commits == []


async def test_their_number_is_bounded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "NAMESPACES_MAX", 1)
    assert await running.engine.namespace("work", create=True) == 1
    with pytest.raises(ValidationFailed, match="there are 1 already"):
        await running.engine.namespace("home", create=True)
    assert await running.engine.namespace("home") == NOWHERE
    assert await running.engine.namespace("work", create=True) == 1


async def test_statistics_are_of_one_namespace_and_gauges_of_all(running: Running) -> None:
    engine = running.engine
    for count, namespace in ((1, DEFAULT_NAMESPACE), (2, 1), (3, 2)):
        for _ in range(count):
            await engine.encode_store(to_store("x", embedding=[1.0]), namespace=namespace)
            await engine.encode_store(to_store("x", store=Store.WORKING), namespace=namespace)
            await engine.encode_store_raw(to_store_raw("x"), namespace=namespace)
        stats = await engine.introspect_stats(namespace=namespace)
        assert (stats.total_records, stats.records_by_store[Store.WORKING]) == (2 * count, count)
        assert (stats.raw_journal_records, stats.vector_index_records) == (count, count)
    assert engine.record_count() == 6 + 6, "durable memories and raw entries"
    await engine.refresh_gauges()
    assert running.counted("cerememory_records", store="episodic") == 6
    assert running.counted("cerememory_records", store="working") == 6
    assert running.counted("cerememory_raw_journal_records") == 6


@dataclass
class Place:
    """A namespace of an engine, and how many operations it has seen."""

    engine: Engine
    name: str
    clock: ScriptedClock
    operations: int = 0

    async def namespace(self, *, create: bool = False) -> int:
        return await self.engine.namespace(self.name, create=create)


@dataclass
class ScriptedClock(WallClock):
    """Time and ids as an operation's number in its namespace gives them."""

    step_ns: int = 0
    ids: list[RecordId] = field(default_factory=list)

    def begin(self, number: int) -> None:
        self.at = NOW + number * NANOS
        self.ids = [an_id(100 * number + i) for i in reversed(range(10))]

    def _next_id(self) -> RecordId:
        return self.ids.pop()

    def world(self, offload: Offload = inline) -> World:
        return World(now=self.now, new_id=self._next_id, offload=offload)


class Operation(Protocol):
    async def ask(self, place: Place) -> object: ...


@dataclass(frozen=True)
class StoreOne:
    text: str
    store: Store
    embedding: list[float] | None
    joy: float
    key: str | None

    async def ask(self, place: Place) -> object:
        emotion = {"joy": self.joy} if self.joy else None
        request = to_store(self.text, store=self.store, embedding=self.embedding, emotion=emotion)
        retried = None if self.key is None else Idempotency("open", self.key, self.text.encode())
        namespace = await place.namespace(create=True)
        return await place.engine.encode_store(request, retried, namespace=namespace)


@dataclass(frozen=True)
class StoreBatch:
    texts: list[str]
    store: Store

    async def ask(self, place: Place) -> object:
        records = [store_body(text, store=self.store) for text in self.texts]
        body = codec.dump({"records": records, "infer_associations": True})
        namespace = await place.namespace(create=True)
        return await place.engine.encode_batch(codec.parse(body, EncodeBatch), namespace=namespace)


@dataclass(frozen=True)
class StoreEntries:
    texts: list[str]
    session_id: str

    async def ask(self, place: Place) -> object:
        namespace = await place.namespace(create=True)
        if len(self.texts) == 1:
            request = to_store_raw(self.texts[0], self.session_id)
            return await place.engine.encode_store_raw(request, namespace=namespace)
        body = codec.dump({"records": [raw_body(text, self.session_id) for text in self.texts]})
        return await place.engine.encode_batch_raw(codec.parse(body, EncodeBatchRaw), namespace=namespace)


@dataclass(frozen=True)
class Update:
    record_id: RecordId
    text: str
    embedding: list[float] | None

    async def ask(self, place: Place) -> object:
        body = codec.dump({"content": {"blocks": [text_block(self.text, embedding=self.embedding)]}})
        edit = codec.parse(body, EncodeUpdate)
        return await place.engine.encode_update(self.record_id, edit, namespace=await place.namespace())


@dataclass(frozen=True)
class Recall:
    cue: dict[str, Any]
    reconsolidate: bool

    async def ask(self, place: Place) -> object:
        request = to_recall(cue=self.cue, limit=100, reconsolidate=self.reconsolidate)
        return await place.engine.recall_query(request, namespace=await place.namespace())


@dataclass(frozen=True)
class RecallRaw:
    filters: dict[str, Any]

    async def ask(self, place: Place) -> object:
        request = codec.parse(codec.dump(self.filters), RecallRawQuery)
        return await place.engine.recall_raw_query(request, namespace=await place.namespace())


@dataclass(frozen=True)
class Look:
    record_id: RecordId

    async def ask(self, place: Place) -> object:
        return await place.engine.introspect_record(
            to_introspect(self.record_id), namespace=await place.namespace()
        )


@dataclass(frozen=True)
class Count:
    async def ask(self, place: Place) -> object:
        return await place.engine.introspect_stats(namespace=await place.namespace())


texts = st.sampled_from(WORDS)
some_texts = st.lists(texts, min_size=1, max_size=3)
stores = st.sampled_from(STORES)
vectors = st.none() | st.sampled_from(VECTORS)
ids = st.builds(lambda number, i: an_id(100 * number + i), st.integers(1, 8), st.integers(0, 1))
CUES: list[dict[str, Any]] = [
    {},
    *({"text": text} for text in WORDS),
    *({"embedding": vector} for vector in VECTORS),
    {"emotion": {"joy": 1.0}},
    {"temporal": {"start": "1970-01-01T00:00:00Z", "end": "2200-01-01T00:00:00Z"}},
]
FILTERS: list[dict[str, Any]] = [{}, {"query": "kettle"}, {"session_id": "s-1"}, {"limit": 1}]
WRITES: st.SearchStrategy[Operation] = st.one_of(
    st.builds(StoreOne, texts, stores, vectors, st.sampled_from([0.0, 0.5]), st.sampled_from([None, "k"])),
    st.builds(StoreBatch, some_texts, stores),
    st.builds(StoreEntries, some_texts, st.sampled_from(["s-1", "s-2"])),
    st.builds(Update, ids, texts, vectors),
)
READS: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Recall, st.sampled_from(CUES), st.booleans()),
    st.builds(RecallRaw, st.sampled_from(FILTERS)),
    st.builds(Look, ids),
    st.just(Count()),
)
FIRST: list[Operation] = [
    StoreOne("kettle", Store.EPISODIC, VECTORS[0], 0.5, "k"),
    StoreOne("kettle", Store.WORKING, VECTORS[0], 0.5, None),
    StoreEntries(["kettle"], "s-1"),
]
LAST: list[Operation] = [
    *(Recall(cue, True) for cue in CUES),
    *(RecallRaw(filters) for filters in FILTERS),
    *(Look(an_id(100 * number)) for number in range(1, 7)),
    Count(),
]


async def answered(place: Place, operation: Operation) -> object:
    """What an operation is answered, as it can be compared; errors too."""
    if isinstance(operation, Count):
        await trio.sleep(SETTLED_S)
    place.operations += 1
    place.clock.begin(place.operations)
    try:
        return comparable(await operation.ask(place))
    except CerememoryError as error:
        return type(error).__name__, str(error)


def comparable(answer: object) -> object:
    """Whole, but for the commit numbers, which the namespaces share."""
    if isinstance(answer, Stored):
        return answer.replayed, comparable(answer.reply)
    return msgspec.json.decode(codec.dump(answer))


@asynccontextmanager
async def engine_of(clock: ScriptedClock) -> AsyncIterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:
        async with running_engine(Path(folder), clock=clock) as running:
            yield running.engine


async def answers_together(script: list[tuple[str, Operation]]) -> dict[str, list[object]]:
    """The answers of one engine in whose namespaces all is done, by the namespace."""
    clock = ScriptedClock()
    async with engine_of(clock) as engine:
        places = {name: Place(engine, name, clock) for name in NAMES}
        answers: dict[str, list[object]] = {name: [] for name in NAMES}
        for name, operation in script:
            answers[name].append(await answered(places[name], operation))
        return answers


async def answers_alone(operations: list[Operation]) -> list[object]:
    """The answers of an engine that sees nothing else, in its default namespace."""
    clock = ScriptedClock()
    async with engine_of(clock) as engine:
        place = Place(engine, "default", clock)
        return [await answered(place, operation) for operation in operations]


@settings(max_examples=15, phases=UNSHRUNK, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(NAMES), WRITES | READS), min_size=5, max_size=24))
def test_each_namespace_answers_as_an_engine_that_saw_nothing_else(script: list[tuple[str, Operation]]) -> None:
    first, last = ([(name, operation) for operation in each for name in NAMES] for each in (FIRST, LAST))
    whole = first + script + last

    async def compare() -> None:
        together = await answers_together(whole)
        for name in NAMES:
            assert together[name] == await answers_alone([each for place, each in whole if place == name])

    trio.run(compare, clock=MockClock(autojump_threshold=0))
