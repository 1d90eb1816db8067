"""The engine as a surface sees it: what each operation answers, its deadline, its readiness and its counters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from cerememory import failpoints
from cerememory.actors import encoding
from cerememory.actors.engine import Idempotency
from cerememory.actors.writer import LAZY_S
from cerememory.domain.audit_chain import parse_line, verify_lines
from cerememory.errors import (
    ActorBusy,
    IdempotencyConflict,
    InternalError,
    NotCaughtUp,
    PreconditionFailed,
    RecordNotFound,
    StorageDamaged,
    StorageUnavailable,
    ValidationFailed,
)
from cerememory.failpoints import InjectedCrash
from cerememory.protocol import codec
from cerememory.protocol.deadlines import OPERATION_S
from cerememory.protocol.records import STORES, MemoryRecord, Store
from cerememory.protocol.requests import EncodeBatch, EncodeBatchRaw, EncodeUpdate, Forget, RecallRawQuery, Restore
from cerememory.protocol.values import RecordId, parse_id
from cerememory.storage import prepare
from cerememory.storage.keys import DEFAULT_NAMESPACE, counters_key
from cerememory.storage.lmdb import LmdbStorage
from tests.support.engine import (
    Running,
    raw_body,
    running_engine,
    store_body,
    to_introspect,
    to_recall,
    to_store,
    to_store_raw,
)
from tests.support.held import HeldOffload
from tests.support.memory_storage import MemoryStorage

NOBODY = parse_id("0191aaaa-0000-7000-8000-00000000ffff")
RETRY = Idempotency("open", "k-1", b"b" * 16)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def running(tmp_path: Path, storage: MemoryStorage) -> AsyncIterator[Running]:
    async with running_engine(tmp_path, storage=storage) as opened:
        yield opened


async def store(running: Running, text: str = "kettle", **given: Any) -> RecordId:
    return (await running.engine.encode_store(to_store(text, **given))).reply.record_id


async def batch(running: Running, *bodies: dict[str, Any], **given: Any) -> Any:
    body = {"records": list(bodies), **given}
    return await running.engine.encode_batch(codec.parse(codec.dump(body), EncodeBatch))


async def read(running: Running, record_id: RecordId) -> MemoryRecord:
    return codec.parse(bytes(await running.engine.introspect_record(to_introspect(record_id))), MemoryRecord)


def an_update(**given: Any) -> EncodeUpdate:
    return codec.parse(codec.dump(given), EncodeUpdate)


@pytest.mark.parametrize("name", STORES)
async def test_what_was_stored_is_read_back_at_once(running: Running, name: Store) -> None:
    meta = {"intent": "why", "tags": ["a"]}
    stored = await running.engine.encode_store(to_store("kettle", store=name, metadata={"n": 1.10}, meta=meta))
    record = await read(running, stored.reply.record_id)
    assert (stored.reply.store, stored.reply.initial_fidelity, stored.sequence) == (name, 1.0, 1)
    assert (record.store, record.version, record.access_count) == (name, 1, 0)
    assert record.content.blocks[0].data == b"kettle"
    assert bytes(record.metadata) == b'{"n":1.1}'
    assert record.meta is not None
    assert (record.meta.intent, record.meta.capture_status) == ("why", "provided")


async def test_a_record_that_is_not_there_is_not_found(running: Running) -> None:
    for ask in (
        running.engine.introspect_record(to_introspect(NOBODY)),
        running.engine.encode_update(NOBODY, an_update(metadata={})),
    ):
        with pytest.raises(RecordNotFound, match=str(NOBODY)):
            await ask


async def test_a_batch_is_all_or_nothing_and_names_the_record_that_fails(
    running: Running, storage: MemoryStorage
) -> None:
    good, bad = store_body("kettle"), store_body("kettle", embedding=[])
    with pytest.raises(ValidationFailed, match=r"^records\[17\]\.content\.blocks\[0\]\.embedding: "):
        await batch(running, *[good] * 17, bad, good)
    assert storage.commits == []
    assert (await running.engine.introspect_stats()).total_records == 0


async def test_a_raw_batch_is_too(running: Running, storage: MemoryStorage) -> None:
    body = {"records": [raw_body("x"), raw_body("y", "")]}
    with pytest.raises(ValidationFailed, match=r"^records\[1\]\.session_id: "):
        await running.engine.encode_batch_raw(codec.parse(codec.dump(body), EncodeBatchRaw))
    assert storage.commits == []


async def test_a_large_batch_is_prepared_off_the_loop_and_fails_with_its_field_too(tmp_path: Path) -> None:
    held = HeldOffload()
    async with running_engine(tmp_path, offload=held) as running, trio.open_nursery() as nursery:
        held.hold("_new_records")
        nursery.start_soon(lambda: batch(running, *[store_body("kettle")] * 100))
        await held.until_held("_new_records")
        held.release("_new_records")
        with pytest.raises(ValidationFailed, match=r"^records\[99\]"):
            await batch(running, *[store_body("kettle")] * 99, store_body("x", embedding=[]))


async def test_a_large_raw_batch_is_prepared_off_the_loop_with_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body holds a hundred thousand entries: a look at each would hold the loop for a quarter of a second."""
    held = HeldOffload()
    looked: list[str] = []
    for module, name in ((prepare, "new_raw"), (prepare, "raw_encoded"), (encoding, "_content_bytes")):
        monkeypatch.setattr(module, name, noting(looked, name, getattr(module, name)))
    body = codec.parse(codec.dump({"records": [raw_body("kettle")] * 100}), EncodeBatchRaw)
    async with running_engine(tmp_path, offload=held) as running, trio.open_nursery() as nursery:
        held.hold("_store_raws", after=True)
        nursery.start_soon(running.engine.encode_batch_raw, body)
        await held.until_held("_store_raws")
        prepared = list(looked)
        held.release("_store_raws")
    assert prepared == looked == ["new_raw"] * 100 + ["raw_encoded"] * 100


