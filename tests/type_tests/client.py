"""What a type checker makes of both clients. Nothing here runs: `make check` reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, assert_type

import anyio
import msgspec

from cerememory.client import ArchiveStream, AsyncArchiveStream, AsyncClient, Client, text_content
from cerememory.client.replies import Recalled, RecalledMemory
from cerememory.errors import CerememoryError
from cerememory.protocol.records import MemoryContent, MemoryRecord
from cerememory.protocol.replies import Encoded, Imported, Stats
from cerememory.protocol.requests import (
    ContentInput,
    EncodeStore,
    EncodeUpdate,
    Export,
    ImportTerms,
    RecallCue,
    RecallQuery,
    RecallScope,
)
from cerememory.protocol.values import ByteArray, RecordId

REQUEST = EncodeStore(content=text_content("a"))
QUERY = RecallQuery(cue=RecallCue(text="a"))
SCOPE = RecallScope(session_id="s-1", source="Ada", tags=("a",), metadata={"room": msgspec.Raw(b'"kitchen"')})
TERMS = ImportTerms(archive_id="a")


def replies(client: Client) -> None:
    assert_type(client.encode_store(REQUEST, idempotency_key="k"), Encoded)
    assert_type(client.encode_store(REQUEST).record_id, RecordId)
    recalled = client.recall_query(QUERY, sequence=client.sequence)
    assert_type(recalled, Recalled)
    assert_type(recalled.memories, tuple[RecalledMemory, ...])
    assert_type(recalled.memories[0].record, MemoryRecord)
    assert_type(recalled.memories[0].rendered_content, MemoryContent)
    assert_type(recalled.memories[0].record.content.blocks[0].data, ByteArray)
    assert_type(client.recall_query(RecallQuery(cue=RecallCue(), scope=SCOPE)), Recalled)
    RecallScope(tag=("a",))  # type: ignore[call-arg]
    RecallScope(tags="a")  # type: ignore[arg-type]
    RecallQuery(cue=RecallCue(), scope={"session_id": "s-1"})  # type: ignore[arg-type]
    assert_type(client.introspect_stats(), Stats)
    assert_type(client.sequence, int | None)
    assert_type(client.call("introspect.stats"), Any)
    assert_type(text_content("a", summary="b"), ContentInput)


async def awaited_replies(client: AsyncClient) -> None:
    assert_type(await client.encode_store(REQUEST, idempotency_key="k"), Encoded)
    recalled = await client.recall_query(QUERY, sequence=client.sequence)
    assert_type(recalled, Recalled)
    assert_type(await client.recall_query(RecallQuery(cue=RecallCue(), scope=SCOPE)), Recalled)
    assert_type(await client.introspect_stats(), Stats)
    assert_type(await client.call("introspect.stats"), Any)


def archives(client: Client, path: Path) -> None:
    with client.export_archive(Export()) as archive, path.open("wb") as file:
        assert_type(archive, ArchiveStream)
        assert_type(archive.chunks, Iterator[bytes])
        archive.copy_to(file)
    with path.open("rb") as file:
        assert_type(client.import_archive(file, archive.size_bytes, TERMS), Imported)
    client.import_archive(BytesIO(b"a"), None, TERMS)
    client.import_archive([b"a", b"b"], 2, {"archive_id": "a"})
    client.import_archive(["a"], 1, TERMS)  # type: ignore[list-item]


async def awaited_archives(client: AsyncClient, path: Path, pieces: AsyncIterator[bytes]) -> None:
    async with client.export_archive(Export()) as archive, await anyio.open_file(path, "wb") as file:
        assert_type(archive, AsyncArchiveStream)
        assert_type(archive.chunks, AsyncIterator[bytes])
        await archive.copy_to(file)
    async with await anyio.open_file(path, "rb") as read:
        assert_type(await client.import_archive(read, archive.size_bytes, TERMS), Imported)
    await client.import_archive(pieces, None, TERMS)
    await client.import_archive([b"a"], 1, TERMS)  # type: ignore[arg-type]


def misuse(client: Client, awaited: AsyncClient) -> None:
    client.encode_store({"content": {}})  # type: ignore[arg-type]
    client.encode_store(REQUEST, "k")  # type: ignore[call-arg]
    client.recall_query(QUERY, idempotency_key="k")  # type: ignore[call-arg]
    client.encode_store(REQUEST, sequence=1)  # type: ignore[call-arg]
    client.encode_update(EncodeUpdate(), if_match="1")  # type: ignore[arg-type]
    with awaited:  # type: ignore[attr-defined]
        pass


def errors(error: CerememoryError) -> None:
    assert_type(error.code, str)
    assert_type(error.request_id, str | None)
    assert_type(error.retry_after_s, int | None)
    assert_type(error.details, dict[str, Any] | None)
