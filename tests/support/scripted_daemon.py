"""A daemon without a network, for both clients: bytes go in, bytes come out, and each try meets the next fault.

Fault model: `Fault`, one a try, then none. What is done is done before its answer is lost, and once a key, as in
the daemon: `committed` has the first result of each. Nothing is delayed; a peer that says nothing lets time pass
on the clock of whoever waits. It knows nothing of CMP: each answer says which commit or read it is.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any
from unittest import mock

import anyio
import h11
from anyio.lowlevel import checkpoint

from cerememory.client import async_connections, connections

URL = "http://127.0.0.1:8420"
READ = "/v1/recall/query"


class Fault(Enum):
    NONE = auto()
    UNREACHABLE = auto()  # on a kept connection: as RESET
    RESET = auto()  # while the request is sent; nothing was done
    HUNG_UP_UNREAD = auto()  # it is sent, and nobody reads it
    HUNG_UP = auto()  # done, no answer
    HALF_HEAD = auto()  # done
    HALF_BODY = auto()  # done
    SILENT = auto()  # done, and the connection stays open
    NO_HTTP = auto()  # done, answered with other bytes
    NO_JSON = auto()  # done, answered by something else
    TOO_MUCH = auto()  # done and answered, and more bytes follow that nobody asked for
    BUSY = auto()  # not done
    LIMITED = auto()  # not done
    REFUSED_EARLY = auto()  # not done; answered at the head, and the rest of the request isn't taken
    FAILED = auto()  # not done


DONE = {
    Fault.NONE,
    Fault.HUNG_UP,
    Fault.HALF_HEAD,
    Fault.HALF_BODY,
    Fault.SILENT,
    Fault.NO_HTTP,
    Fault.NO_JSON,
    Fault.TOO_MUCH,
}
REFUSALS: Mapping[Fault, tuple[int, str, int | None]] = {
    Fault.BUSY: (503, "DECAY_ENGINE_BUSY", 3),
    Fault.LIMITED: (429, "RATE_LIMITED", 2),
    Fault.REFUSED_EARLY: (413, "CONTENT_TOO_LARGE", None),
    Fault.FAILED: (500, "INTERNAL_ERROR", None),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came whole, `at` seconds after the first look at the clock."""

    at: float
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class ScriptedDaemon:
    script: Sequence[Fault] = ()
    clock: Callable[[], float] = lambda: 0.0
    answer: bytes | None = None  # in place of what it makes itself
    asked: list[Asked] = field(default_factory=list)
    committed: dict[str, Any] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    at_step: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._faults = list(self.script)

    def connect(self) -> Link:
        if self._faults[:1] == [Fault.UNREACHABLE]:
            del self._faults[0]
            raise ConnectionRefusedError(111, "Connection refused")
        self.links.append(Link(self))
        return self.links[-1]

    def next_fault(self) -> Fault:
        return self._faults.pop(0) if self._faults else Fault.NONE

    def done(self, asked: Asked) -> Any:
        """The result; of what comes again under its key, the first one."""
        self.asked.append(asked)
        if asked.target == READ:
            return {"read": len(self.asked)}
        key = asked.headers.get("idempotency-key", f"none, commit {len(self.committed)}")
        return self.committed.setdefault(key, {"commit": len(self.committed)})

    @property
    def open_links(self) -> list[Link]:
        return [link for link in self.links if not link.is_closed]


