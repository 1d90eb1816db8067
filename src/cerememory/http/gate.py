"""The gate: the ASGI application in front, which does in one pass what concerns every request.

From the outside in: request id, metrics, host and origin, rate limit, key and what it allows (on the head alone),
then the body within its limits. The hot routes are answered here; everything else goes to Quart, with the body
read. Whatever goes wrong, a client gets the error envelope, and an unexpected error is logged with its request id.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
import trio
from prometheus_client import Counter, Histogram

from cerememory.config.settings import Settings
from cerememory.errors import CerememoryError, InternalError, is_ours
from cerememory.failpoints import failpoint
from cerememory.http.admission import Admission
from cerememory.http.archives import ARCHIVE_PATH, IMPORT_ROUTE
from cerememory.http.bodies import (
    WHOLE_BODY,
    Body,
    ClientGone,
    Parts,
    announced_bytes,
    check_size,
    is_told_twice,
    send_response,
)
from cerememory.http.exchange import (
    UNKNOWN_ROUTE,
    Exchange,
    Message,
    Receive,
    Response,
    Scope,
    Send,
    error_response,
    no_content,
)
from cerememory.http.front import BODY, EXCHANGE, build
from cerememory.http.routes import Call, Handler, Route, Routes
from cerememory.http.rules import MCP_PATH, OPEN_ROUTES, Origins, check_head
from cerememory.storage.api_keys import KeyFile
from cerememory.telemetry import logs
from cerememory.telemetry.metrics import Metrics

HOT_PATHS = ("/health", "/v1/encode", "/v1/recall/query", MCP_PATH, ARCHIVE_PATH)  # Quart would gather archives
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "other"  # one label for whatever clients invent

log = structlog.get_logger(__name__)


class Gate:
    """`admission` is for other services, too. Raises `DataDirUnusable` when the data dir's keys can't be read."""

    def __init__(
        self,
        settings: Settings,
        routes: Routes,
        metrics: Metrics,
        local_token: str | None = None,
        stored_keys: KeyFile | None = None,
    ) -> None:
        self._origins = Origins(settings)
        self.admission = routes.admission = Admission(settings, metrics, local_token, stored_keys)
        self._read_timeout_s = float(settings.http.read_timeout_secs)
        self._metrics = metrics
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}  # of each kind of answer
        self._hot: dict[tuple[str, str], Handler] = {
            (route.method, route.path): route.handler for route in routes.table if route.path in HOT_PATHS
        }
        self._routes = {(route.method, route.path): route for route in routes.table}
        self._paths = {route.path for route in routes.table}
        self._open_paths = {path.partition("{")[0]: path for path in self._paths if path.endswith("}")}
        self._front = build(routes.table, _answer_error)

    def reload(self, settings: Settings) -> None:
        """Take over what may change while the daemon runs: the rate limit, and the keys of `auth.api_keys`."""
        self.admission.change(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        exchange = Exchange.of(scope)
        exchange.route = self._template(exchange.path)
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        body = Body(receive, announced_bytes(exchange), self._read_timeout_s, scope.get(WHOLE_BODY))
        try:
            response = await self._response(exchange, scope, body)
            response.headers += [(b"x-request-id", exchange.request_id.encode())]
            response.headers += self._origins.headers(exchange)
            response.close = response.close or is_told_twice(exchange)
            failpoint("http.before_answer")
            await _send(response, send, body)
        except ClientGone:
            log.debug("client gone", method=exchange.method, path=exchange.path)
            return
        self._note(exchange, response.status, time.perf_counter() - started)

    def _template(self, path: str) -> str:
        """The route that `path` belongs to, whatever its method, for the metrics of refused requests too."""
        if path in self._paths:
            return path
        return self._open_path(path) or UNKNOWN_ROUTE

    def _open_path(self, path: str) -> str | None:
        """The one with a part that varies that `path` may belong to."""
        parent, slash, name = path.rpartition("/")
        return self._open_paths.get(parent + slash) if name else None

    def _route(self, exchange: Exchange) -> Route | None:
        """Who will most likely answer; Quart may find another for an odd path, which then asks again."""
        method, path = exchange.method, exchange.path
        return self._routes.get((method, path)) or self._routes.get((method, self._open_path(path) or path))

    async def _response(self, exchange: Exchange, scope: Scope, body: Body) -> Response:
        try:
            return await self._checked(exchange, scope, body)
        except CerememoryError as error:
            return _answer_error(exchange, error)
        except (ClientGone, trio.Cancelled):
            raise
        except Exception:
            log.exception("request crashed", path=exchange.path)
            return error_response(InternalError("unexpected"), exchange.request_id)

    async def _checked(self, exchange: Exchange, scope: Scope, body: Body) -> Response:
        check_head(exchange, scope["headers"])
        if exchange.path in OPEN_ROUTES:  # whose body nobody reads: anybody may send one
            return await self._dispatch(exchange, scope, b"")
        self._origins.check(exchange)
        if self._origins.is_preflight(exchange):
            return no_content(self._origins.preflight_headers(exchange))
        route = self._route(exchange)
        self.admission.admit(exchange, None if route is None else route.check)
        if (exchange.method, exchange.path) == IMPORT_ROUTE:
            return await self._hot[IMPORT_ROUTE](Call(exchange, b"", parts=Parts(body)))
        check_size(body.announced_bytes)
        with self.admission.inflight.reserved(body.announced_bytes or 0) as room:
            content = await body.read(room)
            return await self._dispatch(exchange, scope, content)

    async def _dispatch(self, exchange: Exchange, scope: Scope, content: bytes) -> Response:
        handler = self._hot.get((exchange.method, exchange.path))
        if handler is not None:
            return await handler(Call(exchange, content))
        return await self._through_quart(exchange, scope, content)

    async def _through_quart(self, exchange: Exchange, scope: Scope, content: bytes) -> Response:
        """Ask Quart, and take its answer as a value."""
        answer = _Collected()
        state = {**scope.get("state", {}), EXCHANGE: exchange, BODY: content}
        asked = {**scope, "path": exchange.path, "state": state}
        await self._front(asked, _NoBody().receive, answer.send)  # type: ignore[arg-type]
        return answer.response()

    def _note(self, exchange: Exchange, status: int, elapsed_s: float) -> None:
        method = exchange.method if exchange.method in METHODS else OTHER_METHOD
        self._counted((method, exchange.route, status), elapsed_s)
        if logs.says_debug():
            log.debug(
                "request",
                method=exchange.method,
                path=exchange.route,
                status=status,
                duration_ms=round(1e3 * elapsed_s, 3),
            )

    def _counted(self, kind: tuple[str, str, int], elapsed_s: float) -> None:
        """Method, route and status are few, and finding their series takes as long as counting in them."""
        series = self._series.get(kind)
        if series is None:
            method, route, status = kind
            labels = method, route, str(status)
            metrics = self._metrics
            series = metrics.http_requests.labels(*labels), metrics.http_duration.labels(*labels)
            self._series[kind] = series
        requests, duration = series
        requests.inc()
        duration.observe(elapsed_s)


def _answer_error(exchange: Exchange, error: CerememoryError) -> Response:
    if is_ours(error):
        log.error("request failed", path=exchange.path, reason=str(error))
    return error_response(error, exchange.request_id)


async def _send(response: Response, send: Send, body: Body) -> None:
    """What breaks off a stream is the end of its connection: the client sees that bytes are missing."""
    if response.stream is None:
        await send_response(response, send, body)
        return
    async with response.stream.owned:
        try:
            await send_response(response, send, body)
        except CerememoryError as error:
            log.error("answer broken off", reason=str(error))
            raise ClientGone from error


class _NoBody:
    """An ASGI `receive` for a request whose body the gate has read: empty, and then nothing more comes."""

    def __init__(self) -> None:
        self._asked = False

    async def receive(self) -> Message:
        if self._asked:
            await trio.sleep_forever()
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}


class _Collected:
    """An ASGI `send` that keeps the answer."""

    def __init__(self) -> None:
        self._start: Message = {}
        self._body: list[bytes] = []

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        else:
            self._body.append(message.get("body", b""))

    def response(self) -> Response:
        made = {b"content-length", b"content-type"}
        headers = [(name, value) for name, value in self._start["headers"] if name.lower() not in made]
        kinds = [value for name, value in self._start["headers"] if name.lower() == b"content-type"]
        content_type = kinds[0] if kinds else None
        return Response(self._start["status"], b"".join(self._body), content_type, headers)
