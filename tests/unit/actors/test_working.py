"""Working memory: seven records, the least recently accessed leaves, with its place in the indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory import failpoints
from cerememory.actors import working
from cerememory.actors.actor import Ping
from cerememory.actors.held import WORKING_CAPACITY
from cerememory.actors.searches import Search
from cerememory.actors.vectors import Nearest
from cerememory.actors.working import CountHeld, Held
from cerememory.errors import (
    ActorBusy,
    ActorStopped,
    CerememoryError,
    InternalError,
    PreconditionFailed,
    RecordNotFound,
    StorageUnavailable,
    ValidationFailed,
)
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord
from cerememory.protocol.requests import Compact, EncodeBatch, EncodeUpdate, Forget, RecallAssociate
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.vectors import Space
from tests.support.engine import (
    Running,
    running_engine,
    store_body,
    text_block,
    to_introspect,
    to_recall,
    to_store,
)
from tests.support.held import HeldOffload
from tests.support.memory_storage import MemoryStorage

Ids = list[RecordId]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_engine(tmp_path) as opened:
        yield opened


async def hold(running: Running, *texts: str, namespace: int = DEFAULT_NAMESPACE, **given: Any) -> Ids:
    requests = [to_store(text, store="working", **given) for text in texts]
    stored = [await running.engine.encode_store(request, namespace=namespace) for request in requests]
    return [each.reply.record_id for each in stored]


async def read(running: Running, record_id: RecordId) -> MemoryRecord:
    return codec.parse(bytes(await running.engine.introspect_record(to_introspect(record_id))), MemoryRecord)


async def held(running: Running, ids: Ids, namespace: int = DEFAULT_NAMESPACE) -> list[int]:
    """Which of `ids` are still there, by their place; asking so is no access."""
    memories = await running.actor("working").ask(Held(namespace))
    return sorted(ids.index(memory.record_id) for memory in memories)


async def found_by_word(running: Running, text: str, namespace: int = DEFAULT_NAMESPACE) -> set[RecordId]:
    """What the index itself finds, also if there is no such record any more."""
    searched = await running.actor("text_index").ask(Search(namespace, text, None, 100))
    return {hit.record_id for hit in searched.hits}


async def found_by_vector(
    running: Running, vector: list[float], namespace: int = DEFAULT_NAMESPACE
) -> set[RecordId]:
    found = await running.actor("vector_index").ask(Nearest(namespace, Space.CONTENT, tuple(vector), 100, None))
    return {near.record_id for near in found}


async def test_it_holds_seven_and_the_eighth_takes_the_place_of_the_oldest(running: Running) -> None:
    assert WORKING_CAPACITY == 7
    ids = await hold(running, *"abcdefg")
    assert await held(running, ids) == list(range(7))
    ids += await hold(running, "h")
    assert await held(running, ids) == list(range(1, 8))
    with pytest.raises(RecordNotFound):
        await running.engine.introspect_record(to_introspect(ids[0]))


async def test_a_read_counts_as_an_access(running: Running) -> None:
    ids = await hold(running, *"abcdefg")
    await running.engine.introspect_record(to_introspect(ids[0]))
    ids += await hold(running, "h", "i")
    assert 0 in await held(running, ids)
    assert {1, 2}.isdisjoint(await held(running, ids))


async def test_a_recall_counts_as_an_access(running: Running) -> None:
    ids = await hold(running, "kettle", *"bcdefg")
    await running.engine.recall_query(to_recall("kettle"))
    ids += await hold(running, "h")
    assert await held(running, ids) == [0, *range(2, 8)]


async def test_an_update_counts_as_an_access(running: Running) -> None:
    ids = await hold(running, *"abcdefg")
    await running.engine.encode_update(ids[0], codec.parse(b'{"metadata":{"n":1}}', EncodeUpdate))
    ids += await hold(running, "h")
    assert await held(running, ids) == [0, *range(2, 8)]


async def test_a_batch_of_more_than_seven_leaves_its_last_seven(running: Running) -> None:
    body = {"records": [store_body(str(i), store="working") for i in range(10)]}
    stored = await running.engine.encode_batch(codec.parse(codec.dump(body), EncodeBatch))
    ids = [each.record_id for each in stored.reply.results]
    assert await held(running, ids) == list(range(3, 10))


async def test_each_namespace_holds_seven_of_its_own(running: Running) -> None:
    here = await hold(running, *"abcdefg")
    there = await hold(running, *"hijklmn", namespace=7)
    assert await held(running, here) == await held(running, there, 7) == list(range(7))
    there += await hold(running, "o", namespace=7)
    assert await held(running, there, 7) == list(range(1, 8))
    assert await held(running, here) == list(range(7)), "nobody made room for a record of another namespace"
    assert await running.actor("working").ask(CountHeld()) == 14


async def test_a_record_of_another_namespace_is_neither_read_nor_changed(running: Running) -> None:
    [record_id] = await hold(running, "kettle", namespace=7)
    edit = codec.parse(b'{"metadata":{"n":1}}', EncodeUpdate)
    for namespace in (DEFAULT_NAMESPACE, 8):
        with pytest.raises(RecordNotFound):
            await running.engine.introspect_record(to_introspect(record_id), namespace=namespace)
        with pytest.raises(RecordNotFound):
            await running.engine.encode_update(record_id, edit, namespace=namespace)
    await running.engine.encode_update(record_id, edit, namespace=7)
    record = codec.parse(
        bytes(await running.engine.introspect_record(to_introspect(record_id), namespace=7)), MemoryRecord
    )
    assert record.version == 2
    assert await held(running, [record_id]) == []


async def test_an_evicted_record_leaves_the_indexes_of_its_namespace_alone(running: Running) -> None:
    here = await hold(running, "kettle", embedding=[1.0])
    there = await hold(running, *["kettle"] * 8, embedding=[1.0], namespace=7)
    assert await found_by_word(running, "kettle") == await found_by_vector(running, [1.0]) == set(here)
    assert await found_by_word(running, "kettle", 7) == await found_by_vector(running, [1.0], 7) == set(there[1:])


async def test_a_record_is_found_by_word_and_by_vector_and_its_evicted_neighbour_is_not(running: Running) -> None:
    first = await hold(running, "kettle one", embedding=[1.0, 0.0])
    assert await found_by_word(running, "kettle") == set(first)
    assert await found_by_vector(running, [1.0, 0.0]) == set(first)
    later = await hold(running, *(f"kettle {i}" for i in range(7)), embedding=[0.9, 0.1])
    assert await found_by_word(running, "kettle") == set(later)
    assert await found_by_word(running, "one") == set()
    assert await found_by_vector(running, [1.0, 0.0]) == set(later)


async def test_an_update_replaces_what_is_given_and_its_words_and_vector(running: Running) -> None:
    [record_id] = await hold(running, "kettle", embedding=[1.0, 0.0], metadata={"a": 1})
    before = await read(running, record_id)
    body = {"content": {"blocks": [text_block("teapot", embedding=[0.0, 1.0, 0.0])]}}
    await running.engine.encode_update(record_id, codec.parse(codec.dump(body), EncodeUpdate))
    after = await read(running, record_id)
    assert after.content.blocks[0].data == b"teapot"
    assert (after.version, bytes(after.metadata), after.created_at) == (2, b'{"a":1}', before.created_at)
    assert after.updated_at is not None
    assert before.updated_at is not None
    assert after.updated_at > before.updated_at
    assert await found_by_word(running, "kettle") == set()
    assert await found_by_word(running, "teapot") == {record_id}
    assert await found_by_vector(running, [1.0, 0.0]) == set()
    assert await found_by_vector(running, [0.0, 1.0, 0.0]) == {record_id}


async def test_if_match_is_honoured(running: Running) -> None:
    [record_id] = await hold(running, "kettle")
    edit = codec.parse(b'{"metadata":{"n":1}}', EncodeUpdate)
    await running.engine.encode_update(record_id, edit, 1)
    with pytest.raises(PreconditionFailed) as refused:
        await running.engine.encode_update(record_id, edit, 1)
    assert refused.value.details == {"current_version": 2}
    assert (await read(running, record_id)).version == 2


async def test_a_refused_record_evicts_nobody(running: Running) -> None:
    ids = await hold(running, *"abcdefg")
    with pytest.raises(ValidationFailed):
        await hold(running, "h", embedding=[])
    assert await held(running, ids) == list(range(7))


async def test_a_commit_that_fails_evicts_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        ids = await hold(running, *"abcdefg")
        storage.break_disk()
        with pytest.raises(StorageUnavailable):
            await hold(running, "h")
        storage.mend_disk()
        await trio.sleep(2)
        assert await held(running, ids) == list(range(7))


async def test_each_record_leaves_an_audit_entry_and_nothing_else_on_disk(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await hold(running, "a very private thought")
        stats = await running.engine.introspect_stats()
        assert (stats.total_records, stats.vector_index_records) == (1, 0)
    assert len(running.audit_lines) == 1
    assert not [row for row in storage.rows() if row.startswith(b"\0\0\0\0")]
    assert b"private" not in b"".join(storage.rows().values())


async def test_it_is_lost_at_a_restart_and_so_are_its_index_entries(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        [record_id] = await hold(running, "kettle")
    async with running_engine(tmp_path, storage=storage) as running:
        assert await held(running, [record_id]) == []
        assert await found_by_word(running, "kettle") == set()


async def test_after_a_crash_it_is_empty_and_the_indexes_know_it(
    running: Running, autojump_clock: MockClock
) -> None:
    ids = await hold(running, "kettle", embedding=[1.0])
    failpoints.arm("actor.working.received")
    with pytest.raises(InternalError):
        await running.engine.introspect_stats()
    await trio.sleep(1)
    assert await held(running, ids) == []
    assert await found_by_word(running, "kettle") == set()
    assert await found_by_vector(running, [1.0]) == set()
    assert len(await hold(running, "again")) == 1


async def test_what_the_writer_crashes_over_stays_out_of_the_indexes(
    running: Running, autojump_clock: MockClock
) -> None:
    """They were told of it before."""
    [kept] = await hold(running, "kettle", embedding=[1.0])
    edit = codec.parse(
        codec.dump({"content": {"blocks": [text_block("teapot", embedding=[2.0, 1.0])]}}), EncodeUpdate
    )
    for change in (
        partial(hold, running, "teapot", embedding=[1.0]),
        partial(running.engine.encode_update, kept, edit),
    ):
        failpoints.arm("writer.before_reply")
        with pytest.raises(InternalError):
            await change()
        await trio.sleep(1)
    for text, expected in {"teapot": [], "kettle": [kept]}.items():
        searched = await running.actor("text_index").ask(Search(DEFAULT_NAMESPACE, text, None, 10))
        assert [hit.record_id for hit in searched.hits] == expected
    assert await found_by_vector(running, [1.0]) == {kept}
    assert await found_by_vector(running, [2.0, 1.0]) == set()


@pytest.mark.parametrize("index", ["text_index", "vector_index"])
async def test_an_index_that_starts_again_is_told_what_is_held(
    running: Running, autojump_clock: MockClock, index: str
) -> None:
    [record_id] = await hold(running, "kettle", embedding=[1.0])
    failpoints.arm(f"actor.{index}.received")
    assert await running.engine.not_ready() == "engine check failed"
    await trio.sleep(1)
    assert running.counted("cerememory_actor_restarts_total", actor=index) == 1
    assert await found_by_word(running, "kettle") == {record_id}
    assert await found_by_vector(running, [1.0]) == {record_id}
    await hold(running, *"abcdefg")
    assert await found_by_vector(running, [1.0]) == set()


async def answer_of(asked: Awaitable[Any], answers: list[Any]) -> None:
    """Append the answer, also if it is an error."""
    try:
        answers.append(await asked)
    except CerememoryError as error:
        answers.append(error)


class Compacting:
    """An engine whose writer does nothing but compact the store, from `begin` until `end`."""

    def __init__(self, running: Running, offload: HeldOffload, nursery: trio.Nursery) -> None:
        self.running = running
        self._offload = offload
        self._nursery = nursery

    async def begin(self) -> None:
        self._offload.hold("compact")
        self._nursery.start_soon(self.running.engine.lifecycle_compact, Compact())
        await self._offload.until_held("compact")

    async def ask(self, asked: Awaitable[Any]) -> list[Any]:
        """The list into which the answer is put."""
        answers: list[Any] = []
        self._nursery.start_soon(answer_of, asked, answers)
        await wait_all_tasks_blocked()
        return answers

    async def update(self, record_id: RecordId, body: bytes, expected_version: int | None = None) -> list[Any]:
        edit = codec.parse(body, EncodeUpdate)
        return await self.ask(self.running.engine.encode_update(record_id, edit, expected_version))

    async def forget(self, record_id: RecordId) -> list[Any]:
        return await self.ask(self.running.engine.lifecycle_forget(Forget(confirm=True, record_ids=(record_id,))))

    async def end(self) -> None:
        """Returns when all is answered."""
        self._offload.release("compact")
        with trio.fail_after(30):
            while self._nursery.child_tasks:  # noqa: ASYNC110 - a jumping clock
                await trio.sleep(0.1)


@pytest.fixture
async def compacting(tmp_path: Path) -> AsyncIterator[Compacting]:
    offload = HeldOffload()
    async with running_engine(tmp_path, offload=offload) as running, trio.open_nursery() as nursery:
        yield Compacting(running, offload, nursery)
        nursery.cancel_scope.cancel()


async def store(running: Running, text: str, **given: Any) -> RecordId:
    return (await running.engine.encode_store(to_store(text, **given))).reply.record_id


async def test_the_writer_is_not_kept_waiting_by_those_who_ask_working_memory(
    compacting: Compacting, autojump_clock: MockClock
) -> None:
    """It tells of what was forgotten, while an encode waits for it and a mailbox is full of questions."""
    running = compacting.running
    doomed = await store(running, "doomed")
    await compacting.begin()
    forgotten = await compacting.forget(doomed)
    encoded = await compacting.ask(store(running, "kettle", store="working"))
    counts: list[Any] = []
    async with trio.open_nursery() as asking:
        for _ in range(300):
            asking.start_soon(answer_of, running.actor("working").ask(CountHeld()), counts)
        await wait_all_tasks_blocked()
        await compacting.end()
    assert forgotten[0].reply.records_deleted == 1
    assert await held(running, encoded) == [0]


async def test_reads_are_answered_while_an_encode_waits_for_the_writer(
    compacting: Compacting, autojump_clock: MockClock
) -> None:
    running = compacting.running
    [record_id] = await hold(running, "kettle")
    await compacting.begin()
    encoded = await compacting.ask(store(running, "teapot", store="working"))
    with trio.fail_after(1):
        await running.actor("working").ask(Ping())
        assert (await running.engine.introspect_stats()).total_records == 1
        assert len((await running.engine.recall_query(to_recall())).memories) == 1
        await running.engine.recall_associate(record_id, RecallAssociate())
        await read(running, record_id)
    assert encoded == []
    await compacting.end()
    assert (await running.engine.introspect_stats()).total_records == 2


async def test_so_many_changes_wait_for_the_writer_and_no_more(
    compacting: Compacting, autojump_clock: MockClock
) -> None:
    running = compacting.running
    await compacting.begin()
    answers = [await compacting.ask(store(running, "kettle", store="working")) for _ in range(256)]
    assert running.actor("working").mailbox_depth == 256
    [refused] = await compacting.ask(store(running, "one more", store="working"))
    assert isinstance(refused, ActorBusy)
    await compacting.end()
    ids = [record_id for [record_id] in answers]
    assert await held(running, ids) == list(range(249, 256))


async def test_changes_take_effect_in_the_order_in_which_they_came(
    compacting: Compacting, autojump_clock: MockClock
) -> None:
    running = compacting.running
    [record_id, *_others] = await hold(running, "kettle", *"abcdef")
    await compacting.begin()
    await compacting.ask(store(running, "h", store="working"))
    [missed] = [await compacting.update(record_id, b'{"metadata":{"n":1}}')]
    await compacting.end()
    assert isinstance(missed[0], RecordNotFound), "it made room for what was stored before"


async def test_an_update_builds_on_the_one_before(compacting: Compacting, autojump_clock: MockClock) -> None:
    running = compacting.running
    [record_id] = await hold(running, "kettle")
    await compacting.begin()
    await compacting.update(record_id, b'{"metadata":{"n":1}}', 1)
    late = await compacting.update(record_id, b'{"metadata":{"n":2}}', 1)
    await compacting.update(record_id, b'{"emotion":{"joy":0.5}}', 2)
    await compacting.end()
    assert isinstance(late[0], PreconditionFailed)
    record = await read(running, record_id)
    assert (record.version, bytes(record.metadata), record.emotion.joy) == (3, b'{"n":1}', 0.5)


async def test_an_update_keeps_what_a_read_did_meanwhile(
    compacting: Compacting, autojump_clock: MockClock
) -> None:
    running = compacting.running
    [record_id] = await hold(running, "kettle")
    await compacting.begin()
    await compacting.update(record_id, b'{"metadata":{"n":1}}')
    await running.engine.recall_query(to_recall())
    await compacting.end()
    record = await read(running, record_id)
    assert (record.version, record.access_count) == (2, 1)


async def test_what_is_forgotten_while_it_is_updated_stays_away(
    compacting: Compacting, autojump_clock: MockClock
) -> None:
    """Both are in one transaction, and working memory is told of the forgetting first."""
    running = compacting.running
    [record_id] = await hold(running, "kettle", embedding=[1.0])
    await compacting.begin()
    body = {"content": {"blocks": [text_block("teapot", embedding=[1.0])]}}
    updated = await compacting.update(record_id, codec.dump(body))
    await compacting.forget(record_id)
    await compacting.end()
    assert updated[0].reply is None
    assert await held(running, [record_id]) == []
    assert await found_by_word(running, "teapot") == await found_by_vector(running, [1.0]) == set()


async def test_what_is_stored_while_something_is_forgotten_has_no_edge_to_it(
    compacting: Compacting, autojump_clock: MockClock
) -> None:
    running = compacting.running
    doomed = await store(running, "doomed")
    await compacting.begin()
    edge = {"target_id": format_id(doomed), "association_type": "causal", "weight": 0.5}
    encoded = await compacting.ask(store(running, "kettle", store="working", associations=[edge]))
    await compacting.forget(doomed)
    await compacting.end()
    assert (await read(running, encoded[0])).associations == ()


async def test_a_crash_loses_no_change_that_waits(compacting: Compacting, autojump_clock: MockClock) -> None:
    """Working memory is empty then, and has what is committed later."""
    running = compacting.running
    [before] = await hold(running, "kettle before", embedding=[1.0])
    await compacting.begin()
    updated = await compacting.update(before, b'{"metadata":{"n":1}}')
    encoded = await compacting.ask(store(running, "kettle", store="working", embedding=[1.0]))
    failpoints.arm("actor.working.received")
    with pytest.raises(InternalError):
        await running.actor("working").ask(CountHeld())
    await trio.sleep(1)
    assert await running.actor("working").ask(CountHeld()) == 0
    await compacting.end()
    assert updated[0].reply is None
    assert await held(running, [before, *encoded]) == [1]
    assert await found_by_word(running, "kettle") == await found_by_vector(running, [1.0]) == set(encoded)


async def test_a_change_that_crashes_fails_alone(
    compacting: Compacting, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = compacting.running
    [record_id] = await hold(running, "kettle")
    await compacting.begin()
    first = await compacting.ask(store(running, "first", store="working"))
    failed = await compacting.update(record_id, b'{"metadata":{"n":1}}')
    later = await compacting.ask(store(running, "later", store="working"))
    with monkeypatch.context() as patched:
        patched.setattr(working, "_edited", broken)
        await compacting.end()
    assert isinstance(failed[0], InternalError)
    assert running.counted("cerememory_actor_restarts_total", actor="working") == 1
    assert await held(running, [record_id, *first, *later]) == [2]


def broken(*_args: Any) -> Any:
    raise ZeroDivisionError


async def test_who_waits_is_told_when_working_memory_is_given_up(
    compacting: Compacting, autojump_clock: MockClock
) -> None:
    running = compacting.running
    await compacting.begin()
    answers = [await compacting.ask(store(running, text, store="working")) for text in "ab"]
    for _ in range(3):
        failpoints.arm("actor.working.received")
        with pytest.raises(InternalError):
            await running.actor("working").ask(CountHeld())
        await trio.sleep(1)
    await wait_all_tasks_blocked()
    assert [type(answer) for [answer] in answers] == [ActorStopped, ActorStopped]
    await compacting.end()


async def test_an_index_that_starts_again_meanwhile_is_told_what_was_stored(
    compacting: Compacting, autojump_clock: MockClock
) -> None:
    """Not what was held before the commit, when it knows of that already."""
    running = compacting.running
    [record_id] = await hold(running, "kettle", embedding=[1.0])
    await compacting.begin()
    body = {"content": {"blocks": [text_block("teapot", embedding=[1.0, 0.0])]}}
    await compacting.update(record_id, codec.dump(body))
    failpoints.arm("actor.vector_index.received")
    with pytest.raises(InternalError):
        await running.actor("vector_index").ask(Ping())
    await trio.sleep(1)
    await compacting.end()
    assert await found_by_vector(running, [1.0]) == set()
    assert await found_by_vector(running, [1.0, 0.0]) == {record_id}


async def test_an_index_that_is_opened_anew_beside_a_commit_says_that_it_lacks_what_is_held(
    compacting: Compacting, autojump_clock: MockClock
) -> None:
    """It is told of that when the commit has ended, however long that takes."""
    running = compacting.running
    await hold(running, "kettle")
    await running.until_indexed()
    await compacting.begin()
    await compacting.ask(store(running, "teapot", store="working"))
    failpoints.arm("actor.text_index.received")
    with pytest.raises(InternalError):
        await running.actor("text_index").ask(Ping())
    await trio.sleep(20)
    recalled = await running.engine.recall_query(to_recall("kettle"))
    assert (recalled.memories, recalled.query_metadata.index_complete) == ((), False)
    await compacting.end()
    await running.until_indexed()
    recalled = await running.engine.recall_query(to_recall("kettle"))
    assert (len(recalled.memories), recalled.query_metadata.index_complete) == (1, True)
