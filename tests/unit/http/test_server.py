"""What the HTTP library does below the gate, through a real server on a loopback socket, on the real clock."""

from __future__ import annotations

import http.client
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import msgspec
import pytest
import trio

from cerememory.config.settings import Settings
from cerememory.http.exchange import Receive, Scope, Send
from cerememory.http.server import bind
from tests.support.engine import Running, settings_for, settings_with, store_body
from tests.support.gated import BARE, KEYS, UNLIMITED, bare_gate, with_auth
from tests.support.logged import Logged
from tests.support.server import WAIT_S, Connection, Serving, serving, serving_engine

MIB = 1_048_576
UPLOADS = 20
Daemon = tuple[Serving, Running]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with serving_engine(tmp_path, settings_for(tmp_path, rate_limit=UNLIMITED)) as opened:
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that waits only a moment for what a client may still send, and for one that is gone."""
    monkeypatch.setattr("cerememory.http.bodies.DRAIN_S", 0.05)
    monkeypatch.setattr("cerememory.http.server.GONE_S", 0.05)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that drops all of what is refused, however slow this machine is at the moment."""
    monkeypatch.setattr("cerememory.http.bodies.DRAIN_S", WAIT_S)


@asynccontextmanager
async def gate_served(settings: Settings = BARE) -> AsyncIterator[Serving]:
    """A gate without an engine."""
    async with serving(bare_gate(settings), settings) as served:
        yield served


async def until(condition: Callable[[], bool]) -> None:
    """Let the others run until `condition` holds, which must come."""
    with trio.fail_after(WAIT_S):
        while not condition():
            await trio.lowlevel.checkpoint()


async def sent(served: Serving, raw: bytes) -> bytes:
    """All that comes back for `raw` until the server closes."""
    async with await served.connect() as connection:
        await connection.stream.send_all(raw)
        return await connection.until_closed()


