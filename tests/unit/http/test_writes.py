"""Answers that are written at once, as far as the system has room: on real sockets."""

from __future__ import annotations

import math
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cerememory.http import server
from cerememory.http.exchange import Receive, Scope, Send
from cerememory.http.server import Server, bind
from tests.support.certificates import self_signed
from tests.support.gated import BARE, bare_gate
from tests.support.logged import Logged
from tests.support.server import WAIT_S, Serving, serving

MIB = 1_048_576
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def numbered(size_bytes: int) -> bytes:
    """Bytes of which each eight say where they are."""
    return b"".join(struct.pack(">Q", i) for i in range(size_bytes // 8))


BODY = numbered(8 * MIB)


async def answer_at_length(scope: Scope, receive: Receive, send: Send) -> None:
    """In one part, with its length: a plain answer."""
    headers = [(b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY, "more_body": False})


class Written:
    """What each write at once was given, and how much of it the system took."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[int, int]] = []
        really_take = server.Connection._taken_at_once

        def noting(connection: server.Connection, data: bytes) -> int:
            taken = really_take(connection, data)
            self.calls.append((len(data), taken))
            return taken

        monkeypatch.setattr(server.Connection, "_taken_at_once", noting)

    @property
    def in_part(self) -> list[tuple[int, int]]:
        return [(given, taken) for given, taken in self.calls if 0 < taken < given]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    return Written(monkeypatch)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not condition():
            await trio.lowlevel.checkpoint()


def body_of(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return body


async def test_an_answer_that_is_written_at_once_is_whole_in_one_write(written: Written) -> None:
    async with serving(bare_gate(), BARE) as served, await served.connect() as connection:
        for _ in range(3):
            answer = await connection.ask("GET", "/health")
            assert answer.status == 200
    assert len(written.calls) == 3, "head and body together"
    assert all(given == taken for given, taken in written.calls)


@pytest.mark.parametrize("read_bytes", [4_096, 65_536, 1_000_003])
async def test_a_slow_reader_gets_all_bytes_in_their_order(written: Written, read_bytes: int) -> None:
    """Two answers, of which the system takes a part at a time."""
    async with serving(answer_at_length, BARE) as served, await served.connect() as connection:
        await connection.stream.send_all(GET)
        await until(lambda: any(c.send_lock.locked() for c in served.server._connections))
        assert written.in_part, "the buffer was full in the middle"
        await connection.stream.send_all(LAST)
        came = bytearray()
        with trio.fail_after(WAIT_S):
            while part := await connection.stream.receive_some(read_bytes):
                came += part
    first, second = bytes(came).split(b"HTTP/1.1 200 ")[1:]
    assert first.partition(b"\r\n\r\n")[2] == BODY
    assert second.partition(b"\r\n\r\n")[2] == BODY


async def test_others_are_answered_while_one_does_not_read() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (answer_at_length if scope["path"] == "/" else bare_gate())(scope, receive, send)

    async with serving(app, BARE) as served, await served.connect() as deaf:
        await deaf.stream.send_all(LAST)
        await until(lambda: any(c.send_lock.locked() for c in served.server._connections))
        assert (await served.ask("GET", "/health")).status == 200
        assert body_of(await deaf.until_closed()) == BODY


class Held:
    """Answers `body` when a test lets it; `answered` is set when it has."""

    def __init__(self, body: bytes = b"ok") -> None:
        self.body = body
        self.asked, self.answer_now, self.answered = trio.Event(), trio.Event(), trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/":
            await bare_gate()(scope, receive, send)
            return
        self.asked.set()
        await self.answer_now.wait()
        headers = [(b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
        self.answered.set()


def reset(stream: trio.SocketStream) -> None:
    """Close so that the other side is told of an error."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


def close(stream: trio.SocketStream) -> None:
    stream.socket.close()


@pytest.mark.parametrize("go", [close, reset])
@pytest.mark.parametrize("body", [b"ok", BODY], ids=["small", "large"])
async def test_a_client_that_is_gone_ends_its_connection_quietly(
    go: Callable[[trio.SocketStream], None], body: bytes, logged: Logged
) -> None:
    app = Held(body)
    async with serving(app, BARE) as served, await served.connect() as other:
        assert (await other.ask("GET", "/health")).status == 200
        connection = await served.connect()
        await connection.stream.send_all(GET)
        await app.asked.wait()
        go(connection.stream)
        app.answer_now.set()
        await until(lambda: served.connections_open == 1)
        assert app.answered.is_set(), "the application needn't know"
        assert (await other.ask("GET", "/health")).status == 200
    assert logged.events() == logged.events("warning") == []


async def test_a_client_that_is_gone_in_the_middle_of_an_answer_ends_its_connection_quietly(
    logged: Logged, written: Written
) -> None:
    async with serving(answer_at_length, BARE) as served:
        connection = await served.connect()
        await connection.stream.send_all(GET)
        await until(lambda: bool(written.in_part))
        reset(connection.stream)
        await until(lambda: served.connections_open == 0)
    assert logged.events() == logged.events("warning") == []


async def test_a_connection_that_was_closed_never_writes_to_whom_its_descriptor_belongs_now() -> None:
    app = Held()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        async with serving(app, BARE) as served, await served.connect() as connection:
            assert (await connection.ask("GET", "/health")).status == 200
            await connection.stream.send_all(GET)
            await app.asked.wait()
            (serves,) = served.server._connections
            assert isinstance(serves.stream, trio.SocketStream)
            descriptor = serves.stream.socket.fileno()
            await trio.aclose_forcefully(serves.stream)
            os.dup2(ours.fileno(), descriptor)
            try:
                app.answer_now.set()
                await until(lambda: served.connections_open == 0)
                assert app.answered.is_set()
                with pytest.raises(BlockingIOError):
                    theirs.recv(1)
            finally:
                os.close(descriptor)


async def test_an_idle_connection_that_was_closed_never_reads_what_is_for_another() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        async with serving(bare_gate(), BARE) as served, await served.connect() as connection:
            assert (await connection.ask("GET", "/health")).status == 200
            await wait_all_tasks_blocked()
            (serves,) = served.server._connections
            assert isinstance(serves.stream, trio.SocketStream)
            descriptor = serves.stream.socket.fileno()
            await connection.stream.send_all(GET)
            serves.stream.socket.close()
            os.dup2(ours.fileno(), descriptor)
            try:
                theirs.sendall(GET)
                await until(lambda: served.connections_open == 0)
                assert ours.recv(100) == GET
            finally:
                os.close(descriptor)


@asynccontextmanager
async def serving_tls(app: server.App, folder: Path) -> AsyncIterator[tuple[Serving, ssl.SSLContext]]:
    """`app` with a certificate of its own; the context is for a client."""
    certificate, key = self_signed(folder)
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(certificate))
    ours.load_cert_chain(certificate, key)
    listening = bind("127.0.0.1", 0)
    served = Serving(listening.getsockname()[1], Server(app, BARE, tls=ours))
    async with trio.open_nursery() as nursery:
        await nursery.start(served.server.serve, listening, served.stop)
        try:
            yield served, theirs
        finally:
            served.stop.set()


async def test_nothing_is_written_past_tls(tmp_path: Path, written: Written) -> None:
    async with serving_tls(answer_at_length, tmp_path) as (served, theirs):
        tcp = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with trio.SSLStream(tcp, theirs, server_hostname="localhost", https_compatible=True) as stream:
            came = bytearray()
            with trio.fail_after(WAIT_S):
                await stream.send_all(LAST)
                while part := await stream.receive_some(100_000):
                    came += part
    assert body_of(bytes(came)) == BODY
    assert written.calls
    assert all(taken == 0 for _given, taken in written.calls)


async def test_a_part_that_was_begun_is_never_left_for_a_cancellation(written: Written) -> None:
    """The application's own deadline comes while the client doesn't read: what was begun comes whole."""
    given_up = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with trio.CancelScope() as scope_:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up_in_the_middle, scope_)
                await send({"type": "http.response.body", "body": BODY, "more_body": True})
                nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"the end", "more_body": False})

    async def give_up_in_the_middle(scope: trio.CancelScope) -> None:
        await until(lambda: bool(written.in_part))
        scope.cancel()
        given_up.set()

    async with serving(app, BARE) as served, await served.connect() as connection:
        await connection.send("GET", "/")
        with trio.fail_after(WAIT_S):
            await given_up.wait()
        await wait_all_tasks_blocked()
        assert (await connection.answer()).body == BODY + b"the end"


