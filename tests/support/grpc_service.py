"""The gRPC service on a loopback port, in the test's own event loop; grpcio's client, whose calls run in threads.

The client's messages are those that protoc makes of the .proto file which is shipped, as any user's are.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import grpc
import msgspec
import trio

import cerememory
from cerememory.http.server import bind
from tests.support.grpc_calls import Called, called

WAIT_S = 30.0  # how long a test waits for an event that must come
PROTO_PATH = Path(cerememory.__file__).parent / "grpc"
ChannelTo = Callable[[str], grpc.Channel]
NO_METADATA: Mapping[str, str] = {}


@cache
def generated() -> Any:
    """The module with the messages."""
    sys.path.insert(0, str(PROTO_PATH))
    try:
        return grpc.protos("cerememory.proto")
    finally:
        sys.path.remove(str(PROTO_PATH))


def message(name: str, **fields: Any) -> Any:
    return getattr(generated(), name)(**fields)


@dataclass
class Answer:
    """What came back of a call, be it an error."""

    status: str
    details: str
    initial: dict[str, Any]
    trailing: dict[str, Any]
    messages: list[Any] = field(default_factory=list)

    @property
    def message(self) -> Any:
        assert self.status == "OK", (self.status, self.details)
        (only,) = self.messages
        return only

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.message.json_payload)

    @property
    def refusal(self) -> tuple[str, str]:
        """Status and CMP code."""
        return self.status, self.trailing["x-cerememory-code"]


@dataclass
class Client:
    """Calls the CMP service."""

    channel: grpc.Channel

    def call(self, method: str, request: object = None, **given: Any) -> Answer:
        """Wait for all of the answer, which may be an error. Takes what `begin` takes."""
        call = self.begin(method, request, **given)
        messages: list[Any] = []
        try:
            messages += call if _rpc(method).server_streaming else [call.result()]
        except grpc.RpcError:
            assert call.code() is not grpc.StatusCode.OK
        return Answer(
            call.code().name,
            call.details(),
            dict(call.initial_metadata()),
            dict(call.trailing_metadata()),
            messages,
        )

    def begin(
        self,
        method: str,
        request: object = None,
        *,
        timeout_s: float = WAIT_S,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> Any:
        """`request` is a message, JSON (bytes, or what becomes it) for a message that has JSON, or an iterator."""
        rpc = _rpc(method)
        sent = request if rpc.client_streaming else _as_message(rpc.input_type.name, request)
        kinds = (rpc.client_streaming, rpc.server_streaming)
        open_call = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary,
        }[kinds]
        asked: Any = open_call(
            f"/{rpc.containing_service.full_name}/{rpc.name}",
            _dumped,
            getattr(generated(), rpc.output_type.name).FromString,
        )
        start = asked if rpc.server_streaming else asked.future
        return start(sent, timeout=timeout_s, metadata=tuple(metadata.items()))


def _rpc(method: str) -> Any:
    return generated().DESCRIPTOR.services_by_name["CerememoryService"].methods_by_name[method]


def _dumped(sent: Any) -> bytes:
    dumped: bytes = sent.SerializeToString()
    return dumped


def _as_message(name: str, request: object) -> Any:
    if request is None:
        return message(name)
    if hasattr(request, "SerializeToString"):
        return request
    return message(name, json_payload=request if isinstance(request, bytes) else msgspec.json.encode(request))


@dataclass
class GrpcServing:
    """`stop` begins a graceful stop."""

    port: int
    behind: Called
    stop: trio.Event
    client: Client

    async def call(self, method: str, request: object = None, **given: Any) -> Answer:
        return await trio.to_thread.run_sync(partial(self.client.call, method, request, **given))

    @property
    def connections_open(self) -> int:
        return len(self.behind.service.server._connections)


@asynccontextmanager
async def serving_grpc(
    path: Path, channel_to: ChannelTo = grpc.insecure_channel, **given: Any
) -> AsyncIterator[GrpcServing]:
    """`given` is what `called` takes. Leaving stops it gracefully."""
    async with called(path, **given) as behind, _listening(behind) as (port, stop):
        with channel_to(f"127.0.0.1:{port}") as channel:
            yield GrpcServing(port, behind, stop, Client(channel))


@asynccontextmanager
async def _listening(behind: Called) -> AsyncIterator[tuple[int, trio.Event]]:
    listening, stop = bind("127.0.0.1", 0), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(behind.service.serve, listening, stop)
        try:
            yield listening.getsockname()[1], stop
        finally:
            stop.set()


def chunks_of(archive: bytes, metadata: bytes, size_bytes: int = 65_536) -> Iterator[Any]:
    """An import's messages."""
    for start in range(0, len(archive), size_bytes):
        data = archive[start : start + size_bytes]
        yield message("ImportChunk", data=data, json_metadata=b"" if start else metadata)
