"""An HTTP/2 client that sends whatever a test wants, frame by frame, and keeps what comes.

`Wire` is a connection in memory that holds nothing: what one side sends is sent when the other has read all of it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio
import trio.testing

WAIT_S = 30.0  # how long a test waits for an event that must come
FRAME_HEAD_BYTES, GOAWAY = 9, 7
HEAD = {":method": "POST", ":scheme": "http", ":authority": "localhost"}
GRPC = {**HEAD, "te": "trailers", "content-type": "application/grpc"}


class Wire:
    """The server's end of a connection; `client` is the other one."""

    def __init__(self) -> None:
        self._stream, self.client = trio.testing.lockstep_stream_pair()
        self.socket = self
        self.family = socket.AF_INET

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 50_000

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 8_420

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass
class Stream:
    """What came for one stream; `reset` is the code of a reset, `trailers` None until they came."""

    head: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    trailers: dict[str, str] | None = None
    reset: int | None = None
    has_ended: bool = False


class H2Client:
    """`settings` are those that the server is told; windows are opened by hand when `reads` is False."""

    def __init__(
        self, stream: trio.abc.Stream, settings: dict[int, int] | None = None, *, reads: bool = True
    ) -> None:
        self.stream = stream
        self.http = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
        )
        self.streams: dict[int, Stream] = {}
        self.pongs = 0
        self.acknowledged = 0  # bytes that the server let come again, on the connection
        self.goodbye: int | None = None  # the last stream that the server takes
        self.is_closed = False
        self._reads = reads
        self._may_read = trio.Event()
        self._may_read.set()
        self._waiting = b""
        self._settings = settings or {}
        self._came = trio.Event()
        self._sending = trio.Lock()

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Say hello, and keep whatever comes until the server closes."""
        self.http.initiate_connection()
        self.http.update_settings(self._settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.flush)
            task_status.started()
            try:
                while part := await self._next_part():
                    self._take(bytes(part))
                    nursery.start_soon(self.flush)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # closed with what we sent unread
            self.is_closed = True
            self._tell()
            nursery.cancel_scope.cancel()

    async def _next_part(self) -> bytes:
        await self._may_read.wait()
        return bytes(await self.stream.receive_some())

    def pause(self) -> None:
        """Take nothing more than what is being taken."""
        self._may_read = trio.Event()

    def go_on(self) -> None:
        self._may_read.set()

    async def flush(self) -> None:
        async with self._sending:
            data = self.http.data_to_send()
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.is_closed = True

    async def begin(self, path: str = "/", *, end: bool = False, head: dict[str, str] | None = None) -> int:
        """Open a stream; its number."""
        stream_id = self.http.get_next_available_stream_id()
        self.streams[stream_id] = Stream()
        named = {":path": path, **(GRPC if head is None else head)}
        self.http.send_headers(
            stream_id, sorted(named.items(), key=lambda item: item[0][0] != ":"), end_stream=end
        )
        await self.flush()
        return stream_id

    async def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """As much of `data` as the window takes at a time, until all is sent, or the stream is reset."""
        rest = memoryview(data)
        while True:
            if self.streams[stream_id].reset is not None or self.is_closed:
                return
            window = min(self.http.local_flow_control_window(stream_id), self.http.max_outbound_frame_size)
            if window or not rest:
                part, rest = rest[:window], rest[window:]
                self.http.send_data(stream_id, bytes(part), end_stream=end and not rest)
                await self.flush()
            if not rest:
                return
            if not window:
                await self._news()

    async def reset(self, *stream_ids: int) -> None:
        for stream_id in stream_ids:
            self.http.reset_stream(stream_id, 8)
        await self.flush()

    async def ping(self) -> None:
        """Returns when it was answered."""
        wanted = self.pongs + 1
        self.http.ping(b"12345678")
        await self.flush()
        await self.until(lambda: self.pongs >= wanted)

    async def ended(self, stream_id: int) -> Stream:
        stream = self.streams[stream_id]
        await self.until(lambda: stream.has_ended or stream.reset is not None)
        return stream

    async def until(self, is_so: Any) -> None:
        with trio.fail_after(WAIT_S):
            while not is_so():
                assert not self.is_closed, "the server closed"
                await self._news()

    async def until_closed(self) -> None:
        with trio.fail_after(WAIT_S):
            while not self.is_closed:
                await self._news()

    async def _news(self) -> None:
        await self._came.wait()

    def _tell(self) -> None:
        self._came.set()
        self._came = trio.Event()

    def _take(self, data: bytes) -> None:
        try:
            events: Iterable[Any] = self.http.receive_data(self._without_goodbye(data))
        except h2.exceptions.ProtocolError:
            events = ()
            self.is_closed = True
        for event in events:
            self._note(event)
        self._tell()

    def _without_goodbye(self, data: bytes) -> bytes:
        """The whole frames that are there, but for GOAWAY, after which h2 would end what is under way."""
        self._waiting += data
        kept = b""
        while len(self._waiting) >= FRAME_HEAD_BYTES:
            size = FRAME_HEAD_BYTES + int.from_bytes(self._waiting[:3], "big")
            if len(self._waiting) < size:
                break
            frame, self._waiting = self._waiting[:size], self._waiting[size:]
            if frame[3] == GOAWAY:
                self.goodbye = int.from_bytes(frame[9:13], "big")
            else:
                kept += frame
        return kept

    def _note(self, event: Any) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
        if isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
        elif isinstance(event, h2.events.WindowUpdated) and not event.stream_id:
            self.acknowledged += event.delta or 0
        elif stream is not None:
            self._note_for(stream, event)

    def _note_for(self, stream: Stream, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            stream.head = _named(event)
        elif isinstance(event, h2.events.DataReceived):
            stream.data += event.data
            if self._reads:
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = _named(event)
        elif isinstance(event, h2.events.StreamReset):
            if stream.reset is None:  # further ones are for what came after it
                stream.reset = int(event.error_code)
        elif isinstance(event, h2.events.StreamEnded):
            stream.has_ended = True


def _named(event: Any) -> dict[str, str]:
    return dict(event.headers)
