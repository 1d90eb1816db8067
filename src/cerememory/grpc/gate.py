"""The gate of the gRPC service: the ASGI application that does what concerns every call.

It is the HTTP gate's counterpart, and asks the same `Admission`: request id, metrics, rate limit, key and what it
allows on the head alone, then the messages within their limits, and the caller's deadline. Neither the host's name
nor a browser's origin is looked at: no page can send gRPC, which takes HTTP/2 and a content type of its own.

A call's error is its status, in trailers: `errors.ANSWERS` says which one it is.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Iterable

import msgspec
import structlog
import trio

from cerememory.config.settings import Settings
from cerememory.errors import (
    CerememoryError,
    DeadlinePassed,
    InternalError,
    NoRoute,
    answer_of,
    is_ours,
    public_message,
)
from cerememory.grpc.framing import (
    ENCODINGS,
    IDENTITY,
    STATUS_NUMBERS,
    Messages,
    OffLoop,
    status_message,
    timeout_s,
)
from cerememory.grpc.rpc import Answer, Method, Rpc
from cerememory.http.admission import Admission
from cerememory.http.bodies import Body, ClientGone
from cerememory.http.exchange import JSON, Exchange, Headers, Receive, Scope, Send
from cerememory.http.rules import check_head
from cerememory.protocol.replies import error_body
from cerememory.telemetry.metrics import Metrics

CONTENT_TYPES = ("application/grpc", "application/grpc+proto")
ENVELOPE_BYTES_MAX = 4_096  # clients bound the trailers they take
OK = "OK"

log = structlog.get_logger(__name__)


class GrpcGate:
    """`off_loop` runs what would hold up the event loop."""

    def __init__(
        self,
        settings: Settings,
        methods: Iterable[Method],
        admission: Admission,
        metrics: Metrics,
        off_loop: OffLoop,
    ) -> None:
        self._methods = {f"/{method.name}": method for method in methods}
        self._admission = admission
        self._metrics = metrics
        self._off_loop = off_loop
        self._read_timeout_s = float(settings.http.read_timeout_secs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        exchange = Exchange.of(scope)
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        answer = Answer(send, _head(exchange), self._read_timeout_s)
        try:
            if refusal := _refusal(exchange):
                await answer.refuse(*refusal)
                return
            status = await self._answer(exchange, scope, Body(receive, None, self._read_timeout_s), answer)
        except ClientGone:
            log.debug("client gone", path=exchange.path)
            return
        self._note(exchange, status, time.perf_counter() - started)

    async def _answer(self, exchange: Exchange, scope: Scope, body: Body, answer: Answer) -> str:
        """The name of the status that the call ended with."""
        try:
            trailers = await self._within_deadline(exchange, scope, body, answer)
        except CerememoryError as error:
            if is_ours(error):
                log.error("call failed", path=exchange.path, reason=str(error))
            return await _fail(exchange, error, answer)
        except ClientGone:
            raise
        except Exception:
            log.exception("call crashed", path=exchange.path)
            return await _fail(exchange, InternalError("unexpected"), answer)
        await answer.end([_status(OK), *trailers])
        return OK

    async def _within_deadline(self, exchange: Exchange, scope: Scope, body: Body, answer: Answer) -> Headers:
        """It ends the asking, not the work."""
        limit_s = timeout_s(exchange.header(b"grpc-timeout"))
        with trio.CancelScope(deadline=math.inf if limit_s is None else trio.current_time() + limit_s):
            return await self._checked(exchange, scope, body, answer)
        raise DeadlinePassed("grpc-timeout: the deadline has passed; what was begun may be done all the same")

    async def _checked(self, exchange: Exchange, scope: Scope, body: Body, answer: Answer) -> Headers:
        check_head(exchange, scope["headers"])
        method = None if exchange.query else self._methods.get(exchange.path)
        if method is None or method.needs is not None:
            self._admission.admit(exchange, None if method is None else method.check)
        if method is None:
            raise NoRoute(f"{exchange.path[:256]}: no such method")
        exchange.route = method.name
        exchange.headers[b"content-type"] = JSON  # that of what the messages carry
        encoding = exchange.header(b"grpc-encoding") or IDENTITY
        with self._admission.inflight.reserved(0) as room:
            messages = Messages(body, room, encoding, self._off_loop)
            return await method.handler(Rpc(exchange, method, messages, answer))

    def _note(self, exchange: Exchange, status: str, elapsed_s: float) -> None:
        labels = (exchange.route, status)
        self._metrics.grpc_requests.labels(*labels).inc()
        self._metrics.grpc_duration.labels(*labels).observe(elapsed_s)
        log.debug("call", method=exchange.route, status=status, duration_ms=round(1e3 * elapsed_s, 3))


def _head(exchange: Exchange) -> Headers:
    return [(b"x-request-id", exchange.request_id.encode()), (b"grpc-accept-encoding", ENCODINGS.encode())]


def _refusal(exchange: Exchange) -> tuple[int, Headers] | None:
    """The HTTP status for what is no gRPC, with its headers."""
    if exchange.method != "POST":
        return 405, [(b"allow", b"POST")]
    kind = (exchange.header(b"content-type") or "").partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        return 415, []
    return None if exchange.headers.get(b"te") == b"trailers" else (400, [])


async def _fail(exchange: Exchange, error: CerememoryError, answer: Answer) -> str:
    row = answer_of(error)
    trailers = [
        _status(row.grpc_status),
        (b"grpc-message", status_message(public_message(error))),
        (b"x-cerememory-code", row.code.encode()),
        (b"x-request-id", exchange.request_id.encode()),
    ]
    if error.retry_after_s is not None:
        trailers.append((b"retry-after", b"%d" % error.retry_after_s))
    await answer.end(trailers + _envelope(error, exchange.request_id))
    return row.grpc_status


def _status(name: str) -> tuple[bytes, bytes]:
    return b"grpc-status", b"%d" % STATUS_NUMBERS[name]


def _envelope(error: CerememoryError, request_id: str) -> Headers:
    """The error as HTTP would have it in a body: the only place for its details."""
    dumped = msgspec.json.encode(error_body(error, request_id))
    if len(dumped) > ENVELOPE_BYTES_MAX:
        return []
    return [(b"x-cerememory-error-bin", base64.b64encode(dumped))]