async def test_what_is_sent_while_a_part_waits_for_room_comes_behind_it(written: Written) -> None:
    """Also when there is room again, for a moment, before all of that part has gone."""
    later = [b"%d," % i * 1_000 for i in range(5)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, {"type": "http.response.body", "body": BODY, "more_body": True})
            await until(lambda: bool(written.in_part))
            for part in later:
                nursery.start_soon(send, {"type": "http.response.body", "body": part, "more_body": True})
                await wait_all_tasks_blocked()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with serving(app, BARE) as served, await served.connect() as connection:
        await connection.send("GET", "/")
        await until(lambda: bool(written.in_part))
        assert (await connection.answer()).body == BODY + b"".join(later)


async def test_a_server_that_ends_leaves_a_part_that_nobody_reads(written: Written) -> None:
    async with serving(answer_at_length, BARE) as served, await served.connect() as connection:
        await connection.stream.send_all(GET)
        await until(lambda: bool(written.in_part))
        (serves,) = served.server._connections
        serves.end_by(-math.inf)
        await until(lambda: served.connections_open == 0)
        part = body_of(await connection.until_closed())
    assert 0 < len(part) < len(BODY)
    assert BODY.startswith(part)


def in_small_steps(monkeypatch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Have the system take `step` bytes of each write at once; the list has what it was given."""
    given: list[int] = []
    really_write = os.write

    def little(descriptor: int, data: Any) -> int:
        given.append(len(data))
        return really_write(descriptor, data[:step])

    monkeypatch.setattr(server, "os", _Os(little))
    return given


class _Os:
    """`os` with another `write`."""

    def __init__(self, write: Callable[[int, Any], int]) -> None:
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@pytest.mark.parametrize("step", [1, 16, 17, 18, 200])
async def test_an_answer_goes_on_where_the_system_has_stopped(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Be it in the head, between head and body, or in the body."""
    app = Held(b"x" * 100 + b"y" * 200)
    app.answer_now.set()
    given = in_small_steps(monkeypatch, step)
    async with serving(app, BARE) as served, await served.connect() as connection:
        for _ in range(2):
            assert (await connection.ask("GET", "/")).body == app.body
    assert len(given) == 2


@pytest.mark.parametrize("error", [BlockingIOError, BrokenPipeError, ConnectionResetError, OSError])
async def test_a_write_at_once_that_fails_leaves_all_to_the_one_that_waits(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError], logged: Logged
) -> None:
    def failing(descriptor: int, data: Any) -> int:
        raise error

    monkeypatch.setattr(server, "os", _Os(failing))
    async with serving(bare_gate(), BARE) as served, await served.connect() as connection:
        assert (await connection.ask("GET", "/health")).status == 200
    assert logged.events() == []
