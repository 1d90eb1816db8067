"""Every error of every route has the envelope, with the status and the headers that belong to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cerememory import failpoints
from cerememory.config.settings import AuthSettings, Secret
from cerememory.http.examples import REQUESTS
from cerememory.protocol.operations import OPERATIONS, Operation
from tests.support.asgi import AsgiClient, Reply
from tests.support.engine import raw_body, store_body
from tests.support.gated import BARE, Gated, bare, gated
from tests.support.memory_storage import MemoryStorage

ID = "0191aaaa-0000-7000-8000-00000000ffff"
WITH_BODY = [operation for operation in OPERATIONS if operation.method != "GET"]
PATHS = sorted({operation.path for operation in OPERATIONS})
KEY = {"authorization": "Bearer sesame"}


def name_of(operation: Operation) -> str:
    return operation.name


def filled(path: str) -> str:
    return path.replace("{record_id}", ID)


def check(reply: Reply, status: int, code: str) -> dict[str, Any]:
    """The body of an error, which is an envelope with a request id that is the header's."""
    body: dict[str, Any] = reply.json
    assert (reply.status, body["code"]) == (status, code)
    assert list(body) == ["code", "message", "details", "retry_after", "request_id"]
    assert isinstance(body["message"], str)
    assert body["message"]
    assert reply.headers["content-type"] == "application/json"
    assert body["request_id"] == reply.headers["x-request-id"]
    UUID(body["request_id"])
    assert ("retry-after" in reply.headers) == (body["retry_after"] is not None)
    if body["retry_after"] is not None:
        assert reply.headers["retry-after"] == str(body["retry_after"])
    assert int(reply.headers["content-length"]) == len(reply.body)
    return body


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Gated]:
    async with gated(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def client() -> AsgiClient:
    """Of a gate without an engine; it keeps nothing of a request that it refused."""
    return bare()


@pytest.fixture(scope="module")
def locked() -> AsgiClient:
    """Of a gate that wants a key, without one."""
    return bare(replace(BARE, auth=AuthSettings(enabled=True, api_keys=(Secret("sesame"),))))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/encode/", "/v1//encode", "/v2/encode", "/v1/ENCODE"])
async def test_an_unknown_route_is_404(client: AsgiClient, method: str, path: str) -> None:
    check(await client.ask(method, path), 404, "VALIDATION_ERROR")


@pytest.mark.parametrize("path", ["/health", "/readiness", *PATHS])
async def test_a_wrong_method_is_405_and_names_those_that_are_allowed(client: AsgiClient, path: str) -> None:
    reply = await client.ask("BREW", filled(path))
    check(reply, 405, "VALIDATION_ERROR")
    methods = {operation.method for operation in OPERATIONS if operation.path == path} or {"GET"}
    allowed = {method.strip() for method in reply.headers["allow"].split(",")}
    assert methods <= allowed
    assert ("HEAD" in allowed) is ("GET" in allowed)


BROKEN = [
    (b"", "body: "),
    (b"{", "body: "),
    (b"[]", "body: expected object, got array"),
    (b"null", "body: expected object"),
    (b'{"x": "\\ud800"}', "body: "),
    (b'{"x": ' + b"[" * 100_000, "body: "),
    (b'{"header": 1}', "header: expected object"),
]


@pytest.mark.parametrize("operation", WITH_BODY, ids=name_of)
@pytest.mark.parametrize(("body", "message"), BROKEN)
async def test_a_body_that_cannot_be_read_is_400_and_names_what_is_wrong(
    client: AsgiClient, operation: Operation, body: bytes, message: str
) -> None:
    reply = await client.ask(operation.method, filled(operation.path), body)
    assert check(reply, 400, "VALIDATION_ERROR")["message"].startswith(message)


@pytest.mark.parametrize("operation", WITH_BODY, ids=name_of)
@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/jsonx", "multipart/form-data; boundary=x", "+json"]
)
async def test_a_body_of_another_content_type_is_400(
    client: AsgiClient, operation: Operation, kind: str | None
) -> None:
    reply = await client.ask(operation.method, filled(operation.path), b"{}", {"content-type": kind})
    assert check(reply, 400, "VALIDATION_ERROR")["message"].startswith("Content-Type: expected application/json")


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON; charset=utf-8", "application/vnd.cmp+json", "application/x+json "],
)
async def test_json_may_be_named_in_all_its_ways(client: AsgiClient, kind: str) -> None:
    reply = await client.ask("POST", "/v1/encode", {"store": "episodic"}, {"content-type": kind})
    assert reply.message == "content: missing field", "so it was read"


