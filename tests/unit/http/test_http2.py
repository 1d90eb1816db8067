"""HTTP/2 on the HTTP port: the same gate and limits, and no stream that harms another; a mock clock for time.

`tests/unit/grpc/test_connection.py` has what a stream may do to a connection of gRPC, whose protocol this is.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import h2.errors
import h2.settings
import msgspec
import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from cerememory.config.settings import Settings
from cerememory.http.bodies import DRAIN_S
from cerememory.http.http2 import WINDOW_BYTES
from cerememory.http.server import GONE_S, App, Connection, _config
from cerememory.telemetry.metrics import Metrics
from tests.support.engine import settings_with, store_body
from tests.support.gated import BARE, KEYS, bare_gate, gated, with_auth
from tests.support.h2_app import Served
from tests.support.h2_client import HEAD, WAIT_S, H2Client, Stream, Wire
from tests.support.logged import Logged
from tests.support.server import serving

MIB = 1_048_576
STREAM_WINDOW = 65_535
READ_TIMEOUT_S = float(BARE.http.read_timeout_secs)
NO_WINDOW = {int(h2.settings.SettingCodes.INITIAL_WINDOW_SIZE): 0}
POST = {**HEAD, "content-type": "application/json"}
GET = {**HEAD, ":method": "GET"}
Codes = h2.errors.ErrorCodes


@dataclass
class Opened:
    """A client, and the server's side of its connection."""

    client: H2Client
    connection: Connection
    context: WorkerContext
    ended: trio.Event

    async def ask(self, path: str, body: bytes = b"", /, **headers: str) -> Stream:
        """`_` in header names stands for `-`."""
        head = {**(POST if body else GET), **{name.replace("_", "-"): value for name, value in headers.items()}}
        stream_id = await self.client.begin(path, end=not body, head=head)
        if body:
            await self.client.send(stream_id, body, end=True)
        return await self.client.ended(stream_id)

    async def begin(self, path: str) -> int:
        return await self.client.begin(path, head=POST)


@asynccontextmanager
async def opened(
    app: App, settings: dict[int, int] | None = None, *, wire: Wire | None = None, **given: Any
) -> AsyncIterator[Opened]:
    """Leaving hangs up, after which the connection and its requests have to end."""
    wire, context, ended = wire or Wire(), WorkerContext(None), trio.Event()
    wrapped = ASGIWrapper(cast(ASGIFramework, app))
    connection = Connection(wrapped, _config(BARE), context, ConnectionState({}), cast(Any, wire))
    client = H2Client(wire.client, settings, **given)

    async def serve() -> None:
        await connection.run()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await nursery.start(client.start)
        yield Opened(client, connection, context, ended)
        await wire.client.aclose()
        with trio.fail_after(WAIT_S):
            await ended.wait()


class Holding(Wire):
    """Whatever is sent is sent at once, and waits."""

    def __init__(self) -> None:
        super().__init__()
        self._stream, self.client = cast(Any, memory_stream_pair())


# What one stream does is nothing to the others.


async def test_every_answer_comes_whole_and_is_ended() -> None:
    """However its last bytes and its end fall together; a reset would take the answer back."""
    app = Served()
    async with opened(app) as peer:
        for size in (1, 10, 16_384, 40_000) * 10:
            stream = await peer.ask("/echo", b"x" * size)
            assert (stream.head[":status"], len(stream.data), stream.has_ended) == ("200", size, True)
            assert stream.reset is None
    assert (app.under_way, app.cancelled) == (0, 0)


async def test_a_request_that_is_not_read_holds_up_no_other() -> None:
    app = Served()
    async with opened(app) as peer, trio.open_nursery() as nursery:
        held = await peer.begin("/hold")
        nursery.start_soon(lambda: peer.client.send(held, b"h" * 4 * STREAM_WINDOW, end=True))
        await wait_all_tasks_blocked()
        await peer.client.ping()
        assert len((await peer.ask("/echo", b"o" * 4 * STREAM_WINDOW)).data) == 4 * STREAM_WINDOW
        assert peer.client.http.local_flow_control_window(held) == 0  # what the window has, and no more
        app.let_go.set()
        assert len((await peer.client.ended(held)).data) == 4 * STREAM_WINDOW


