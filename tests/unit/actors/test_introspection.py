"""What a memory was: its versions and its history; and the modes in which stores are recalled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cerememory.actors.engine import Idempotency
from cerememory.config.settings import DecaySettings, StorageSettings
from cerememory.errors import PreconditionFailed, RecordNotFound, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import Store
from cerememory.protocol.replies import IntrospectedRecord
from cerememory.protocol.requests import EncodeUpdate, Forget, RecallMode, SetMode
from cerememory.protocol.values import NANOS, RecordId
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key
from tests.support.engine import (
    Running,
    running_engine,
    settings_for,
    text_block,
    to_introspect,
    to_recall,
    to_store,
)
from tests.support.memory_storage import MemoryStorage

YEAR_NS = 365 * 86_400 * NANOS


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_engine(tmp_path) as opened:
        yield opened


async def stored(running: Running, text: str, **given: Any) -> RecordId:
    return (await running.engine.encode_store(to_store(text, **given))).reply.record_id


async def updated(running: Running, record_id: RecordId, text: str, version: int | None = None) -> None:
    body = {"content": {"blocks": [text_block(text)]}}
    await running.engine.encode_update(record_id, codec.parse(codec.dump(body), EncodeUpdate), version)


async def read(running: Running, record_id: RecordId, **given: Any) -> IntrospectedRecord:
    answer = await running.engine.introspect_record(to_introspect(record_id, **given))
    return codec.parse(bytes(answer), IntrospectedRecord)


def text_of(record: Any) -> str:
    return bytes(record.content.blocks[0].data).decode()


async def test_every_update_keeps_what_was(running: Running) -> None:
    record_id = await stored(running, "one")
    for text in ("two", "three"):
        await updated(running, record_id, text)

    record = await read(running, record_id, include_versions=True)

    assert text_of(record) == "three"
    assert record.versions is not msgspec.UNSET
    assert [(v.version, text_of(v)) for v in record.versions] == [(1, "one"), (2, "two")]
    assert record.updated_at is not None
    assert record.versions[1].updated_at < record.updated_at


async def test_one_version_can_be_read(running: Running) -> None:
    record_id = await stored(running, "one")
    await updated(running, record_id, "two")

    assert [text_of(await read(running, record_id, version=n)) for n in (1, 2)] == ["one", "two"]
    with pytest.raises(RecordNotFound, match="version 3"):
        await read(running, record_id, version=3)


async def test_only_the_newest_versions_are_kept(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, storage=StorageSettings(history_versions=2))
    async with running_engine(tmp_path, settings=settings) as running:
        record_id = await stored(running, "0")
        for number in range(1, 6):
            await updated(running, record_id, str(number))

        record = await read(running, record_id, include_versions=True)
        assert record.versions is not msgspec.UNSET
        assert [text_of(version) for version in record.versions] == ["3", "4"]


async def test_no_version_is_kept_when_none_is_wanted(tmp_path: Path) -> None:
    storage = MemoryStorage()
    settings = settings_for(tmp_path, storage=StorageSettings(history_versions=0))
    async with running_engine(tmp_path, storage=storage, settings=settings) as running:
        await updated(running, await stored(running, "0"), "1")

    history = key(DEFAULT_NAMESPACE, Table.HISTORY)
    assert not [row_key for row_key in storage.rows() if row_key.startswith(history)]


async def test_an_update_that_is_refused_keeps_no_version(running: Running) -> None:
    record_id = await stored(running, "one")
    with pytest.raises(PreconditionFailed):
        await updated(running, record_id, "two", version=7)

    assert (await read(running, record_id, include_versions=True)).versions == ()


async def test_the_history_is_what_the_audit_log_says_of_the_record(running: Running) -> None:
    other = await stored(running, "another")
    record_id = await stored(running, "one")
    await updated(running, record_id, "two")
    await running.engine.recall_query(to_recall("two"))
    await stored(running, "the last")  # and with it the recall before is committed

    record = await read(running, record_id, include_history=True)

    assert record.history is not msgspec.UNSET
    assert [entry.operation for entry in record.history][:2] == ["encode.store", "encode.update"]
    assert [entry.sequence for entry in record.history][:2] == [2, 3]
    [only] = (await read(running, other, include_history=True)).history or ()
    assert only.sequence == 1


async def test_a_history_stays_in_its_namespace(running: Running) -> None:
    elsewhere = await running.engine.namespace("elsewhere", create=True)
    stored_there = await running.engine.encode_store(to_store("there"), namespace=elsewhere)
    record_id = stored_there.reply.record_id
    request = to_introspect(record_id, include_history=True)

    answer = await running.engine.introspect_record(request, namespace=elsewhere)

    assert [entry["operation"] for entry in codec.parse(bytes(answer), dict)["history"]] == ["encode.store"]
    with pytest.raises(RecordNotFound):
        await running.engine.introspect_record(request)


async def test_what_was_not_asked_for_is_not_there(running: Running) -> None:
    answer = await running.engine.introspect_record(to_introspect(await stored(running, "one")))

    assert codec.parse(bytes(answer), dict).keys().isdisjoint({"versions", "history"})


async def test_forgetting_takes_the_versions_too(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        record_id = await stored(running, "a secret")
        await updated(running, record_id, "nothing")
        await running.engine.lifecycle_forget(Forget(record_ids=(record_id,), confirm=True))

    assert not [value for value in storage.rows().values() if b"secret" in value]


class _Content(msgspec.Struct):
    rendered_content: dict[str, Any]


async def shown(running: Running, word: str) -> str:
    request = to_recall(word, recall_mode="human", reconsolidate=False)
    [memory] = (await running.engine.recall_query(request)).memories
    content = codec.parse(codec.dump(memory), _Content).rendered_content
    return bytes(content["blocks"][0]["data"]).decode()


@pytest.fixture
async def aged(tmp_path: Path) -> AsyncIterator[Running]:
    """An episodic and a semantic memory, three years old."""
    settings = settings_for(tmp_path, decay=DecaySettings(background_interval_secs=0))
    async with running_engine(tmp_path, settings=settings) as opened:
        for store in ("episodic", "semantic"):
            await stored(opened, f"{store} one two three four five six", store=store)
        opened.clock.at += 3 * YEAR_NS
        yield opened


async def test_faded_memories_lose_words(aged: Running) -> None:
    assert "..." in await shown(aged, "episodic")
    assert "..." in await shown(aged, "semantic")


async def test_a_store_in_perfect_mode_loses_none(aged: Running) -> None:
    await aged.engine.lifecycle_set_mode(SetMode(mode=RecallMode.PERFECT, scope=(Store.EPISODIC,)))

    assert await shown(aged, "episodic") == "episodic one two three four five six"
    assert "..." in await shown(aged, "semantic")


async def test_a_mode_without_a_scope_is_for_all_stores_and_is_taken_back_alike(aged: Running) -> None:
    await aged.engine.lifecycle_set_mode(SetMode(mode=RecallMode.PERFECT))
    assert "..." not in await shown(aged, "semantic")
    await aged.engine.lifecycle_set_mode(SetMode(mode=RecallMode.HUMAN, scope=(Store.SEMANTIC,)))
    assert "..." in await shown(aged, "semantic")
    assert "..." not in await shown(aged, "episodic")


async def test_a_mode_is_kept_over_a_restart(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await stored(running, "episodic one two three four five six", store="episodic")
        await running.engine.lifecycle_set_mode(SetMode(mode=RecallMode.PERFECT))
    async with running_engine(tmp_path, storage=storage) as running:
        running.clock.at += 3 * YEAR_NS
        assert "..." not in await shown(running, "episodic")


async def test_a_mode_is_of_its_namespace(aged: Running) -> None:
    elsewhere = await aged.engine.namespace("elsewhere", create=True)
    await aged.engine.lifecycle_set_mode(SetMode(mode=RecallMode.PERFECT), namespace=elsewhere)

    assert "..." in await shown(aged, "episodic")


async def store_if_absent(running: Running, text: str, **given: Any) -> Any:
    return (await running.engine.encode_store(to_store(text, if_absent=True, **given))).reply


async def test_a_memory_like_one_that_is_there_is_not_stored_again(running: Running) -> None:
    first = await stored(running, "The  kettle is\nred.", store="semantic")

    again = await store_if_absent(running, "the kettle IS red.", store="semantic")

    assert (again.record_id, again.created) == (first, False)
    assert (await running.engine.introspect_stats()).total_records == 1


@pytest.mark.parametrize(
    ("text", "store"), [("the kettle is red", "episodic"), ("the kettle is blue", "semantic")]
)
async def test_another_text_or_store_is_not_like_it(running: Running, text: str, store: str) -> None:
    await stored(running, "the kettle is red", store="semantic")

    assert (await store_if_absent(running, text, store=store)).created is True


async def test_likeness_follows_updates_and_forgetting(running: Running) -> None:
    one = (await store_if_absent(running, "red", store="semantic")).record_id
    await updated(running, one, "blue")
    assert (await store_if_absent(running, "blue", store="semantic")).record_id == one
    two = await store_if_absent(running, "red", store="semantic")
    assert two.created is True
    await running.engine.lifecycle_forget(Forget(record_ids=(one,), confirm=True))
    assert (await store_if_absent(running, "blue", store="semantic")).created is True


async def test_without_if_absent_nothing_is_said_of_it(running: Running) -> None:
    reply = (await running.engine.encode_store(to_store("red"))).reply

    assert b'"created"' not in codec.dump(reply)


async def test_a_retry_answers_what_the_first_try_did(running: Running) -> None:
    request, retry = to_store("red", store="semantic", if_absent=True), Idempotency("open", "k", b"d" * 16)
    first = await running.engine.encode_store(request, retry)
    second = await running.engine.encode_store(request, retry)

    assert second.reply == first.reply
    assert second.reply.created is True


async def test_working_memory_refuses_if_absent(running: Running) -> None:
    with pytest.raises(ValidationFailed, match="if_absent"):
        await store_if_absent(running, "red", store="working")