NO_BLOCKS: dict[str, Any] = {"content": {"blocks": []}}
TEXT_AS_DATA = {"content": {"blocks": [{"modality": "text", "format": "t", "data": "x"}]}}
BACKWARDS = {"temporal": {"start": "2027-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}}
ENCODE, BATCH, RAW = "POST /v1/encode", "POST /v1/encode/batch", "POST /v1/encode/raw"
RECALL, RECALL_RAW, UPDATE = "POST /v1/recall/query", "POST /v1/recall/raw", f"PATCH /v1/encode/{ID}"
FIELDS: list[tuple[str, Any, str]] = [
    (ENCODE, {"store": "episodic"}, "content: missing field"),
    (ENCODE, store_body("x", store="astral"), "store: unknown name 'astral'"),
    (ENCODE, NO_BLOCKS, "content.blocks: must have at least one"),
    (ENCODE, TEXT_AS_DATA, "content.blocks[0].data: expected array of bytes, got string"),
    (BATCH, {"records": [store_body("x")] * 17 + [{}]}, "records[17].content: missing field"),
    (BATCH, {"records": [store_body("x")] * 17 + [NO_BLOCKS]}, "records[17].content.blocks: "),
    (BATCH, {"records": [store_body("x")] * 1_001}, "records: at most 1000"),
    (RAW, raw_body("x", " "), "session_id: must not be blank"),
    (RAW, b'{"session_id": "\xff"}', "body: not readable as JSON: invalid UTF-8"),
    (f"{RAW}/batch", {"records": [raw_body("x"), raw_body("x", "")]}, "records[1].session_id: "),
    (UPDATE, {}, "content: one of content, emotion, metadata, meta must be given"),
    ("PATCH /v1/encode/abc", {"metadata": {}}, "record_id: expected a UUID"),
    (RECALL, {"cue": {}, "limit": -1}, "limit: "),
    (RECALL, {"cue": {}, "limit": 2.0}, "limit: expected integer, got number"),
    (RECALL, {}, "cue: missing field"),
    (RECALL, {"cue": {"embedding": []}}, "cue.embedding: must not be empty"),
    (RECALL, {"cue": {"image": []}}, "cue.image: must not be empty"),
    (RECALL, {"cue": {}, "explain": 1}, "explain: "),
    (RECALL, {"cue": {}, "scope": []}, "scope: expected object or null, got array"),
    (RECALL, {"cue": {}, "scope": {"session": "s"}}, "scope.session: unknown field"),
    (RECALL, {"cue": {}, "scope": {"session_id": 1}}, "scope.session_id: expected string or null, got integer"),
    (RECALL, {"cue": {}, "scope": {"tags": "a"}}, "scope.tags: expected array or null, got string"),
    (RECALL, {"cue": {}, "scope": {"tags": ["a", 1]}}, "scope.tags[1]: expected string, got integer"),
    (RECALL, {"cue": {}, "scope": {"metadata": [1]}}, "scope.metadata: expected object or null, got array"),
    (RECALL, b'{"cue": {}, "scope": {"metadata": {"x": "\xff"}}}', "scope.metadata.x: not readable as JSON"),
    (RECALL, {"cue": {}, "scope": {"tags": ["a"] * 33}}, "scope.tags: at most 32, got 33"),
    (RECALL, {"cue": {}, "scope": {"metadata": {"_origin": 1}}}, "scope.metadata._origin: the daemon's own"),
    (RECALL_RAW, BACKWARDS, "temporal.start: "),
]


@pytest.mark.parametrize(("route", "body", "message"), FIELDS, ids=[case[2][:40] for case in FIELDS])
async def test_a_wrong_field_is_named_and_nothing_is_stored(
    daemon: Gated, route: str, body: Any, message: str
) -> None:
    method, path = route.split()
    reply = await daemon.client.ask(method, path, body)
    assert check(reply, 400, "VALIDATION_ERROR")["message"].startswith(message)
    assert (await daemon.running.engine.introspect_stats()).total_records == 0


@pytest.mark.parametrize("operation", [o for o in WITH_BODY if "{record_id}" not in o.path], ids=name_of)
async def test_another_protocol_version_is_refused_by_every_operation(daemon: Gated, operation: Operation) -> None:
    header = {"protocol": "cmp", "version": "2.0", "request_id": ID, "timestamp": "2026-01-01T00:00:00Z"}
    imported = {"archive_id": "a", "archive_data": []}  # of which there is no example: it would be an archive
    body = imported if operation.name == "lifecycle.import" else REQUESTS[operation.name]
    reply = await daemon.client.ask(operation.method, operation.path, {**body, "header": header})
    check(reply, 400, "VERSION_MISMATCH")
    accepted = await daemon.client.ask(
        operation.method, operation.path, {**body, "header": {**header, "version": "1.7"}}
    )
    assert accepted.status in (200, 204) or accepted.code in ("RECORD_NOT_FOUND", "IMPORT_CONFLICT")


@pytest.mark.parametrize("store", ["episodic", "working"])
async def test_an_unknown_record_is_404_and_an_unmatched_version_412(daemon: Gated, store: str) -> None:
    client = daemon.client
    check(await client.get(f"/v1/introspect/record/{ID}"), 404, "RECORD_NOT_FOUND")
    check(await client.ask("PATCH", f"/v1/encode/{ID}", {"metadata": {}}), 404, "RECORD_NOT_FOUND")
    stored = (await client.post("/v1/encode", store_body("x", store=store))).json["record_id"]
    reply = await client.ask("PATCH", f"/v1/encode/{stored}", {"metadata": {}}, {"if-match": "7"})
    assert check(reply, 412, "VERSION_MISMATCH")["details"] == {"current_version": 1}


async def test_a_cue_that_needs_a_provider_is_400(daemon: Gated) -> None:
    png = list(b"\x89PNG\r\n\x1a\n")
    check(await daemon.client.post("/v1/recall/query", {"cue": {"image": png}}), 400, "MODALITY_UNSUPPORTED")


async def test_content_over_its_limit_is_413_and_names_size_and_limit(daemon: Gated) -> None:
    reply = await daemon.client.post("/v1/encode", store_body("x" * 1_048_577))
    message = check(reply, 413, "CONTENT_TOO_LARGE")["message"]
    assert message.startswith("content.blocks[0]: ")
    assert "1048577" in message
    assert "1048576" in message


async def test_a_disk_that_fails_is_503_and_says_nothing_of_itself(tmp_path: Path, autojump_clock: Any) -> None:
    storage = MemoryStorage()
    async with gated(tmp_path, storage=storage) as daemon:
        storage.break_disk()
        reply = await daemon.client.post("/v1/encode", store_body("x"))
        assert "disk" not in check(reply, 503, "DECAY_ENGINE_BUSY")["message"]
        storage.mend_disk()
        await trio.sleep(5)
        assert (await daemon.client.post("/v1/encode", store_body("x"))).status == 200


@pytest.mark.parametrize("path", ["/v1/encode", "/v1/encode/batch"])
async def test_a_bug_is_500_says_only_that_there_was_one_and_spares_the_next_request(
    tmp_path: Path, autojump_clock: Any, path: str
) -> None:
    bodies = {"/v1/encode": store_body("x"), "/v1/encode/batch": {"records": [store_body("x")]}}
    async with gated(tmp_path) as daemon:
        failpoints.arm("actor.writer.received")
        reply = await daemon.client.post(path, bodies[path])
        failpoints.disarm()
        message = check(reply, 500, "INTERNAL_ERROR")["message"]
        assert "request id" in message
        assert "writer" not in message
        await trio.sleep(5)
        assert (await daemon.client.post(path, bodies[path])).status == 200


@pytest.mark.parametrize("path", ["/v1/encode", "/v1/encode/batch"])
async def test_a_bug_in_a_handler_is_500_whoever_serves_the_route(
    daemon: Gated, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def crash(*_: object) -> None:
        raise KeyError("of a bug")

    for name in ("encode_store", "encode_batch"):
        monkeypatch.setattr(daemon.running.engine, name, crash)
    body = store_body("x") if path == "/v1/encode" else {"records": []}
    reply = await daemon.client.post(path, body)
    assert "of a bug" not in check(reply, 500, "INTERNAL_ERROR")["message"]


@pytest.mark.parametrize("path", [*PATHS, "/metrics", "/nowhere", "/docs"])
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
async def test_without_a_key_a_request_is_401_before_it_is_404_or_405(
    locked: AsgiClient, method: str, path: str
) -> None:
    reply = await locked.ask(method, filled(path))
    check(reply, 401, "UNAUTHORIZED")
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_with_a_key_a_request_is_404_or_405(locked: AsgiClient) -> None:
    check(await locked.ask("GET", "/nowhere", headers=KEY), 404, "VALIDATION_ERROR")
    check(await locked.ask("GET", "/v1/encode", headers=KEY), 405, "VALIDATION_ERROR")


async def test_health_needs_no_key(locked: AsgiClient) -> None:
    assert (await locked.get("/health")).json == {"status": "ok"}


async def test_metrics_are_no_route_unless_they_are_switched_on(client: AsgiClient) -> None:
    check(await client.get("/metrics"), 404, "VALIDATION_ERROR")


SEGMENTS = st.sampled_from(
    ["v1", "encode", "raw", "batch", "recall", "query", "introspect", "record", "health", ""]
)
ODD = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


HEADERS = ["accept", "if-match", "idempotency-key", "x-cerememory-sequence", "cookie", "range", "expect"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "X-ODD"]


@given(
    method=st.sampled_from(METHODS),
    path=st.lists(SEGMENTS | ODD, max_size=5).map(lambda parts: "/" + "/".join(parts)) | st.just("*"),
    query=st.text(st.characters(max_codepoint=127), max_size=10),
    headers=st.dictionaries(
        st.sampled_from(HEADERS),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=10),
        max_size=3,
    ),
    body=st.binary(max_size=20),
)
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_the_answer_is_ours(
    client: AsgiClient, method: str, path: str, query: str, headers: dict[str, str], body: bytes
) -> None:
    async def ask() -> None:
        reply = await client.ask(method, path, body, headers, query)
        UUID(reply.headers["x-request-id"])
        assert reply.headers["content-type"] == "application/json"
        if reply.status != 200:
            check(reply, reply.status, reply.code)

    trio.run(ask)
