"""Exports and imports of a running engine: what comes out goes in again, whole or not at all."""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory import failpoints
from cerememory.actors import archives, engine
from cerememory.actors.assembly import running
from cerememory.actors.engine import Engine, Idempotency
from cerememory.domain import cma
from cerememory.domain.cma import CURATED_ONLY, WITH_RAW, ArchiveReader, ArchiveWriter
from cerememory.errors import (
    ActorBusy,
    ContentTooLarge,
    IdempotencyConflict,
    ImportConflict,
    InternalError,
    StorageUnavailable,
    ValidationFailed,
)
from cerememory.protocol import codec
from cerememory.protocol.limits import METADATA_BYTES_MAX, METADATA_DEPTH_MAX, TEXT_BYTES_MAX
from cerememory.protocol.records import STORES, MemoryRecord, RawJournalRecord, Store
from cerememory.protocol.replies import Imported, ImportPlanned
from cerememory.protocol.requests import (
    ConflictResolution,
    Consolidate,
    DreamTick,
    EncodeUpdate,
    Export,
    Forget,
    Import,
    ImportStrategy,
    ImportTerms,
    IntrospectRecord,
    RecallRawQuery,
    Redact,
)
from cerememory.protocol.values import ByteArray, RecordId, Timestamp
from cerememory.storage.datadir import DataDir
from cerememory.storage.keys import NOWHERE
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.mutations import Stored
from cerememory.storage.namespaces import names_in
from cerememory.storage.undo_rows import batch_in, rows_prefix
from cerememory.telemetry.metrics import Metrics
from tests.support.archives import (
    BUNDLE,
    CURATED,
    ENCRYPTED,
    PASSPHRASE,
    archive_of,
    memory_records,
    pieces,
    raw_records,
)
from tests.support.engine import (
    NOW,
    Running,
    WallClock,
    running_engine,
    settings_for,
    to_recall,
    to_store,
    to_store_raw,
)
from tests.support.held import HeldOffload
from tests.support.logged import quiet
from tests.support.memory_storage import MemoryStorage
from tests.support.stored import Stored as InStore
from tests.support.stored import stored_in

RECORDS = [record for record in ArchiveReader([BUNDLE]).records() if isinstance(record, MemoryRecord)]
FIRST = RECORDS[0]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_engine(tmp_path, clock=WallClock(step_ns=0)) as made:
        yield made


async def take_in(opened: Running | Engine, archive: bytes, **terms: Any) -> Imported:
    asked = opened if isinstance(opened, Engine) else opened.engine
    namespace = terms.pop("namespace", "default")
    request = Import(archive_id="a-1", archive_data=ByteArray(archive), **terms)
    return (await asked.lifecycle_import(request, namespace=namespace)).reply


async def exported(opened: Running | Engine, namespace: int = 0, **request: Any) -> bytes:
    asked = opened if isinstance(opened, Engine) else opened.engine
    return bytes((await asked.lifecycle_export(Export(**request), namespace=namespace)).archive_data)


def records_in(archive: bytes) -> list[bytes]:
    """The record lines, in any order."""
    return sorted(archive.splitlines()[1:-1])


async def entries(opened: Running, operation: str) -> list[dict[str, Any]]:
    await trio.sleep(1)  # on the jumping clock: until the lines are in the file
    found = [msgspec.json.decode(line) for line in opened.audit_lines]
    return [entry for entry in found if entry["operation"] == operation]


def nested(depth: int) -> Any:
    return msgspec.json.decode("[" * depth + "]" * depth)


def rows(opened: Running) -> dict[bytes, bytes]:
    assert isinstance(opened.storage, MemoryStorage)
    return opened.storage.rows()


@pytest.mark.parametrize(
    ("archive", "include_raw", "count"), [(CURATED, False, 6), (BUNDLE, True, 8)], ids=["1.0", "2.0"]
)
async def test_an_archive_of_the_reference_comes_out_as_it_went_in(
    opened: Running, archive: bytes, include_raw: bool, count: int
) -> None:
    assert (await take_in(opened, archive)).records_imported == count
    out = await exported(opened, include_raw_journal=include_raw)
    assert records_in(out) == records_in(archive)
    assert len(list(ArchiveReader([out]).records())) == count


async def test_an_encrypted_archive_is_opened_and_closed_again(opened: Running, tmp_path: Path) -> None:
    assert (await take_in(opened, ENCRYPTED, decryption_key=PASSPHRASE)).records_imported == 8
    out = await exported(opened, include_raw_journal=True, encrypt=True, encryption_key="合言葉")
    assert b"record_count" not in out
    async with running_engine(tmp_path / "other", clock=WallClock(step_ns=0)) as other:
        assert (await take_in(other, out, decryption_key="合言葉")).records_imported == 8
        assert records_in(await exported(other, include_raw_journal=True)) == records_in(BUNDLE)


