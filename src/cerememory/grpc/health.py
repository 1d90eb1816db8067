"""The standard health service: what readiness says over HTTP, for gRPC's own tools and load balancers.

Anybody may ask, without a key and without being counted by the rate limit.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from cerememory.actors.engine import Engine
from cerememory.errors import ActorBusy, ActorStopped, NoService
from cerememory.grpc.descriptors import CMP, HEALTH, message, messages_of, service
from cerememory.grpc.rpc import Method, Rpc
from cerememory.http.exchange import Headers

KNOWN = ("", CMP)  # the daemon as a whole, and its service
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
WATCH_S = 1.0  # between two looks on behalf of all who watch
WATCHERS_MAX = 256


class Health:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stopping = trio.Event()
        self._watchers = 0
        self._looked_at = -WATCH_S
        self._last = NOT_SERVING
        self._looking = trio.Lock()

    def stop(self) -> None:
        """Tell those who watch, and let them go."""
        self._stopping.set()

    def methods(self) -> Iterator[Method]:
        handlers = {"Check": self._check, "List": self._list, "Watch": self._watch}
        for rpc in service(HEALTH).methods:
            yield Method(f"{HEALTH}/{rpc.name}", *messages_of(rpc), handlers[rpc.name], None)

    async def _check(self, rpc: Rpc) -> Headers:
        name = (await rpc.request()).service
        if name not in KNOWN:
            raise NoService(f"service: {name[:128]!r} is none of this daemon's")
        await rpc.send(rpc.method.reply(status=await self._status()))
        return []

    async def _list(self, rpc: Rpc) -> Headers:
        await rpc.request()
        status = message(f"{HEALTH.rpartition('.')[0]}.HealthCheckResponse")(status=await self._status())
        await rpc.send(rpc.method.reply(statuses=dict.fromkeys(KNOWN, status)))
        return []

    async def _watch(self, rpc: Rpc) -> Headers:
        if self._watchers >= WATCHERS_MAX:
            raise ActorBusy("health")
        self._watchers += 1
        try:
            await self._tell_changes(rpc)
        finally:
            self._watchers -= 1
        raise ActorStopped("the daemon")

    async def _tell_changes(self, rpc: Rpc) -> None:
        """Until the daemon stops: a stream like this has no other end."""
        name, told = (await rpc.request()).service, -1
        while True:
            is_last = self._stopping.is_set()
            status = await self._status_lately() if name in KNOWN else SERVICE_UNKNOWN
            if status != told:
                await rpc.send(rpc.method.reply(status=status))
                told = status
            if is_last:
                return
            with trio.move_on_after(WATCH_S):
                await self._stopping.wait()

    async def _status_lately(self) -> int:
        """One look serves all who ask within `WATCH_S`, unless the daemon stops."""
        async with self._looking:
            if self._stopping.is_set():
                return NOT_SERVING
            if trio.current_time() >= self._looked_at + WATCH_S:
                self._last = await self._status()
                self._looked_at = trio.current_time()
            return self._last

    async def _status(self) -> int:
        return SERVING if await self._engine.not_ready() is None else NOT_SERVING
