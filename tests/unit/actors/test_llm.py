"""The whole engine with an LLM service beside it: memories are found by meaning, and nobody waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from cerememory.config.settings import LlmSettings, Secret
from cerememory.domain.audit_chain import parse_line, verify_lines
from cerememory.errors import ModalityUnsupported, ProviderUnavailable
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord
from cerememory.protocol.replies import Recalled
from cerememory.protocol.requests import IntrospectRecord
from cerememory.protocol.values import RecordId
from cerememory.providers import api
from tests.support.engine import WAIT_S, Running, running_engine, settings_for, to_recall, to_store
from tests.support.fake_llm import KEY, FakeLlm, fake_llm, held, status
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage

PNG = b"\x89PNG\r\n\x1a\n picture"
WAV = b"RIFF\x00\x00\x00\x00WAVE sound"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that fails is tried again at once."""
    monkeypatch.setattr(api, "PAUSES_S", (0.0, 0.0, 0.0))


@asynccontextmanager
async def engine_with(
    path: Path, base_url: str, provider: str = "openai", storage: MemoryStorage | None = None
) -> AsyncIterator[Running]:
    llm: Any = LlmSettings(provider=provider, api_key=Secret(KEY), base_url=base_url)  # type: ignore[arg-type]
    async with running_engine(path, settings=settings_for(path, llm=llm), storage=storage) as running:
        with trio.fail_after(WAIT_S):
            yield running


async def store(running: Running, text: str, **given: Any) -> RecordId:
    return (await running.engine.encode_store(to_store(text, **given))).reply.record_id


async def record(running: Running, record_id: RecordId) -> MemoryRecord:
    found = await running.engine.introspect_record(IntrospectRecord(record_id=record_id))
    return codec.parse(bytes(found), MemoryRecord)


async def until_enriched(running: Running, record_id: RecordId) -> MemoryRecord:
    while b"extracted_relations" not in bytes((found := await record(running, record_id)).metadata):
        await trio.lowlevel.checkpoint()
    return found


def texts(answer: Recalled) -> list[str]:
    records = [codec.parse(bytes(memory.record), MemoryRecord) for memory in answer.memories]
    return [found.content.blocks[0].data.decode() for found in records]


async def recalled(running: Running, text: str | None = None, **cue: Any) -> list[str]:
    return texts(await running.engine.recall_query(to_recall(text, cue=cue)))


@pytest.fixture
async def llm() -> AsyncIterator[FakeLlm]:
    async with fake_llm() as running:
        yield running


async def test_a_memory_is_stored_before_the_service_answers_and_found_by_meaning_after(
    tmp_path: Path, llm: FakeLlm
) -> None:
    release = trio.Event()
    async with engine_with(tmp_path, llm.url) as running:
        llm.then(held(release, llm.answer))
        record_id = await store(running, "The kettle is on the stove")
        await llm.until(lambda llm: len(llm.requests) == 1)
        assert (await record(running, record_id)).content.blocks[0].embedding is None
        release.set()
        enriched = await until_enriched(running, record_id)
        assert enriched.content.blocks[0].embedding is not None
        assert (enriched.version, enriched.updated_at) == (1, enriched.created_at)
        await store(running, "Our car is in the garage")
        assert (await recalled(running, "boiling hot"))[0] == "The kettle is on the stove"


async def test_a_service_that_is_away_takes_nothing_but_the_meaning(tmp_path: Path, logged: Logged) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    async with engine_with(tmp_path, f"http://127.0.0.1:{port}") as running:
        record_id = await store(running, "The kettle is on the stove")
        assert await recalled(running, "kettle") == ["The kettle is on the stove"]
        assert await recalled(running, "boiling hot") == []
        assert (await record(running, record_id)).content.blocks[0].embedding is None
        with pytest.raises(ProviderUnavailable):
            await recalled(running, image=list(PNG))
        assert await running.engine.not_ready() is None
        assert running.counted("cerememory_llm_requests_total", ability="embed_text", outcome="network") > 0
    assert "llm request failed" in logged.events("warning")
    assert KEY not in str(logged.lines)


