"""Secrets taken out of a running engine: no search finds them, and once it is compacted no byte has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from cerememory.actors.assembly import open_storage, running
from cerememory.actors.engine import Engine, Idempotency
from cerememory.config.settings import DreamSettings, Settings, StorageSettings
from cerememory.domain.cma import WITH_RAW, ArchiveReader
from cerememory.errors import ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord, RawJournalRecord
from cerememory.protocol.replies import Redacted
from cerememory.protocol.requests import (
    Compact,
    Consolidate,
    DreamTick,
    Export,
    Import,
    ImportStrategy,
    RecallRawQuery,
    Redact,
    Strategy,
)
from cerememory.protocol.values import ByteArray, RecordId
from cerememory.storage.datadir import DataDir
from cerememory.storage.mutations import Stored
from cerememory.telemetry.metrics import Metrics
from tests.support.archives import BUNDLE, archive_of
from tests.support.canary import CANARY, found_in, parts_with
from tests.support.engine import Running, WallClock, running_engine, to_recall, to_store, to_store_raw
from tests.support.held import HeldOffload
from tests.support.sealing import sealed_storage

TELLING = f"the password is {CANARY}1, said the cook"
RECORDS = list(ArchiveReader([BUNDLE]).records())
MEMORY = next(record for record in RECORDS if isinstance(record, MemoryRecord))
ENTRY = next(record for record in RECORDS if isinstance(record, RawJournalRecord))


async def scan(engine: Engine, **asked: Any) -> list[Redacted]:
    replies: list[Redacted] = []
    cursor: str | None = None
    while True:
        replies.append((await engine.lifecycle_redact(Redact(cursor=cursor, **asked))).reply)
        cursor = replies[-1].next_cursor
        if cursor is None:
            return replies


def redacted(replies: list[Redacted]) -> tuple[int, int, int]:
    return (
        sum(reply.entries_redacted for reply in replies),
        sum(reply.memories_redacted for reply in replies),
        sum(reply.kept_redacted for reply in replies),
    )


async def raw_texts(engine: Engine, query: str | None = None) -> list[str]:
    recalled = await engine.recall_raw_query(RecallRawQuery(query=query))
    records = [codec.parse(record, RawJournalRecord) for record in recalled.records]
    return [record.content.blocks[0].data.decode() for record in records]


@pytest.fixture(params=["plain", "encrypted"])
async def opened(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    storage = sealed_storage() if request.param == "encrypted" else None
    async with running_engine(tmp_path, storage=storage, clock=WallClock()) as made:
        yield made


async def test_no_search_finds_what_was_taken_out(opened: Running, autojump_clock: MockClock) -> None:
    engine = opened.engine
    await engine.encode_store_raw(to_store_raw(TELLING))
    await engine.encode_store_raw(to_store_raw("the soup is hot"))
    assert await raw_texts(engine, f"{CANARY}1") == [TELLING]
    assert redacted(await scan(engine, dry_run=True)) == (1, 0, 0)
    assert redacted(await scan(engine)) == (1, 0, 0)
    await opened.until_indexed()
    assert await raw_texts(engine, f"{CANARY}1") == []
    told = TELLING.replace(f"{CANARY}1,", "[REDACTED]")
    assert await raw_texts(engine, "cook") == [told]
    assert await raw_texts(engine) == [told, "the soup is hot"], "in their order"
    assert redacted(await scan(engine)) == (0, 0, 0)


async def test_a_retry_of_a_piece_is_answered_as_the_first(opened: Running, autojump_clock: MockClock) -> None:
    await opened.engine.encode_store_raw(to_store_raw(TELLING))
    retry = Idempotency("open", "k-1", b"body")
    entries = (await scan(opened.engine, dry_run=True))[-2].next_cursor
    first = await opened.engine.lifecycle_redact(Redact(cursor=entries), retry)
    again = await opened.engine.lifecycle_redact(Redact(cursor=entries), retry)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.reply == first.reply
    assert first.reply.entries_redacted == 1


async def test_a_retry_that_looks_when_the_first_is_done_is_answered_as_that(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It came before the first had an answer to be kept."""
    offload, answers = HeldOffload(), list[Stored[Redacted]]()
    retry = Idempotency("open", "k-1", b"body")

    async def redact(engine: Engine, cursor: str | None) -> None:
        answers.append(await engine.lifecycle_redact(Redact(cursor=cursor), retry))

    async with running_engine(tmp_path, offload=offload) as opened:
        await opened.engine.encode_store_raw(to_store_raw(TELLING))
        entries = (await scan(opened.engine, dry_run=True))[-2].next_cursor
        offload.hold("_look")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(redact, opened.engine, entries)
            await offload.until_held("_look")
            looking_late = offload.pass_by("_look")
            await redact(opened.engine, entries)
            looking_late.set()
    assert [answer.replayed for answer in answers] == [False, True]
    assert answers[1].reply == answers[0].reply
    assert answers[0].reply.entries_redacted == 1


async def test_a_cursor_of_no_answer_is_refused(opened: Running, autojump_clock: MockClock) -> None:
    with pytest.raises(ValidationFailed, match="cursor: "):
        await opened.engine.lifecycle_redact(Redact(cursor="soon"))


async def memories(engine: Engine) -> list[str]:
    """What each memory says, anywhere."""
    exported = await engine.lifecycle_export(Export())
    records = ArchiveReader([bytes(exported.archive_data)]).records()
    return [_said(record) for record in records if isinstance(record, MemoryRecord)]


def _said(record: MemoryRecord) -> str:
    text = record.content.blocks[0].data.decode()
    return f"{text}\n{record.content.summary}\n{bytes(record.metadata).decode()}"


