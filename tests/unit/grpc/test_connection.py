"""A connection survives whatever its client does with one stream; none outlives its client, nor does a call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import h2.errors
import h2.settings
import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState, TaskGroup
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory.grpc.connection import IDLE_S, GrpcConnection
from cerememory.http.exchange import Receive, Send
from cerememory.http.http2 import WINDOW_BYTES, Http2, Inbox
from cerememory.http.server import GONE_S, App, _config
from tests.support import h2_app
from tests.support.gated import BARE
from tests.support.h2_client import HEAD, WAIT_S, H2Client, Wire
from tests.support.logged import Logged

MIB = 1_048_576
STREAM_WINDOW = 65_535
READ_TIMEOUT_S = float(BARE.http.read_timeout_secs)
NO_WINDOW = {int(h2.settings.SettingCodes.INITIAL_WINDOW_SIZE): 0}


@dataclass
class Served(h2_app.Served):
    """The server's side of calls, which are answered with trailers."""

    answered: int = 0
    context: WorkerContext = field(default_factory=lambda: WorkerContext(None))
    ended: trio.Event = field(default_factory=trio.Event)

    async def answer(self, receive: Receive, send: Send, body: bytes = b"ok") -> None:
        head = [(b"x-answer", b"%d" % self.answered)]  # each is new, and those after it depend on it
        self.answered += 1
        await send({"type": "http.response.start", "status": 200, "headers": head, "trailers": True})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})

    async def crash(self, receive: Receive, send: Send) -> None:
        raise RuntimeError("a bug")

    async def crash_late(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        raise RuntimeError("a bug")


def connected(app: App, wire: Any, context: WorkerContext) -> GrpcConnection:
    wrapped = ASGIWrapper(cast(ASGIFramework, app))
    return GrpcConnection(wrapped, _config(BARE), context, ConnectionState({}), wire)


@asynccontextmanager
async def opened(settings: dict[int, int] | None = None, **given: Any) -> AsyncIterator[tuple[H2Client, Served]]:
    """A client and the server's side. Leaving hangs up, after which the connection and its calls have to end."""
    wire, served = Wire(), Served()
    client = H2Client(wire.client, settings, **given)

    async def serve() -> None:
        await connected(served, wire, served.context).run()
        served.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await nursery.start(client.start)
        yield client, served
        await wire.client.aclose()
        with trio.fail_after(WAIT_S):
            await served.ended.wait()
    assert served.under_way == 0


async def test_calls_come_and_go_on_one_connection() -> None:
    async with opened() as (client, _):
        streams = [await client.begin("/echo") for _ in range(10)]
        for stream_id in reversed(streams):
            await client.send(stream_id, b"%d" % stream_id, end=True)
        for stream_id in streams:
            stream = await client.ended(stream_id)
            assert (stream.head[":status"], stream.data) == ("200", b"%d" % stream_id)
            assert (stream.trailers, stream.reset) == ({"grpc-status": "0"}, None)


async def test_what_comes_while_a_part_is_taken_is_another_part() -> None:
    """The end, too: taking waits until the client is told that it may send more."""

    async def took(size_bytes: int) -> None:
        if not inbox_is_whole:
            inbox_is_whole.append(True)
            await inbox.put({"type": "http.request", "body": b"two", "more_body": False})

    inbox_is_whole: list[bool] = []
    inbox = Inbox(cast(TaskGroup, None), took)
    await inbox.put({"type": "http.request", "body": b"one", "more_body": True})
    assert await inbox.receive() == {"type": "http.request", "body": b"one", "more_body": True}
    assert await inbox.receive() == {"type": "http.request", "body": b"two", "more_body": False}


async def test_nothing_is_kept_of_a_call_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Http2] = []
    initiate = Http2.initiate

    async def noted(self: Http2) -> None:
        made.append(self)
        await initiate(self)

    monkeypatch.setattr(Http2, "initiate", noted)
    async with opened() as (client, _):
        for path in ("/answer", "/echo", "/crash", "/hold", "/answer"):
            stream_id = await client.begin(path, end=path != "/hold")
            if path == "/hold":
                await client.reset(stream_id)
            await wait_all_tasks_blocked()
        (http2,) = made
        left = (http2.streams, http2.stream_buffers, http2._inboxes, http2.priority._streams.keys() - {0})
        assert [len(kept) for kept in left] == [0, 0, 0, 0]


