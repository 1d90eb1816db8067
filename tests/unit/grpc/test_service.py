"""The service as a whole, over sockets: what a client breaks off leaves nothing behind, a stop loses no call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from cerememory.config.settings import HttpSettings
from cerememory.grpc.descriptors import CMP
from cerememory.http.bodies import PARSED_FACTOR
from cerememory.http.http2 import Http2
from cerememory.http.server import Connection
from tests.support.engine import WAIT_S, store_body
from tests.support.grpc_calls import framed, with_payload
from tests.support.grpc_service import Client, GrpcServing, serving_grpc
from tests.support.h2_client import H2Client
from tests.support.held import HeldOffload
from tests.support.logged import Logged

MIB = 1_048_576
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STORE, EXPORT, IMPORT = (f"/{CMP}/{name}" for name in ("EncodeStore", "Export", "Import"))


@asynccontextmanager
async def raw(daemon: GrpcServing, *, reads: bool = True) -> AsyncIterator[H2Client]:
    """A client of frames, which hangs up at the end."""
    async with await trio.open_tcp_stream("127.0.0.1", daemon.port) as stream, trio.open_nursery() as nursery:
        client = H2Client(stream, reads=reads)
        await nursery.start(client.start)
        yield client
        nursery.cancel_scope.cancel()


def archives_under_way(daemon: GrpcServing) -> int:
    return daemon.behind.running.engine._archives._under_way


async def until_nothing_is_left(daemon: GrpcServing, connections: int) -> None:
    def left() -> tuple[int, int, int]:
        return daemon.connections_open, daemon.behind.bytes_in_flight, archives_under_way(daemon)

    await until(lambda: left() == (connections, 0, 0))


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not is_so():
            await trio.lowlevel.checkpoint()


async def test_a_call_that_is_cancelled_lets_go_of_everything_and_its_work_is_done(tmp_path: Path) -> None:
    held = HeldOffload()
    async with serving_grpc(tmp_path, offload=held) as daemon:
        held.hold("_transact")
        call = daemon.client.begin("EncodeStore", store_body("kettle"))
        await held.until_held("_transact")
        assert daemon.behind.bytes_in_flight > 0
        call.cancel()
        await until_nothing_is_left(daemon, connections=1)
        held.release("_transact")
        stats = await daemon.call("Stats", metadata={"x-cerememory-sequence": "1"})
        assert stats.json["total_records"] == 1


async def test_a_client_s_deadline_is_heard(tmp_path: Path) -> None:
    held = HeldOffload()
    async with serving_grpc(tmp_path, offload=held) as daemon:
        held.hold("_transact")
        answered = await daemon.call("EncodeStore", store_body("kettle"), timeout_s=0.05)
        assert answered.status == "DEADLINE_EXCEEDED"
        await until_nothing_is_left(daemon, connections=1)
        held.release("_transact")


async def test_clients_that_vanish_leave_nothing_behind(tmp_path: Path, logged: Logged) -> None:
    body = framed(with_payload({"include_raw_journal": True}))
    async with serving_grpc(tmp_path) as daemon:
        for number in range(4):
            await daemon.call("EncodeStore", store_body(f"{number}" + "x" * 100_000))
        async with raw(daemon, reads=False) as reading, raw(daemon) as sending, raw(daemon) as uploading:
            export = await reading.begin(EXPORT)
            await reading.send(export, body, end=True)
            await reading.until(lambda: reading.streams[export].data)  # as much as its window takes
            store = await sending.begin(STORE)
            await sending.send(store, framed(b"x" * MIB)[:300_000])
            upload = await uploading.begin(IMPORT)
            await uploading.send(upload, b"\0\0\0")
            await until(lambda: daemon.behind.bytes_in_flight >= PARSED_FACTOR * MIB)
            assert archives_under_way(daemon) == 1
            await reading.reset(export)
            await until(lambda: archives_under_way(daemon) == 0)
        await until_nothing_is_left(daemon, connections=1)
        assert (await daemon.call("Stats")).json["total_records"] == 4
    assert logged.events() == []


def _http2(connection: Connection) -> Http2:
    spoken = connection.protocol.protocol
    assert isinstance(spoken, Http2)
    return spoken


async def test_a_slow_reader_of_an_export_takes_a_window_s_worth(tmp_path: Path) -> None:
    """Not more is made than it takes, so that nothing has to be kept for it."""
    async with serving_grpc(tmp_path) as daemon, raw(daemon, reads=False) as client:
        for number in range(10):
            await daemon.call("EncodeStore", store_body(f"{number}" + "x" * 100_000))
        export = await client.begin(EXPORT)
        await client.send(export, framed(with_payload({})), end=True)
        await client.until(lambda: len(client.streams[export].data) == 65_535)
        await client.ping()
        await wait_all_tasks_blocked()
        buffers = [_http2(connection).stream_buffers for connection in daemon.behind.service.server._connections]
        (buffer,) = (buffer for kept in buffers for buffer in kept.values())
        assert len(buffer.buffer) <= 2 * 65_536


async def test_garbage_costs_its_sender_the_connection_and_nobody_else(tmp_path: Path, logged: Logged) -> None:
    async with serving_grpc(tmp_path) as daemon:
        await daemon.call("Stats")
        for number in range(64):
            async with await trio.open_tcp_stream("127.0.0.1", daemon.port) as stream:
                await stream.send_all(PREFACE[: number % 25] + bytes([number]) * (3 * number))
        await until_nothing_is_left(daemon, connections=1)
        assert (await daemon.call("Stats")).status == "OK"
    assert logged.events() == []


async def test_beyond_the_most_connections_the_oldest_idle_one_makes_room(tmp_path: Path) -> None:
    async with serving_grpc(tmp_path, http=HttpSettings(max_connections=1)) as daemon:
        assert (await daemon.call("Stats")).status == "OK"
        with grpc.insecure_channel(f"127.0.0.1:{daemon.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            second = Client(channel)
            assert (await trio.to_thread.run_sync(partial(second.call, "Stats"))).status == "OK"
            assert daemon.connections_open == 1


async def test_a_stop_lets_calls_finish_and_begins_none(tmp_path: Path) -> None:
    held = HeldOffload()
    async with serving_grpc(tmp_path, offload=held) as daemon:
        held.hold("_transact")
        call = daemon.client.begin("EncodeStore", store_body("kettle"))
        await held.until_held("_transact")
        daemon.stop.set()
        await until(daemon.behind.service.server._context.terminated.is_set)
        refused = await daemon.call("Stats")
        assert refused.status == "UNAVAILABLE"
        held.release("_transact")
        assert (await trio.to_thread.run_sync(call.result)).json_payload.startswith(b'{"record_id"')
