"""The gRPC service of a daemon, put together: methods, gate, server."""

from __future__ import annotations

import socket

import trio

from cerememory.actors.engine import Engine
from cerememory.config.settings import Settings
from cerememory.grpc.connection import GrpcConnection
from cerememory.grpc.gate import GrpcGate
from cerememory.grpc.health import Health
from cerememory.grpc.operations import CmpService
from cerememory.grpc.reflection import Reflection
from cerememory.grpc.tls import tls_context
from cerememory.http.admission import Admission
from cerememory.http.routes import Routes
from cerememory.http.server import Server
from cerememory.telemetry.metrics import Metrics


class GrpcService:
    """`admission` and `routes` are those of the HTTP service, whose limits and operations these are.

    Raises `ConfigInvalid` when certificate and key can't be used.
    """

    def __init__(
        self, settings: Settings, engine: Engine, routes: Routes, admission: Admission, metrics: Metrics
    ) -> None:
        self.health = Health(engine)
        methods = [*CmpService(routes).methods(), *self.health.methods(), *Reflection().methods()]
        self.gate = GrpcGate(settings, methods, admission, metrics, engine.off_loop)
        self.server = Server(self.gate, settings, GrpcConnection, tls_context(settings.grpc))

    async def serve(
        self,
        listening: socket.socket,
        stop: trio.Event,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """After `stop` no call is begun; those under way end as the server's do."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_health, stop)
            await self.server.serve(listening, stop, task_status=task_status)

    async def _stop_health(self, stop: trio.Event) -> None:
        await stop.wait()
        self.health.stop()