def uploaded(port: int, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """What a blocking client, which sends all before it reads, gets for an upload of 8 MiB."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("POST", path, b" " * 8 * MIB, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


REFUSED = [
    pytest.param(with_auth(BARE), {}, 401, b"UNAUTHORIZED", id="401"),
    pytest.param(BARE, {"Origin": "https://evil.example"}, 403, b"UNAUTHORIZED", id="403"),
    pytest.param(BARE, {"X-Cerememory-Namespace": "no name"}, 400, b"VALIDATION_ERROR", id="400"),
    pytest.param(settings_with(BARE, "http", max_inflight_bytes=MIB), {}, 503, b"DECAY_ENGINE_BUSY", id="503"),
]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("settings", "headers", "status", "code"), REFUSED)
async def test_refused_uploads_leave_no_connection_behind_and_every_client_reads_its_answer(
    settings: Settings, headers: dict[str, str], status: int, code: bytes
) -> None:
    async with gate_served(settings) as served:
        answers: list[tuple[int, bytes]] = []

        async def upload() -> None:
            answers.append(await trio.to_thread.run_sync(uploaded, served.port, "/v1/encode", headers))

        async with trio.open_nursery() as nursery:
            for _ in range(UPLOADS):
                nursery.start_soon(upload)
        assert [answer[0] for answer in answers] == [status] * UPLOADS
        assert all(code in body for _status, body in answers)
        await until(lambda: served.connections_open == 0)


@pytest.mark.usefixtures("impatient")
async def test_a_refused_upload_that_is_longer_than_what_is_dropped_leaves_no_connection_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cerememory.http.bodies.DRAIN_BYTES_MAX", MIB)
    settings = settings_with(with_auth(BARE), "http", read_timeout_secs=1_000)
    async with gate_served(settings) as served, await served.connect() as connection:
        await connection.send("POST", "/v1/encode", content_length=str(60 * MIB))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_until_closed, connection, 60)
            assert (await connection.answer()).status == 401
            await until(lambda: served.connections_open == 0)
            nursery.cancel_scope.cancel()


async def send_until_closed(connection: Connection, mebibytes: int) -> None:
    try:
        for _ in range(mebibytes):
            await connection.stream.send_all(b" " * MIB)
    except trio.BrokenResourceError:
        return


@pytest.mark.usefixtures("patient")
async def test_a_413_can_be_read_by_a_client_that_goes_on_sending() -> None:
    async with gate_served() as served, await served.connect() as connection:
        await connection.send("POST", "/v1/encode", content_length=str(65 * MIB))
        await connection.stream.send_all(b" " * 4 * MIB)
        answer = await connection.answer()
        assert (answer.status, answer.json["code"], answer.closed) == (413, "CONTENT_TOO_LARGE", True)
        await connection.stream.aclose()
        await until(lambda: served.connections_open == 0)


async def test_a_client_that_is_gone_in_the_middle_of_its_body_leaves_nothing_behind(daemon: Daemon) -> None:
    served, running = daemon
    async with await served.connect() as connection:
        await connection.send("POST", "/v1/encode", content_length="1000")
        await connection.stream.send_all(b"{")
        await until(lambda: served.connections_open == 1)
    await until(lambda: served.connections_open == 0)
    assert (await served.ask("GET", "/health")).status == 200
    assert (await running.engine.introspect_stats()).total_records == 0


async def test_one_connection_serves_many_requests(daemon: Daemon) -> None:
    served, _running = daemon
    async with await served.connect() as connection:
        body = msgspec.json.encode(store_body("kettle"))
        for _ in range(5):
            assert (await connection.ask("POST", "/v1/encode", body)).status == 200
            assert (await connection.ask("GET", "/nowhere")).status == 404
        assert served.connections_open == 1


async def test_more_than_a_thousand_requests_fit_one_connection() -> None:
    """The library's own limit would close the connection under a client that counts on it."""
    async with gate_served() as served, await served.connect() as connection:
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                requests = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_010
                nursery.start_soon(connection.stream.send_all, requests)
                answers = b""
                while answers.count(b'{"status":"ok"}') < 1_010:
                    part = await connection.stream.receive_some()
                    assert part
                    answers += bytes(part)
        assert b"close" not in answers


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GARBAGE\r\n\r\n", b" 400 "),
        (b"GET /health HTTP/1.1\r\n\r\n", b" 400 "),
        (b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", b" 400 "),
        (b"POST /v1/encode HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", b" 431 "),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\0" * 20 + b"\r\n\r\n", b" 400 "),
    ],
)
async def test_a_head_that_is_no_http_is_answered_by_the_library_and_closed(raw: bytes, status: bytes) -> None:
    async with gate_served() as served:
        answer = await sent(served, raw)
        assert status in answer.splitlines()[0] + b" "
        assert answer.endswith(b"\r\n\r\n"), "it has no body"
        assert (await served.ask("GET", "/health")).status == 200


@pytest.mark.parametrize(
    "pair", [b"X-Long: " + b"x" * 33_000 + b"\r\n", b"".join(b"X-%d: x\r\n" % i for i in range(120))]
)
async def test_a_head_that_is_http_but_too_large_has_the_envelope(pair: bytes) -> None:
    async with gate_served() as served:
        answer = await sent(served, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + pair + b"\r\n")
        assert b" 431 " in answer.splitlines()[0] + b" "
        assert b"VALIDATION_ERROR" in answer


async def test_a_head_that_takes_too_long_is_closed_without_an_answer() -> None:
    async with gate_served(settings_with(BARE, "http", read_timeout_secs=1)) as served:
        assert await sent(served, b"GET /health HT") == b""