class Link:
    """One connection; sockets of a pair stand for its ends, so that an idle one can be looked at."""

    def __init__(self, daemon: ScriptedDaemon) -> None:
        self.near, self._far = socket.socketpair()
        self.is_closed = False
        self.received_bytes = 0
        self._daemon = daemon
        self._http = h11.Connection(h11.SERVER)
        self._head: h11.Request | None = None
        self._body = b""
        self._fault = Fault.NONE
        self._out = b""
        self._is_ended = False

    def send(self, data: bytes) -> None:
        if self._is_ended:
            raise BrokenPipeError(32, "Broken pipe")
        self.received_bytes += len(data)
        self._http.receive_data(data)
        while not self._is_ended:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._end()
            else:
                return

    def receive(self, bytes_max: int) -> bytes | None:
        """b"" at the end; None when nothing will come."""
        data, self._out = self._out[:bytes_max], self._out[bytes_max:]
        return data if data or self._is_ended else None

    def close(self) -> None:
        self.is_closed = True
        self.near.close()
        self._far.close()

    def _begin(self, head: h11.Request) -> None:
        self._head, self._body, self._fault = head, b"", self._daemon.next_fault()
        if self._fault in (Fault.RESET, Fault.UNREACHABLE):
            self._hang_up()
            raise ConnectionResetError(104, "Connection reset by peer")
        if self._fault is Fault.REFUSED_EARLY:
            self._answer_refusal()
            self._hang_up()
            raise BrokenPipeError(32, "Broken pipe")

    def _end(self) -> None:
        fault = self._fault
        if fault is Fault.HUNG_UP_UNREAD:
            self._hang_up()
        elif fault in REFUSALS:
            self._answer_refusal()
        else:
            assert fault in DONE
            self._answer_done(fault)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()

    def _answer_done(self, fault: Fault) -> None:
        daemon, head = self._daemon, self._head
        assert head is not None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        asked = Asked(daemon.clock(), head.method.decode(), head.target.decode(), headers, self._body)
        made = json.dumps(daemon.done(asked)).encode()
        result = made if daemon.answer is None else daemon.answer
        if fault is Fault.NO_JSON:
            result = b"<html>"
        whole = self._written(200, result)
        if fault is Fault.NO_HTTP:
            whole = b"SSH-2.0-OpenSSH\r\n\r\n"
        cut = {Fault.HUNG_UP: 0, Fault.SILENT: 0, Fault.HALF_HEAD: 30, Fault.HALF_BODY: len(whole) - 3}
        self._out += whole[: cut.get(fault, len(whole))]
        if fault is Fault.TOO_MUCH:
            self._out += b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"another"'
        if fault in (Fault.HUNG_UP, Fault.HALF_HEAD, Fault.HALF_BODY, Fault.NO_HTTP):
            self._hang_up()

    def _answer_refusal(self) -> None:
        status, code, retry_after = REFUSALS[self._fault]
        body = {"code": code, "message": "no", "details": None, "retry_after": retry_after, "request_id": "r-1"}
        self._out += self._written(status, json.dumps(body).encode())

    def _written(self, status: int, body: bytes) -> bytes:
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        return b"".join(self._http.send(event) or b"" for event in events)

    def _hang_up(self) -> None:
        self._is_ended = True
        self._far.close()  # the near end becomes readable, as after a FIN


class FakeSocket:
    """What `Client` has of a link. Time that it waits in vain passes on `let_pass`."""

    def __init__(self, link: Link, let_pass: Callable[[float], None]) -> None:
        self._link = link
        self._let_pass = let_pass
        self._timeout_s: float | None = None

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def sendall(self, data: bytes) -> None:
        self._link.send(data)

    def recv(self, bytes_max: int) -> bytes:
        data = self._link.receive(bytes_max)
        if data is None:
            assert self._timeout_s is not None, "it would wait for ever"
            self._let_pass(self._timeout_s)
            raise TimeoutError
        return data

    def fileno(self) -> int:
        return self._link.near.fileno()

    def close(self) -> None:
        self._link.close()


class FakeAsyncSocket:
    """What `AsyncClient` has of a link; each of its steps is a place to be cancelled at."""

    def __init__(self, daemon: ScriptedDaemon, link: Link) -> None:
        self._daemon = daemon
        self._link = link

    async def sendall(self, data: bytes) -> None:
        await self._step()
        self._link.send(data)
        await self._step()

    async def recv(self, bytes_max: int) -> bytes:
        await self._step()
        data = self._link.receive(bytes_max)
        if data is None:
            await anyio.sleep_forever()
        await self._step()
        return data or b""

    async def _step(self) -> None:
        self._daemon.at_step()
        await checkpoint()

    def fileno(self) -> int:
        return self._link.near.fileno()

    def close(self) -> None:
        self._link.close()


@contextmanager
def reached(daemon: ScriptedDaemon, let_pass: Callable[[float], None] = lambda _: None) -> Iterator[None]:
    """Whatever clients connect to inside the block is `daemon`; its links are closed afterwards."""

    async def dial(*_: object) -> FakeAsyncSocket:
        await checkpoint()
        return FakeAsyncSocket(daemon, daemon.connect())

    with ExitStack() as stack:
        for link_maker in (
            mock.patch.object(connections, "dial", lambda *_: FakeSocket(daemon.connect(), let_pass)),
            mock.patch.object(async_connections, "dial", dial),
        ):
            stack.enter_context(link_maker)
        try:
            yield
        finally:
            for link in daemon.open_links:
                link.close()