async def test_what_is_imported_is_found(opened: Running) -> None:
    await take_in(opened, BUNDLE)
    found = await opened.engine.recall_query(to_recall("lighthouse keeper tide", reconsolidate=False))
    assert str(FIRST.id) in [msgspec.json.decode(memory.record)["id"] for memory in found.memories]
    raw = await opened.engine.recall_raw_query(RecallRawQuery(query="tide"))
    assert len(raw.records) >= 1
    shown = await opened.engine.introspect_record(IntrospectRecord(record_id=FIRST.id))
    assert msgspec.json.decode(codec.dump(shown))["access_count"] == 1


async def test_a_large_import_is_found_too(opened: Running, autojump_clock: MockClock) -> None:
    """Larger than what the followers are told record by record."""
    memories = [msgspec.structs.replace(FIRST, id=RecordId(i.to_bytes(16, "big"))) for i in range(2_500)]
    assert (await take_in(opened, archive_of(CURATED_ONLY, memories))).records_imported == 2_500
    await opened.until_indexed()
    found = await opened.engine.recall_query(to_recall("lighthouse", limit=1))
    assert found.total_candidates >= 1
    assert (await opened.engine.introspect_stats()).total_records == 2_500


async def test_the_same_archive_again_changes_nothing(opened: Running) -> None:
    await take_in(opened, BUNDLE)
    for resolution in (ConflictResolution.KEEP_NEWER, ConflictResolution.KEEP_EXISTING):
        assert (await take_in(opened, BUNDLE, conflict_resolution=resolution)).records_imported == 0
    again = await take_in(opened, BUNDLE, conflict_resolution=ConflictResolution.KEEP_IMPORTED)
    assert again.records_imported == 8
    assert records_in(await exported(opened, include_raw_journal=True)) == records_in(BUNDLE)


async def test_an_edited_memory_wins_against_its_older_self(opened: Running) -> None:
    await take_in(opened, BUNDLE)
    newer = msgspec.structs.replace(FIRST, updated_at=Timestamp(NOW), metadata=msgspec.Raw(b'{"a":1}'), version=9)
    assert (await take_in(opened, archive_of(CURATED_ONLY, [newer]))).records_imported == 1
    assert codec.dump(newer) in await exported(opened)
    assert (await take_in(opened, CURATED)).records_imported == 0


async def test_replacing_leaves_what_the_archive_has(opened: Running) -> None:
    await opened.engine.encode_store(to_store("there before", store="procedural"))
    await opened.engine.encode_store(to_store("in mind before", store="working"))
    await opened.engine.encode_store_raw(to_store_raw("said before"))
    await take_in(opened, CURATED, strategy=ImportStrategy.REPLACE)
    assert records_in(await exported(opened, stores=tuple(Store))) == records_in(CURATED)
    stats = await opened.engine.introspect_stats()
    assert (stats.total_records, stats.raw_journal_records) == (6, 1)
    await take_in(opened, BUNDLE, strategy=ImportStrategy.REPLACE)
    assert records_in(await exported(opened, include_raw_journal=True)) == records_in(BUNDLE)
    assert not (await opened.engine.recall_query(to_recall("before"))).memories


async def test_an_import_stays_in_its_namespace(opened: Running) -> None:
    await take_in(opened, BUNDLE, namespace="other")
    other = await opened.engine.namespace("other")
    assert records_in(await exported(opened)) == []
    await opened.engine.encode_store(to_store("of the default one"))
    await take_in(opened, CURATED, namespace="other", strategy=ImportStrategy.REPLACE)
    assert len(records_in(await exported(opened))) == 1
    assert records_in(await exported(opened, other)) == records_in(CURATED)


async def test_a_namespace_begins_with_what_is_imported_and_takes_it_all(opened: Running) -> None:
    archive = archive_of(CURATED_ONLY, [working(1), FIRST])
    await take_in(opened, archive, namespace="new", dry_run=True)
    assert names_in(opened.storage) == ["default"]
    assert await opened.engine.namespace("new") == NOWHERE
    await take_in(opened, archive, namespace="new")
    assert names_in(opened.storage) == ["default", "new"]
    number = await opened.engine.namespace("new")
    assert await held_ids(opened, number) == [str(working(1).id)]
    assert records_in(await exported(opened, number)) == [codec.dump(FIRST)]
    found = await opened.engine.recall_query(to_recall("lighthouse"), namespace=number)
    ids = {msgspec.json.decode(memory.record)["id"] for memory in found.memories}
    assert ids == {str(working(1).id), str(FIRST.id)}


async def test_a_namespace_that_begins_while_the_archive_is_checked_is_replaced(tmp_path: Path) -> None:
    offload = HeldOffload()
    offload.hold("next", after=True)
    async with running_engine(tmp_path, clock=WallClock(step_ns=0), offload=offload) as opened:
        async with trio.open_nursery() as nursery:
            replace = partial(take_in, opened, CURATED, namespace="new", strategy=ImportStrategy.REPLACE)
            nursery.start_soon(replace)
            await offload.until_held("next")
            number = await opened.engine.namespace("new", create=True)
            for store in ("working", "episodic"):
                await opened.engine.encode_store(to_store("mine", store=store), namespace=number)
            offload.release("next")
        assert await held_ids(opened, number) == []
        assert records_in(await exported(opened, number)) == records_in(CURATED)