@pytest.mark.usefixtures("impatient")
async def test_a_body_that_takes_too_long_is_408_and_closed() -> None:
    async with gate_served(settings_with(BARE, "http", read_timeout_secs=1)) as served:
        answer = await sent(served, b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        assert b" 408 " in answer.splitlines()[0] + b" "
        assert b"VALIDATION_ERROR" in answer


UPGRADE = (
    b"GET /v1/encode HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/v1/encode", b"", {}, 405),
        ("GET", "/nowhere", b"", {}, 404),
        ("GET", "/v1/encode", b"", {"host": "evil.example"}, 403),
        ("POST", "/v1/encode", b"{", {}, 400),
        ("POST", "/v1/encode", b"{", {"transfer_encoding": "chunked"}, 400),
    ],
    ids=["method", "route", "host", "body", "chunks"],
)
async def test_the_wish_for_a_websocket_is_ignored(
    method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    """It is answered as every request is, with the envelope, and the connection goes on."""
    wish = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_key": "A" * 22 + "=="}
    async with gate_served() as served, await served.connect() as connection:
        for _ in range(2):
            answer = await connection.ask(method, path, body, **wish, sec_websocket_version="13", **headers)
            assert (answer.status, answer.closed) == (status, False)
            assert answer.json["request_id"] == answer.headers["x-request-id"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "raw",
    [
        UPGRADE + b"frames before the answer \xff\xff",
        UPGRADE.replace(b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Version: x\r\n"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: !!!\r\n\r\n",
        b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["early frames", "odd version", "no frames", "no settings", "no chunks"],
)
async def test_what_one_client_sends_ends_at_most_its_own_connection(raw: bytes, logged: Logged) -> None:
    async with gate_served() as served, await served.connect() as other:
        assert (await other.ask("GET", "/health")).status == 200
        async with await served.connect() as connection:
            await connection.stream.send_all(raw)
            await connection.stream.send_eof()
            await connection.until_closed()
        assert (await other.ask("GET", "/health")).status == 200
        assert (await served.ask("GET", "/health")).status == 200
        assert not served.ended.is_set()


async def test_after_a_body_with_two_lengths_the_connection_ends() -> None:
    """Somebody in front may have gone by the other, and take what follows for another request."""
    lengths = b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n]\r\n0\r\n\r\n"
    head = b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with gate_served() as served:
        answer = await sent(served, head + lengths)
        assert b" 400 " in answer.splitlines()[0] + b" "
        assert b"connection: close" in answer.lower()
        assert b"byte 1" in answer, "it has the length of its chunks"


class Http2:
    """One HTTP/2 connection without TLS."""

    def __init__(self, connection: Connection) -> None:
        self.stream = connection.stream
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._http.initiate_connection()

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[dict[str, str], bytes]:
        stream_id = self._http.get_next_available_stream_id()
        head = {":method": method, ":path": path, ":scheme": "http", ":authority": "localhost"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._http.send_headers(stream_id, list({**head, **named}.items()), end_stream=not body)
        if body:
            self._http.send_data(stream_id, body, end_stream=True)
        return await self._answer()

    async def _answer(self) -> tuple[dict[str, str], bytes]:
        found, body = dict[str, str](), b""
        with trio.fail_after(WAIT_S):
            while True:
                await self.stream.send_all(self._http.data_to_send())
                for event in self._http.receive_data(await self.stream.receive_some()):
                    if isinstance(event, h2.events.ResponseReceived):
                        found = {str(name): str(value) for name, value in event.headers or ()}
                    elif isinstance(event, h2.events.DataReceived):
                        body += event.data or b""
                    elif isinstance(event, h2.events.StreamEnded):
                        return found, body


async def test_http_2_passes_the_same_gate(tmp_path: Path) -> None:
    settings = with_auth(settings_for(tmp_path, rate_limit=UNLIMITED))
    async with serving_engine(tmp_path, settings) as (served, running), await served.connect() as connection:
        client = Http2(connection)
        body, key = msgspec.json.encode(store_body("kettle")), f"Bearer {KEYS[0]}"
        json = "application/json"
        head, answer = await client.ask("POST", "/v1/encode", body, content_type=json)
        assert (head[":status"], head["www-authenticate"]) == ("401", "Bearer")
        head, answer = await client.ask("POST", "/v1/encode", body, content_type=json, authorization=key)
        assert head[":status"] == "200", "a body needs no Content-Length"
        assert b"record_id" in answer
        head, _ = await client.ask("GET", "/nowhere", authorization=key)
        assert head[":status"] == "404"
        assert (await running.engine.introspect_stats()).total_records == 1


@pytest.mark.usefixtures("impatient")
async def test_an_http_2_client_that_is_gone_before_its_answer_leaves_nothing_behind() -> None:
    """The library would wait for ever to send the rest of the answer."""
    asked, answer_now = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        await answer_now.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * MIB, "more_body": False})

    async with serving(app, BARE) as served:
        async with await served.connect() as connection, trio.open_nursery() as nursery:
            nursery.start_soon(Http2(connection).ask, "GET", "/")
            await asked.wait()
            nursery.cancel_scope.cancel()
        answer_now.set()
        await until(lambda: served.connections_open == 0)


async def test_beyond_the_connection_cap_the_one_that_is_idle_longest_is_closed() -> None:
    async with gate_served(settings_with(BARE, "http", max_connections=3)) as served:
        clients = [await served.connect() for _ in range(3)]
        for client in clients:
            assert (await client.ask("GET", "/health")).status == 200
        assert (await clients[0].ask("GET", "/health")).status == 200, "which makes it the newest"
        newcomer = await served.connect()
        assert (await newcomer.ask("GET", "/health")).status == 200
        assert await clients[1].until_closed() == b""
        for client in (clients[0], clients[2], newcomer):
            assert (await client.ask("GET", "/health")).status == 200
        assert served.connections_open == 3
        for client in (*clients, newcomer):
            await client.stream.aclose()


async def test_a_connection_in_the_middle_of_a_request_is_never_closed_for_another() -> None:
    async with gate_served(settings_with(BARE, "http", max_connections=2)) as served:
        busy = [await served.connect() for _ in range(2)]
        for client in busy:
            await client.send("POST", "/v1/encode", content_length="2")
        await until(lambda: all(c.idle_since is None for c in served.server._connections))
        async with await served.connect() as refused:
            assert await refused.until_closed() == b""
        for client in busy:
            await client.stream.send_all(b"{}")
            assert (await client.answer()).status == 400
            await client.stream.aclose()


class HeldApp:
    """Answers when a test lets it."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.answer_now = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        await self.answer_now.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})


async def test_a_graceful_stop_lets_a_request_in_flight_finish_and_closes_idle_connections() -> None:
    app = HeldApp()
    async with serving(app, BARE) as served, await served.connect() as busy, await served.connect() as idle:
        await busy.send("GET", "/")
        await app.asked.wait()
        served.stop.set()
        assert await idle.until_closed() == b""
        with pytest.raises(OSError):  # refused or reset, as the system sees it
            await refused(served.port)
        assert not served.ended.is_set()
        app.answer_now.set()
        assert (await busy.answer()).body == b"ok"
        assert await busy.until_closed() == b""
        with trio.fail_after(WAIT_S):
            await served.ended.wait()


async def test_a_graceful_stop_does_not_wait_for_who_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cerememory.http.server.GRACE_S", 0.05)
    settings = settings_with(BARE, "http", read_timeout_secs=1_000)
    async with serving(answer_at_length, settings) as served, await served.connect() as deaf:
        await deaf.send("GET", "/")
        await until(lambda: any(c.send_lock.locked() for c in served.server._connections))
        served.stop.set()
        with trio.fail_after(WAIT_S):
            await served.ended.wait()


async def answer_at_length(scope: Scope, receive: Receive, send: Send) -> None:
    """More than any socket takes of itself."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * 64 * MIB, "more_body": False})


async def refused(port: int) -> None:
    async with Connection(await trio.open_tcp_stream("127.0.0.1", port)) as connection:
        await connection.send("GET", "/")
        if not await connection.until_closed():
            raise OSError("closed unanswered")


async def test_a_graceful_stop_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cerememory.http.server.GRACE_S", 0.05)
    app = HeldApp()
    async with serving(app, BARE) as served, await served.connect() as busy:
        await busy.send("GET", "/")
        await app.asked.wait()
        served.stop.set()
        with trio.fail_after(WAIT_S):
            await served.ended.wait()


async def test_draining_turns_readiness_503_while_what_is_under_way_is_answered(daemon: Daemon) -> None:
    served, running = daemon
    async with await served.connect() as slow, await served.connect() as probe:
        body = msgspec.json.encode(store_body("kettle"))
        await slow.send("POST", "/v1/encode", content_length=str(len(body)))
        assert (await probe.ask("GET", "/readiness")).status == 200
        running.engine.drain()
        answer = await probe.ask("GET", "/readiness")
        assert (answer.status, answer.json["status"]) == (503, "not_ready")
        served.stop.set()
        await slow.stream.send_all(body)
        assert (await slow.answer()).status == 200


def test_a_port_that_is_taken_is_an_os_error() -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "family"), [("127.0.0.1", socket.AF_INET), ("localhost", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_an_address_is_listened_on(address: str, family: Any) -> None:
    with bind(address, 0) as listening:
        assert listening.family is family
        assert not listening.getblocking()
