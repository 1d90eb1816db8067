"""HTTP/2 on one connection: hypercorn's own, with what a long-lived connection of many requests needs.

hypercorn's (0.18) reads on only when the application has taken what came, so that one request which is read
slowly, or not at all, holds up all others and even the news that it was cancelled; it stumbles over bytes that
come for a stream which is answered; it takes more and more from an application whose client opens no window; it
ends a stream with trailers twice; it never counts a connection as idle again after a stream was reset; it closes
without a word.
Here
- what comes for a stream waits for its application, within the window that the stream was given. Nothing else
  waits for it, and the client may send more as the application takes what there is;
- what an application sends waits in a bounded buffer until the client has taken what was before it;
- a stream that ends, by the client's reset or with the connection, cancels its application;
- an answer that is given before the request was whole is followed by a reset (RST_STREAM, NO_ERROR), as RFC 9113,
  8.1 has it: the client stops sending, and nobody has to read the rest. (Some in use, curl 7.88 for one, drop an
  answer that comes together with its reset. So the gate ends one that refuses only when the client has stopped, or
  had its time, as it does over HTTP/1.1);
- before it closes, the server says so (GOAWAY), so that clients lose no request.

Clients speak it from the first byte on, because they know (both ports) or have chosen it with TLS (gRPC).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self, cast

import h2.events
import structlog
import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.stream import StreamState
from hypercorn.config import Config
from hypercorn.events import RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed, Trailers
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import (
    BUFFER_HIGH_WATER,
    BUFFER_LOW_WATER,
    BufferCompleteError,
    H2Protocol,
    StreamBuffer,
)
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, TaskGroup
from hypercorn.typing import Event as IOEvent
from hypercorn.typing import Scope as AsgiScope
from hypercorn.utils import filter_pseudo_headers
from hyperframe.frame import GoAwayFrame

from cerememory.http.http1 import surroundings

WINDOW_BYTES = 1_048_576  # of a connection: what comes and isn't taken yet; each stream has HTTP/2's 65,535 of it
CLOSING = (b"connection", b"close")  # of an answer whose application drops what comes until it has been read

AsgiSend = Callable[[ASGISendEvent | None], Awaitable[None]]

log = structlog.get_logger(__name__)


class Inbox:
    """What came for one stream and waits for its application, which ends when the client takes the stream back.

    It stands for hypercorn's task group, which would start the application.
    """

    def __init__(self, tasks: TaskGroup, took: Callable[[int], Awaitable[None]]) -> None:
        """`took` is told of bytes that the application has taken."""
        self._tasks = tasks
        self._took = took
        self._waiting = bytearray()  # as much as the window allows, in frames of whatever size
        self._is_whole = self._is_told = self._is_answered = self._is_closing = self._is_gone = False
        self._came = trio.Event()
        self._scope = trio.CancelScope()

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: AsgiScope, send: AsgiSend
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        self._tasks.spawn(self._run, app, scope, send)
        return self.put

    async def put(self, message: ASGIReceiveEvent) -> None:
        if message["type"] == "http.request":
            self._waiting += message["body"]
            self._is_whole = not message["more_body"]
            self._came.set()
        elif self._is_closing:
            self._is_gone = True
            self._came.set()
        elif not self._is_answered:
            self._scope.cancel()

    async def receive(self) -> ASGIReceiveEvent:
        """All that waits; for ever, when there was the end of it already."""
        while not self._is_gone and (self._is_told or not (self._waiting or self._is_whole)):
            self._came = trio.Event()
            await self._came.wait()
        if self._is_gone:
            return {"type": "http.disconnect"}
        body = self.take()
        self._is_told = self._is_whole
        await self._took(len(body))  # meanwhile more may come
        return {"type": "http.request", "body": body, "more_body": not self._is_told}

    def close_soon(self) -> None:
        """The application waits only for the client to read its answer: a reset is told, and cancels nothing."""
        self._is_closing = True

    def close(self) -> bytes:
        """The answer is out, and its application about to end; what nobody will take any more."""
        self._is_answered = True
        return self.take()

    def take(self) -> bytes:
        body = bytes(self._waiting)
        self._waiting.clear()
        return body

    async def _run(self, app: AppWrapper, scope: AsgiScope, send: AsgiSend) -> None:
        try:
            with self._scope:
                await app(scope, self.receive, send, trio.to_thread.run_sync, trio.from_thread.run)
        except Exception:  # one call's; the others go on
            log.exception("call crashed")
        await send(None)


class Outbox(StreamBuffer):
    """What is sent on one stream and waits for its window: never more than one message beyond the mark.

    `has_ended` is set when nothing more goes out, be it that the end has.
    """

    def __init__(self, event_class: type[IOEvent]) -> None:
        super().__init__(event_class)
        self.has_ended = trio.Event()

    async def close(self) -> None:
        await super().close()
        self.has_ended.set()

    async def push(self, data: bytes) -> None:
        if self._complete:
            raise BufferCompleteError
        self.buffer += data
        await self._is_empty.clear()
        if len(self.buffer) >= BUFFER_HIGH_WATER:
            await self._paused.clear()
            await self._paused.wait()

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class Http2(H2Protocol):
    """`end_soon` is called when the server stops and nothing is under way any more."""

    def __init__(self, *args: Any, end_soon: Callable[[], None]) -> None:
        super().__init__(*args)
        self._end_soon = end_soon
        self._inboxes: dict[int, Inbox] = {}
        self.stream_buffers: dict[int, Outbox] = {}  # type: ignore[assignment]
        self._is_leaving = False

    @classmethod
    def instead_of(cls, spoken: H11Protocol, end_soon: Callable[[], None]) -> Self:
        """For a connection that turns out to speak HTTP/2."""
        return cls(*surroundings(spoken), end_soon=end_soon)

    async def initiate(
        self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None
    ) -> None:
        await super().initiate(headers, settings)
        self.connection.increment_flow_control_window(WINDOW_BYTES - self.connection.inbound_flow_control_window)
        await self._flush()

    async def go_away(self) -> None:
        """Tell the client that no further stream is taken; those under way go on."""
        self._is_leaving = True
        frame = GoAwayFrame(
            last_stream_id=self.connection.highest_inbound_stream_id, error_code=ErrorCodes.NO_ERROR
        )
        await self.send(RawData(frame.serialize()))

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            await self._handle_event(event)
        await self._flush()

    async def _flush(self) -> None:
        """Even while the call that asks for it is cancelled: these bytes may be other calls'."""
        with trio.CancelScope(shield=True):
            await super()._flush()

    async def _handle_event(self, event: h2.events.Event) -> None:
        if self.closed:
            return
        if isinstance(event, h2.events.RequestReceived):
            await self._open(event)
        elif isinstance(event, h2.events.DataReceived):
            await self._received(event)
        elif isinstance(event, h2.events.StreamEnded):
            await self._ended(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            await self._close_stream(event.stream_id)
            await self._tell_idle()
        elif not isinstance(event, h2.events.PriorityUpdated):  # RFC 9113 has given priorities up
            await super()._handle_events([event])

    async def _open(self, event: h2.events.RequestReceived) -> None:
        head = dict(event.headers or ())
        if self._is_leaving or self.context.terminated.is_set():
            self._reset(event.stream_id, ErrorCodes.REFUSED_STREAM)
        elif head[b":method"] == b"CONNECT" or not head[b":path"].isascii():
            self._reset(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
        else:
            await self._create_stream(event)
            await self.send(Updated(idle=False))
            await trio.lowlevel.checkpoint()  # however many come at once, others have their turn

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        stream_id, head = request.stream_id, dict(request.headers or ())

        async def took(size_bytes: int) -> None:
            await self._acknowledge(size_bytes, stream_id)

        inbox = self._inboxes[stream_id] = Inbox(self.task_group, took)
        stream = self.streams[stream_id] = HTTPStream(
            self.app,
            self.config,
            self.context,
            cast(TaskGroup, inbox),
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            stream_id,
        )
        self.stream_buffers[stream_id] = Outbox(self.context.event_class)
        self.priority.insert_stream(stream_id)
        self.priority.block(stream_id)
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(request.headers),
                http_version="2",
                method=head[b":method"].decode("latin-1").upper(),
                raw_path=head[b":path"],
                state=self.connection_state,
            )
        )

    async def _received(self, event: h2.events.DataReceived) -> None:
        stream, data = self.streams.get(event.stream_id), event.data or b""
        padding = (event.flow_controlled_length or 0) - len(data)
        if stream is None:  # it is answered already
            await self._acknowledge(padding + len(data), event.stream_id)
            return
        await self._acknowledge(padding, event.stream_id)
        if data:
            await stream.handle(Body(stream_id=event.stream_id, data=data))

    async def _acknowledge(self, size_bytes: int, stream_id: int) -> None:
        """Let the client send as much again."""
        if size_bytes and not self.closed:
            try:
                self.connection.acknowledge_received_data(size_bytes, stream_id)
            except ProtocolError:  # the connection has ended meanwhile
                return
            await self._flush()

    async def _ended(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            await stream.handle(EndBody(stream_id=stream_id))

    async def stream_send(self, event: StreamEvent) -> None:
        inbox = self._inboxes.get(event.stream_id)
        if inbox is not None and isinstance(event, Response) and CLOSING in event.headers:
            inbox.close_soon()
        if isinstance(event, StreamClosed):
            await self._answered(event.stream_id)
        elif isinstance(event, EndBody):
            await self._end(event.stream_id)
        else:
            await super().stream_send(event)
        if isinstance(
            event, Trailers
        ):  # they end the stream; a second end would make h2 forget what is open of it
            await self._drop_buffer(event.stream_id)

    async def _end(self, stream_id: int) -> None:
        """Returns when the end is sent, or nobody takes it: what is open still may be reset then."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            buffer.set_complete()
            self.priority.unblock(stream_id)
            await self.has_data.set()
            await buffer.has_ended.wait()

    async def _answered(self, stream_id: int) -> None:
        """Its application is about to end. What is open still of the stream is reset."""
        inbox = self._inboxes.pop(stream_id, None)
        left = b"" if inbox is None else inbox.close()
        await self._close_stream(stream_id)
        await self._acknowledge(len(left), stream_id)
        self._reset_if_open(stream_id)
        await self._flush()
        await self._tell_idle()

    async def _tell_idle(self) -> None:
        await self.send(Updated(idle=self.idle))
        if self.idle and self.context.terminated.is_set():
            self._end_soon()

    def _reset_if_open(self, stream_id: int) -> None:
        stream = self.connection.streams.get(stream_id)
        if stream is None or stream.closed:
            return
        is_answered = stream.state_machine.state is StreamState.HALF_CLOSED_LOCAL
        self._reset(stream_id, ErrorCodes.NO_ERROR if is_answered else ErrorCodes.INTERNAL_ERROR)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with suppress(ProtocolError):  # the client was faster, or has closed the connection
            self.connection.reset_stream(stream_id, code)

    async def _close_stream(self, stream_id: int) -> None:
        await super()._close_stream(stream_id)
        await self._drop_buffer(stream_id)
        inbox = self._inboxes.pop(stream_id, None)
        if inbox is not None:
            await self._acknowledge(len(inbox.take()), stream_id)

    async def _drop_buffer(self, stream_id: int) -> None:
        buffer = self.stream_buffers.pop(stream_id, None)
        if buffer is not None:
            self.priority.remove_stream(stream_id)
            await buffer.close()

    async def _send_data(self, stream_id: int) -> None:
        with suppress(KeyError):  # the stream was closed while its bytes went out
            buffer = self.stream_buffers[stream_id]
            await super()._send_data(stream_id)
            if stream_id not in self.stream_buffers:
                buffer.has_ended.set()