async def test_edges_to_what_is_not_there_are_kept(opened: Running) -> None:
    assert FIRST.associations
    await take_in(opened, archive_of(CURATED_ONLY, [FIRST]))
    assert records_in(await exported(opened)) == [codec.dump(FIRST)]
    assert (await opened.engine.introspect_stats()).total_associations == len(FIRST.associations)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines[:2], lines[2].replace(b'"score":', b'"score":1'), *lines[3:]],
        lambda lines: [*lines[:-2], b"{}", lines[-1]],
        lambda lines: [*lines[:-1], b'{"checksum":"00"}'],
    ],
    ids=["cut off", "a bad number", "no record", "another checksum"],
)
@pytest.mark.parametrize("strategy", list(ImportStrategy))
@pytest.mark.parametrize("namespace", ["default", "new"])
async def test_an_archive_with_anything_wrong_changes_nothing(
    opened: Running, spoil: Any, strategy: ImportStrategy, namespace: str, autojump_clock: MockClock
) -> None:
    await opened.engine.encode_store(to_store("there before"))
    before = rows(opened)
    with pytest.raises(ImportConflict, match=r"^line"):
        await take_in(opened, b"\n".join(spoil(BUNDLE.splitlines())), strategy=strategy, namespace=namespace)
    assert rows(opened) == before
    assert await entries(opened, "lifecycle.import") == []


@pytest.mark.parametrize(
    ("archive", "key", "message"),
    [
        (ENCRYPTED, None, "encrypted or not an archive"),
        (ENCRYPTED, "wrong", "the passphrase is wrong, or the archive was changed"),
        (ENCRYPTED[:-1], PASSPHRASE, "the passphrase is wrong, or the archive was changed"),
        (ENCRYPTED[:20], PASSPHRASE, "20 bytes are too few"),
        (BUNDLE, PASSPHRASE, "a passphrase was given, but the archive isn't encrypted"),
        (b"", None, "the archive is empty"),
        (b"\x01\x02\x03", None, "encrypted or not an archive"),
    ],
)
async def test_what_cannot_be_opened_is_refused(
    opened: Running, archive: bytes, key: str | None, message: str
) -> None:
    before = rows(opened)
    with pytest.raises(ImportConflict, match=f"^{message}"):
        await take_in(opened, archive, decryption_key=key)
    assert rows(opened) == before


async def test_terms_that_mean_nothing_are_refused(opened: Running) -> None:
    with pytest.raises(ValidationFailed, match=r"^decryption_key: must not be empty"):
        await take_in(opened, ENCRYPTED, decryption_key="")
    long = ImportTerms(archive_id="x" * 1_025)
    with pytest.raises(ValidationFailed, match=r"^archive_id: 1025 bytes"):
        await opened.engine.import_archive(Chunks([CURATED]), long)
    with pytest.raises(ValidationFailed, match=r"^format: expected cma or jsonl"):
        await exported(opened, format="zip")
    with pytest.raises(ValidationFailed, match=r"^encryption_key: missing"):
        await exported(opened, encrypt=True)


@pytest.mark.parametrize("strategy", list(ImportStrategy))
@pytest.mark.parametrize("resolution", list(ConflictResolution))
async def test_a_dry_run_foresees_what_an_import_does(
    opened: Running, strategy: ImportStrategy, resolution: ConflictResolution
) -> None:
    await take_in(opened, CURATED)
    working = msgspec.structs.replace(FIRST, id=RecordId(bytes(16)), store=Store.WORKING)
    archive = BUNDLE if strategy is ImportStrategy.MERGE else archive_of(CURATED_ONLY, [*RECORDS, working])
    before = rows(opened)
    terms: dict[str, Any] = {"strategy": strategy, "conflict_resolution": resolution}
    plan = await take_in(opened, archive, dry_run=True, **terms)
    assert isinstance(plan, ImportPlanned)
    assert rows(opened) == before
    assert plan.records_added + plan.records_replaced == plan.records_imported
    assert plan.records_imported + plan.records_kept == len(records_in(archive))
    assert (await take_in(opened, archive, **terms)).records_imported == plan.records_imported


async def test_a_dry_run_still_checks_the_archive(opened: Running) -> None:
    with pytest.raises(ImportConflict):
        await take_in(opened, BUNDLE[:-20], dry_run=True)


def working(number: int, updated_at: int = NOW) -> MemoryRecord:
    record_id, at = RecordId(number.to_bytes(16, "big")), Timestamp(updated_at)
    return msgspec.structs.replace(FIRST, id=record_id, store=Store.WORKING, updated_at=at, associations=())


async def held_ids(opened: Running, namespace: int = 0) -> list[str]:
    archive = await exported(opened, namespace, stores=(Store.WORKING,))
    return [msgspec.json.decode(line)["id"] for line in archive.splitlines()[1:-1]]