async def test_a_service_that_refuses_the_key_is_counted_and_the_key_isnt_logged(
    tmp_path: Path, llm: FakeLlm, logged: Logged
) -> None:
    llm.then(*[status(401, {"error": {"message": f"bad key {KEY}", "code": "invalid_api_key"}})] * 2)
    async with engine_with(tmp_path, llm.url) as running:
        await store(running, "The kettle is on the stove", embedding=[1.0])
        last = await store(running, "Our car is in the garage", metadata={"extracted_relations": []})
        await llm.until(lambda llm: len(llm.requests) == 2)
        while running.counted("cerememory_llm_requests_total", ability="embed_text", outcome="refused") < 1:
            await trio.lowlevel.checkpoint()
        assert (await record(running, last)).content.blocks[0].embedding is None
    [line, other] = [line for line in logged.lines if line["event"] == "llm request failed"]
    assert {line["reason"], other["reason"]} == {"status 401 (invalid_api_key)"}
    assert KEY not in str(logged.lines)


async def test_what_is_stored_while_the_service_is_away_is_enriched_after_the_next_start(
    tmp_path: Path, llm: FakeLlm
) -> None:
    storage = MemoryStorage()
    llm.then(held(trio.Event(), llm.answer))
    async with engine_with(tmp_path, llm.url, storage=storage) as running:
        record_id = await store(running, "The kettle is on the stove")
        await llm.until(lambda llm: len(llm.requests) == 1)
    async with engine_with(tmp_path, llm.url, storage=storage) as running:
        await until_enriched(running, record_id)
        assert await recalled(running, "boiling hot") == ["The kettle is on the stove"]


async def test_claude_finds_relations_and_recalls_by_words(tmp_path: Path, llm: FakeLlm) -> None:
    async with engine_with(tmp_path, llm.url, "claude") as running:
        record_id = await store(running, "Ada has a dog", metadata={"mine": 1})
        enriched = await until_enriched(running, record_id)
        metadata = codec.parse(bytes(enriched.metadata), dict[str, Any])
        assert metadata["mine"] == 1
        assert metadata["extracted_relations"] == llm.says.relations
        assert enriched.content.blocks[0].embedding is None
        assert await recalled(running, "dog") == ["Ada has a dog"]
        with pytest.raises(ModalityUnsupported):
            await recalled(running, image=list(PNG))
        with pytest.raises(ModalityUnsupported):
            await recalled(running, audio=list(WAV))


async def test_a_picture_and_a_spoken_question_find_a_memory(tmp_path: Path, llm: FakeLlm) -> None:
    async with engine_with(tmp_path, llm.url) as running:
        await until_enriched(running, await store(running, "We took the dog for a walk"))
        await until_enriched(running, await store(running, "Our car is in the garage"))
        assert await recalled(running, image=list(PNG)) == ["We took the dog for a walk"]
        assert await recalled(running, audio=list(WAV)) == ["We took the dog for a walk"]


async def test_gemini_finds_by_meaning_and_hears_nothing(tmp_path: Path, llm: FakeLlm) -> None:
    async with engine_with(tmp_path, llm.url, "gemini") as running:
        await until_enriched(running, await store(running, "The kettle is on the stove"))
        assert await recalled(running, "boiling hot") == ["The kettle is on the stove"]
        with pytest.raises(ModalityUnsupported):
            await recalled(running, audio=list(WAV))


async def test_what_was_added_is_in_the_audit_log(tmp_path: Path, llm: FakeLlm) -> None:
    async with engine_with(tmp_path, llm.url) as running:
        record_id = await store(running, "Ada has a dog")
        await until_enriched(running, record_id)
    entries = [parse_line(line) for line in running.audit_lines]
    assert [entry.operation for entry in entries] == ["encode.store", "encode.enrich"]
    assert entries[1].record_ids == (record_id,)
    verify_lines(running.audit_lines)


async def test_without_a_provider_nothing_follows_the_commits(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        names = {actor.name for actor in running.engine._actors.supervisor.actors}
        assert "enrichment" not in names
        with pytest.raises(ModalityUnsupported):
            await recalled(running, image=list(PNG))