async def test_a_call_that_does_not_read_holds_up_no_other() -> None:
    async with opened() as (client, served), trio.open_nursery() as nursery:
        held = await client.begin("/hold")
        nursery.start_soon(lambda: client.send(held, b"h" * 4 * STREAM_WINDOW, end=True))
        await wait_all_tasks_blocked()
        await client.ping()
        other = await client.begin("/echo")
        await client.send(other, b"o" * 4 * STREAM_WINDOW, end=True)
        assert len((await client.ended(other)).data) == 4 * STREAM_WINDOW
        assert client.http.local_flow_control_window(held) == 0  # it may send what the window has, and no more
        served.let_go.set()
        assert len((await client.ended(held)).data) == 4 * STREAM_WINDOW


async def test_what_waits_for_a_call_is_bounded_however_it_is_cut() -> None:
    """Of frames without a byte nothing is kept, and padding is given back at once."""
    async with opened() as (client, served):
        held = await client.begin("/hold")
        for _ in range(6):
            for _ in range(100):
                client.http.send_data(held, b"")
                client.http.send_data(held, b"", pad_length=200)
                client.http.send_data(held, b"1")
            await client.flush()
            await wait_all_tasks_blocked()
        served.let_go.set()
        await client.send(held, b"", end=True)
        assert (await client.ended(held)).data == b"1" * 600