async def test_working_memory_is_exported_by_name_alone(opened: Running) -> None:
    await opened.engine.encode_store(to_store("in mind", store="working"))
    await opened.engine.encode_store(to_store("for good"))
    assert len(records_in(await exported(opened))) == 1
    assert len(await held_ids(opened)) == 1
    assert len(records_in(await exported(opened, stores=(Store.WORKING, Store.EPISODIC)))) == 2
    assert records_in(await exported(opened, stores=(Store.SEMANTIC,))) == []


async def test_working_memories_come_back_into_working_memory(opened: Running) -> None:
    archive = archive_of(CURATED_ONLY, [working(1), working(2), FIRST])
    assert (await take_in(opened, archive)).records_imported == 3
    assert await held_ids(opened) == [str(working(i).id) for i in (1, 2)]
    assert (await opened.engine.introspect_stats()).records_by_store[Store.WORKING] == 2
    assert (await take_in(opened, archive)).records_imported == 0
    newer = archive_of(CURATED_ONLY, [working(1, NOW + 1)])
    assert (await take_in(opened, newer)).records_imported == 1
    assert await held_ids(opened) == [str(working(i).id) for i in (2, 1)]
    found = await opened.engine.recall_query(to_recall("lighthouse", stores=["working"]))
    assert len(found.memories) == 2


async def test_the_last_seven_find_room(opened: Running) -> None:
    await opened.engine.encode_store(to_store("forgotten for it", store="working"))
    archive = archive_of(CURATED_ONLY, [working(i) for i in range(1, 10)])
    assert (await take_in(opened, archive)).records_imported == 7
    assert await held_ids(opened) == [str(working(i).id) for i in range(3, 10)]


async def test_a_memory_is_in_one_store_only(opened: Running) -> None:
    lasting = msgspec.structs.replace(working(1), store=Store.SEMANTIC)
    await take_in(opened, archive_of(CURATED_ONLY, [working(1)]))
    await take_in(opened, archive_of(CURATED_ONLY, [lasting]))
    assert await held_ids(opened) == []
    again = await take_in(opened, archive_of(CURATED_ONLY, [working(1, NOW + 9)]))
    assert again.records_imported == 0
    assert await held_ids(opened) == []


@pytest.mark.parametrize("store", [Store.EPISODIC, Store.WORKING])
async def test_behind_the_last_version_no_update_is_taken_and_the_export_comes_in_again(
    opened: Running, store: Store
) -> None:
    last = msgspec.structs.replace(FIRST, store=store, version=2**32 - 2)
    await take_in(opened, archive_of(CURATED_ONLY, [last]))
    edit = codec.parse(b'{"metadata":{"a":1}}', EncodeUpdate)
    await opened.engine.encode_update(FIRST.id, edit)
    out = await exported(opened, stores=STORES)
    with pytest.raises(ValidationFailed, match="version 4294967295"):
        await opened.engine.encode_update(FIRST.id, edit)
    assert records_in(await exported(opened, stores=STORES)) == records_in(out)
    assert (await take_in(opened, out, strategy=ImportStrategy.REPLACE)).records_imported == 1


async def test_a_memory_that_comes_in_another_store_is_reached_there(opened: Running) -> None:
    block = msgspec.structs.replace(FIRST.content.blocks[0], data=ByteArray(b"parrots"))
    content = msgspec.structs.replace(FIRST.content, blocks=(block,), summary=None)
    target = msgspec.structs.replace(working(1), store=Store.EPISODIC, content=content)
    edge = msgspec.structs.replace(FIRST.associations[0], target_id=target.id, weight=1.0)
    source = msgspec.structs.replace(FIRST, store=Store.SEMANTIC, associations=(edge,))
    asked = to_recall(text_of(FIRST), stores=["semantic"], activation_depth=2, reconsolidate=False)

    async def reached() -> set[str]:
        recalled = await opened.engine.recall_query(asked)
        return {msgspec.json.decode(memory.record)["id"] for memory in recalled.memories}

    await take_in(opened, archive_of(CURATED_ONLY, [source, target]))
    assert await reached() == {str(source.id)}
    moved = msgspec.structs.replace(target, store=Store.SEMANTIC)
    await take_in(opened, archive_of(CURATED_ONLY, [moved]), conflict_resolution=ConflictResolution.KEEP_IMPORTED)
    assert await reached() == {str(source.id), str(target.id)}


async def test_what_becomes_lasting_while_it_is_exported_is_exported_once(tmp_path: Path) -> None:
    """Working memory is looked at in front of the others, and an import that comes between them is there whole."""
    offload = HeldOffload()
    async with running_engine(tmp_path, clock=WallClock(step_ns=0), offload=offload) as opened:
        await take_in(opened, archive_of(CURATED_ONLY, [working(1)]))
        outs: list[bytes] = []

        async def export() -> None:
            outs.append(await exported(opened, stores=STORES))

        offload.hold("spool_lines")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(export)
            await offload.until_held("spool_lines")
            lasting = msgspec.structs.replace(working(1), store=Store.SEMANTIC)
            await take_in(opened, archive_of(CURATED_ONLY, [lasting]))
            offload.release("spool_lines")
        assert [record.store for record in ArchiveReader(outs).records() if isinstance(record, MemoryRecord)] == [
            Store.SEMANTIC
        ]


