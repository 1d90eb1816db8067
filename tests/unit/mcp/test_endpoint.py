"""The daemon's /mcp: who may ask and from where, what a POST may be, and how it is answered.

`tests/protocol/test_mcp_http_sessions.py` has what clients of each version say, `tests/e2e/test_mcp_sdk.py` every
tool.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors import raw_recall, reading, retrieval
from cerememory.actors.seams import inline
from cerememory.config.settings import HttpSettings, RateLimitSettings
from cerememory.errors import RateLimited, StorageUnavailable
from cerememory.http.bodies import PARSED_FACTOR
from cerememory.http.exchange import Exchange
from cerememory.http.rules import MCP_PATH
from cerememory.mcp import endpoint, engine_calls
from cerememory.mcp.endpoint import BODY_BYTES_MAX, INLINE_BYTES_MAX, MORE_IN_FLIGHT, SERVED, _Spent
from cerememory.mcp.jsonrpc import BATCH_MAX
from cerememory.mcp.tools import TOOLS
from cerememory.mcp.versions import VERSIONS
from cerememory.protocol.access import Role
from cerememory.storage import api_keys
from cerememory.storage.api_keys import KeyFile
from tests.support.asgi import AsgiClient, Reply
from tests.support.engine import NOW, settings_for
from tests.support.gated import UNLIMITED, Gated, bare, gated, with_auth
from tests.support.held import HeldOffload
from tests.support.logged import Logged, quiet

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
PONG = {"jsonrpc": "2.0", "id": 1, "result": {}}
OTHER_ORIGIN = "https://evil.example"
ANONYMOUS = bare()
RAW_ITEM = {"content": "kettle", "session_id": "s-1"}


@pytest.fixture(autouse=True)
def logged() -> Iterator[Logged]:
    with quiet() as kept:
        yield kept


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Gated]:
    async with gated(tmp_path, http=HttpSettings(metrics_enabled=True)) as opened:
        yield opened


def called(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


async def call(client: AsgiClient, tool: str, /, headers: dict[str, str] | None = None, **arguments: Any) -> Any:
    """The result or the error."""
    reply = await client.ask("POST", MCP_PATH, called(tool, **arguments), headers or {})
    assert reply.status == 200, reply.body
    return reply.json.get("result", reply.json.get("error"))


async def post(body: object, client: AsgiClient = ANONYMOUS, **headers: str) -> Reply:
    return await client.post(MCP_PATH, body, **headers)


@pytest.mark.parametrize(("storing", "search"), [("store", "recall"), ("store_raw", "recall_raw")])
async def test_a_search_waits_for_what_was_stored_before_it(
    tmp_path: Path, autojump_clock: MockClock, storing: str, search: str
) -> None:
    """Longer than searches do whose caller may have stored nothing."""
    held = HeldOffload()
    async with gated(tmp_path, offload=held) as daemon, trio.open_nursery() as nursery:
        held.hold("_apply")
        item: dict[str, Any] = {"content": "kettle"} if storing == "store" else RAW_ITEM
        await call(daemon.client, storing, **item)
        found: list[Any] = []

        async def ask() -> None:
            found.append(await call(daemon.client, search, query="kettle"))

        nursery.start_soon(ask)
        await trio.sleep(0.9)
        assert found == []
        held.release("_apply")
    [result] = found
    assert result["structuredContent"]["total_candidates"] == 1


# Who may ask.


async def test_without_a_key_nothing_is_answered() -> None:
    locked = bare(with_auth(settings_for(Path("unused"), rate_limit=UNLIMITED)))
    reply = await post(PING, locked)
    assert (reply.status, reply.code, reply.headers["www-authenticate"]) == (401, "UNAUTHORIZED", "Bearer")
    assert (await post(PING, locked, authorization="Bearer key-one")).json == PONG


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_another_origin_is_refused_whatever_it_asks(method: str) -> None:
    reply = await ANONYMOUS.ask(method, MCP_PATH, PING, {"origin": OTHER_ORIGIN})
    assert (reply.status, reply.code) == (403, "UNAUTHORIZED")
    assert (await ANONYMOUS.ask(method, MCP_PATH, PING, {"origin": "http://localhost"})).status != 403


async def test_another_host_name_is_refused() -> None:
    assert (await post(PING, host="evil.example")).status == 403


async def test_the_rate_is_limited_and_the_body() -> None:
    rate_limit = RateLimitSettings(requests_per_second=1, burst=1)
    limited = bare(settings_for(Path("unused"), rate_limit=rate_limit))
    assert [(await post(PING, limited)).status for _ in range(2)] == [200, 429]
    assert (await post(PING, content_length=str(2**30))).status == 413


async def test_a_body_that_would_take_much_more_when_read_is_refused(daemon: Gated) -> None:
    assert (await post(b" " * BODY_BYTES_MAX, daemon.client)).status == 400  # read, and found empty
    reply = await post(b" " * (BODY_BYTES_MAX + 1), daemon.client)
    assert (reply.status, reply.code) == (413, "CONTENT_TOO_LARGE")


@pytest.mark.parametrize("message", ["floats", "lists", "objects", "batch", "text"])
async def test_what_a_body_takes_when_read_is_a_few_times_its_size(daemon: Gated, message: str) -> None:
    """The gate takes four times a large body of the bytes in flight for it, and the endpoint twelve times more."""
    size = 2**20
    body = {
        "floats": b"[%s0]" % (b"1.5," * (size // 4)),
        "lists": b"[%s0]" % (b"[]," * (size // 3)),
        "objects": b"[%s0]" % (b'{"a":0},' * (size // 8)),
        "batch": b"[%s{}]" % (b"[]," * (size // 3)),
        "text": b'"\xf0\x9f\x98\x80%s"' % (b"x" * size),  # in memory each letter is as wide as the widest
    }[message]
    argument = b"content" if message == "text" else b"meta_json"
    call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"store","arguments":{"%s":%s}}}'
    tracemalloc.start()
    try:
        await post(body if message == "batch" else call % (argument, body), daemon.client)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (1 + MORE_IN_FLIGHT) * PARSED_FACTOR * size


async def test_a_large_body_has_its_room_among_the_bytes_in_flight_until_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2**20
    needed = (1 + MORE_IN_FLIGHT) * PARSED_FACTOR * size
    message = json.dumps(called("stats", note="")).encode()
    padded = message.replace(b'""', b'"%s"' % (b"x" * (size - len(message))))
    for has_room in (True, False):
        folder = tmp_path / str(has_room)
        async with gated(folder, http=HttpSettings(max_inflight_bytes=needed - (not has_room))) as opened:
            taken: list[int] = []
            monkeypatch.setitem(engine_calls._READING, "introspect.stats", noting(opened, taken))
            reply = await post(padded, opened.client)
            assert (reply.status, taken) == ((200, [needed]) if has_room else (503, []))
            assert opened.gate.admission.inflight._bytes == 0


def noting(opened: Gated, taken: list[int]) -> Any:
    """An operation that notes the bytes in flight while it works."""

    async def ask(engine: Any, *_: object, **__: object) -> Any:
        taken.append(opened.gate.admission.inflight._bytes)
        return await engine.introspect_stats()

    return ask


async def test_each_call_of_a_batch_counts_as_a_request_and_behind_the_first_refused_none_is_done(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with gated(tmp_path, rate_limit=RateLimitSettings(requests_per_second=1, burst=3)) as opened:
        store = [called("store", content=str(number)) for number in range(5)]
        ping = {**PING, "id": "p"}
        answers = (await post([store[0], ping, *store[1:], ping], opened.client)).json
        codes = [answer.get("error", {}).get("data", {}).get("code") for answer in answers]
        assert codes == [None, None, None, None, "RATE_LIMITED", "RATE_LIMITED", None]
        refused = answers[4]["error"]
        assert (refused["code"], refused["data"]["retry_after"]) == (-32603, 1)
        assert refused["message"].startswith("not done: ")
        assert (await post(PING, opened.client)).status == 429, "they are those of all requests"
        await trio.sleep(3)
        assert (await call(opened.client, "stats"))["structuredContent"]["total_records"] == 3


def test_behind_a_refused_call_none_is_done_even_when_it_could_be() -> None:
    """The next may rest on it."""

    class Scarce:
        charged = 0

        def charge(self, exchange: Exchange) -> None:
            self.charged += 1
            if self.charged == 1:
                raise RateLimited("too many requests", retry_after_s=7)

        def reserved(self, body_bytes: int) -> AbstractContextManager[object]:
            raise AssertionError("a call that is only counted takes no room")

    scarce = Scarce()
    spent = _Spent(Exchange("POST", MCP_PATH, b"", {}, "", ""), scarce)
    assert spent.refusal() is None, "it is counted already"
    refused = spent.refusal()
    assert isinstance(refused, RateLimited)
    assert (str(refused), refused.retry_after_s) == ("not done: too many requests", 7)
    assert spent.refusal() is refused
    assert scarce.charged == 1


async def test_whoever_asks_once_takes_one_whatever_the_batch(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with gated(tmp_path, rate_limit=RateLimitSettings(requests_per_second=1, burst=3)) as opened:
        for body in ([called("stats")], [PING, PING, PING], called("stats")):
            assert (await post(body, opened.client)).status == 200
        assert (await post(PING, opened.client)).status == 429


async def keyed(opened: Gated, role: Role, namespace: str | None = None) -> AsgiClient:
    directory = opened.running.settings.data_dir
    name = f"{role} {namespace or 'all'}"
    _key, text = api_keys.create(directory, name=name, role=role, namespace=namespace, now=NOW)
    return opened.from_peer("203.0.113.9", {"authorization": f"Bearer {text}"})


async def test_each_tool_asks_for_the_role_that_its_operation_needs(tmp_path: Path) -> None:
    settings = with_auth(settings_for(tmp_path, rate_limit=UNLIMITED))
    async with gated(tmp_path, settings=settings, stored_keys=KeyFile(settings.data_dir)) as opened:
        reader, writer = await keyed(opened, Role.READ), await keyed(opened, Role.WRITE)
        for tool, arguments in TO_CHANGE.items():
            error = await call(reader, tool, **arguments)
            assert (error["code"], error["data"]["code"]) == (-32603, "UNAUTHORIZED")
            assert error["message"] == f"{tool}: needs a key with the role write, this one has read"
        assert (await call(reader, "stats"))["structuredContent"]["total_records"] == 0
        assert (await call(writer, "store", content="x"))["structuredContent"]["store"] == "episodic"
        assert (await call(reader, "recall"))["structuredContent"]["memories"][0]["text"] == "x"


async def test_stats_are_those_of_http_for_each_key(tmp_path: Path) -> None:
    settings = with_auth(settings_for(tmp_path, rate_limit=UNLIMITED))
    async with gated(tmp_path, settings=settings, stored_keys=KeyFile(settings.data_dir)) as opened:
        await opened.running.engine.measure()
        for namespace, has_sizes in ((None, True), ("work", False)):
            client = await keyed(opened, Role.READ, namespace)
            told = (await call(client, "stats"))["structuredContent"]
            over_http = (await client.get("/v1/introspect/stats")).json
            assert {name: told[name] for name in over_http} == over_http
            assert ("bytes_by_table" in told, "bytes_measured_at" in told) == (has_sizes, has_sizes)


TO_CHANGE: dict[str, dict[str, Any]] = {
    "store": {"content": "x"},
    "update": {"record_id": "0191aaaa-0000-7000-8000-00000000000a", "content": "x"},
    "batch_store": {"records_json": [{"content": "x"}]},
    "store_raw": {"content": "x", "session_id": "s-1"},
    "batch_store_raw": {"records_json": [{"content": "x", "session_id": "s-1"}]},
    "forget": {"session_id": "s-1", "confirm": True},
    "dream_tick": {},
    "consolidate": {},
}


TO_LOOK: dict[str, dict[str, Any]] = {
    "recall": {"query": "x"},
    "recall_raw": {"session_id": "s-1"},
    "timeline": {},
    "associate": {"record_id": ""},
    "inspect": {"record_id": ""},
    "stats": {},
}


def test_the_tools_above_are_all_that_are_served() -> None:
    assert {tool.name for tool in SERVED if "readOnlyHint" not in tool.hints} == TO_CHANGE.keys()
    assert {tool.name for tool in SERVED if "readOnlyHint" in tool.hints} == TO_LOOK.keys()


async def test_a_key_for_one_namespace_is_about_that_one_alone(tmp_path: Path) -> None:
    settings = with_auth(settings_for(tmp_path, rate_limit=UNLIMITED))
    async with gated(tmp_path, settings=settings, stored_keys=KeyFile(settings.data_dir)) as opened:
        scoped = await keyed(opened, Role.WRITE, "work")
        assert (await call(scoped, "store", content="x"))["structuredContent"]["namespace"] == "work"
        assert (await post(called("stats"), scoped, x_cerememory_namespace="home")).status == 403


async def test_a_namespace_is_made_by_what_is_stored_alone(daemon: Gated) -> None:
    for name, found in (("work", 1), ("home", 0)):
        headers = {"x-cerememory-namespace": name}
        if found:
            await call(daemon.client, "store", headers, content="x")
        recalled = (await call(daemon.client, "recall", headers))["structuredContent"]
        assert (recalled["namespace"], len(recalled["memories"])) == (name, found)
    assert len((await call(daemon.client, "recall"))["structuredContent"]["memories"]) == 0
    assert daemon.running.engine._namespaces.keys() == {"work", "default"}


async def test_a_recall_is_kept_to_its_scope(daemon: Gated) -> None:
    await call(daemon.client, "store", content="the kettle is red", meta_json={"tags": ["kitchen", "red"]})
    await call(daemon.client, "store", content="the kettle is blue", meta_json={"tags": ["kitchen"]})
    for scope in ({"tags": ["red", "kitchen"]}, '{"tags": ["red"]}'):
        for query in ("kettle", ""):
            answer = await call(daemon.client, "recall", query=query, scope=scope)
            assert [each["text"] for each in answer["structuredContent"]["memories"]] == ["the kettle is red"]
    error = await call(daemon.client, "recall", scope={"tag": "red"})
    assert (error["code"], error["message"]) == (-32602, "scope.tag: unknown field")


# What a POST may be.


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_a_form_could_send_is_refused(kind: str) -> None:
    reply = await post(PING, content_type=kind)
    assert (reply.status, reply.message.partition(":")[0]) == (400, "Content-Type")


@pytest.mark.parametrize(
    ("body", "code", "message_id"),
    [
        (b"", -32700, None),
        (b" \n", -32700, None),
        (b"{", -32700, None),
        (b'{"id": 7, "x": "\xff"}', -32700, 7),
        (b"3", -32600, None),
        (b'{"id": 7, "method": "ping"}', -32600, 7),
        (b"[]", -32600, None),
        (json.dumps([PING] * (BATCH_MAX + 1)).encode(), -32600, None),
    ],
)
async def test_what_is_no_message_is_refused(body: bytes, code: int, message_id: int | None) -> None:
    reply = await post(body)
    assert (reply.status, reply.headers["content-type"]) == (400, "application/json")
    assert (reply.json["error"]["code"], reply.json["id"]) == (code, message_id)


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_version_is_taken_and_batches_in_one(version: str) -> None:
    assert (await post(PING, mcp_protocol_version=version)).json == PONG
    assert (await post([PING], mcp_protocol_version=version)).status == (200 if version == "2025-03-26" else 400)
    assert (await post([PING])).json == [PONG]


@pytest.mark.parametrize("version", ["", "2025-11-24", "2026-07-28", "1", "2025-11-25, 2025-11-25"])
async def test_another_version_is_refused_with_those_that_are_spoken(version: str) -> None:
    reply = await post(PING, mcp_protocol_version=version)
    assert (reply.status, reply.code) == (400, "VALIDATION_ERROR")
    assert all(spoken in reply.message for spoken in VERSIONS)


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
async def test_there_is_no_stream_to_listen_to_and_no_session_to_end(method: str) -> None:
    reply = await ANONYMOUS.ask(method, MCP_PATH, b"", {"accept": "text/event-stream"})
    assert (reply.status, reply.headers["allow"]) == (405, "POST")


async def test_no_session_is_begun_and_none_asked_for() -> None:
    initialize = {**PING, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
    assert "mcp-session-id" not in (await post(initialize)).headers
    assert (await post(PING, mcp_session_id="of another server")).json == PONG


# How it is answered.


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json, text/event-stream", "application/json"),
        ("text/event-stream, application/json;q=0.1", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("text/event-stream", "text/event-stream"),
        ("text/*", "text/event-stream"),
        ("application/json;q=0, text/event-stream", "text/event-stream"),
    ],
)
async def test_it_is_a_stream_when_nothing_else_is_taken(accept: str, kind: str) -> None:
    reply = await post(PING, accept=accept)
    assert (reply.status, reply.headers["content-type"]) == (200, kind)
    shown = reply.body if kind == "application/json" else reply.body[len(b"event: message\ndata: ") : -2]
    assert json.loads(shown) == PONG


async def test_a_batch_is_done_in_its_order(daemon: Gated) -> None:
    batch = [called("store", content="one"), called("store", content="two"), {**called("recall"), "id": 3}]
    answers = (await post(batch, daemon.client)).json
    assert [answer["id"] for answer in answers] == [1, 1, 3]
    assert [m["text"] for m in answers[2]["result"]["structuredContent"]["memories"]] == ["two", "one"]


async def test_the_rest_of_a_batch_is_not_done_when_its_answers_are_too_long(
    daemon: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "BATCH_BYTES_MAX", 500)
    batch = [called("store", content=text) for text in ("one", "two", "three")]
    answers = (await post(batch, daemon.client)).json
    assert [answer.get("error", {}).get("data", {}).get("code") for answer in answers] == [
        None,
        None,
        "CONTENT_TOO_LARGE",
    ]
    assert (await call(daemon.client, "stats"))["structuredContent"]["total_records"] == 2


async def test_export_is_neither_shown_nor_done(daemon: Gated, tmp_path: Path) -> None:
    listed = (await post({**PING, "method": "tools/list"}, daemon.client)).json["result"]["tools"]
    assert [tool["name"] for tool in listed] == [tool.name for tool in TOOLS if tool.name != "export"]
    target = tmp_path / "all.cma"
    error = await call(daemon.client, "export", output_path=str(target))
    assert (error["code"], error["data"]["code"]) == (-32602, "VALIDATION_ERROR")
    assert "POST /v1/archive" in error["message"]
    assert not target.exists()


async def test_the_engine_answers_every_tool(daemon: Gated) -> None:
    stored = (await call(daemon.client, "store", content="x"))["structuredContent"]["record_id"]
    for tool, arguments in (TO_LOOK | TO_CHANGE).items():
        given = arguments | ({"record_id": stored} if "record_id" in arguments else {})
        result = await call(daemon.client, tool, **given)
        assert result.get("structuredContent", {}).get("namespace") == "default", result


async def test_what_is_large_is_read_and_shown_off_the_loop(tmp_path: Path) -> None:
    names: list[str] = []

    async def noting(call: Any, limiter: Any = None) -> Any:
        names.append(getattr(getattr(call, "func", None), "__name__", ""))
        return await inline(call, limiter)

    async with gated(tmp_path, offload=noting) as opened:
        await call(opened.client, "store", content="small")
        await call(opened.client, "recall")
        assert {"_read", "_shown"}.isdisjoint(names)
        await call(opened.client, "store", content="x" * INLINE_BYTES_MAX)
        assert "_read" in names
        await call(opened.client, "recall")
        assert "_shown" in names


@pytest.mark.parametrize("tool", ["recall", "recall_raw", "timeline"])
async def test_a_long_answer_is_shown_as_a_short_one(
    daemon: Gated, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    for name in ("kettle", "cup"):
        await call(daemon.client, "store", content=name)
        await call(daemon.client, "store_raw", content=name, session_id="s-1")
    years = {"start": "2000-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"}
    asked: dict[str, dict[str, Any]] = {"recall": {"reconsolidate": False}, "recall_raw": {}, "timeline": years}
    wanted = asked[tool]
    short = shown_texts(await call(daemon.client, tool, **wanted))
    for module in (reading, raw_recall, retrieval):
        monkeypatch.setattr(module, "LONG_BYTES", 1)
    long = await call(daemon.client, tool, **wanted)
    assert (len(short), shown_texts(long)) == (2, short)
    assert "truncated" not in long["structuredContent"]
    for module in (reading, raw_recall):
        monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 1)
    for module in (reading, raw_recall, retrieval):
        monkeypatch.setattr(module, "TURN_BYTES", 1)
    cut = await call(daemon.client, tool, **wanted)
    assert shown_texts(cut) == short[:1]
    assert cut["structuredContent"]["truncated"] is True


def shown_texts(result: Any) -> list[str]:
    found = result["structuredContent"]
    if "buckets" in found:
        memories = [memory for bucket in found["buckets"] for memory in bucket["memories"]]
        return [memory["rendered_content"]["blocks"][0]["text"] for memory in memories]
    return [item["text"] for item in found.get("memories", found.get("records"))]


async def test_our_own_failures_keep_their_words_to_the_log(
    daemon: Gated, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise StorageUnavailable("/srv/secret is full")

    monkeypatch.setitem(engine_calls._READING, "introspect.stats", failing)
    reply = await post(called("stats"), daemon.client)
    error = reply.json["error"]
    assert (error["code"], error["data"]["code"], error["data"]["retry_after"]) == (
        -32603,
        "DECAY_ENGINE_BUSY",
        1,
    )
    assert error["data"]["details"] == {"request_id": reply.headers["x-request-id"]}
    assert b"secret" not in reply.body
    assert any(line.get("reason") == "/srv/secret is full" for line in logged.lines)


async def test_a_bug_is_a_500_and_the_next_request_is_served(
    daemon: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setitem(engine_calls._READING, "introspect.stats", broken)
    reply = await post(called("stats"), daemon.client)
    assert (reply.status, reply.code) == (500, "INTERNAL_ERROR")
    assert (await post(PING, daemon.client)).json == PONG


async def test_it_is_counted_under_its_path(daemon: Gated) -> None:
    await post(PING, daemon.client)
    await daemon.client.get(MCP_PATH)
    for method, status in (("POST", "200"), ("GET", "405")):
        labels = {"method": method, "path": MCP_PATH, "status": status}
        assert daemon.running.counted("cerememory_http_requests_total", **labels) == 1
