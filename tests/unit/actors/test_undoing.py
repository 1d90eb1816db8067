"""Imports that are taken back through the engine: what recalls, counts and working memory say afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory.actors.engine import Idempotency
from cerememory.domain.cma import CURATED_ONLY, ArchiveReader
from cerememory.errors import IdempotencyConflict, ImportConflict, RecordNotFound
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord, Store
from cerememory.protocol.replies import ImportUndone
from cerememory.protocol.requests import Compact, EncodeUpdate, Import, ImportStrategy, UndoImport
from cerememory.protocol.values import ByteArray, RecordId
from cerememory.storage import series, undo_rows
from cerememory.storage.keys import DEFAULT_NAMESPACE, NOWHERE, Table
from cerememory.storage.sealed import MAGIC
from cerememory.storage.series import TOLD_MAX
from cerememory.storage.undo_rows import batch_key, undo_keys
from tests.support.archives import BUNDLE, archive_of
from tests.support.engine import Running, WallClock, running_engine, text_block, to_introspect, to_recall, to_store
from tests.support.held import HeldOffload
from tests.support.memory_storage import MemoryStorage
from tests.support.sealing import sealed_storage

FIRST = next(record for record in ArchiveReader([BUNDLE]).records() if isinstance(record, MemoryRecord))
HELD = msgspec.structs.replace(FIRST, id=RecordId(b"w" * 16), store=Store.WORKING)
RETRY = Idempotency("open", "k-1", b"body")


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_engine(tmp_path, clock=WallClock(step_ns=0)) as made:
        yield made


async def take_in(opened: Running, archive: bytes = BUNDLE, **terms: Any) -> RecordId:
    """What the import can be taken back by."""
    request = Import(archive_id="a-1", archive_data=ByteArray(archive), **terms)
    batch_id = (await opened.engine.lifecycle_import(request)).reply.batch_id
    assert isinstance(batch_id, RecordId)
    return batch_id


async def undo(opened: Running, batch_id: RecordId, **asked: Any) -> ImportUndone:
    return (await opened.engine.lifecycle_undo_import(UndoImport(batch_id=batch_id, **asked))).reply


async def found(opened: Running, words: str) -> list[RecordId]:
    await opened.until_indexed()
    recalled = await opened.engine.recall_query(to_recall(words, limit=100, reconsolidate=False))
    return [codec.parse(memory.record, MemoryRecord).id for memory in recalled.memories]


def words_of(record: MemoryRecord) -> str:
    return record.content.blocks[0].data.decode()


async def test_what_an_import_added_is_neither_found_nor_counted(
    opened: Running, autojump_clock: MockClock
) -> None:
    stored = await opened.engine.encode_store(to_store("the kettle"))
    before = await opened.engine.introspect_stats()
    batch_id = await take_in(opened)
    assert FIRST.id in await found(opened, words_of(FIRST))
    foreseen = await undo(opened, batch_id, dry_run=True)
    assert FIRST.id in await found(opened, words_of(FIRST))
    undone = await undo(opened, batch_id)
    assert (
        undone
        == foreseen
        == ImportUndone(batch_id=batch_id, archive_id="a-1", records_removed=8, records_restored=0, records_left=0)
    )
    assert FIRST.id not in await found(opened, words_of(FIRST))
    assert await found(opened, "kettle") == [stored.reply.record_id]
    assert await opened.engine.introspect_stats() == before


async def test_what_an_import_deleted_is_found_again(opened: Running, autojump_clock: MockClock) -> None:
    stored = await opened.engine.encode_store(to_store("the kettle", embedding=[1.0, 0.5]))
    record_id = stored.reply.record_id
    shown = await opened.engine.introspect_record(to_introspect(record_id))
    batch_id = await take_in(opened, strategy=ImportStrategy.REPLACE)
    assert await found(opened, "kettle") == []
    await undo(opened, batch_id)
    assert await found(opened, "kettle") == [record_id]
    by_vector = await opened.engine.recall_query(to_recall(cue={"embedding": [1.0, 0.5]}, reconsolidate=False))
    assert [codec.parse(memory.record, MemoryRecord).id for memory in by_vector.memories] == [record_id]
    assert await opened.engine.introspect_record(to_introspect(record_id)) == shown


@pytest.mark.parametrize("told_max", [TOLD_MAX, 0], ids=["told", "too much to tell"])
async def test_what_it_put_into_working_memory_goes_too(
    opened: Running, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, told_max: int
) -> None:
    monkeypatch.setattr(series, "TOLD_MAX", told_max)
    batch_id = await take_in(opened, archive_of(CURATED_ONLY, [FIRST, HELD]))
    await opened.engine.introspect_record(to_introspect(HELD.id))
    assert (await undo(opened, batch_id)).records_removed == 2
    await trio.sleep(1)
    with pytest.raises(RecordNotFound):
        await opened.engine.introspect_record(to_introspect(HELD.id))


@pytest.mark.parametrize("is_first", [True, False], ids=["update first", "undo first"])
async def test_an_update_of_working_memory_at_the_same_time_is_refused_or_keeps_its_record(
    tmp_path: Path, autojump_clock: MockClock, is_first: bool
) -> None:
    offload, answers = HeldOffload(), list[Exception]()
    edit = codec.parse(codec.dump({"metadata": {"edited": True}}), EncodeUpdate)

    async def note_error(asked: Awaitable[Any]) -> None:
        try:
            await asked
        except (ImportConflict, RecordNotFound) as error:
            answers.append(error)

    async with running_engine(tmp_path, offload=offload) as opened:
        batch_id = await take_in(opened, archive_of(CURATED_ONLY, [FIRST, HELD]))
        offload.hold("_transact")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened.engine.encode_store, to_store("kettle"))
            await offload.until_held("_transact")
            both = [opened.engine.encode_update(HELD.id, edit), undo(opened, batch_id)]
            for asked in both if is_first else reversed(both):
                nursery.start_soon(note_error, asked)
                await wait_all_tasks_blocked()
            offload.release("_transact")
        assert [type(answer) for answer in answers] == [ImportConflict if is_first else RecordNotFound]
        if is_first:
            shown = codec.parse(await opened.engine.introspect_record(to_introspect(HELD.id)), MemoryRecord)
            assert codec.parse(shown.metadata, dict[str, bool]) == {"edited": True}


async def test_what_was_edited_since_is_refused_or_stays(opened: Running, autojump_clock: MockClock) -> None:
    batch_id = await take_in(opened)
    edit = codec.parse(codec.dump({"content": {"blocks": [text_block("edited")]}}), EncodeUpdate)
    await opened.engine.encode_update(FIRST.id, edit)
    with pytest.raises(ImportConflict, match=r"1 record.* were changed since"):
        await undo(opened, batch_id)
    assert (await undo(opened, batch_id, dry_run=True)).records_left == 1
    undone = await undo(opened, batch_id, keep_changed=True)
    assert (undone.records_removed, undone.left_ids) == (7, (FIRST.id,))
    assert await found(opened, "edited") == [FIRST.id]


async def test_a_retry_is_answered_as_the_first_try(opened: Running, autojump_clock: MockClock) -> None:
    request = UndoImport(batch_id=await take_in(opened))
    first = await opened.engine.lifecycle_undo_import(request, RETRY)
    again = await opened.engine.lifecycle_undo_import(request, RETRY)
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.reply, again.sequence) == (first.reply, first.sequence)
    with pytest.raises(IdempotencyConflict):
        await opened.engine.lifecycle_undo_import(request, Idempotency("open", "k-1", b"other"))


async def test_compaction_ends_it(opened: Running, autojump_clock: MockClock) -> None:
    """What was deleted is to be gone then."""
    batch_id = await take_in(opened)
    await opened.engine.lifecycle_compact(Compact())
    with pytest.raises(RecordNotFound, match="none is kept"):
        await undo(opened, batch_id)


async def test_one_that_comes_while_the_store_is_compacted_is_whole_or_refused(
    opened: Running, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undo_rows, "DROPPED_ROWS", 1)
    before = await opened.engine.introspect_stats()
    batch_id = await take_in(opened)
    imported = await opened.engine.introspect_stats()
    is_undone = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened.engine.lifecycle_compact, Compact())
        try:
            await undo(opened, batch_id)
        except RecordNotFound:
            is_undone = False
    assert await opened.engine.introspect_stats() == (before if is_undone else imported)


async def test_compaction_drops_what_is_kept_of_an_import_that_is_not(
    opened: Running, autojump_clock: MockClock
) -> None:
    batch_id = await take_in(opened)
    opened.storage.commit({batch_key(DEFAULT_NAMESPACE, batch_id): None})
    await opened.engine.lifecycle_compact(Compact())
    with opened.storage.read() as reader:
        assert list(undo_keys(reader, DEFAULT_NAMESPACE)) == []


async def test_in_an_encrypted_store_what_is_kept_is_sealed(tmp_path: Path, autojump_clock: MockClock) -> None:
    below = MemoryStorage()
    async with running_engine(tmp_path, storage=sealed_storage(below), clock=WallClock(step_ns=0)) as opened:
        stored = await opened.engine.encode_store(to_store("the kettle"))
        batch_id = await take_in(opened, strategy=ImportStrategy.REPLACE)
        kept = [value for row_key, value in below.rows().items() if row_key[4:5] == Table.UNDO.value]
        assert len(kept) > 8
        assert all(value.startswith(MAGIC) for value in kept)
        await undo(opened, batch_id)
        assert await found(opened, "kettle") == [stored.reply.record_id]


async def test_where_nothing_is_there_is_nothing_to_undo(opened: Running, autojump_clock: MockClock) -> None:
    request = UndoImport(batch_id=await take_in(opened))
    for asked in (request, msgspec.structs.replace(request, dry_run=True)):
        with pytest.raises(RecordNotFound):
            await opened.engine.lifecycle_undo_import(asked, namespace=NOWHERE)