SAME_ID = RecordId(bytes(14) + b"\1\0")
LASTING = msgspec.structs.replace(FIRST, id=SAME_ID)
AT_HAND = msgspec.structs.replace(LASTING, store=Store.WORKING)
SAID = next(record for record in ArchiveReader([BUNDLE]).records() if isinstance(record, RawJournalRecord))
SAID = msgspec.structs.replace(SAID, id=SAME_ID)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("memories", "entries", "kinds"),
    [
        ([LASTING, AT_HAND], [], "a memory and of a working memory"),
        ([AT_HAND, LASTING], [], "a memory and of a working memory"),
        ([LASTING], [SAID], "a memory and of an entry of the raw journal"),
        ([AT_HAND], [SAID], "a working memory and of an entry of the raw journal"),
    ],
)
async def test_an_archive_with_one_id_for_two_things_is_refused(
    opened: Running, memories: list[MemoryRecord], entries: list[RawJournalRecord], kinds: str, dry_run: bool
) -> None:
    before = rows(opened)
    with pytest.raises(ImportConflict, match=f"^00000000-0000-0000-0000-000000000100: is the id of {kinds}$"):
        await take_in(opened, archive_of(WITH_RAW, [FIRST, *memories], entries), dry_run=dry_run)
    assert rows(opened) == before


async def dream(asked: Engine) -> None:
    await asked.lifecycle_dream_tick(DreamTick())


async def consolidate(asked: Engine) -> None:
    await asked.lifecycle_consolidate(codec.parse(b'{"strategy":"full"}', Consolidate))


async def redact(asked: Engine) -> None:
    cursor: str | None = None
    while (cursor := (await asked.lifecycle_redact(Redact(cursor=cursor))).reply.next_cursor) is not None:
        pass


@pytest.mark.parametrize(
    ("grow", "text", "metadata"),
    [
        (dream, "a kettle", {"a": "x" * (METADATA_BYTES_MAX - 8)}),
        (consolidate, "a kettle", {"a": "x" * (METADATA_BYTES_MAX - 8)}),
        (consolidate, "a kettle", nested(METADATA_DEPTH_MAX)),
        (redact, "a kettle", {"a": "x" * (METADATA_BYTES_MAX - 30), "password": [1]}),
        (redact, "token: 1\n".rjust(TEXT_BYTES_MAX), {}),
    ],
    ids=["dreamt of", "consolidated", "deep and consolidated", "redacted metadata", "redacted text"],
)
async def test_what_the_daemon_itself_makes_larger_or_deeper_comes_in_again(
    opened: Running, grow: Callable[[Engine], Awaitable[None]], text: str, metadata: Any
) -> None:
    await opened.engine.encode_store(to_store(text, metadata=metadata))
    await opened.engine.encode_store_raw(to_store_raw(text, metadata=metadata))
    await grow(opened.engine)
    out = await exported(opened, include_raw_journal=True)
    await take_in(opened, out, strategy=ImportStrategy.REPLACE)
    assert records_in(await exported(opened, include_raw_journal=True)) == records_in(out)


async def test_both_ways_leave_an_audit_entry(opened: Running, autojump_clock: MockClock) -> None:
    await take_in(opened, BUNDLE)
    reply = await opened.engine.lifecycle_export(
        Export(include_raw_journal=True, stores=(Store.EPISODIC,), encrypt=True, encryption_key="k")
    )
    [into] = await entries(opened, "lifecycle.import")
    assert into["summary"] == {
        "archive_id": "a-1",
        "conflict_resolution": "keep_newer",
        "imported": 8,
        "strategy": "merge",
    }
    [out] = await entries(opened, "lifecycle.export")
    assert out["store_types"] == ["episodic"]
    assert out["summary"] == {
        "archive_id": reply.archive_id,
        "checksum": reply.checksum,
        "encrypted": True,
        "include_raw_journal": True,
        "record_count": reply.record_count,
        "size_bytes": reply.size_bytes,
    }
    assert reply.size_bytes == len(reply.archive_data)


async def test_what_was_lasting_before_comes_into_working_memory_when_all_is_replaced(opened: Running) -> None:
    """Working memory is told first that it is gone."""
    lasting = msgspec.structs.replace(working(1), store=Store.SEMANTIC)
    for _ in range(5):
        await take_in(opened, archive_of(CURATED_ONLY, [lasting]), strategy=ImportStrategy.REPLACE)
        assert await held_ids(opened) == []
        await take_in(opened, archive_of(CURATED_ONLY, [working(1)]), strategy=ImportStrategy.REPLACE)
        assert await held_ids(opened) == [str(working(1).id)]


