"""An MCP client's side of a session, in the test's process: messages in, messages out, over real pipes."""

from __future__ import annotations

import json
import os
import queue
import threading
from types import TracebackType
from typing import IO, Any, BinaryIO, Self

from cerememory.mcp.proxy import serve
from cerememory.mcp.stdio import LINE_BYTES_MAX, Output
from cerememory.mcp.toolbox import Toolbox
from tests.support.fake_daemon import WAIT_S

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": "init",
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test"}},
}


class Peer:
    """Writes messages to one stream and reads them, as they come, from another."""

    def __init__(self, to_server: IO[bytes], from_server: IO[bytes]) -> None:
        self._to_server = to_server
        self._received: queue.Queue[Any] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(from_server,), daemon=True)
        self._reader.start()

    def send_line(self, line: bytes) -> None:
        self._to_server.write(line + b"\n")
        self._to_server.flush()

    def send(self, message_id: int | str, method: str, **params: object) -> None:
        message = {"jsonrpc": "2.0", "id": message_id, "method": method, "params": params}
        self.send_line(json.dumps(message).encode())

    def call_tool(self, message_id: int | str, name: str, **arguments: object) -> None:
        self.send(message_id, "tools/call", name=name, arguments=arguments)

    def receive(self) -> Any:
        """The next message of the server, whatever it answers."""
        return self._received.get(timeout=WAIT_S)

    def ask(self, method: str, **params: object) -> Any:
        """The result of a request, which must be the next message."""
        self.send("ask", method, **params)
        message = self.receive()
        assert message["id"] == "ask"
        return message["result"]

    def everything_left(self) -> list[Any]:
        """What came, once the server has closed its side."""
        self._reader.join(WAIT_S)
        assert not self._reader.is_alive()
        return [self._received.get_nowait() for _ in range(self._received.qsize())]

    def _read(self, from_server: IO[bytes]) -> None:
        with from_server:
            for line in from_server:
                self._received.put(json.loads(line))


class Session(Peer):
    """A peer of `serve`, which runs in a thread; `finish_s` and `line_bytes_max` as there."""

    def __init__(self, tools: Toolbox, finish_s: float = WAIT_S, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        server_in, to_server = os.pipe()
        from_server, self._server_out = os.pipe()
        self._input = os.fdopen(to_server, "wb")
        super().__init__(self._input, os.fdopen(from_server, "rb"))
        output = Output(self._server_out, on_gone=lambda: None)
        arguments = (output, tools, finish_s, line_bytes_max)
        stream = os.fdopen(server_in, "rb")
        self._server = threading.Thread(target=self._serve, args=(stream, *arguments), daemon=True)
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Closes the server's input and waits for it to return."""
        self._input.close()
        self._server.join(WAIT_S)
        assert not self._server.is_alive()

    def _serve(self, stream: BinaryIO, *arguments: Any) -> None:
        with stream:
            serve(stream, *arguments)
        os.close(self._server_out)
