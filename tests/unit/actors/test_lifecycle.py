"""Forgetting and restoring through the engine: what is refused, and that nobody finds again what is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors.engine import Idempotency
from cerememory.config.settings import DecaySettings
from cerememory.domain.audit_chain import parse_line
from cerememory.errors import ForgetUnconfirmed, IdempotencyConflict, RecordNotFound, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord, Store
from cerememory.protocol.requests import DecayTick, Forget, RecallAssociate, RecallGraph, RecallRawQuery, Restore
from cerememory.protocol.values import NANOS, RecordId
from tests.support.engine import (
    Running,
    running_engine,
    settings_for,
    to_introspect,
    to_recall,
    to_store,
    to_store_raw,
)

SETTLED_S = 2.0  # after it what recalls do is committed, and the audit file has all
RETRY = Idempotency("open", "k-1", b"b" * 16)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_engine(tmp_path) as opened:
        yield opened


async def store(running: Running, text: str, **given: Any) -> RecordId:
    return (await running.engine.encode_store(to_store(text, **given))).reply.record_id


async def forget(running: Running, idempotency: Idempotency | None = None, **given: Any) -> int:
    request = Forget(**{"confirm": True, **given})
    return (await running.engine.lifecycle_forget(request, idempotency)).reply.records_deleted


async def read(running: Running, record_id: RecordId) -> MemoryRecord:
    return codec.parse(bytes(await running.engine.introspect_record(to_introspect(record_id))), MemoryRecord)


async def recall(running: Running, text: str | None, **given: Any) -> list[RecordId]:
    answer = await running.engine.recall_query(to_recall(text, limit=100, **given))
    return [codec.parse(bytes(memory.record), MemoryRecord).id for memory in answer.memories]


def edge(target: RecordId) -> dict[str, Any]:
    return {"target_id": str(target), "association_type": "semantic", "weight": 1.0}


async def test_an_unconfirmed_one_is_refused_and_nothing_is_gone(running: Running) -> None:
    kettle = await store(running, "kettle")
    with pytest.raises(ForgetUnconfirmed):
        await forget(running, record_ids=(kettle,), confirm=False)
    assert await forget(running, record_ids=(kettle,), confirm=False, dry_run=True) == 1
    assert (await read(running, kettle)).id == kettle


@pytest.mark.parametrize(
    "given", [{}, {"record_ids": ()}, {"record_ids": (), "raw_record_ids": ()}, {"cascade": True}]
)
async def test_one_that_selects_nothing_is_refused(running: Running, given: dict[str, Any]) -> None:
    kettle = await store(running, "kettle")
    with pytest.raises(ValidationFailed, match="nothing is selected"):
        await forget(running, **given)
    assert (await read(running, kettle)).id == kettle


async def test_what_is_forgotten_is_found_by_nobody(running: Running, autojump_clock: MockClock) -> None:
    kettle = await store(running, "kettle", embedding=[1.0, 0.0], emotion={"joy": 1.0})
    teapot = await store(running, "teapot", associations=[edge(kettle)])
    assert await recall(running, "teapot") == [teapot, kettle], "the one leads to the other"
    assert await forget(running, record_ids=(kettle,)) == 1
    for cue in ({"embedding": [1.0, 0.0]}, {"emotion": {"joy": 1.0}}, {}):
        assert kettle not in await recall(running, None, cue=cue)
    assert await recall(running, "kettle") == []
    assert await recall(running, "teapot") == [teapot]
    with pytest.raises(RecordNotFound):
        await read(running, kettle)
    assert (await read(running, teapot)).associations == ()
    associated = await running.engine.recall_associate(teapot, RecallAssociate())
    graph = await running.engine.recall_graph(RecallGraph(center_id=teapot))
    assert (associated.total_candidates, graph.total_nodes, graph.edges) == (0, 1, ())
    stats = await running.engine.introspect_stats()
    assert (stats.total_records, stats.total_associations, stats.vector_index_records) == (1, 0, 0)


async def test_a_turn_of_a_conversation_is_not_found_by_the_words_of_a_forgotten_neighbour(
    running: Running,
) -> None:
    first = await store(running, "where is the kettle", context={"session_id": "s"})
    second = await store(running, "on the shelf", context={"session_id": "s"})
    assert second in await recall(running, "kettle", reconsolidate=False)
    await forget(running, record_ids=(first,))
    assert await recall(running, "kettle", reconsolidate=False) == []
    assert await recall(running, "shelf", reconsolidate=False) == [second]


async def test_what_a_recall_does_to_a_memory_does_not_bring_it_back(
    running: Running, autojump_clock: MockClock
) -> None:
    """It is committed within a quarter of a second, and the memory is forgotten before that."""
    kettle = await store(running, "kettle")
    assert await recall(running, "kettle") == [kettle]
    await forget(running, record_ids=(kettle,))
    await trio.sleep(SETTLED_S)
    operations = [parse_line(line).operation for line in running.audit_lines]
    assert operations == ["encode.store", "lifecycle.forget", "recall.query.reconsolidate"]
    with pytest.raises(RecordNotFound):
        await read(running, kettle)
    stats = await running.engine.introspect_stats()
    assert (stats.total_records, stats.avg_fidelity, stats.oldest_record) == (0, 0.0, None)


async def test_working_memory_forgets_too_and_loses_its_edges_to_what_is_gone(running: Running) -> None:
    kettle = await store(running, "kettle")
    held = await store(running, "held", store=Store.WORKING, associations=[edge(kettle)])
    other = await store(running, "other", store=Store.WORKING, associations=[edge(held)])
    durable = await store(running, "durable", associations=[edge(held)])
    await forget(running, record_ids=(kettle,))
    assert (await read(running, held)).associations == ()
    assert await forget(running, record_ids=(held,)) == 1
    assert (await read(running, other)).associations == (await read(running, durable)).associations == ()
    assert await recall(running, "held") == []
    assert await forget(running, store=Store.WORKING) == 1
    with pytest.raises(RecordNotFound):
        await read(running, other)


async def test_a_session_of_the_journal_is_not_found_again(running: Running) -> None:
    for session_id in ("s-1", "s-1", "s-2"):
        await running.engine.encode_store_raw(to_store_raw("saucer", session_id))
    assert await forget(running, session_id="s-1") == 2
    found = await running.engine.recall_raw_query(RecallRawQuery(query="saucer"))
    listed = await running.engine.recall_raw_query(RecallRawQuery())
    assert (found.total_candidates, listed.total_candidates) == (1, 1)
    assert (await running.engine.introspect_stats()).raw_journal_records == 1


async def test_the_same_key_answers_the_same_and_forgets_nothing_more(running: Running) -> None:
    kettle = await store(running, "kettle")
    assert await forget(running, RETRY, store=Store.EPISODIC) == 1
    teapot = await store(running, "teapot")
    assert await forget(running, RETRY, store=Store.EPISODIC) == 1
    assert (await read(running, teapot)).id == teapot
    with pytest.raises(IdempotencyConflict):
        await forget(running, Idempotency("open", "k-1", b"o" * 16), record_ids=(kettle,))
    assert await forget(running, RETRY, store=Store.EPISODIC, dry_run=True) == 1, "a dry run keeps no answer"


async def test_an_archived_memory_comes_back_to_where_it_was_and_once_for_a_key(tmp_path: Path) -> None:
    decay = DecaySettings(background_interval_secs=0, prune="archive", time_unit_secs=1)
    async with running_engine(tmp_path, settings=settings_for(tmp_path, decay=decay)) as running:
        lamp = await store(running, "lamp", context={"session_id": "s"})
        kettle = await store(running, "kettle", embedding=[1.0, 0.0], context={"session_id": "s"})
        running.clock.at += 10**7 * NANOS
        await running.engine.lifecycle_decay_tick(DecayTick())
        assert await recall(running, "kettle lamp", reconsolidate=False) == []
        request = Restore(record_ids=(kettle,))
        for _ in range(2):
            restored = await running.engine.lifecycle_restore(request, RETRY)
            assert restored.reply.records_restored == 1
        assert await recall(running, "kettle", reconsolidate=False) == [kettle]
        assert await recall(running, None, cue={"embedding": [1.0, 0.0]}, reconsolidate=False) == [kettle]
        assert (await running.engine.introspect_stats()).total_records == 1
        assert await forget(running, record_ids=(lamp, kettle)) == 2, "the archived one, too"
        assert (await running.engine.lifecycle_restore(Restore(record_ids=(lamp,)))).reply.records_restored == 0