async def test_an_update_that_waits_for_an_import_builds_on_what_that_brought(tmp_path: Path) -> None:
    offload, edit = HeldOffload(), codec.parse(codec.dump({"metadata": {"edited": True}}), EncodeUpdate)
    async with running_engine(tmp_path, clock=WallClock(step_ns=0), offload=offload) as opened:
        await take_in(opened, archive_of(CURATED_ONLY, [working(1)]))
        newer = msgspec.structs.replace(working(1, NOW + 1), version=7)
        offload.hold("_transact_series")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_in, opened, archive_of(CURATED_ONLY, [newer]))
            await offload.until_held("_transact_series")
            opened.clock.at += 2
            nursery.start_soon(opened.engine.encode_update, newer.id, edit)
            await wait_all_tasks_blocked()
            offload.release("_transact_series")
        [line] = records_in(await exported(opened, stores=(Store.WORKING,)))
        record = msgspec.json.decode(line)
        assert (record["version"], record["metadata"]) == (8, {"edited": True})


async def test_an_import_that_waits_for_an_update_finds_it(tmp_path: Path) -> None:
    """It keeps what is newer, also if it was asked for before that was stored."""
    offload, edit = HeldOffload(), codec.parse(codec.dump({"metadata": {"edited": True}}), EncodeUpdate)
    async with running_engine(tmp_path, clock=WallClock(step_ns=0), offload=offload) as opened:
        await take_in(opened, archive_of(CURATED_ONLY, [working(1)]))
        opened.clock.at += 2
        offload.hold("_transact")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened.engine.encode_update, working(1).id, edit)
            await offload.until_held("_transact")
            nursery.start_soon(take_in, opened, archive_of(CURATED_ONLY, [working(1, NOW + 1)]))
            await wait_all_tasks_blocked()
            offload.release("_transact")
        [line] = records_in(await exported(opened, stores=(Store.WORKING,)))
        assert msgspec.json.decode(line)["metadata"] == {"edited": True}


async def test_a_retried_import_is_answered_and_done_once(opened: Running, autojump_clock: MockClock) -> None:
    key = Idempotency("open", "k-1", b"head")
    request = Import(
        archive_id="a-1", archive_data=ByteArray(BUNDLE), conflict_resolution=ConflictResolution.KEEP_IMPORTED
    )
    first = await opened.engine.lifecycle_import(request, key)
    again = await opened.engine.lifecycle_import(request, key)
    assert (again.reply, again.sequence, again.replayed) == (first.reply, first.sequence, True)
    other = msgspec.structs.replace(request, archive_data=ByteArray(CURATED))
    with pytest.raises(IdempotencyConflict):
        await opened.engine.lifecycle_import(other, key)
    assert len(await entries(opened, "lifecycle.import")) == 1


@pytest.mark.parametrize("namespace", ["default", "new"])
@pytest.mark.parametrize("strategy", ImportStrategy)
async def test_a_retry_while_the_first_try_is_stored_waits_and_is_answered(
    tmp_path: Path, autojump_clock: MockClock, strategy: ImportStrategy, namespace: str
) -> None:
    """What others store between the two stays, and the retry leaves nothing of its own."""
    key, answers = Idempotency("open", "k-1", b"head"), list[Stored[Imported]]()
    request = Import(
        archive_id="a-1",
        archive_data=ByteArray(archive_of(CURATED_ONLY, [FIRST, working(1)])),
        strategy=strategy,
        conflict_resolution=ConflictResolution.KEEP_IMPORTED,
    )
    offload = HeldOffload()

    async def try_it(asked: Engine) -> None:
        answers.append(await asked.lifecycle_import(request, key, namespace=namespace))

    async with running_engine(tmp_path, offload=offload) as opened:
        offload.hold("_transact_series")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(try_it, opened.engine)
            await offload.until_held("_transact_series")
            nursery.start_soon(try_it, opened.engine)
            await wait_all_tasks_blocked()
            nursery.start_soon(opened.engine.encode_store, to_store("of somebody else"))
            await wait_all_tasks_blocked()
            offload.release("_transact_series")
        number = await opened.engine.namespace(namespace)
        out = await exported(opened)
        assert [answer.replayed for answer in answers] == [False, True]
        assert answers[1].reply == answers[0].reply
        assert len(await entries(opened, "lifecycle.import")) == 1
        assert "of somebody else" in [text_of(record) for record in ArchiveReader([out]).records()]
        assert await held_ids(opened, number) == [str(working(1).id)]
        assert {batch_in(row_key) for row_key in rows(opened) if row_key.startswith(rows_prefix(number))} == {
            answers[0].reply.batch_id
        }


def text_of(record: MemoryRecord | RawJournalRecord) -> str:
    return record.content.blocks[0].data.decode()


class Chunks:
    """An archive that comes in parts; it may end with an error."""

    def __init__(self, parts: list[bytes] | Iterator[bytes], error: Exception | None = None) -> None:
        self._parts = iter(parts)
        self._error = error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        for part in self._parts:
            return part
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration


TERMS = ImportTerms(archive_id="a-1")


@pytest.mark.parametrize("size", [1, 1_000, 100_000])
async def test_an_archive_may_come_in_parts_of_any_size(opened: Running, size: int) -> None:
    stored = await opened.engine.import_archive(Chunks(pieces(BUNDLE, size)), TERMS)
    assert stored.reply.records_imported == 8


async def test_a_client_that_goes_away_leaves_nothing(opened: Running) -> None:
    before = rows(opened)
    with pytest.raises(KeyError):
        await opened.engine.import_archive(Chunks([BUNDLE], KeyError("gone")), TERMS)
    assert rows(opened) == before