async def test_a_dream_under_way_does_not_tell_what_was_taken_out_meanwhile(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    held = HeldOffload()
    async with running_engine(tmp_path, offload=held) as opened:
        engine = opened.engine
        await engine.encode_store_raw(to_store_raw(TELLING))
        held.hold("_mutation")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.lifecycle_dream_tick, DreamTick())
            await held.until_held("_mutation")
            assert redacted(await scan(engine, include_dreamt=True)) == (1, 0, 0)
            held.release("_mutation")
        assert await memories(engine) == []
        assert (await engine.lifecycle_dream_tick(DreamTick())).reply.groups_processed == 1
        [told] = await memories(engine)
        assert "said the cook" in told
        assert f"{CANARY}1" not in told


async def test_nor_does_a_consolidation(tmp_path: Path, autojump_clock: MockClock) -> None:
    held = HeldOffload()
    async with running_engine(tmp_path, offload=held) as opened:
        engine = opened.engine
        await engine.encode_store_raw(to_store_raw(TELLING))
        await engine.lifecycle_dream_tick(DreamTick())
        held.hold("_contents", after=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.lifecycle_consolidate, Consolidate())
            await held.until_held("_contents")
            assert redacted(await scan(engine, include_dreamt=True)) == (1, 1, 0)
            held.release("_contents")
        [told] = await memories(engine)
        assert f"{CANARY}1" not in told
        reply = (await engine.lifecycle_consolidate(Consolidate(strategy=Strategy.FULL))).reply
        assert reply.records_migrated == 1
        assert not any(f"{CANARY}1" in told for told in await memories(engine))


async def test_a_dream_that_ends_while_a_scan_goes_on_is_redacted_with_its_entries(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running_engine(tmp_path) as opened:
        engine = opened.engine
        await engine.encode_store_raw(to_store_raw(TELLING))
        cursor: str | None = None
        while cursor is None or not cursor.startswith("3."):
            cursor = (await engine.lifecycle_redact(Redact(cursor=cursor, include_dreamt=True))).reply.next_cursor
        await engine.lifecycle_dream_tick(DreamTick())
        assert f"{CANARY}1" in (await memories(engine))[0]
        reply = (await engine.lifecycle_redact(Redact(cursor=cursor, include_dreamt=True))).reply
        assert (reply.entries_redacted, reply.memories_redacted) == (1, 1)
        assert f"{CANARY}1" not in (await memories(engine))[0].lower()


@asynccontextmanager
async def on_disk(data_dir: Path) -> AsyncIterator[Engine]:
    """On LMDB, with the text index on the disk."""
    settings = Settings(
        data_dir=data_dir,
        dream=DreamSettings(background_interval_secs=0),
        storage=StorageSettings(map_size_gib=1, min_free_disk_mib=0),
    )
    with DataDir.acquire(data_dir) as directory, closing(open_storage(settings, directory)) as storage:
        async with running(settings, directory, storage, WallClock().world(), Metrics(())) as engine:
            yield engine


async def remember(engine: Engine) -> None:
    """The canary in entries, in a dream of them, and in what an import has deleted and what it brought."""
    await engine.encode_store_raw(to_store_raw(TELLING, "s-1", metadata={"api_key": CANARY}))
    await engine.encode_store_raw(to_store_raw("and the soup is hot", "s-1", meta={"intent": TELLING}))
    await engine.lifecycle_dream_tick(DreamTick())
    entry = msgspec.structs.replace(
        ENTRY, id=RecordId(b"e" * 16), metadata=msgspec.Raw(codec.dump({"token": CANARY}))
    )
    archive = archive_of(WITH_RAW, [MEMORY], [entry])
    request = Import(archive_id="a-1", archive_data=ByteArray(archive), strategy=ImportStrategy.REPLACE)
    stored = await engine.lifecycle_import(request)
    await engine.encode_store_raw(to_store_raw(TELLING, "s-2"))
    await engine.lifecycle_dream_tick(DreamTick())
    assert isinstance(stored.reply.batch_id, RecordId)


async def test_no_byte_is_left_of_what_was_taken_out_and_compacted(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    data_dir = tmp_path / "data"
    async with on_disk(data_dir) as engine:
        await remember(engine)
        assert parts_with(found_in(data_dir)) == {"store", "index"}
        entries, memories, kept = redacted(await scan(engine, include_dreamt=True))
        assert (entries, memories > 0, kept > 2) == (2, True, True)
        exported = bytes((await engine.lifecycle_export(Export(include_raw_journal=True))).archive_data)
        assert CANARY.encode() not in exported
        assert b",".join(b"%d" % byte for byte in CANARY.encode()) not in exported
    assert parts_with(found_in(data_dir)) >= {"store"}, "in pages that are free"
    async with on_disk(data_dir) as engine:
        await engine.lifecycle_compact(Compact())
    assert found_in(data_dir) == set()


async def test_no_byte_is_left_to_undo_an_import_once_it_is_compacted(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    data_dir = tmp_path / "data"
    async with on_disk(data_dir) as engine:
        await engine.encode_store(to_store(f"the {CANARY} sings"))
        request = Import(archive_id="a-1", archive_data=ByteArray(BUNDLE), strategy=ImportStrategy.REPLACE)
        await engine.lifecycle_import(request)
        assert parts_with(found_in(data_dir)) >= {"store"}
        recalled = await engine.recall_query(to_recall("sings"))
        assert all(CANARY.encode() not in bytes(memory.record) for memory in recalled.memories)
        await engine.lifecycle_compact(Compact())
    assert found_in(data_dir) == set()