def noting(looked: list[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*given: Any) -> Any:
        looked.append(name)
        return call(*given)

    return noted


@pytest.mark.parametrize("count", [0, 1, 2, 5])
async def test_inferred_neighbours_are_linked_both_ways_and_counted_apart(running: Running, count: int) -> None:
    edge = {"target_id": str(NOBODY), "association_type": "causal", "weight": 0.5}
    bodies = [store_body(f"step {i}", associations=[edge]) for i in range(count)]
    stored = await batch(running, *bodies, infer_associations=True)
    assert stored.reply.associations_inferred == 2 * max(0, count - 1)
    assert [result.associations_created for result in stored.reply.results] == [1] * count
    ids = [result.record_id for result in stored.reply.results]
    for i, record_id in enumerate(ids):
        record = await read(running, record_id)
        linked = [(edge.target_id, edge.association_type, edge.weight) for edge in record.associations]
        neighbours = [ids[j] for j in (i - 1, i + 1) if 0 <= j < count]
        assert linked == [(NOBODY, "causal", 0.5), *((n, "sequential", 0.7) for n in neighbours)]
    stats = await running.engine.introspect_stats()
    assert stats.total_associations == count + 2 * max(0, count - 1)


async def test_a_batch_may_hold_records_for_every_store(running: Running) -> None:
    stored = await batch(running, *(store_body("x", store=name) for name in STORES))
    for name, result in zip(STORES, stored.reply.results, strict=True):
        assert (await read(running, result.record_id)).store is name
    assert set((await running.engine.introspect_stats()).records_by_store.values()) == {1}


async def test_an_empty_batch_stores_nothing(running: Running) -> None:
    stored = await batch(running)
    assert stored.reply.results == ()


async def test_updates_at_once_each_count(running: Running) -> None:
    record_id = await store(running)
    async with trio.open_nursery() as nursery:
        for i in range(20):
            nursery.start_soon(running.engine.encode_update, record_id, an_update(metadata={"n": i}))
    assert (await read(running, record_id)).version == 21


@pytest.mark.parametrize("name", ["episodic", "working"])
async def test_of_two_updates_against_one_version_one_is_refused(running: Running, name: str) -> None:
    record_id = await store(running, store=name)
    outcomes: list[int] = []

    async def update(number: int) -> None:
        try:
            await running.engine.encode_update(record_id, an_update(metadata={"n": number}), 1)
            outcomes.append(number)
        except PreconditionFailed as error:
            assert error.details == {"current_version": 2}

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(update, number)
    assert len(outcomes) == 1
    record = await read(running, record_id)
    assert (record.version, bytes(record.metadata)) == (2, b'{"n":%d}' % outcomes[0])


@pytest.mark.parametrize("name", ["episodic", "working"])
async def test_an_idempotency_key_makes_a_retry_safe(running: Running, name: str) -> None:
    first = await running.engine.encode_store(to_store("x", store=name), RETRY)
    again = await running.engine.encode_store(to_store("x", store=name), RETRY)
    assert (again.reply, again.sequence, again.replayed) == (first.reply, first.sequence, True)
    other = Idempotency(RETRY.scope, RETRY.key, b"o" * 16)
    with pytest.raises(IdempotencyConflict):
        await running.engine.encode_store(to_store("y", store=name), other)
    assert (await running.engine.introspect_stats()).total_records == 1


async def test_an_idempotency_key_outlives_a_restart_and_ends_after_a_day(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    async with running_engine(tmp_path, storage=storage) as running:
        first = await running.engine.encode_store(to_store("x"), RETRY)
    async with running_engine(tmp_path, storage=storage) as running:
        running.clock.at += 23 * 3_600 * 10**9
        again = await running.engine.encode_store(to_store("x"), RETRY)
        assert again.reply == first.reply
        running.clock.at += 2 * 3_600 * 10**9
        later = await running.engine.encode_store(to_store("x"), RETRY)
        assert later.reply.record_id != first.reply.record_id


async def test_a_retried_update_is_answered_when_its_memory_has_left_working_memory(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    async with running_engine(tmp_path, storage=storage) as running:
        record_id = await store(running, store="working")
        first = await running.engine.encode_update(record_id, an_update(metadata={"n": 1}), None, RETRY)
    async with running_engine(tmp_path, storage=storage) as running:
        again = await running.engine.encode_update(record_id, an_update(metadata={"n": 1}), None, RETRY)
        assert (again.sequence, again.replayed) == (first.sequence, True)
        other = Idempotency(RETRY.scope, RETRY.key, b"o" * 16)
        with pytest.raises(IdempotencyConflict):
            await running.engine.encode_update(record_id, an_update(metadata={"n": 2}), None, other)
        with pytest.raises(RecordNotFound):
            await running.engine.encode_update(record_id, an_update(metadata={"n": 1}))


async def test_the_commits_of_a_day_are_audited_as_they_happened(running: Running) -> None:
    record_id = await store(running)
    await batch(running, store_body("a"), store_body("b"))
    await running.engine.encode_update(record_id, an_update(metadata={}))
    await running.engine.encode_store_raw(to_store_raw("said"))
    with pytest.raises(ValidationFailed):
        await store(running, embedding=[])
    await running.engine.recall_query(to_recall("kettle"))
    await store(running, store="working")
    await trio.lowlevel.checkpoint()
    audit = running.actor("audit")
    audit.close_mailbox()
    with trio.fail_after(30):
        while len(running.audit_lines) < 6:
            await trio.lowlevel.checkpoint()
    assert verify_lines(running.audit_lines).entries == len(running.audit_lines)
    assert [parse_line(line).operation for line in running.audit_lines] == [
        "encode.store",
        "encode.batch",
        "encode.update",
        "encode.store_raw",
        "encode.store",
        "recall.query.reconsolidate",
    ]


async def test_stats_of_nothing_are_zeros_and_nulls(running: Running) -> None:
    stats = await running.engine.introspect_stats()
    assert stats.records_by_store == dict.fromkeys(STORES, 0)
    assert stats.avg_fidelity_by_store == {}
    assert (stats.total_records, stats.avg_fidelity, stats.total_associations) == (0, 0.0, 0)
    assert (stats.oldest_record, stats.newest_record, stats.last_dream_tick_at) == (None, None, None)
    assert (stats.total_recall_count, stats.raw_journal_records, stats.vector_index_records) == (0, 0, 0)
    assert stats.vector_search_backend == "brute_force"


async def test_stats_count_what_is_there(running: Running) -> None:
    ids = [await store(running, store=name, embedding=[1.0]) for name in ("episodic", "episodic", "semantic")]
    working = await store(running, store="working")
    await running.engine.encode_store_raw(to_store_raw("said"))
    await running.engine.recall_query(to_recall("kettle"))
    await trio.sleep(2 * LAZY_S)
    stats = await running.engine.introspect_stats()
    assert (stats.total_records, stats.vector_index_records) == (4, 3)
    assert stats.records_by_store[Store.EPISODIC] == 2
    assert stats.records_by_store[Store.WORKING] == 1
    fresh = dict.fromkeys((Store.EPISODIC, Store.SEMANTIC, Store.WORKING), 1.0)
    assert stats.avg_fidelity_by_store == pytest.approx(fresh)
    assert (stats.raw_journal_records, stats.raw_journal_pending_dream, stats.total_recall_count) == (1, 1, 1)
    assert stats.oldest_record == (await read(running, ids[0])).created_at
    assert stats.newest_record == (await read(running, working)).created_at
    assert running.engine.record_count() == 4, "durable memories and raw entries"


async def test_stats_come_from_counters_and_never_from_a_scan(running: Running, storage: MemoryStorage) -> None:
    await store(running)
    counters = storage.rows()[counters_key(DEFAULT_NAMESPACE)]
    rows = {row: None for row in storage.rows() if row.startswith(b"\0\0\0\0")}
    storage.commit(rows)
    assert storage.rows()[counters_key(DEFAULT_NAMESPACE)] == counters
    assert (await running.engine.introspect_stats()).total_records == 1


async def test_counters_survive_restarts_on_the_real_store(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    expected = 0
    for _ in range(3):
        storage = LmdbStorage(tmp_path / "store", map_size_bytes=64 << 20)
        async with running_engine(tmp_path, storage=storage) as running:
            assert (await running.engine.introspect_stats()).total_records == expected
            await store(running)
            await batch(running, store_body("a"), store_body("b", store="working"))
            expected += 2
        storage.close()


async def test_the_metrics_of_a_failed_encode_count_its_time_alone(running: Running) -> None:
    await store(running)
    with pytest.raises(ValidationFailed):
        await store(running, embedding=[])
    assert running.counted("cerememory_encode_total", store="episodic") == 1
    assert running.counted("cerememory_encode_duration_seconds_count", store="episodic") == 2


async def test_a_commit_that_is_there_need_not_be_waited_for(running: Running, autojump_clock: MockClock) -> None:
    stored = await running.engine.encode_store(to_store("x"))
    started = trio.current_time()
    await running.engine.wait_for(stored.sequence)
    assert trio.current_time() == started


async def test_what_changed_nothing_is_answered_with_a_commit_that_is_there(
    running: Running, autojump_clock: MockClock
) -> None:
    first = await running.engine.encode_store(to_store("x", if_absent=True))
    again = await running.engine.encode_store(to_store("x", if_absent=True))
    forget = Forget(record_ids=(first.reply.record_id,), confirm=True, dry_run=True)
    counted = await running.engine.lifecycle_forget(forget)
    restored = await running.engine.lifecycle_restore(Restore(record_ids=(NOBODY,)))
    for stored in (again, counted, restored):
        await running.engine.wait_for(stored.sequence)
    assert again.sequence >= first.sequence


async def test_a_commit_that_comes_within_a_second_is_waited_for(
    running: Running, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.engine.wait_for, 1)
        await trio.sleep(0.9)
        await store(running)
    assert trio.current_time() < 1.0


async def test_a_commit_that_does_not_is_not_caught_up(running: Running, autojump_clock: MockClock) -> None:
    with pytest.raises(NotCaughtUp, match="commit 5 isn't visible yet"):
        await running.engine.wait_for(5)
    assert trio.current_time() == pytest.approx(1.0, abs=0.05)


async def test_an_operation_has_one_deadline_which_ends_the_asking_and_not_the_work(
    tmp_path: Path, autojump_clock: MockClock, storage: MemoryStorage
) -> None:
    held = HeldOffload()
    async with running_engine(tmp_path, storage=storage, offload=held) as running:
        held.hold("_transact")
        with pytest.raises(ActorBusy):
            await running.engine.encode_store(to_store("x"), RETRY)
        assert trio.current_time() == pytest.approx(OPERATION_S)
        held.release("_transact")
        again = await running.engine.encode_store(to_store("x"), RETRY)
        assert again.replayed, "so asking again under the same key is safe"
        assert (await running.engine.introspect_stats()).total_records == 1


async def test_it_is_ready_when_stats_can_be_served(running: Running) -> None:
    assert await running.engine.not_ready() is None


async def test_it_is_not_ready_from_the_moment_that_it_drains(running: Running) -> None:
    running.engine.drain()
    assert await running.engine.not_ready() == "engine check failed"
    await store(running)


async def test_it_is_not_ready_while_the_disk_fails(
    running: Running, storage: MemoryStorage, autojump_clock: MockClock
) -> None:
    storage.break_disk()
    with pytest.raises(StorageUnavailable):
        await store(running)
    assert await running.engine.not_ready() == "storage unavailable"
    assert (await running.engine.introspect_stats()).total_records == 0, "reads go on"
    storage.mend_disk()
    await trio.sleep(2)
    assert await running.engine.not_ready() is None


async def test_it_is_not_ready_as_soon_as_there_is_no_room(
    running: Running, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to have written for it: a daemon that is only read would be ready until the first write."""

    def full() -> None:
        raise StorageUnavailable("only 1 byte of disk is free")

    monkeypatch.setattr(storage, "check_room", full)
    assert await running.engine.not_ready() == "storage unavailable"


async def test_it_is_not_ready_when_an_actor_does_not_answer_within_a_second(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    held = HeldOffload()
    async with running_engine(tmp_path, offload=held) as running, trio.open_nursery() as nursery:
        held.hold("_transact")
        nursery.start_soon(store, running)
        await held.until_held("_transact")
        started = trio.current_time()
        assert await running.engine.not_ready() == "decay engine busy"
        assert trio.current_time() - started == pytest.approx(1.0)
        held.release("_transact")


@pytest.mark.parametrize("name", ["episodic", "working", "raw_journal", "vector_index", "writer"])
async def test_it_is_not_ready_when_an_actor_was_given_up(
    running: Running, autojump_clock: MockClock, name: str
) -> None:
    for _ in range(3):
        running.actor(name).post_nowait(object())
        await trio.sleep(1)
    assert await running.engine.not_ready() == "engine check failed"


async def test_it_is_not_ready_when_an_actor_crashes_over_the_question(
    running: Running, autojump_clock: MockClock
) -> None:
    failpoints.arm("actor.episodic.received")
    assert await running.engine.not_ready() == "engine check failed"
    await trio.sleep(1)
    assert await running.engine.not_ready() is None


async def test_it_is_not_ready_when_the_counters_cannot_be_read(running: Running, storage: MemoryStorage) -> None:
    await store(running)
    storage.commit({counters_key(DEFAULT_NAMESPACE): b"damaged"})
    assert await running.engine.not_ready() == "engine check failed"
    with pytest.raises(StorageDamaged):
        await running.engine.introspect_stats()


CRASHES = ["episodic", "working", "raw_journal", "text_index", "vector_index", "audit", "writer"]


@pytest.mark.parametrize("name", CRASHES)
async def test_a_crash_of_any_actor_under_load_fails_at_most_one_request_and_loses_nothing(
    running: Running, autojump_clock: MockClock, name: str
) -> None:
    stored: list[RecordId] = []
    failed: list[Exception] = []
    crashed: list[str] = []

    async def use(number: int) -> None:
        try:
            record_id = await store(running, f"kettle {number}", embedding=[1.0, number])
            stored.append(record_id)
            await read(running, record_id)
            await running.engine.recall_query(to_recall(f"{number}", cue={"embedding": [1.0, number]}))
            await store(running, "held", store="working")
            await running.engine.encode_store_raw(to_store_raw("said"))
            await running.engine.recall_raw_query(RecallRawQuery(session_id="s-1"))
        except InternalError as error:
            failed.append(error)

    def crash(failpoint: str) -> None:
        crashed.append(failpoint)
        raise InjectedCrash(failpoint)

    failpoints.arm(f"actor.{name}.received", crash, passage=3)  # each of them hears of every round at least once
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(use, number)
        await trio.sleep(1)
    assert crashed == [f"actor.{name}.received"]
    assert len(failed) <= 1
    await trio.sleep(1)
    assert (await running.engine.introspect_stats()).records_by_store[Store.EPISODIC] == len(stored) >= 29
    assert await running.engine.not_ready() is None
    await running.until_indexed()
    found = await running.engine.recall_query(to_recall("kettle", limit=100))
    assert {codec.parse(bytes(m.record), MemoryRecord).id for m in found.memories} == set(stored)


async def test_leaving_the_block_commits_what_was_accepted(tmp_path: Path, storage: MemoryStorage) -> None:
    async with running_engine(tmp_path, storage=storage) as running, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(store, running, f"kettle {number}")
    async with running_engine(tmp_path, storage=storage) as running:
        found = await running.engine.recall_query(to_recall("kettle", limit=100))
        assert len(found.memories) == 20