async def test_too_much_is_refused_while_it_comes(opened: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cma, "ARCHIVE_BYTES_MAX", 1_000)
    taken = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield bytes(100)

    with pytest.raises(ImportConflict, match="more than 1000 bytes"):
        await opened.engine.import_archive(Chunks(endless()), TERMS)
    assert len(taken) == 11


async def test_an_export_is_read_as_a_stream(opened: Running) -> None:
    await take_in(opened, BUNDLE)
    async with opened.engine.export_archive(Export(include_raw_journal=True)) as archive:
        chunks = [chunk async for chunk in archive.chunks]
    assert sum(map(len, chunks)) == archive.size_bytes
    assert archive.record_count == 8
    assert archive.checksum.encode() in chunks[-1]
    header = ArchiveReader(chunks).header
    assert (header.version, header.timestamp) == (WITH_RAW, NOW)


async def test_an_export_that_is_too_large_for_json_is_refused_and_not_audited(
    opened: Running, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    await take_in(opened, BUNDLE)
    monkeypatch.setattr(engine, "EXPORT_BYTES_MAX", 1_000)
    with pytest.raises(ContentTooLarge, match="POST /v1/archive"):
        await exported(opened)
    assert await entries(opened, "lifecycle.export") == []


async def test_only_so_many_archives_are_under_way(opened: Running) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(archives.UNDER_WAY_MAX):
            await nursery.start(held_open, opened.engine)
        with pytest.raises(ActorBusy, match="archives is busy"):
            await exported(opened)
        with pytest.raises(ActorBusy, match="archives is busy"):
            await take_in(opened, BUNDLE)
        nursery.cancel_scope.cancel()
    assert (await take_in(opened, BUNDLE)).records_imported == 8


async def held_open(asked: Engine, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    async with asked.export_archive(Export()):
        task_status.started()
        await trio.sleep_forever()


async def test_an_export_is_one_moment_whatever_is_written_meanwhile(opened: Running) -> None:
    await take_in(opened, BUNDLE)
    async with opened.engine.export_archive(Export(include_raw_journal=True)) as archive:
        await opened.engine.lifecycle_forget(Forget(store=Store.EPISODIC, confirm=True))
        await opened.engine.encode_store(to_store("later"))
        out = b"".join([chunk async for chunk in archive.chunks])
    assert records_in(out) == records_in(BUNDLE)


async def test_a_snapshot_that_somebody_waits_for_is_given_up_for_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, asked = MemoryStorage(), []

    def should_end() -> bool:
        asked.append(1)
        return len(asked) in (1, 9)

    async with running_engine(tmp_path, storage=storage, clock=WallClock(step_ns=0)) as opened:
        await take_in(opened, BUNDLE)
        monkeypatch.setattr(storage, "readers_should_end", should_end)
        assert records_in(await exported(opened, include_raw_journal=True)) == records_in(BUNDLE)
    assert len(asked) > 9


async def test_no_spool_is_left(opened: Running) -> None:
    folder = opened.settings.data_dir
    before = {path.name for path in folder.iterdir()}
    await take_in(opened, BUNDLE)
    async with opened.engine.export_archive(Export()):
        assert {path.name for path in folder.iterdir()} == before
    with pytest.raises(ImportConflict):
        await take_in(opened, BUNDLE[:-9])
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize("strategy", list(ImportStrategy))
async def test_a_failing_disk_leaves_what_was_there(tmp_path: Path, strategy: ImportStrategy) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage, clock=WallClock(step_ns=0)) as opened:
        await take_in(opened, CURATED)
        before = rows(opened)
        storage.break_disk()
        with pytest.raises(StorageUnavailable):
            await take_in(opened, BUNDLE, strategy=strategy)
        assert rows(opened) == before
        storage.mend_disk()
        again = await take_in(opened, BUNDLE, strategy=strategy)
        assert again.records_imported == (2 if strategy is ImportStrategy.MERGE else 8)


FAILPOINTS = (
    *(("writer.series.step", passage) for passage in range(1, 13)),
    ("storage.commit.before_fsync", 1),
    ("storage.commit.after_fsync", 1),
    ("writer.series.committed", 1),
    ("writer.before_reply", 1),
)
BEHIND_THE_COMMIT = {name for name, _passage in FAILPOINTS[-3:]}


@asynccontextmanager
async def on_lmdb(path: Path) -> AsyncIterator[Engine]:
    chosen = settings_for(path)
    with DataDir.acquire(chosen.data_dir) as directory:
        storage = LmdbStorage(directory.store_path, map_size_bytes=1 << 26)
        try:
            world = WallClock(step_ns=0).world()
            async with running(chosen, directory, storage, world, Metrics(())) as made:
                yield made
        finally:
            storage.close()


def in_store(path: Path) -> InStore:
    return stored_in(path / "data")


@pytest.mark.parametrize(("name", "passage"), FAILPOINTS)
async def test_a_crash_anywhere_in_an_import_leaves_the_old_or_the_new(
    tmp_path: Path, name: str, passage: int
) -> None:
    other = [msgspec.structs.replace(FIRST, id=RecordId(bytes([i]) * 16)) for i in range(3)]
    with quiet():
        async with on_lmdb(tmp_path) as made:
            await take_in(made, archive_of(CURATED_ONLY, other))
            failpoints.arm(name, passage=passage)
            reached = True
            try:
                await take_in(made, BUNDLE, strategy=ImportStrategy.REPLACE)
                reached = False
            except InternalError:
                pass
            failpoints.disarm()
            out = await exported(made, include_raw_journal=True)
        old, new = records_in(archive_of(WITH_RAW, other)), records_in(BUNDLE)
        is_committed = not reached or name in BEHIND_THE_COMMIT
        assert records_in(out) == (new if is_committed else old)
        stored = in_store(tmp_path)
        assert len(stored.texts) == (6 if is_committed else 3)
        assert stored.head.audit_sequence == (3 if is_committed else 2)


async def test_what_is_acknowledged_behind_a_crash_is_found(opened: Running, autojump_clock: MockClock) -> None:
    """The writer committed, and crashed before it told the index; the answer is kept in the store."""
    request = Import(archive_id="a-1", archive_data=ByteArray(CURATED))
    key = Idempotency("open", "k-1", b"head")
    with quiet():
        failpoints.arm("writer.series.committed")
        with pytest.raises(InternalError):
            await opened.engine.lifecycle_import(request, key)
        assert (await opened.engine.lifecycle_import(request, key)).replayed
        recalled = await opened.engine.recall_query(to_recall(FIRST.content.blocks[0].data.decode()))
    found = [codec.parse(memory.record, MemoryRecord).id for memory in recalled.memories]
    assert FIRST.id in found or not recalled.query_metadata.index_complete


async def test_an_import_on_disk_adds_up(tmp_path: Path) -> None:
    async with on_lmdb(tmp_path) as made:
        await made.encode_store(to_store("there before", embedding=[1.0, 2.0], emotion={"joy": 1.0}))
        await take_in(made, BUNDLE)
        await take_in(made, BUNDLE, conflict_resolution=ConflictResolution.KEEP_IMPORTED)
        await take_in(made, CURATED, strategy=ImportStrategy.REPLACE)
    stored = in_store(tmp_path)
    assert (len(stored.texts), len(stored.raw_texts)) == (6, 2)
    async with on_lmdb(tmp_path) as made:
        assert records_in(await exported(made)) == records_in(CURATED)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    memories=st.lists(memory_records, max_size=4, unique_by=lambda record: record.id),
    raws=st.lists(raw_records, max_size=3, unique_by=lambda record: record.id),
)
def test_what_is_exported_imported_and_exported_again_is_the_same(
    memories: list[MemoryRecord], raws: list[RawJournalRecord]
) -> None:
    assume({record.id for record in memories}.isdisjoint(record.id for record in raws))
    first = archive_of(WITH_RAW, memories, raws)

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with running_engine(Path(folder) / "1", clock=WallClock(step_ns=0)) as one:
                await take_in(one, first)
                out = await exported(one, include_raw_journal=True)
            async with running_engine(Path(folder) / "2", clock=WallClock(step_ns=0)) as two:
                await take_in(two, out)
                again = await exported(two, include_raw_journal=True)
        assert out == again
        curated = [record for record in ArchiveReader([out]).records() if isinstance(record, MemoryRecord)]
        entries = [record for record in ArchiveReader([out]).records() if isinstance(record, RawJournalRecord)]
        assert curated == sorted(memories, key=lambda record: record.id)
        assert entries == sorted(raws, key=lambda record: record.id)

    with quiet():
        trio.run(main)


