"""What the routes do beyond the engine: sequences, keys that make a retry safe, versions, base64, readiness."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors import associations, raw_recall, reading, retrieval
from cerememory.actors.seams import inline
from cerememory.config.settings import Settings
from cerememory.http.bodies import LARGE_BODY_BYTES
from tests.support.asgi import AsgiClient
from tests.support.engine import raw_body, settings_for, store_body, text_block
from tests.support.gated import BARE, KEYS, UNLIMITED, Gated, bare, gated, with_auth
from tests.support.held import HeldOffload
from tests.support.memory_storage import MemoryStorage

R = TypeVar("R")

BASE64 = "application/vnd.cmp+json;bytes=base64"
RETRY = {"idempotency-key": "k-1"}
SEQUENCE = "x-cerememory-sequence"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Gated]:
    async with gated(tmp_path) as opened:
        yield opened


@pytest.fixture
async def client(daemon: Gated) -> AsgiClient:
    return daemon.client


async def stored(client: AsgiClient, text: str = "kettle", **given: Any) -> str:
    reply = await client.post("/v1/encode", store_body(text, **given))
    assert reply.status == 200, reply.body
    return str(reply.json["record_id"])


async def texts(client: AsgiClient, record_id: str) -> list[str]:
    record = (await client.get(f"/v1/introspect/record/{record_id}")).json
    return [bytes(block["data"]).decode() for block in record["content"]["blocks"]]


MUTATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/encode", store_body("x")),
    ("POST", "/v1/encode", store_body("x", store="working")),
    ("POST", "/v1/encode/batch", {"records": [store_body("x"), store_body("y", store="working")]}),
    ("POST", "/v1/encode/raw", raw_body("x")),
    ("POST", "/v1/encode/raw/batch", {"records": [raw_body("x"), raw_body("y")]}),
]


@pytest.mark.parametrize(("method", "path", "body"), MUTATIONS)
async def test_the_same_key_answers_the_first_result_and_stores_nothing_again(
    client: AsgiClient, method: str, path: str, body: dict[str, Any]
) -> None:
    first = await client.ask(method, path, body, RETRY)
    before = (await client.get("/v1/introspect/stats")).json
    again = await client.ask(method, path, body, RETRY)
    assert (again.status, again.json) == (200, first.json)
    assert again.headers["x-cerememory-sequence"] == first.headers["x-cerememory-sequence"]
    assert (await client.get("/v1/introspect/stats")).json == before


@pytest.mark.parametrize("store", ["episodic", "working"])
async def test_an_update_under_a_key_happens_once(client: AsgiClient, store: str) -> None:
    record_id = await stored(client, store=store)
    for _ in range(2):
        reply = await client.ask("PATCH", f"/v1/encode/{record_id}", {"metadata": {"n": 1}}, RETRY)
        assert (reply.status, reply.body) == (204, b"")
    assert (await client.get(f"/v1/introspect/record/{record_id}")).json["version"] == 2


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/encode", store_body("other")),
        ("POST", "/v1/encode/raw", store_body("x")),
        ("POST", "/v1/encode/batch", {"records": [store_body("x")]}),
    ],
)
async def test_the_same_key_with_another_request_is_a_conflict(
    client: AsgiClient, method: str, path: str, body: dict[str, Any]
) -> None:
    await client.ask("POST", "/v1/encode", store_body("x"), RETRY)
    body = {**body, "session_id": "s-1"}
    reply = await client.ask(method, path, body, RETRY)
    assert (reply.status, reply.code) == (409, "IMPORT_CONFLICT")
    assert (await client.get("/v1/introspect/stats")).json["total_records"] == 1


async def test_a_key_is_whose_it_was_sent_with(tmp_path: Path) -> None:
    async with gated(tmp_path, settings=with_auth_and_data(tmp_path)) as daemon:
        ids = {await stored_as(daemon, key) for key in (*KEYS, KEYS[0])}
        assert len(ids) == len(KEYS)


def with_auth_and_data(path: Path) -> Settings:
    return with_auth(settings_for(path, rate_limit=UNLIMITED))


async def stored_as(daemon: Gated, key: str) -> str:
    headers = {"authorization": f"Bearer {key}", **RETRY}
    reply = await daemon.client.ask("POST", "/v1/encode", store_body("x"), headers)
    return str(reply.json["record_id"])


async def test_a_failed_request_is_not_kept(client: AsgiClient) -> None:
    path = "/v1/encode/0191aaaa-0000-7000-8000-00000000ffff"
    assert (await client.ask("PATCH", path, {"metadata": {}}, RETRY)).status == 404
    assert (await client.ask("POST", "/v1/encode", store_body("x"), RETRY)).status == 200


async def test_of_two_at_once_the_second_gets_the_first_ones_result(client: AsgiClient) -> None:
    answers: list[Any] = []

    async def ask() -> None:
        answers.append((await client.ask("POST", "/v1/encode", store_body("x"), RETRY)).json)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert answers == [answers[0]] * 5
    assert (await client.get("/v1/introspect/stats")).json["total_records"] == 1


@pytest.mark.parametrize("key", ["", " ", "k" * 257])
async def test_a_blank_or_endless_key_is_refused(client: AsgiClient, key: str) -> None:
    reply = await client.ask("POST", "/v1/encode", store_body("x"), {"idempotency-key": key})
    assert reply.status == 400
    assert reply.message == "Idempotency-Key: expected 1 to 256 characters"


@pytest.mark.parametrize("store", ["episodic", "working"])
@pytest.mark.parametrize("version", ["1", '"1"', " 1 ", "*"])
async def test_if_match_names_the_version_in_all_its_ways(client: AsgiClient, store: str, version: str) -> None:
    record_id = await stored(client, store=store)
    reply = await client.ask("PATCH", f"/v1/encode/{record_id}", {"metadata": {}}, {"if-match": version})
    assert reply.status == 204


@pytest.mark.parametrize("version", ["", "one", "-1", "1.0", 'W/"1"', "9" * 30, "²"])
async def test_a_version_that_is_no_number_is_refused(client: AsgiClient, version: str) -> None:
    record_id = await stored(client)
    reply = await client.ask("PATCH", f"/v1/encode/{record_id}", {"metadata": {}}, {"if-match": version})
    assert (reply.status, reply.code) == (400, "VALIDATION_ERROR")
    assert reply.message.startswith("If-Match: expected a number")


async def test_the_path_of_an_update_wins_over_the_id_in_its_body(client: AsgiClient) -> None:
    one, other = await stored(client, "one"), await stored(client, "other")
    body = {"record_id": other, "content": {"blocks": [text_block("changed")]}}
    assert (await client.ask("PATCH", f"/v1/encode/{one}", body)).status == 204
    assert await texts(client, one) == ["changed"]
    assert await texts(client, other) == ["other"]


@pytest.mark.parametrize(
    "form", [str.upper, lambda i: i.replace("-", ""), lambda i: f"{{{i}}}", "urn:uuid:{}".format]
)
async def test_an_id_in_a_path_may_have_any_form_of_a_uuid(client: AsgiClient, form: Any) -> None:
    record_id = await stored(client)
    reply = await client.get(f"/v1/introspect/record/{form(record_id)}")
    assert reply.json["id"] == record_id


async def test_every_mutation_answers_its_commit_number(client: AsgiClient) -> None:
    sequences = []
    for method, path, body in MUTATIONS:
        sequences.append(int((await client.ask(method, path, body)).headers["x-cerememory-sequence"]))
    record_id = await stored(client)
    reply = await client.ask("PATCH", f"/v1/encode/{record_id}", {"metadata": {}})
    sequences.append(int(reply.headers["x-cerememory-sequence"]))
    assert sequences == sorted(set(sequences))


READS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/recall/query", {"cue": {"text": "kettle"}}),
    ("POST", "/v1/recall/raw", {}),
    ("GET", "/v1/introspect/stats", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), READS)
async def test_a_read_that_asks_for_a_commit_gets_an_answer_that_includes_it(
    daemon: Gated, autojump_clock: MockClock, method: str, path: str, body: Any
) -> None:
    reply = await daemon.client.ask("POST", "/v1/encode", store_body("x"))
    sequence = reply.headers["x-cerememory-sequence"]
    asked = await daemon.client.ask(method, path, body, {"x-cerememory-sequence": sequence})
    assert asked.status == 200


@pytest.mark.parametrize(("method", "path", "body"), READS)
async def test_a_commit_that_does_not_come_within_a_second_is_503(
    daemon: Gated, autojump_clock: MockClock, method: str, path: str, body: Any
) -> None:
    started = trio.current_time()
    reply = await daemon.client.ask(method, path, body, {"x-cerememory-sequence": "999"})
    assert (reply.status, reply.code) == (503, "DECAY_ENGINE_BUSY")
    assert "retry-after" in reply.headers
    assert trio.current_time() - started == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("path", ["/v1/recall/query", "/v1/recall/raw"])
async def test_a_search_that_asks_for_a_commit_finds_what_it_stored(
    tmp_path: Path, autojump_clock: MockClock, path: str
) -> None:
    """The text index, which is slower than a search waits otherwise, is waited for."""
    held = HeldOffload()
    async with gated(tmp_path, offload=held) as daemon, trio.open_nursery() as nursery:
        held.hold("_apply")
        await daemon.client.ask("POST", "/v1/encode", store_body("kettle"))
        sequence = (await daemon.client.ask("POST", "/v1/encode/raw", raw_body("kettle"))).headers[SEQUENCE]
        body = {"cue": {"text": "kettle"}, "query": "kettle"}
        hasty = (await daemon.client.ask("POST", path, body)).json
        assert (hasty["total_candidates"], hasty.get("query_metadata", hasty)["index_complete"]) == (0, False)
        nursery.start_soon(release_after, 0.5, held)
        found = (await daemon.client.ask("POST", path, body, {SEQUENCE: sequence})).json
        assert found["total_candidates"] == 1
        assert found.get("query_metadata", found).get("index_complete", True)


async def release_after(pause_s: float, held: HeldOffload) -> None:
    await trio.sleep(pause_s)
    held.release("_apply")


async def test_a_sequence_that_is_no_number_is_refused(client: AsgiClient) -> None:
    reply = await client.get("/v1/introspect/stats", x_cerememory_sequence="soon")
    assert reply.message == "X-Cerememory-Sequence: expected a number, got 'soon'"


@pytest.mark.parametrize(
    "accept", [BASE64, "application/vnd.cmp+json; bytes=base64", f"text/html, {BASE64};q=0.9"]
)
async def test_bytes_come_as_base64_when_that_is_accepted(client: AsgiClient, accept: str) -> None:
    record_id = await stored(client, "kettle", metadata={"data": [1, 2], "modality": "mine"})
    reply = await client.get(f"/v1/introspect/record/{record_id}", accept=accept)
    assert reply.headers["content-type"] == BASE64
    [block] = reply.json["content"]["blocks"]
    assert base64.b64decode(block["data"]) == b"kettle"
    assert reply.json["metadata"] == {"data": [1, 2], "modality": "mine"}
    recalled = await client.ask("POST", "/v1/recall/query", {"cue": {"text": "kettle"}}, {"accept": accept})
    [memory] = recalled.json["memories"]
    assert memory["record"]["content"]["blocks"][0]["data"] == block["data"]
    assert memory["rendered_content"]["blocks"][0]["data"] == block["data"]


RECALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/recall/query", {"cue": {}, "reconsolidate": False, "recall_mode": "perfect"}),
    ("/v1/recall/timeline", {"range": {"start": "0001-01-01T00:00:00Z", "end": "9999-12-31T23:59:59Z"}}),
    ("/v1/recall/raw", {}),
    ("/v1/recall/graph", {"include_meta": True}),
]


@pytest.mark.parametrize(("path", "body"), RECALLS)
async def test_a_long_answer_is_that_of_a_short_one_and_written_off_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    names: list[str] = []

    async def noting(call: Callable[[], R], limiter: trio.CapacityLimiter | None = None) -> R:
        names.append(getattr(getattr(call, "func", None), "__name__", ""))
        return await inline(call, limiter)

    async with gated(tmp_path, offload=noting) as daemon:
        for name in ("kettle", "cup"):
            await stored(daemon.client, name, metadata={"of": name})
            await daemon.client.post("/v1/encode/raw", raw_body(name))

        async def answers() -> list[tuple[str, Any]]:
            accepted: list[dict[str, str]] = [{}, {"accept": BASE64}]
            replies = [await daemon.client.ask("POST", path, body, headers) for headers in accepted]
            return [(reply.headers["content-type"], reply.json) for reply in replies]

        short = await answers()
        assert "dump" not in names
        for module in (reading, raw_recall, retrieval, associations):
            monkeypatch.setattr(module, "LONG_BYTES", 1)
        assert _without_relevance(await answers()) == _without_relevance(short)
        assert "dump" in names


def _without_relevance(found: Any) -> Any:
    """What fades from one moment to the next is left out."""
    if isinstance(found, dict):
        fading = ("relevance_score", "fidelity")
        return {name: _without_relevance(value) for name, value in found.items() if name not in fading}
    return [_without_relevance(value) for value in found] if isinstance(found, (list, tuple)) else found


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/vnd.cmp+json"])
async def test_bytes_come_as_arrays_otherwise(client: AsgiClient, accept: str) -> None:
    record_id = await stored(client, "AB")
    reply = await client.get(f"/v1/introspect/record/{record_id}", accept=accept)
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["content"]["blocks"][0]["data"] == [65, 66]


@pytest.mark.parametrize(
    "block",
    [
        {"modality": "text", "format": "t", "data": [65, 66]},
        {"modality": "text", "format": "t", "data_b64": "QUI="},
        {"modality": "text", "format": "t", "text": "AB"},
    ],
)
async def test_bytes_may_be_sent_in_three_ways(client: AsgiClient, block: dict[str, Any]) -> None:
    reply = await client.post("/v1/encode", {"content": {"blocks": [block]}})
    assert await texts(client, reply.json["record_id"]) == ["AB"]


@pytest.mark.parametrize("query", ["include_history=true&include_associations=false&include_versions=true", "x=y"])
async def test_the_flags_of_a_record_are_read(client: AsgiClient, query: str) -> None:
    record_id = await stored(client)
    reply = await client.ask("GET", f"/v1/introspect/record/{record_id}", query=query)
    assert reply.status == 200


async def test_an_earlier_version_of_a_record_is_read_and_one_that_never_was_is_404(client: AsgiClient) -> None:
    record_id = await stored(client)
    path = f"/v1/introspect/record/{record_id}"
    changed = {"content": {"blocks": [{"modality": "text", "format": "text/plain", "text": "another"}]}}
    assert (await client.ask("PATCH", f"/v1/encode/{record_id}", changed)).status == 204

    assert (await client.ask("GET", path, query="version=1")).json["version"] == 1
    assert (await client.ask("GET", path, query="version=2")).json["version"] == 2
    assert (await client.ask("GET", path, query="version=3")).status == 404


@pytest.mark.parametrize(
    "query",
    [
        "include_history=yes",
        "include_versions=",
        "include_associations=TRUE",
        "version=0",
        "version=x",
        "version=",
    ],
)
async def test_a_flag_that_cannot_be_read_is_refused_with_its_name(client: AsgiClient, query: str) -> None:
    record_id = await stored(client)
    reply = await client.ask("GET", f"/v1/introspect/record/{record_id}", query=query)
    assert (reply.status, reply.code) == (400, "VALIDATION_ERROR")
    assert reply.message.startswith(query.partition("=")[0])


async def test_a_large_body_is_parsed_off_the_loop(tmp_path: Path) -> None:
    calls: list[object] = []

    async def noting(call: Any, limiter: Any = None) -> Any:
        calls.append(call)
        return await inline(call, limiter)

    async with gated(tmp_path, offload=noting) as daemon:
        for size, off_loop in ((100, False), (LARGE_BODY_BYTES + 1, True)):
            calls.clear()
            body = store_body("x", metadata={"filler": "x" * size})
            assert (await daemon.client.post("/v1/encode", body)).status == 200
            parsed = [call for call in calls if getattr(getattr(call, "func", None), "__name__", "") == "parse"]
            assert bool(parsed) == off_loop


HOT: list[tuple[str, str, Any]] = [
    ("GET", "/health", b""),
    ("POST", "/v1/encode", store_body("x")),
    ("POST", "/v1/encode", {}),
    ("POST", "/v1/encode", {"content": {"blocks": []}}),
    ("POST", "/v1/recall/query", {"cue": {"text": "nothing"}}),
    ("POST", "/v1/recall/query", {"cue": {"image": []}}),
    ("GET", "/v1/encode", b""),
    ("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"}),
    ("POST", "/mcp", b"{"),
    ("GET", "/mcp", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), HOT)
async def test_a_route_answered_in_front_answers_as_the_one_behind(
    daemon: Gated, method: str, path: str, body: Any
) -> None:
    in_front = await daemon.client.ask(method, path, body)
    daemon.gate._hot.clear()
    behind = await daemon.client.ask(method, path, body)
    assert behind.status == in_front.status
    assert set(behind.headers) == set(in_front.headers)
    ours = {"request_id", "record_id"}
    assert {k: v for k, v in behind.json.items() if k not in ours} == {
        k: v for k, v in in_front.json.items() if k not in ours
    }


async def test_health_answers_while_nothing_else_works(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with gated(tmp_path, storage=storage) as daemon:
        storage.break_disk()
        await daemon.client.post("/v1/encode", store_body("x"))
        assert (await daemon.client.get("/health")).json == {"status": "ok"}
        storage.mend_disk()


async def test_readiness_says_whether_and_why_not(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with gated(tmp_path, storage=storage) as daemon:
        client = daemon.client
        assert (await client.get("/readiness")).json == {"status": "ready"}
        storage.break_disk()
        await client.post("/v1/encode", store_body("x"))
        reply = await client.get("/readiness")
        assert (reply.status, reply.json) == (503, {"status": "not_ready", "reason": "storage unavailable"})
        storage.mend_disk()
        await trio.sleep(5)
        assert (await client.get("/readiness")).status == 200
        daemon.running.engine.drain()
        reply = await client.get("/readiness")
        assert (reply.status, reply.json) == (503, {"status": "not_ready", "reason": "engine check failed"})


async def test_readiness_needs_neither_key_nor_host(tmp_path: Path) -> None:
    async with gated(tmp_path, settings=with_auth_and_data(tmp_path)) as daemon:
        assert (await daemon.client.get("/readiness", host="evil.example")).status == 200


@pytest.mark.parametrize("path", ["/health", "/v1/introspect/stats"])
async def test_head_is_answered_as_get(client: AsgiClient, path: str) -> None:
    head, get = await client.ask("HEAD", path), await client.ask("GET", path)
    assert (head.status, head.headers["content-length"]) == (get.status, get.headers["content-length"])


async def test_a_websocket_is_refused() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await bare(BARE)._app({"type": "websocket", "path": "/v1/encode", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
