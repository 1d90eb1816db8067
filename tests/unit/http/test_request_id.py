"""X-Request-Id: a caller's UUID is kept, anything else replaced; it is in answer, error body and log lines."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from tests.support.asgi import AsgiClient
from tests.support.engine import store_body
from tests.support.gated import bare, gated
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage

MINE = "6b0ef833-e46c-4b2d-9e34-67b57d904d4c"


@pytest.fixture(scope="module")
def client() -> AsgiClient:
    return bare()


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/v1/encode", "/v1/introspect/record/abc"])
async def test_a_callers_uuid_is_kept(client: AsgiClient, path: str) -> None:
    reply = await client.get(path, x_request_id=MINE)
    assert reply.headers["x-request-id"] == MINE
    if reply.status != 200:
        assert reply.json["request_id"] == MINE


@pytest.mark.parametrize("sent", ["", "abc", "0191aaaa", f"{MINE}x", "../../etc/passwd", "é" * 32])
async def test_what_is_no_uuid_is_replaced_by_one(client: AsgiClient, sent: str) -> None:
    reply = await client.get("/nowhere", x_request_id=sent)
    made = reply.headers["x-request-id"]
    assert str(UUID(made)) == made != sent
    assert reply.json["request_id"] == made


async def test_without_one_each_request_gets_its_own(client: AsgiClient) -> None:
    ids = [(await client.get("/health")).headers["x-request-id"] for _ in range(5)]
    assert len({UUID(each) for each in ids}) == 5


@pytest.mark.parametrize("sent", [MINE.upper(), MINE.replace("-", ""), f"{{{MINE}}}", f"urn:uuid:{MINE}"])
async def test_a_uuid_in_another_form_is_the_same_request(client: AsgiClient, sent: str) -> None:
    reply = await client.get("/health", x_request_id=sent)
    assert UUID(reply.headers["x-request-id"]) == UUID(MINE)


async def test_it_is_there_once_and_on_an_answer_without_a_body_too(tmp_path: Path) -> None:
    async with gated(tmp_path) as daemon:
        stored = (await daemon.client.post("/v1/encode", store_body("x"))).json["record_id"]
        reply = await daemon.client.ask("PATCH", f"/v1/encode/{stored}", {"metadata": {}}, {"x-request-id": MINE})
        assert reply.status == 204
        assert [value for name, value in reply.raw_headers if name == b"x-request-id"] == [MINE.encode()]


async def test_the_reason_of_a_failure_is_logged_under_it(tmp_path: Path, logged: Logged) -> None:
    storage = MemoryStorage()
    async with gated(tmp_path, storage=storage) as daemon:
        storage.break_disk()
        reply = await daemon.client.post("/v1/encode", store_body("x"), x_request_id=MINE)
        storage.mend_disk()
    assert reply.status == 503
    [line] = [line for line in logged.lines if line["event"] == "request failed"]
    assert (line["request_id"], line["level"]) == (MINE, "error")
    assert "the disk failed a write" in line["reason"]


async def test_no_log_line_has_a_memory_or_a_key(tmp_path: Path, logged: Logged) -> None:
    async with gated(tmp_path) as daemon:
        await daemon.client.post("/v1/encode", store_body("a very private memory"), authorization="Bearer sesame")
        await daemon.client.post("/v1/recall/query", {"cue": {"text": "private memory"}})
        await daemon.client.post("/v1/encode", {"content": "a very private memory"})
    text = str(logged.lines)
    assert "private" not in text
    assert "sesame" not in text