async def test_memory_is_bounded_whatever_the_size_of_the_archive(tmp_path: Path) -> None:
    """20 MB, mostly of metadata that doesn't compress, go in and out in the room of a few pieces."""
    noise = random.Random(1)
    writer = ArchiveWriter(CURATED_ONLY)
    block = b'"metadata":"%b"' % noise.randbytes(50_000).hex().encode()
    line = codec.dump(FIRST).replace(b'"metadata":{}', block)

    def records() -> Iterator[bytes]:
        made = ArchiveWriter(CURATED_ONLY)
        for i in range(200):
            yield made.curated(line.replace(str(FIRST.id).encode(), str(RecordId(i.to_bytes(16, "big"))).encode()))

    for record in records():
        writer.curated(record[:-1])
    head, foot = writer.header(Timestamp(0)), writer.footer()

    def archive() -> Iterator[bytes]:
        yield head
        for record in records():
            yield from pieces(record, 65_536)
        yield foot

    async with on_lmdb(tmp_path) as made:
        tracemalloc.start()
        try:
            stored = await made.import_archive(Chunks(archive()), TERMS)
            size = 0
            async with made.export_archive(Export()) as out:
                async for chunk in out.chunks:
                    size += len(chunk)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert stored.reply.records_imported == out.record_count == 200
    assert size == out.size_bytes > 20_000_000
    assert peak < size / 2
