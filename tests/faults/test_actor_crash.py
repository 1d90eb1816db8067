"""An actor crashes between a request and its answer, while others are asked: only that request fails.

In process, on real storage, threads and clock. Each crash is an `InjectedCrash` at a failpoint of the actor: no
known error, so it is handled as a bug would be.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
import trio

from cerememory import failpoints
from cerememory.actors.assembly import opened
from cerememory.actors.engine import Engine
from cerememory.config.settings import Settings, StorageSettings
from cerememory.errors import ActorStopped, InternalError, RecordNotFound
from cerememory.failpoints import VARIABLE as FAILPOINTS
from cerememory.protocol.records import STORES
from cerememory.protocol.replies import Recalled
from cerememory.protocol.requests import RecallRawQuery
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.datadir import DataDir
from cerememory.telemetry.metrics import Metrics
from tests.support.calls import UNLIMITED, WAIT_S, Caller
from tests.support.daemon import Daemon
from tests.support.engine import to_introspect, to_recall, to_store, to_store_raw
from tests.support.stored import stored_in

R = TypeVar("R")

DURABLE = ("episodic", "semantic", "procedural", "emotional")
ACTORS = (*DURABLE, "working", "raw_journal", "text_index", "vector_index", "audit")
HOOKS = [(name, f"actor.{name}.{hook}") for name in ACTORS for hook in ("received", "handled")]
HOOKS += [("writer", "actor.writer.received"), ("writer", "writer.before_reply")]
CLIENTS = 4


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


@dataclass
class Load:
    """Clients that store and ask at the same time, and what came of it.

    `sent` has the vector of each durable memory by its only word, `stored` the word of each acknowledged one by
    its id.
    """

    engine: Engine
    sent: dict[str, tuple[float, float]] = field(default_factory=dict)
    stored: dict[RecordId, str] = field(default_factory=dict)
    failed: list[InternalError] = field(default_factory=list)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(self._client, number)

    async def _client(self, number: int) -> None:
        for i, store in enumerate(DURABLE):
            word, angle = f"word{number}x{i}", 0.01 * (number * len(DURABLE) + i)
            embedding = self.sent[word] = (math.cos(angle), math.sin(angle))
            request = to_store(word, store=store, embedding=embedding)
            if (stored := await self.tried(self.engine.encode_store(request))) is not None:
                self.stored[stored.reply.record_id] = word
                await self.tried(self.engine.introspect_record(to_introspect(stored.reply.record_id)))
            await self._ask(word, embedding)

    async def _ask(self, word: str, embedding: tuple[float, float]) -> None:
        await self.tried(self.engine.encode_store_raw(to_store_raw(word)))
        await self.tried(self.engine.recall_raw_query(RecallRawQuery(session_id="s-1")))
        await self.tried(self.engine.recall_query(to_recall(word)))
        await self.tried(self.engine.recall_query(to_recall(cue={"embedding": embedding})))
        held = await self.tried(self.engine.encode_store(to_store(f"held {word}x", store="working")))
        if held is not None:
            await self.tried(self.engine.introspect_record(to_introspect(held.reply.record_id)))

    async def tried(self, asked: Awaitable[R]) -> R | None:
        try:
            return await asked
        except InternalError as error:
            self.failed.append(error)
        except RecordNotFound:
            pass  # working memory had no room for it any more
        return None


@dataclass
class Real:
    engine: Engine
    metrics: Metrics
    data_dir: Path

    def restarts(self, actor: str) -> float:
        return self.metrics.registry.get_sample_value("cerememory_actor_restarts_total", {"actor": actor}) or 0.0

    async def recall(self, word: str) -> list[str]:
        """What a recall finds once the index has everything."""
        request = to_recall(word, reconsolidate=False, limit=100)
        with trio.fail_after(WAIT_S):
            while not (answer := await self.engine.recall_query(request)).query_metadata.index_complete:
                await trio.lowlevel.checkpoint()
        return ids_of(answer)

    async def nearest(self, embedding: tuple[float, float]) -> str:
        request = to_recall(cue={"embedding": embedding}, reconsolidate=False)
        return ids_of(await self.engine.recall_query(request))[0]

    async def check(self, load: Load) -> None:
        """Everything acknowledged is read, and found by word and by vector."""
        for record_id, word in load.stored.items():
            await self.engine.introspect_record(to_introspect(record_id))
            assert format_id(record_id) in await self.recall(word)
            assert format_id(record_id) == await self.nearest(load.sent[word])

    async def crash(self, name: str) -> None:
        """Crash the actor at its next message: a ping, if nothing comes before."""
        before = self.restarts(name)
        failpoints.arm(f"actor.{name}.received")
        with trio.fail_after(WAIT_S):
            while self.restarts(name) == before:
                await self.engine.not_ready()


def ids_of(answer: Recalled) -> list[str]:
    return [json.loads(bytes(memory.record))["id"] for memory in answer.memories]


@asynccontextmanager
async def real_engine(path: Path) -> AsyncIterator[Real]:
    settings = Settings(data_dir=path / "data", storage=StorageSettings(map_size_gib=1, min_free_disk_mib=0))
    metrics = Metrics([store.value for store in STORES])
    with DataDir.acquire(settings.data_dir) as directory:
        async with opened(settings, directory, metrics) as engine:
            yield Real(engine, metrics, settings.data_dir)


@pytest.mark.sample(8)
@pytest.mark.parametrize(("name", "failpoint"), HOOKS, ids=lambda value: value)
async def test_a_crash_fails_at_most_the_request_that_was_handled(
    tmp_path: Path, name: str, failpoint: str
) -> None:
    """One client sees InternalError, or none when the actor crashed over an event; all others are answered, and
    so is what is asked next. On disk: everything that was acknowledged, and the whole audit log.
    """
    async with real_engine(tmp_path) as real:
        load = Load(real.engine)
        failpoints.arm(failpoint, passage=3)
        await load.run()
        assert real.restarts(name) == 1
        assert len(load.failed) <= 1
        assert await real.engine.not_ready() is None
        await real.check(load)
    stored = stored_in(real.data_dir)
    assert {format_id(record_id) for record_id in load.stored} <= stored.record_ids
    assert len(stored.record_ids) <= len(load.stored) + len(load.failed)
    assert stored.audit_lines_in_file == stored.head.audit_sequence


@pytest.mark.parametrize(
    ("failpoint", "is_committed"), [("storage.commit.before_fsync", False), ("storage.commit.after_fsync", True)]
)
async def test_a_crash_of_the_writer_around_a_commit_keeps_nothing_from_those_who_follow(
    tmp_path: Path, failpoint: str, is_committed: bool
) -> None:
    """The client sees InternalError: its record is on disk, or isn't. When it is, it is found by word and by
    vector though nobody was told of the commit, and the audit file has its entry.
    """
    async with real_engine(tmp_path) as real:
        await real.engine.encode_store(to_store("first", embedding=(1.0, 0.0)))
        await real.nearest((1.0, 0.0))
        failpoints.arm(failpoint)
        with pytest.raises(InternalError):
            await real.engine.encode_store(to_store("second", embedding=(0.6, 0.8)))
        await real.engine.encode_store(to_store("third", embedding=(0.0, 1.0)))
        second = await real.recall("second")
        assert len(second) == is_committed
        assert (await real.nearest((0.6, 0.8)) in second) is is_committed
        assert real.restarts("writer") == 1
    stored = stored_in(real.data_dir)
    assert ("second" in stored.texts.values()) is is_committed
    assert stored.audit_lines_in_file == stored.head.audit_sequence == stored.head.audit_synced == 2 + is_committed


async def test_a_crash_of_the_writer_fails_no_other_group(tmp_path: Path) -> None:
    """The clients whose requests shared the transaction see InternalError, and what they sent is on disk; all
    others are answered. On disk: counters, index, file and vectors that agree.
    """
    async with real_engine(tmp_path) as real:
        load = Load(real.engine)
        failpoints.arm("storage.commit.after_fsync", passage=5)
        await load.run()
        assert real.restarts("writer") == 1
        assert 1 <= len(load.failed) <= CLIENTS
        await real.check(load)
        found = {record_id: word for word in load.sent for record_id in await real.recall(word)}
        assert [await real.nearest(load.sent[word]) for word in found.values()] == list(found)
    stored = stored_in(real.data_dir)
    assert found == stored.texts
    assert stored.audit_lines_in_file == stored.head.audit_sequence == stored.head.audit_synced


@pytest.mark.sample(2)
@pytest.mark.parametrize("passage", range(1, 5))
async def test_a_crash_of_the_text_index_loses_no_document(tmp_path: Path, passage: int) -> None:
    """The client sees InternalError for its search or, when the crash came over what was committed, an answer.
    On disk, in the end: every document.
    """
    async with real_engine(tmp_path) as real:
        failpoints.arm("actor.text_index.received", passage=passage)
        wanted = []
        with trio.fail_after(WAIT_S):
            while not real.restarts("text_index"):  # messages about commits may come together
                stored = await real.engine.encode_store(to_store("shared"))
                wanted.append(format_id(stored.reply.record_id))
                with suppress(InternalError):
                    await real.engine.recall_query(to_recall("shared"))
        assert set(await real.recall("shared")) == set(wanted)
        assert real.restarts("text_index") == 1


async def test_a_text_index_catches_up_while_more_is_stored(tmp_path: Path) -> None:
    """The client's recalls say that the index isn't complete, for a moment after the crash: not for as long as
    others store. On disk, in the end: every document.
    """
    async with real_engine(tmp_path) as real, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(store_for_ever, real.engine)
        failpoints.arm("actor.text_index.received", passage=2)
        with trio.fail_after(WAIT_S):
            while not real.restarts("text_index"):
                await trio.lowlevel.checkpoint()
        stored = await real.engine.encode_store(to_store("the last"))
        assert await real.recall("last") == [format_id(stored.reply.record_id)]
        nursery.cancel_scope.cancel()


async def store_for_ever(engine: Engine) -> None:
    while True:
        await engine.encode_store(to_store("one of many"))


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ACTORS)
async def test_three_crashes_in_a_minute_end_an_actor_and_readiness(tmp_path: Path, name: str) -> None:
    """Readiness is 503 from then on, and who asks the actor is told so at once; encodes are still acknowledged
    (but those of working memory, when that is what is gone). On disk: those, and after the next start the audit
    log is whole, whoever was gone.
    """
    async with real_engine(tmp_path) as real:
        for _ in range(3):
            await real.crash(name)
        for _ in range(2):
            await real.engine.encode_store(to_store("kept", embedding=(1.0, 0.0)))
        assert await real.engine.not_ready() == "engine check failed"
    assert len(stored_in(real.data_dir).record_ids) == 2
    async with real_engine(tmp_path) as real:
        assert len(await real.recall("kept")) == 2
    stored = stored_in(real.data_dir)
    assert stored.audit_lines_in_file == stored.head.audit_sequence


async def test_three_crashes_of_the_writer_end_writing_and_leave_reading(tmp_path: Path) -> None:
    """Encodes get ActorStopped (503) at once, readiness is 503, and memories are still read and found. On disk:
    what was acknowledged.
    """
    async with real_engine(tmp_path) as real:
        kept = (await real.engine.encode_store(to_store("kept"))).reply.record_id
        for _ in range(3):
            failpoints.arm("actor.writer.received")
            with pytest.raises(InternalError):
                await real.engine.encode_store(to_store("lost"))
        with pytest.raises(ActorStopped):
            await real.engine.encode_store(to_store("lost"))
        assert await real.engine.not_ready() == "engine check failed"
        await real.engine.introspect_record(to_introspect(kept))
        assert await real.recall("kept") == [format_id(kept)]
    assert stored_in(real.data_dir).record_ids == {format_id(kept)}


def test_a_crash_is_answered_with_the_id_of_its_request(tmp_path: Path) -> None:
    """The client gets 500 INTERNAL_ERROR with its own request id, under which the log has the traceback; the same
    request is answered the next time. On disk: the record, as it was.
    """
    failing = {**UNLIMITED, FAILPOINTS: "actor.episodic.handled=crash"}
    with Daemon(tmp_path / "data", env=failing) as daemon, Caller(daemon.address) as caller:
        record_id = caller.store("kept").json["record_id"]
        request_id = str(uuid4())
        path = f"/v1/introspect/record/{record_id}"
        failed = caller.ask("GET", path, headers={"X-Request-Id": request_id})
        assert (failed.status, failed.code) == (500, "INTERNAL_ERROR")
        assert failed.json["request_id"] == failed.headers["x-request-id"] == request_id
        assert "InjectedCrash" not in json.dumps(failed.json)
        assert caller.record(record_id).status == 200
        assert caller.readiness().status == 200
        assert "InjectedCrash: actor.episodic.handled" in daemon.log()
        assert f"asked by {{'request_id': '{request_id}'}}" in daemon.log()
        assert daemon.stop() == 0
    assert stored_in(tmp_path / "data").record_ids == {record_id}