async def test_bytes_for_a_stream_that_is_answered_end_nothing_and_give_the_window_back() -> None:
    """They are read together with what lets the server answer before it looks at them."""
    part = b"x" * 16_384
    async with opened(Served(), wire=Holding()) as peer:
        await peer.client.ping()  # which has told what the window of the connection is
        for _ in range(2 * WINDOW_BYTES // (3 * len(part))):
            upload = peer.client.http.get_next_available_stream_id()
            peer.client.streams[upload] = stream = Stream()
            http = peer.client.http
            http.send_headers(upload, [*{":path": "/answer", **POST}.items()])
            between = []
            for _ in range(40):
                between.append(http.get_next_available_stream_id())
                http.send_headers(between[-1], [*{":path": "/hold", **POST}.items()])
            for _ in range(3):
                http.send_data(upload, part)
            await peer.client.flush()
            await peer.client.until(lambda: stream.reset is not None)  # noqa: B023 - asked at once
            assert (stream.data, stream.reset) == (b"ok", Codes.NO_ERROR)
            await peer.client.reset(*between)
            await peer.client.ping()
        assert (await peer.ask("/echo", b"x" * 2 * MIB)).has_ended


async def test_a_client_that_opens_no_window_takes_no_memory_and_no_other_answer_waits() -> None:
    app = Served()
    async with opened(app, NO_WINDOW, reads=False) as peer:
        poured = await peer.client.begin("/pour", end=True, head=GET)
        await peer.client.until(lambda: peer.client.streams[poured].head)
        small = await peer.client.begin("/answer", end=True, head=GET)
        peer.client.http.increment_flow_control_window(10, small)
        await peer.client.flush()
        assert (await peer.client.ended(small)).data == b"ok"
        await wait_all_tasks_blocked()
        assert app.under_way == 1
        await peer.client.reset(poured)
        await wait_all_tasks_blocked()
        assert (app.under_way, app.cancelled) == (0, 1)


async def test_hanging_up_ends_every_request() -> None:
    app = Served()
    async with opened(app) as peer:
        for _ in range(5):
            await peer.begin("/hold")
        await wait_all_tasks_blocked()
        assert app.under_way == 5
    assert (app.under_way, app.cancelled) == (0, 5)


@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("lengths", [[b"x"], [b"-5"], [b"1_0"], [b"2, 2"], [b"\xb2"], [b"2", b"x"], [b"2", b"3"]])
async def test_a_length_that_is_no_number_is_refused_and_nobody_is_asked(
    lengths: list[bytes], method: str, logged: Logged
) -> None:
    """The gate reads it as a number, as h2 does, which ends the connection for it."""
    app = Served()
    async with opened(app) as peer:
        stream_id = peer.client.http.get_next_available_stream_id()
        head: list[Any] = [*{":path": "/echo", **POST, ":method": method}.items()]
        peer.client.http.send_headers(stream_id, head + [("content-length", length) for length in lengths])
        await peer.client.flush()
        await wait_all_tasks_blocked()
        assert peer.client.goodbye is not None
    assert (app.begun, logged.lines) == ([], [])


async def test_a_length_that_is_a_number_may_come_twice() -> None:
    app = Served()
    async with opened(app) as peer:
        head: list[Any] = [*{":path": "/hold", **POST}.items(), ("content-length", b"2"), ("content-length", b"2")]
        peer.client.http.send_headers(peer.client.http.get_next_available_stream_id(), head)
        await peer.client.flush()
        await wait_all_tasks_blocked()
        assert (app.begun, peer.client.goodbye) == (["/hold"], None)


# The gate is that of HTTP/1.1.


async def test_a_request_has_its_id_and_an_error_its_envelope() -> None:
    known = str(uuid.uuid4())
    async with opened(bare_gate()) as peer:
        kept = await peer.ask("/nowhere", x_request_id=known)
        assert (kept.head[":status"], kept.head["x-request-id"]) == ("404", known)
        assert known.encode() in kept.data
        made = await peer.ask("/health", x_request_id="none of ours")
        assert (made.head[":status"], made.data) == ("200", b'{"status":"ok"}')
        assert uuid.UUID(made.head["x-request-id"])


LARGE_HEADS: list[dict[str, str]] = [{"x-long": "x" * 33_000}, {f"x-{number}": "x" for number in range(120)}]


@pytest.mark.parametrize("headers", LARGE_HEADS, ids=["bytes", "fields"])
async def test_a_head_that_is_too_large_is_431(headers: dict[str, str]) -> None:
    async with opened(bare_gate()) as peer:
        stream = await peer.ask("/health", **headers)
        assert stream.head[":status"] == "431"
        assert b"VALIDATION_ERROR" in stream.data
        assert (await peer.ask("/health")).head[":status"] == "200"


async def test_a_head_beyond_what_is_kept_of_one_ends_its_connection() -> None:
    async with opened(bare_gate()) as peer:
        await peer.client.begin("/health", end=True, head={**GET, "x-long": "x" * 100_000})
        await peer.client.until_closed()


REFUSED = [
    pytest.param(with_auth(BARE), {}, "401", id="401"),
    pytest.param(BARE, {"origin": "https://evil.example"}, "403", id="403"),
    pytest.param(BARE, {":authority": "evil.example"}, "403", id="host"),
    pytest.param(BARE, {"content-length": str(65 * MIB)}, "413", id="413"),
    pytest.param(
        settings_with(BARE, "http", max_inflight_bytes=MIB), {"content-length": str(MIB)}, "503", id="503"
    ),
]


@pytest.mark.parametrize(("settings", "headers", "status"), REFUSED)
async def test_what_the_head_is_refused_for_is_answered_before_the_body(
    autojump_clock: MockClock, settings: Settings, headers: dict[str, str], status: str
) -> None:
    """What comes meanwhile is dropped; whoever doesn't stop is told to, and the connection goes on."""
    async with opened(bare_gate(settings)) as peer:
        for _ in range(3):
            upload = await peer.client.begin("/v1/encode", head={**POST, **headers})
            stream = peer.client.streams[upload]
            await peer.client.until(lambda: b"code" in stream.data)  # noqa: B023 - asked at once
            await peer.client.send(upload, b" " * 4 * STREAM_WINDOW)
            assert (stream.head[":status"], stream.has_ended, stream.reset) == (status, False, None)
            assert "connection" not in stream.head
            await trio.sleep(DRAIN_S + 1)
            assert (stream.has_ended, stream.reset) == (True, Codes.NO_ERROR)
        assert (await peer.ask("/health")).head[":status"] == "200"


@pytest.mark.parametrize("stops_by", ["end", "reset"])
async def test_a_client_that_stops_when_it_has_read_the_refusal_is_waited_for_no_longer(
    autojump_clock: MockClock, stops_by: str
) -> None:
    """And the refusal is counted."""
    metrics = Metrics(())
    async with opened(bare_gate(with_auth(BARE), metrics=metrics)) as peer:
        upload = await peer.begin("/v1/encode")
        stream = peer.client.streams[upload]
        await peer.client.send(upload, b" " * STREAM_WINDOW)
        await peer.client.until(lambda: b"code" in stream.data)
        started = trio.current_time()
        if stops_by == "reset":
            await peer.client.reset(upload)
        else:
            await peer.client.send(upload, b"", end=True)
            assert (await peer.client.ended(upload)).reset is None
        await wait_all_tasks_blocked()
        assert trio.current_time() - started < DRAIN_S
        assert peer.connection.idle_since is not None
        labels = {"method": "POST", "path": "/v1/encode", "status": "401"}
        assert metrics.registry.get_sample_value("cerememory_http_requests_total", labels) == 1


async def test_a_body_that_turns_out_too_long_is_413(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cerememory.http.bodies.BODY_BYTES_MAX", MIB)
    async with opened(bare_gate()) as peer:
        upload = await peer.begin("/v1/encode")
        await peer.client.send(upload, b" " * 3 * MIB, end=True)
        assert (await peer.client.ended(upload)).head[":status"] == "413"
        assert (await peer.ask("/health")).head[":status"] == "200"


async def test_requests_that_are_taken_back_leave_nothing_in_flight(tmp_path: Path) -> None:
    """Whoever answers them: the gate itself, or Quart."""
    async with gated(tmp_path) as daemon, opened(daemon.gate) as peer:
        for path in ("/v1/encode", "/v1/encode/batch", "/v1/recall/timeline") * 20:
            asked = await peer.begin(path)
            await peer.client.send(asked, b'{"content": ' + b" " * 300_000)
            await peer.client.reset(asked)
        await peer.client.ping()
        await wait_all_tasks_blocked()
        assert daemon.gate.admission.inflight._bytes == 0
        for _ in range(20):
            asked = await peer.client.begin("/v1/introspect/stats", end=True, head=GET)
            await peer.client.reset(asked)
        stored = await peer.ask("/v1/encode", b'{"content": {"blocks": []}}')
        assert stored.head[":status"] == "400"
        assert (await peer.ask("/v1/introspect/stats")).head[":status"] == "200"


# Slow clients, idle ones, and a server that stops.


async def test_a_part_of_a_body_that_takes_too_long_is_408(autojump_clock: MockClock) -> None:
    async with opened(bare_gate()) as peer:
        upload = await peer.begin("/v1/encode")
        await peer.client.send(upload, b"{")
        await trio.sleep(READ_TIMEOUT_S - 1)
        assert not peer.client.streams[upload].head
        stream = await peer.client.ended(upload)
        assert stream.head[":status"] == "408"
        await peer.client.until(lambda: stream.reset is not None)
        assert (await peer.ask("/health")).head[":status"] == "200"


@pytest.mark.parametrize("begins_with", ["nothing", "a reset", "a request", "half a head", "pings"])
async def test_a_connection_without_a_request_is_closed_with_a_good_bye(
    autojump_clock: MockClock, begins_with: str
) -> None:
    app = Served()
    async with opened(app) as peer:
        if begins_with == "a request":
            await peer.ask("/answer")
        elif begins_with == "a reset":
            await peer.client.reset(await peer.begin("/hold"))
        elif begins_with == "half a head":
            await wait_all_tasks_blocked()
            await peer.client.stream.send_all(b"\x00\x01\x00\x01\x04\x00\x00\x00\x01" + b"\x00" * 16)
        await trio.sleep(READ_TIMEOUT_S - 1)
        if begins_with == "pings":
            await peer.client.ping()
        assert peer.client.goodbye is None
        await trio.sleep(2)
        assert peer.client.goodbye is not None
        await trio.sleep(GONE_S)
        assert peer.ended.is_set()
    assert app.under_way == 0


async def test_a_request_under_way_keeps_its_connection_open(autojump_clock: MockClock) -> None:
    app = Served()
    async with opened(app) as peer:
        held = await peer.begin("/hold")
        await trio.sleep(4 * READ_TIMEOUT_S)
        assert peer.client.goodbye is None
        app.let_go.set()
        await peer.client.send(held, b"x", end=True)
        assert (await peer.client.ended(held)).data == b"x"


async def test_a_server_that_stops_ends_what_was_begun_and_refuses_the_next(autojump_clock: MockClock) -> None:
    app = Served()
    async with opened(app) as peer:
        held = await peer.begin("/hold")
        await wait_all_tasks_blocked()
        await peer.context.terminated.set()
        await peer.client.until(lambda: peer.client.goodbye == held)
        late = await peer.client.begin("/answer", end=True, head=GET)
        assert (await peer.client.ended(late)).reset == Codes.REFUSED_STREAM
        app.let_go.set()
        await peer.client.send(held, b"x", end=True)
        assert (await peer.client.ended(held)).data == b"x"
        await trio.sleep(GONE_S + 1)
        assert peer.ended.is_set()
    assert app.begun == ["/hold"]


async def test_a_client_that_reads_nothing_is_cut_off(autojump_clock: MockClock) -> None:
    app = Served()
    async with opened(app) as peer:
        await peer.begin("/pour")
        await wait_all_tasks_blocked()
        peer.client.pause()
        await trio.sleep(READ_TIMEOUT_S + 2 * GONE_S)
        assert peer.ended.is_set()
        peer.client.go_on()
    assert app.under_way == 0


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[H2Client]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
        client = H2Client(stream)
        await nursery.start(client.start)
        yield client
        nursery.cancel_scope.cancel()


async def test_beyond_the_connection_cap_an_idle_one_goes_and_none_that_serves() -> None:
    settings, app = settings_with(BARE, "http", max_connections=2), Served()
    async with serving(app, settings) as served, connected(served.port) as busy, connected(served.port) as idle:
        held = await busy.begin("/hold", head=POST)
        assert (await idle.ended(await idle.begin("/answer", end=True, head=GET))).data == b"ok"
        await busy.ping()
        async with await served.connect() as newcomer:
            assert (await newcomer.ask("GET", "/answer")).status == 200
            await idle.until(lambda: idle.goodbye == 1)
            app.let_go.set()
            await busy.send(held, b"x", end=True)
            assert (await busy.ended(held)).data == b"x"


@pytest.mark.parametrize("is_let_go", [True, False])
async def test_who_makes_room_has_a_moment_for_what_it_has_begun_meanwhile(
    is_let_go: bool, autojump_clock: MockClock
) -> None:
    app = Served()
    async with opened(app) as peer:
        held = await peer.begin("/hold")
        await wait_all_tasks_blocked()
        await peer.connection.leave()
        await peer.client.until(lambda: peer.client.goodbye == held)
        if is_let_go:
            app.let_go.set()
            await peer.client.send(held, b"h", end=True)
            assert (await peer.client.ended(held)).data == b"h"
        with trio.fail_after(GONE_S + 1.0):
            await peer.ended.wait()
    assert app.cancelled == (not is_let_go)


async def test_who_hasnt_begun_to_speak_makes_room_at_once() -> None:
    wire, context = Wire(), WorkerContext(None)
    wrapped = ASGIWrapper(cast(ASGIFramework, Served()))
    await Connection(wrapped, _config(BARE), context, ConnectionState({}), cast(Any, wire)).leave()
    assert await wire.client.receive_some() == b""


class Deaf(Wire):
    """From when it `is_deaf`, its client takes nothing of what is sent."""

    is_deaf = False

    async def send_all(self, data: bytes) -> None:
        if self.is_deaf:
            await trio.sleep_forever()
        await super().send_all(data)


@pytest.mark.parametrize("is_deaf", [True, False])
async def test_nobody_waits_for_who_makes_room_and_doesnt_close(is_deaf: bool, autojump_clock: MockClock) -> None:
    wire = Deaf()
    async with opened(Served(), wire=wire) as peer:
        await peer.ask("/answer")
        wire.is_deaf, began = is_deaf, trio.current_time()
        await peer.connection.leave()
        assert trio.current_time() == began
        with trio.fail_after(GONE_S + 1.0):
            await peer.ended.wait()
        assert (peer.client.goodbye is None) == is_deaf


async def test_those_that_make_room_and_dont_close_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cerememory.http.server.GONE_S", 10 * WAIT_S)
    monkeypatch.setattr("cerememory.http.server.LEAVING_MAX", 1)
    settings = settings_with(BARE, "http", max_connections=1)
    async with serving(Served(), settings) as served, connected(served.port) as first:
        await first.ended(await first.begin("/answer", end=True, head=GET))
        async with connected(served.port) as second:
            await second.ended(await second.begin("/answer", end=True, head=GET))
            await first.until(lambda: first.goodbye == 1)
            async with await served.connect() as third:
                assert (await third.ask("GET", "/answer")).status == 200
                await second.until(lambda: second.goodbye == 1)
                await first.until_closed()
                assert not second.is_closed


# How it is begun.


async def test_it_is_known_however_its_beginning_is_cut() -> None:
    async with serving(Served(), BARE) as served, await served.connect() as connection:
        for byte in PREFACE:
            await connection.stream.send_all(bytes([byte]))
        with trio.fail_after(WAIT_S):
            assert (await connection.stream.receive_some())[3:4] == b"\x04", "the server's settings"


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@pytest.mark.parametrize("line", ["Content-Length: 2", "Content-Length: 2\r\nX-Folded: a\r\n b"])
@pytest.mark.parametrize("together", [True, False])
async def test_behind_a_request_of_http_1_1_it_is_a_bad_one(line: str, together: bool, logged: Logged) -> None:
    app = Served()
    first = f"POST /echo HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\nhi".encode()
    async with serving(app, BARE) as served, await served.connect() as connection:
        await connection.stream.send_all(first + PREFACE if together else first)
        if not together:
            assert await connection.stream.receive_some()
            await connection.stream.send_all(PREFACE)
        assert b"HTTP/1.1 400 \r\ncontent-length: 0\r\nconnection: close" in await connection.until_closed()
    assert app.begun == ["/echo"]
    assert logged.lines == []


async def test_an_upgrade_is_ignored_and_answered_over_http_1_1() -> None:
    upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABkAAQAAP__"}
    async with serving(bare_gate(), BARE) as served, await served.connect() as connection:
        for _ in range(2):
            answer = await connection.ask("GET", "/health", b"", **upgrade)
            assert (answer.status, answer.closed) == (200, False)
            assert "upgrade" not in answer.headers


@pytest.mark.parametrize("line", [b"PRI * HTTP/1.1", b"PRI /health HTTP/1.1"])
async def test_what_only_looks_like_it_is_a_request_like_any(line: bytes) -> None:
    async with serving(bare_gate(), BARE) as served, await served.connect() as connection:
        await connection.stream.send_all(line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await connection.until_closed()
        assert answer.startswith(b"HTTP/1.1 4")


async def test_a_key_and_a_namespace_are_taken_from_the_head(tmp_path: Path) -> None:
    async with gated(tmp_path) as daemon, opened(daemon.gate) as peer:
        body = msgspec.json.encode(store_body("kettle"))
        stored = await peer.ask(
            "/v1/encode", body, authorization=f"Bearer {KEYS[0]}", x_cerememory_namespace="work"
        )
        assert stored.head[":status"] == "200"
        assert daemon.running.engine._namespaces.keys() >= {"work"}