async def test_a_reset_ends_the_call_and_gives_its_window_back() -> None:
    async with opened() as (client, served):
        for _ in range(2 * WINDOW_BYTES // STREAM_WINDOW):
            held = await client.begin("/hold")
            await client.send(held, b"x" * STREAM_WINDOW)
            await client.reset(held)
        await wait_all_tasks_blocked()
        assert served.under_way == 0
        after = await client.begin("/echo")
        await client.send(after, b"x" * 2 * STREAM_WINDOW, end=True)
        assert len((await client.ended(after)).data) == 2 * STREAM_WINDOW


async def test_a_reset_in_the_same_breath_as_the_call() -> None:
    """However many of them come at once, others have their turn in between."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with opened() as (client, _), trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        for _ in range(1_050):
            stream_id = client.http.get_next_available_stream_id()
            client.http.send_headers(stream_id, list({**HEAD, ":path": "/hold"}.items()))
            client.http.reset_stream(stream_id)
        await client.flush()
        assert (await client.ended(await client.begin("/answer", end=True))).data == b"ok"
        assert turns > 1_050
        nursery.cancel_scope.cancel()


async def test_a_reset_while_the_answer_is_sent_ends_the_call() -> None:
    async with opened(NO_WINDOW, reads=False) as (client, served):
        poured = await client.begin("/pour", end=True)
        await client.until(lambda: client.streams[poured].head)
        await wait_all_tasks_blocked()
        assert served.under_way == 1
        await client.reset(poured)
        await wait_all_tasks_blocked()
        assert (served.under_way, served.cancelled) == (0, 1)


async def test_a_reset_loses_nothing_of_what_others_are_sent() -> None:
    """Heads depend on those before them: one that is lost would make all later ones unreadable."""
    async with opened() as (client, _):
        await wait_all_tasks_blocked()
        client.pause()
        ids = [await client.begin("/answer", end=True) for _ in range(5)]
        await wait_all_tasks_blocked()
        await client.reset(ids[1], ids[3])  # while their heads wait for one that isn't read
        await wait_all_tasks_blocked()
        client.go_on()
        later = await client.begin("/answer", end=True)
        for stream_id, number in ((ids[0], "0"), (ids[2], "2"), (ids[4], "4"), (later, "5")):
            stream = await client.ended(stream_id)
            assert (stream.head["x-answer"], stream.data) == (number, b"ok")


async def test_an_upload_that_is_refused_is_stopped_and_the_connection_goes_on() -> None:
    """The answer can be read, and the rest of the upload is neither wanted nor read."""
    async with opened() as (client, _):
        for _ in range(3):
            upload = await client.begin("/answer")
            await client.send(upload, b"u" * 2 * MIB, end=True)
            stream = await client.ended(upload)
            assert (stream.data, stream.trailers) == (b"ok", {"grpc-status": "0"})
            await client.until(lambda: stream.reset is not None)  # noqa: B023 - asked at once
            assert stream.reset == h2.errors.ErrorCodes.NO_ERROR
        after = await client.begin("/echo")
        await client.send(after, b"x" * 2 * MIB, end=True)
        assert len((await client.ended(after)).data) == 2 * MIB


async def test_bytes_that_cross_with_the_answer_give_the_window_back() -> None:
    async with opened() as (client, _):
        for _ in range(2 * WINDOW_BYTES // STREAM_WINDOW):
            upload = await client.begin("/answer")
            sent = min(STREAM_WINDOW, client.http.outbound_flow_control_window)
            while sent:
                part = min(sent, 16_384)
                client.http.send_data(upload, b"x" * part)
                sent -= part
            await client.flush()
            await client.ended(upload)
            await client.until(lambda: client.streams[upload].reset is not None)  # noqa: B023 - asked at once
        await client.until(lambda: client.http.outbound_flow_control_window > STREAM_WINDOW)


async def test_a_client_that_opens_no_window_takes_no_memory_and_no_other_call_waits() -> None:
    async with opened(NO_WINDOW, reads=False) as (client, served):
        poured = await client.begin("/pour", end=True)
        await client.until(lambda: client.streams[poured].head)
        small = await client.begin("/answer", end=True)
        client.http.increment_flow_control_window(10, small)
        await client.flush()
        assert (await client.ended(small)).data == b"ok"
        await wait_all_tasks_blocked()
        assert served.under_way == 1


async def test_a_crash_is_the_call_s_alone(logged: Logged) -> None:
    async with opened() as (client, _):
        assert (await client.ended(await client.begin("/crash", end=True))).head[":status"] == "500"
        late = await client.ended(await client.begin("/crash_late", end=True))
        assert late.reset == h2.errors.ErrorCodes.INTERNAL_ERROR
        assert (await client.ended(await client.begin("/answer", end=True))).data == b"ok"
    assert logged.events() == ["call crashed", "call crashed"]


@pytest.mark.parametrize(
    "head",
    [
        {":method": "CONNECT", ":scheme": "http", ":protocol": "websocket"},
        {":method": "POST", ":scheme": "http", ":path": "/caf\u00e9"},
    ],
)
async def test_what_can_be_no_call_is_reset(head: dict[str, str]) -> None:
    async with opened() as (client, served):
        refused = await client.begin("/answer", head={":authority": "localhost", **head})
        assert (await client.ended(refused)).reset == h2.errors.ErrorCodes.PROTOCOL_ERROR
        assert (await client.ended(await client.begin("/answer", end=True))).data == b"ok"
        assert served.begun == ["/answer"]


@pytest.mark.parametrize("head", [{}, {":method": "CONNECT", ":protocol": "websocket"}], ids=["late", "no call"])
async def test_what_is_refused_may_have_been_taken_back_already(head: dict[str, str]) -> None:
    async with opened() as (client, served):
        held = await client.begin("/hold")
        await wait_all_tasks_blocked()
        if not head:
            await served.context.terminated.set()
        late = client.http.get_next_available_stream_id()
        client.http.send_headers(late, list({**HEAD, ":path": "/answer", **head}.items()))
        client.http.reset_stream(late)
        await client.flush()
        served.let_go.set()
        await client.send(held, b"x", end=True)
        assert (await client.ended(held)).data == b"x"


async def test_priorities_are_not_kept() -> None:
    async with opened() as (client, _):
        for stream_id in range(1, 4_001, 2):
            client.http.prioritize(stream_id, depends_on=0)
        await client.flush()
        assert (await client.ended(await client.begin("/answer", end=True))).data == b"ok"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,  # how TLS begins
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    ],
    ids=["HTTP/1.1", "TLS", "frames", "cut"],
)
async def test_garbage_ends_its_own_connection(garbage: bytes, autojump_clock: MockClock) -> None:
    wire, served = Wire(), Served()

    async def talk() -> None:
        with suppress(trio.BrokenResourceError):
            await wire.client.send_all(garbage)
            while await wire.client.receive_some():
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk)
        with trio.fail_after(READ_TIMEOUT_S + 2 * GONE_S):
            await connected(served, wire, served.context).run()
        nursery.cancel_scope.cancel()


async def test_a_client_that_is_gone_before_it_is_looked_at_is_no_event(logged: Logged) -> None:
    class Gone(Wire):
        def getpeername(self) -> tuple[str, int]:
            raise OSError("not connected")

    served = Served()
    await connected(served, Gone(), served.context).run()
    assert logged.lines == []


async def test_hanging_up_ends_every_call() -> None:
    async with opened() as (client, served):
        for _ in range(5):
            await client.begin("/hold")
        poured = await client.begin("/pour", end=True)
        await client.ended(poured)
        await wait_all_tasks_blocked()
        assert served.under_way == 5
    assert served.cancelled == 5


async def test_a_connection_waits_long_for_its_next_call_and_then_says_good_bye(autojump_clock: MockClock) -> None:
    async with opened() as (client, served):
        first = await client.begin("/answer", end=True)
        await client.ended(first)
        held = await client.begin("/hold")
        await trio.sleep(2 * IDLE_S)  # a call is under way
        assert client.goodbye is None
        await client.reset(held)
        await trio.sleep(IDLE_S - 1)
        assert client.goodbye is None
        await trio.sleep(2)
        assert client.goodbye == held
        late = await client.begin("/answer", end=True)
        assert (await client.ended(late)).reset == h2.errors.ErrorCodes.REFUSED_STREAM
        await trio.sleep(GONE_S)
        assert served.ended.is_set()


async def test_a_connection_without_a_call_is_closed_sooner(autojump_clock: MockClock) -> None:
    async with opened() as (client, served):
        await trio.sleep(READ_TIMEOUT_S - 1)
        assert client.goodbye is None
        await trio.sleep(1 + GONE_S + 1)
        assert served.ended.is_set()


async def test_a_server_that_stops_ends_what_was_begun_and_refuses_the_next(autojump_clock: MockClock) -> None:
    async with opened() as (client, served):
        held = await client.begin("/hold")
        await wait_all_tasks_blocked()
        await served.context.terminated.set()
        await client.until(lambda: client.goodbye == held)
        late = await client.begin("/answer", end=True)
        assert (await client.ended(late)).reset == h2.errors.ErrorCodes.REFUSED_STREAM
        served.let_go.set()
        await client.send(held, b"x", end=True)
        assert (await client.ended(held)).data == b"x"
        await trio.sleep(GONE_S + 1)
        assert served.ended.is_set()


async def test_a_client_that_reads_nothing_is_cut_off(autojump_clock: MockClock) -> None:
    wire, served, ended = Wire(), Served(), trio.Event()

    async def serve() -> None:
        await connected(served, wire, served.context).run()
        ended.set()

    hello = H2Client(wire.client)
    hello.http.initiate_connection()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(hello.flush)
        await trio.sleep(READ_TIMEOUT_S + 2 * GONE_S)
        was_cut_off = ended.is_set()
        await wire.client.aclose()
    assert was_cut_off
