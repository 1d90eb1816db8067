"""The daemon's MCP endpoint: Streamable HTTP, with the engine of this process behind the tools.

Every POST is answered by itself, so there are no sessions to keep, to bound or to lose in a restart, and nothing
that the server would say unasked: a GET is answered 405 by the router, as the specification allows. What the
gate checks (host, origin, rate, key, size) is checked before; here a key's role is asked for each tool.

An answer is JSON, or one event of a stream for a client that takes nothing else. What is no MCP message is refused
with 400; what fails inside a message is a JSON-RPC error in a 200. Source: MCP 2025-11-25, "Streamable HTTP".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import structlog
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from cerememory.actors.engine import Engine
from cerememory.errors import CerememoryError, ContentTooLarge, RateLimited, ValidationFailed, is_ours
from cerememory.http.exchange import Exchange, Response
from cerememory.mcp import engine_calls, jsonrpc
from cerememory.mcp.asked import Asked, asked
from cerememory.mcp.jsonrpc import MessageId, NotARequest, Request
from cerememory.mcp.methods import CALLING, ToolCall, no_method, own_methods
from cerememory.mcp.tools import TOOLS
from cerememory.mcp.versions import VERSIONS, WITH_BATCHES
from cerememory.protocol import codec, long
from cerememory.protocol.namespaces import DEFAULT_NAME
from cerememory.protocol.operations import BY_NAME
from cerememory.protocol.values import Timestamp

VERSION_HEADER = "MCP-Protocol-Version"
UNNAMED_VERSION = "2025-03-26"  # what a client without the header speaks, by the specification
JSON, EVENTS = "application/json", "text/event-stream"
BODY_BYTES_MAX = 8 * 1_048_576  # the longest text, escaped
MORE_IN_FLIGHT = 3  # times the body beside the gate's own: text is read twice, as wide as its widest letter
INLINE_BYTES_MAX = 32_768  # what is larger is read, or shown (which takes 2 ms), in a thread
BATCH_BYTES_MAX = 16 * 1_048_576  # of answers, before the rest of a batch is refused
_TOO_MUCH = "not done: what this batch asked before has too long answers; ask for less at once"
EXPORT = "export"
SERVED = tuple(tool for tool in TOOLS if tool.name != EXPORT)

log = structlog.get_logger(__name__)


class Pending(msgspec.Struct, frozen=True):
    """A tool call that is read: what the engine is to be asked, and under which id its answer is awaited."""

    id: MessageId
    call: ToolCall
    asked: Asked
    arguments: tuple[Any, ...]


class Allowance(Protocol):
    """What a POST may take beyond what the gate has taken for it."""

    def charge(self, exchange: Exchange) -> None:
        """Count one more request of this client, or raise `RateLimited`."""

    def reserved(self, body_bytes: int) -> AbstractContextManager[object]:
        """Room among the bytes in flight; `TooManyBytes`."""


R = TypeVar("R")
Step: TypeAlias = Pending | bytes  # bytes: what is answered already


def _system_time() -> Timestamp:
    return Timestamp(time.time_ns())


class Endpoint:
    """`answer` serves any number of clients at once; the messages of one batch, one after the other."""

    def __init__(self, engine: Engine, now: Callable[[], Timestamp] = _system_time) -> None:
        self._engine = engine
        self._now = now
        self._own = own_methods(SERVED)

    async def answer(self, exchange: Exchange, body: bytes, allowance: Allowance) -> Response:
        """The answer to one POST.

        Raises `ContentTooLarge`, `TooManyBytes`, and `ValidationFailed` for a version that isn't spoken.
        """
        if len(body) > BODY_BYTES_MAX:
            raise ContentTooLarge(f"body: {len(body)} bytes, at most {BODY_BYTES_MAX} are allowed here")
        is_batch = _version(exchange) in WITH_BATCHES and body.lstrip().startswith(b"[")
        is_large = len(body) > INLINE_BYTES_MAX
        with allowance.reserved(MORE_IN_FLIGHT * len(body)) if is_large else nullcontext():
            return await self._answered_as(exchange, body, is_batch, allowance)

    async def _answered_as(
        self, exchange: Exchange, body: bytes, is_batch: bool, allowance: Allowance
    ) -> Response:
        try:
            steps = await self._where_fit(len(body), partial(self._read, body, is_batch))
        except NotARequest as error:
            return Response(400, jsonrpc.error_message(error.message_id, error.code, str(error)))
        answers = await self._all_answered(exchange, steps, _Spent(exchange, allowance))
        if not answers:
            return Response(202, content_type=None)
        return _response(exchange, b"[" + b",".join(answers) + b"]" if is_batch else answers[0])

    async def _where_fit(self, size_bytes: int, work: Callable[[], R]) -> R:
        """`work()`, in a thread when it would hold the loop for long."""
        return work() if size_bytes <= INLINE_BYTES_MAX else await self._engine.off_loop(work)

    def _read(self, body: bytes, is_batch: bool) -> list[Step]:
        """What is to be answered, in the order of the messages. Raises `NotARequest` for what is no message."""
        if not is_batch:
            request = jsonrpc.read_message(body)
            if request is None and not body.strip():
                raise NotARequest(jsonrpc.PARSE_ERROR, "the body is empty")
            return [] if request is None else [self._step(request)]
        steps = (self._step_of(message) for message in jsonrpc.read_batch(body))
        return [step for step in steps if step is not None]

    def _step_of(self, message: bytes) -> Step | None:
        """None for what asks for no answer."""
        try:
            request = jsonrpc.read_message(message)
        except NotARequest as error:
            return jsonrpc.error_message(error.message_id, error.code, str(error))
        return None if request is None else self._step(request)

    def _step(self, request: Request) -> Step:
        try:
            if (method := self._own.get(request.method)) is not None:
                return jsonrpc.result_message(request.id, method(request))
            if (calling := CALLING.get(request.method)) is None:
                raise no_method(request)
            return self._pending(request.id, calling(request))
        except NotARequest as error:
            return jsonrpc.error_message(request.id, error.code, str(error))
        except CerememoryError as error:
            return jsonrpc.failure_message(request.id, error)

    def _pending(self, message_id: MessageId, call: ToolCall) -> Pending:
        if call.tool == EXPORT:
            raise ValidationFailed(
                "name: export isn't served here, for the daemon writes no files for its clients; "
                "use cerememory export, cerememory mcp or POST /v1/archive"
            )
        tool = asked(call.tool, call.arguments, self._now())
        return Pending(message_id, call.once_asked(), tool.once_asked(), engine_calls.typed(tool.call))

    async def _all_answered(self, exchange: Exchange, steps: list[Step], spent: _Spent) -> list[bytes]:
        """In their order. Behind a call for which nothing is left none is done: it may rest on that one."""
        answers: list[bytes] = []
        for step in steps:
            if isinstance(step, Pending) and (refusal := spent.refusal()) is not None:
                answers.append(jsonrpc.failure_message(step.id, refusal))
            else:
                answers.append(await self._answered(exchange, step))
            spent.size_bytes += len(answers[-1])
        return answers

    async def _answered(self, exchange: Exchange, step: Step) -> bytes:
        if isinstance(step, bytes):
            return step
        namespace = exchange.namespace or DEFAULT_NAME
        try:
            exchange.grant.check(BY_NAME[step.asked.call.operation].needs, step.asked.tool)
            with step.call.asking():
                reply = await self._asked(step, namespace, sees_all=exchange.grant.namespace is None)
            if long.is_long(reply):
                return await self._engine.off_loop(partial(_shown_long, step, reply, namespace))
            dumped = codec.dump(reply)
            return await self._where_fit(len(dumped), partial(_shown, step, dumped, namespace))
        except NotARequest as error:
            return jsonrpc.error_message(step.id, error.code, str(error))
        except CerememoryError as error:
            if is_ours(error):
                log.error("tool failed", tool=step.asked.tool, reason=str(error))
            return jsonrpc.failure_message(step.id, error, exchange.request_id)

    async def _asked(self, step: Pending, namespace: str, *, sees_all: bool) -> object:
        operation, arguments = step.asked.call.operation, step.arguments
        return await engine_calls.ask(self._engine, operation, arguments, namespace, sees_all=sees_all)


class _Spent:
    """What the calls of one POST have used up. Each counts as a request; the first one the gate has counted."""

    def __init__(self, exchange: Exchange, allowance: Allowance) -> None:
        self.size_bytes = 0  # of answers
        self._exchange = exchange
        self._allowance = allowance
        self._is_first = True
        self._refusal: CerememoryError | None = None

    def refusal(self) -> CerememoryError | None:
        """Why the next call isn't done; None when it may be."""
        if self._refusal is None:
            self._refusal = self._found()
        return self._refusal

    def _found(self) -> CerememoryError | None:
        if self.size_bytes > BATCH_BYTES_MAX:
            return ContentTooLarge(_TOO_MUCH)
        if self._is_first:
            self._is_first = False
            return None
        try:
            self._allowance.charge(self._exchange)
        except RateLimited as error:
            return RateLimited(f"not done: {error}", retry_after_s=error.retry_after_s or 1)
        return None


def _shown_long(step: Pending, reply: object, namespace: str) -> bytes:
    """Its bytes as base64, for as arrays each would be a value of its own."""
    return _shown(step, long.dump_with_base64(reply), namespace)


def _shown(step: Pending, dumped: bytes, namespace: str) -> bytes:
    result = step.asked.shown(msgspec.json.decode(dumped), namespace)
    return jsonrpc.result_message(step.id, step.call.answered(result))


def _version(exchange: Exchange) -> str:
    version = exchange.header(VERSION_HEADER.lower().encode())
    if version is None:
        return UNNAMED_VERSION
    if version not in VERSIONS:
        raise ValidationFailed(f"{VERSION_HEADER}: expected {' or '.join(VERSIONS)}, got {version[:32]!r}")
    return version


def _response(exchange: Exchange, message: bytes) -> Response:
    accepted = parse_accept_header(exchange.header(b"accept"), MIMEAccept)
    if accepted[JSON] or not accepted[EVENTS]:
        return Response(200, message, JSON.encode())
    return Response(200, b"event: message\ndata: " + message + b"\n\n", EVENTS.encode())
