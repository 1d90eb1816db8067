"""The health service says what /readiness says, to the client that gRPC ships for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from cerememory.actors.engine import Engine
from cerememory.grpc import health
from cerememory.grpc.descriptors import CMP, HEALTH
from tests.support.engine import WAIT_S, settings_for
from tests.support.gated import BARE, with_auth
from tests.support.grpc_calls import called, framed
from tests.support.grpc_service import serving_grpc

NAMES = ("", CMP)
Status = health_pb2.HealthCheckResponse
Asked = health_pb2.HealthCheckRequest


async def test_health_is_readiness(tmp_path: Path) -> None:
    settings = with_auth(settings_for(tmp_path, rate_limit=BARE.rate_limit))
    async with serving_grpc(tmp_path, settings=settings) as daemon:
        stub = HealthStub(daemon.client.channel)
        for name in NAMES:
            assert (await _blocking(stub.Check, Asked(service=name))).status == Status.SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            await _blocking(stub.Check, Asked(service="nope"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        daemon.behind.running.engine.drain()
        assert (await daemon.behind.http.ask("GET", "/readiness")).status == 503
        for name in NAMES:
            assert (await _blocking(stub.Check, Asked(service=name))).status == Status.NOT_SERVING
        listed = await _blocking(stub.List, health_pb2.HealthListRequest())
        assert {name: answer.status for name, answer in listed.statuses.items()} == dict.fromkeys(
            NAMES, Status.NOT_SERVING
        )


async def _blocking(method: Any, request: Any) -> Any:
    return await trio.to_thread.run_sync(partial(method, request, timeout=WAIT_S))


async def test_who_watches_is_told_of_each_change_and_let_go_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WATCH_S", 0.0)
    ready = [True]

    async def not_ready(engine: Engine) -> str | None:
        await trio.lowlevel.checkpoint()
        return None if ready[0] else "storage unavailable"

    monkeypatch.setattr(Engine, "not_ready", not_ready)
    async with serving_grpc(tmp_path) as daemon:
        stub = HealthStub(daemon.client.channel)
        known, unknown = stub.Watch(Asked(service=CMP)), stub.Watch(Asked(service="nope"))
        assert (await _next(unknown)).status == Status.SERVICE_UNKNOWN
        seen = []
        for is_ready in (True, False, True):
            ready[0] = is_ready
            seen.append((await _next(known)).status)
        assert seen == [Status.SERVING, Status.NOT_SERVING, Status.SERVING]
        daemon.stop.set()
        assert (await _next(known)).status == Status.NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            await _next(known)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ended.value.details() == "the daemon is not running"


async def _next(stream: Any) -> Any:
    return await trio.to_thread.run_sync(partial(next, stream))


async def test_one_look_serves_all_who_watch_and_they_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def not_ready(engine: Engine) -> None:
        nonlocal looks
        looks += 1
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Engine, "not_ready", not_ready)
    monkeypatch.setattr(health, "WATCHERS_MAX", 8)
    async with called(tmp_path) as daemon, trio.open_nursery() as nursery:
        watch = partial(daemon.grpc.send, f"/{HEALTH}/Watch", [framed(b"")])
        for _ in range(8):
            nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        assert looks == 1
        assert (await watch()).refusal == ("UNAVAILABLE", "DECAY_ENGINE_BUSY")
        nursery.cancel_scope.cancel()
    assert daemon.service.health._watchers == 0
