"""One connection of a gRPC client: HTTP/2 (`http/http2.py`) and nothing else.

With TLS a client has to choose it (ALPN), without it has to know.
"""

from __future__ import annotations

from typing import Any

import trio
from hypercorn.events import Event, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.trio import task_group
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from cerememory.grpc.tls import HTTP2
from cerememory.http.http2 import Http2
from cerememory.http.server import GONE_S, Connection

IDLE_S = 300.0  # clients keep a connection for their next call; of too many, the oldest idle one goes


class GrpcConnection(Connection):
    """Closes after `IDLE_S` without a call, or without a first call after the time that a head may take."""

    async def run(self) -> None:
        try:
            with self._scope:
                if await self._shook_hands():
                    await self._serve()
        except OSError:
            return
        finally:
            with trio.move_on_after(GONE_S):
                await self._close()

    async def _shook_hands(self) -> bool:
        """Whether both sides speak HTTP/2, as far as that can be seen."""
        if not isinstance(self.stream, trio.SSLStream):
            return True
        try:
            with trio.fail_after(self.config.keep_alive_timeout):
                await self.stream.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return False
        return bool(self.stream.selected_alpn_protocol() == HTTP2)

    async def _serve(self) -> None:
        about = self._about()
        async with task_group.TaskGroup() as tasks:
            self._task_group = tasks
            given = (self.app, self.config, self.context, tasks, ConnectionState(self.state), *about)
            self.protocol = ProtocolWrapper(*given, self.protocol_send)
            http2 = self.protocol.protocol = Http2(*given, self.protocol_send, end_soon=self.end_soon)
            await http2.initiate()
            await self.idle_task.restart(tasks, self._idle_timeout)
            await self._read_data()

    def _about(self) -> tuple[bool, Any, Any]:
        """Whether it is encrypted, and the addresses of client and server; `OSError` when the client has gone."""
        is_encrypted = isinstance(self.stream, trio.SSLStream)
        socket = (self.stream.transport_stream if is_encrypted else self.stream).socket
        client, server = socket.getpeername(), socket.getsockname()
        return is_encrypted, parse_socket_addr(socket.family, client), parse_socket_addr(socket.family, server)

    async def protocol_send(self, event: Event) -> None:
        await super().protocol_send(event)
        if isinstance(event, Updated):
            self.idle_s = IDLE_S
