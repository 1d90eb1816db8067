"""Clients that don't read their answers: cut off, over HTTP/1.1 and HTTP/2; on the mock clock.

Model: a wire that holds nothing (`Wire`).
"""

from __future__ import annotations

from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from trio.testing import MockClock

from cerememory.http.exchange import Receive, Scope, Send
from cerememory.http.server import GONE_S, App, Connection, _config
from tests.support.gated import BARE, bare_gate, with_auth
from tests.support.h2_client import Wire

MIB = 1_048_576
READ_TIMEOUT_S = 30.0
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
IN_CHUNKS = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
LAST = b"POST / HTTP/1.0\r\nExpect: no answer here\r\n\r\n"


def connected(app: App, wire: Wire) -> Connection:
    wrapped = ASGIWrapper(cast(ASGIFramework, app))
    return Connection(wrapped, _config(BARE), WorkerContext(None), ConnectionState({}), wire)


async def answer_a_mebibyte(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % MIB)]})
    await send({"type": "http.response.body", "body": b"x" * MIB, "more_body": False})


async def test_a_client_that_reads_nothing_is_cut_off(autojump_clock: MockClock) -> None:
    wire, ended = Wire(), trio.Event()

    async def serve() -> None:
        await connected(answer_a_mebibyte, wire).run()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await wire.client.send_all(GET)
        await trio.sleep(READ_TIMEOUT_S - 1)
        assert not ended.is_set()
        await trio.sleep(1 + GONE_S + 1)
        was_cut_off = ended.is_set()
        await wire.client.aclose()
    assert was_cut_off


async def test_a_client_that_reads_nothing_is_cut_off_also_with_its_next_request_behind(
    autojump_clock: MockClock,
) -> None:
    """Nobody reads on while that waits, so the connection has to learn of its end from the answer."""
    wire = Wire()
    with trio.move_on_after(4 * READ_TIMEOUT_S) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connected(give_up_after_a_while, wire).run)
            await wire.client.send_all(IN_CHUNKS + GET)
    assert not scope.cancelled_caught


async def give_up_after_a_while(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % MIB)]})
    with trio.move_on_after(READ_TIMEOUT_S):
        await send({"type": "http.response.body", "body": b"x" * MIB, "more_body": True})


async def test_what_comes_behind_a_last_request_is_not_taken_while_that_is_answered() -> None:
    wire, taken = Wire(), 0

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connected(waiting, wire).run)
        await wire.client.send_all(LAST)
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            while taken < 10:
                await wire.client.send_all(GET)
                taken += 1
        await wire.client.aclose()
        nursery.cancel_scope.cancel()
    assert taken == 1, "the one that shows that there is more"


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_a_client_that_goes_on_reading_gets_its_answer_however_long_it_takes(
    autojump_clock: MockClock,
) -> None:
    wire = Wire()
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connected(answer_a_mebibyte, wire).run)
        await wire.client.send_all(GET)
        received = 0
        while received < MIB:
            await trio.sleep(7.0)  # for a quarter of what has to be taken within 30 s
            received += len(await wire.client.receive_some(65_536))
        assert trio.current_time() - started > 3 * READ_TIMEOUT_S
        await wire.client.aclose()


class ClosedWindow:
    """An HTTP/2 client that reads what comes and never allows a byte of an answer's body."""

    def __init__(self, wire: Wire) -> None:
        self.statuses: list[str] = []
        self._stream = wire.client
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._http.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
        )
        self._http.initiate_connection()

    async def ask(self, method: str, path: str) -> None:
        """Returns when the server closes."""
        head = {":method": method, ":path": path, ":scheme": "http", ":authority": "localhost"}
        self._http.send_headers(1, list(head.items()), end_stream=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stream.send_all, self._http.data_to_send())
            while part := await self._stream.receive_some():
                for event in self._http.receive_data(bytes(part)):
                    if isinstance(event, h2.events.ResponseReceived):
                        self.statuses += [value for name, value in self._named(event) if name == ":status"]
            nursery.cancel_scope.cancel()

    def _named(self, event: Any) -> list[tuple[str, str]]:
        return [(str(name), str(value)) for name, value in event.headers]


@pytest.mark.parametrize(("path", "status"), [("/health", "200"), ("/v1/introspect/stats", "401")])
async def test_an_http_2_client_that_allows_no_answer_does_not_hold_its_connection(
    autojump_clock: MockClock, path: str, status: str
) -> None:
    """It needs no key for that."""
    wire = Wire()
    client = ClosedWindow(wire)
    with trio.fail_after(4 * READ_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connected(bare_gate(with_auth(BARE)), wire).run)
            await client.ask("GET", path)
    assert client.statuses == [status]
