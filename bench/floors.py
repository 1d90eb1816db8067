"""What nothing above can be faster than, on this machine at this moment.

- *The client*: a server that answers fixed bytes and looks at nothing. What it gets is the client's ceiling.
- *The empty answer*: an ASGI application without a thought on hypercorn as it comes. Beside it, for whoever asks
  what the product's own server around hypercorn's connections adds or saves, the same application on that.
- *The put*: one small value put into LMDB and synced, each in a transaction of its own.

The servers are processes of their own, as the daemon is: `python -m bench.floors client|empty|hypercorn` prints
its port and serves until it is terminated.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, cast

import lmdb
import trio
from bench.client import RECEIVE_BYTES, Address, BenchFailed, rate
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from hypercorn.typing import ASGIFramework

from cerememory.config.settings import Settings
from cerememory.http.exchange import Receive, Scope, Send
from cerememory.http.server import Server, bind

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
VALUE_BYTES = 512  # about what a short memory takes
MAP_BYTES = 1 << 30

Kind = Literal["client", "empty", "hypercorn"]


@contextmanager
def floor_server(kind: Kind) -> Iterator[Address]:
    """The address of a floor that runs in a process of its own."""
    command = [sys.executable, "-m", "bench.floors", kind]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield HOST, _read_port(process, kind)
        finally:
            process.terminate()


def _read_port(process: subprocess.Popen[str], kind: Kind) -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BenchFailed(f"the {kind} floor didn't start")
    return int(line)


def puts_per_s(folder: Path, *, warm_up_s: float, duration_s: float) -> float:
    """Puts that are durable before the next one begins, in a new LMDB environment in `folder`."""
    numbers = count()
    value = bytes(VALUE_BYTES)
    with lmdb.open(str(folder), map_size=MAP_BYTES) as environment:

        def put() -> None:
            with environment.begin(write=True) as transaction:
                transaction.put(next(numbers).to_bytes(8, "big"), value)

        rate(put, warm_up_s)
        return rate(put, duration_s)


async def empty_application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise ValueError(scope["type"])  # so hypercorn learns that it needn't tell of its start and end
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _serve_empty(listening: socket.socket) -> None:
    trio.run(Server(empty_application, Settings()).serve, listening, trio.Event())


def _serve_hypercorn(listening: socket.socket) -> None:
    config = Config()
    config.bind = [f"fd://{listening.detach()}"]
    config.errorlog = None
    config.keep_alive_max_requests = 2**31
    trio.run(hypercorn_serve, cast(ASGIFramework, empty_application), config)


def _serve_client(listening: socket.socket) -> None:
    """Each request comes in one piece: it is small, and its client waits for the answer."""
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ, partial(_accept, selector))
        while True:
            for ready, _events in selector.select():
                ready.data(ready.fileobj)


def _accept(selector: selectors.BaseSelector, listening: socket.socket) -> None:
    connection, _peer = listening.accept()
    selector.register(connection, selectors.EVENT_READ, partial(_answer, selector))


def _answer(selector: selectors.BaseSelector, connection: socket.socket) -> None:
    if connection.recv(RECEIVE_BYTES):
        connection.sendall(ANSWER)
    else:
        selector.unregister(connection)
        connection.close()


SERVE: dict[str, Callable[[socket.socket], None]] = {
    "client": _serve_client,
    "empty": _serve_empty,
    "hypercorn": _serve_hypercorn,
}


def main(kind: str) -> None:
    listening = bind(HOST, 0)
    print(listening.getsockname()[1], flush=True)
    SERVE[kind](listening)


if __name__ == "__main__":
    main(sys.argv[1])
