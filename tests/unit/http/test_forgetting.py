"""Forgetting, restoring and compacting over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.asgi import AsgiClient
from tests.support.engine import store_body
from tests.support.gated import Gated, gated
from tests.support.memory_storage import MemoryStorage

UNKNOWN = "01920000-0000-7000-8000-000000000000"
FORGET, COMPACT, RESTORE = (f"/v1/lifecycle/{name}" for name in ("forget", "compact", "restore"))


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def daemon(tmp_path: Path, storage: MemoryStorage) -> AsyncIterator[Gated]:
    async with gated(tmp_path, storage=storage) as opened:
        yield opened


@pytest.fixture
async def client(daemon: Gated) -> AsgiClient:
    return daemon.client


async def stored(client: AsgiClient) -> str:
    return str((await client.post("/v1/encode", store_body("kettle"))).json["record_id"])


async def test_compact_answers_the_store_s_size_before_and_after(
    client: AsgiClient, storage: MemoryStorage
) -> None:
    await stored(client)
    reply = await client.post(COMPACT, {})
    assert reply.status == 200
    assert reply.json == {"bytes_before": storage.used_bytes(), "bytes_after": storage.used_bytes()}
    assert "x-cerememory-sequence" not in reply.headers, "nothing was committed"


async def test_compact_on_a_disk_that_fails_says_when_to_try_again(
    client: AsgiClient, storage: MemoryStorage
) -> None:
    storage.break_disk()
    reply = await client.post(COMPACT, {})
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "DECAY_ENGINE_BUSY", "30")


async def test_compact_waits_for_the_commit_that_is_asked_for(client: AsgiClient) -> None:
    reply = await client.post(COMPACT, {}, X_Cerememory_Sequence="none")
    assert (reply.status, reply.code) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"confirm": False}, 400, "FORGET_UNCONFIRMED"),
        ({"record_ids": [UNKNOWN], "confirm": False}, 400, "FORGET_UNCONFIRMED"),
        ({"confirm": True}, 400, "VALIDATION_ERROR"),
        ({"record_ids": [UNKNOWN]}, 400, "VALIDATION_ERROR"),
        ({"record_ids": ["x"], "confirm": True}, 400, "VALIDATION_ERROR"),
    ],
)
async def test_what_cannot_be_forgotten_is_refused(
    client: AsgiClient, body: dict[str, Any], status: int, code: str
) -> None:
    reply = await client.ask("DELETE", FORGET, body)
    assert (reply.status, reply.code) == (status, code)


async def test_forget_and_restore_count_and_say_in_which_commit(client: AsgiClient) -> None:
    record_id = await stored(client)
    reply = await client.ask("DELETE", FORGET, {"record_ids": [record_id, UNKNOWN], "confirm": True})
    assert (reply.status, reply.json) == (200, {"records_deleted": 1})
    assert int(reply.headers["x-cerememory-sequence"]) == 2
    reply = await client.post(RESTORE, {"record_ids": [record_id]})
    assert (reply.status, reply.json) == (200, {"records_restored": 0})


async def test_restore_without_ids_is_a_dry_run_alone(client: AsgiClient) -> None:
    for body in ({}, {"record_ids": None}, {"dry_run": False}):
        reply = await client.post(RESTORE, body)
        assert (reply.status, reply.code) == (400, "VALIDATION_ERROR")
        assert reply.json["message"].startswith("record_ids: missing field")
    await stored(client)
    for headers in ({}, {"idempotency-key": "k"}, {"x-cerememory-namespace": "nowhere"}):
        reply = await client.ask("POST", RESTORE, {"dry_run": True}, headers)
        assert (reply.status, reply.json) == (200, {"records_restored": 0, "archived": []})
        assert reply.headers["x-cerememory-sequence"] == "1"
