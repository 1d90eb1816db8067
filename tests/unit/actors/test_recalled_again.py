"""A memory that was recalled and then changed is recalled as it is now: what is kept of it goes with a commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord
from cerememory.protocol.requests import (
    ConflictResolution,
    EncodeUpdate,
    Export,
    Forget,
    Import,
    ImportStrategy,
)
from cerememory.protocol.values import NANOS, RecordId
from tests.support.engine import Running, WallClock, running_engine, to_introspect, to_recall, to_store
from tests.support.memory_storage import MemoryStorage


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Each look at the clock is a second after the one before."""
    clock = WallClock(step_ns=NANOS)
    async with running_engine(tmp_path, storage=MemoryStorage(), clock=clock) as opened:
        yield opened


async def store(running: Running, text: str, **given: Any) -> RecordId:
    return (await running.engine.encode_store(to_store(text, **given))).reply.record_id


async def recalled(running: Running, text: str = "kettle") -> MemoryRecord:
    """The best, which a further question about it finds kept."""
    await wait_all_tasks_blocked()
    for _ in range(2):
        answer = await running.engine.recall_query(to_recall(text))
    return codec.parse(bytes(answer.memories[0].record), MemoryRecord)


async def update(running: Running, record_id: RecordId, **given: Any) -> None:
    await running.engine.encode_update(record_id, codec.parse(codec.dump(given), EncodeUpdate))


async def test_an_update(running: Running) -> None:
    record_id = await store(running, "kettle", metadata={"n": 1})
    assert bytes((await recalled(running)).metadata) == b'{"n":1}'
    await update(running, record_id, metadata={"n": 2})
    record = await recalled(running)
    assert (bytes(record.metadata), record.version) == (b'{"n":2}', 2)
    shown = codec.parse(bytes(await running.engine.introspect_record(to_introspect(record_id))), MemoryRecord)
    assert shown.version == 2


async def test_an_edge_that_went_with_its_target(running: Running) -> None:
    target = await store(running, "ferry")
    edge = {"target_id": str(target), "association_type": "semantic", "weight": 0.5}
    await store(running, "kettle", associations=[edge])
    assert [each.target_id for each in (await recalled(running)).associations] == [target]
    await running.engine.lifecycle_forget(Forget(record_ids=(target,), confirm=True))
    assert (await recalled(running)).associations == ()


async def test_a_memory_that_was_forgotten(running: Running) -> None:
    first, second = await store(running, "kettle and more"), await store(running, "kettle")
    assert (await recalled(running)).id == second
    await running.engine.lifecycle_forget(Forget(record_ids=(second,), confirm=True))
    assert (await recalled(running)).id == first


async def test_an_import_that_puts_everything_back(running: Running) -> None:
    """It is a transaction of its own, of which nobody is told row by row."""
    record_id = await store(running, "kettle", metadata={"n": 1})
    archive = (await running.engine.lifecycle_export(Export())).archive_data
    await update(running, record_id, metadata={"n": 2})
    assert (await recalled(running)).version == 2
    back = Import(
        archive_id="a-1",
        archive_data=archive,
        strategy=ImportStrategy.REPLACE,
        conflict_resolution=ConflictResolution.KEEP_IMPORTED,
    )
    await running.engine.lifecycle_import(back)
    await running.until_indexed()
    record = await recalled(running)
    assert (record.id, bytes(record.metadata)) == (record_id, b'{"n":1}')
