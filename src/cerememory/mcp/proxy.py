"""`cerememory mcp`: an MCP server on stdin and stdout that passes tool calls on to a daemon.

One thread reads and answers at once whatever needs no daemon; tool calls go to a few worker threads, so a
slow one holds up neither `ping` nor the others. Nothing here waits for the daemon before a tool is called: a
client that starts first finds its tools, and the client library rides through a daemon's restart. What is to be
stored while the daemon stays away waits in the `outbox`. So does, when the session ends, by whatever end, what was
to be stored and isn't known to be.

stdout carries protocol only; the log goes to stderr. What the methods answer stands in `methods`.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cerememory.client import Client
from cerememory.errors import CerememoryError, RateLimited, ValidationFailed
from cerememory.mcp import jsonrpc
from cerememory.mcp.interrupts import Interrupts
from cerememory.mcp.jsonrpc import NotARequest, Request
from cerememory.mcp.methods import CALLING, Method, no_method, own_methods
from cerememory.mcp.outbox import Outbox
from cerememory.mcp.session_client import SessionClient
from cerememory.mcp.state import server_name, state_home
from cerememory.mcp.stdio import LINE_BYTES_MAX, LineTooLong, Output, Waiting, read_lines
from cerememory.mcp.toolbox import Toolbox
from cerememory.mcp.tools import TOOLS
from cerememory.mcp.versions import WITH_BATCHES
from cerememory.mcp.workers import Workers
from cerememory.protocol.namespaces import DEFAULT_NAME

if TYPE_CHECKING:
    from cerememory.mcp.witness import Witness

SEND_S = 5.0  # for each store that waited for the daemon, and no more than half of a call's time
FINISH_S = 10.0  # for the calls under way when stdin ends
INTERRUPTED_S = 1.0  # for those at a signal: who sends one soon kills

Write = Callable[[bytes], None]

log = logging.getLogger(__name__)


def run(server_url: str, api_key: str | None, timeout_s: int | None, namespace: str | None) -> int:
    """Serves stdin until it ends, the reader of stdout goes, or SIGTERM or SIGINT comes; the exit code, 0.

    To be called from the main thread. `timeout_s` limits each call with its retries, None doesn't; `namespace`
    None is the daemon's default one. Raises `ValidationFailed` for a URL, key or namespace that can't be used,
    before anything is read.
    """
    with ExitStack() as stack:
        send_s = SEND_S if timeout_s is None else min(SEND_S, timeout_s / 2)
        sender = stack.enter_context(Client(server_url, api_key, send_s, retry_for_s=0, namespace=namespace))
        state = _state_home()
        outbox = None if state is None else Outbox(sender, _outbox_folder(state, sender))
        client = stack.enter_context(
            SessionClient(server_url, api_key, timeout_s, namespace=namespace, outbox=outbox)
        )
        wake = partial(signal.pthread_kill, threading.get_ident(), signal.SIGTERM)
        waiting = (interrupts := Interrupts()).waiting
        output = Output(sys.stdout.fileno(), wake, waiting)  # a flag wouldn't end the reading of stdin
        with redirect_stdout(sys.stderr), interrupts.heard():
            tools = Toolbox(client, outbox=outbox)
            look = _nothing if state is None else _LateWitness(client, state).look_if_due
            serve(sys.stdin.buffer, output, tools, after_call=look, waiting=waiting)
    return 0


def _state_home() -> Path | None:
    """None, and a warning, where there is no place for it."""
    try:
        return state_home()
    except ValidationFailed as error:
        log.warning(
            "warning: what is stored while the daemon is away isn't kept, and its audit log isn't witnessed: %s",
            error,
        )
        return None


def _outbox_folder(state: Path, client: Client) -> Path:
    """Of one namespace of one server, for that is what a client is about."""
    return state / "outbox" / server_name(client.url, client.namespace or DEFAULT_NAME)


class _LateWitness:
    """A `Witness` that is loaded once a call was answered: a client waits for its first answer, not for this."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder
        self._lock = threading.Lock()
        self._witness: Witness | None = None

    def look_if_due(self) -> None:
        with self._lock:
            if self._witness is None:
                from cerememory.mcp.witness import Witness

                self._witness = Witness(self._client, self._folder)
        self._witness.look_if_due()


def _nothing() -> None:
    """What there is to do after a call."""


def serve(
    stream: BinaryIO,
    output: Output,
    tools: Toolbox,
    finish_s: float = FINISH_S,
    line_bytes_max: int = LINE_BYTES_MAX,
    after_call: Callable[[], None] = _nothing,
    waiting: Waiting = nullcontext,
) -> None:
    """Answers every line of `stream`; at its end waits for the calls under way, up to `finish_s`.

    A KeyboardInterrupt while it is `waiting` ends it, too. Whatever was to be stored and hasn't been by then goes
    to the outbox. `after_call` is called by a worker whenever a tool call has been answered.
    """
    workers = Workers()
    proxy = Proxy(tools, output, workers, after_call)
    try:
        for line in read_lines(stream, line_bytes_max, waiting):
            proxy.handle(line)
        tools.end()
        with waiting():
            workers.finish(finish_s)
    except KeyboardInterrupt:
        tools.end()
        workers.finish(min(finish_s, INTERRUPTED_S))
    proxy.keep_unanswered()


class Proxy:
    """One MCP session."""

    def __init__(
        self, tools: Toolbox, output: Output, workers: Workers, after_call: Callable[[], None] = _nothing
    ) -> None:
        self._after_call = after_call
        self._tools = tools
        self._output = output
        self._workers = workers
        self._version: str | None = None
        self._unanswered: dict[str, Request] = {}  # the calls, by the idempotency key of each
        self._own = own_methods(TOOLS)

    def handle(self, line: bytes | LineTooLong) -> None:
        """Answers one line, now or, where the daemon is asked, from a worker."""
        if isinstance(line, LineTooLong):
            self._output.write(jsonrpc.error_message(None, jsonrpc.PARSE_ERROR, str(line)))
        elif self._version in WITH_BATCHES and line.lstrip().startswith(b"["):
            self._handle_batch(line)
        else:
            self._handle_message(line, self._output.write)

    def keep_unanswered(self) -> None:
        """Puts into the outbox what calls were to store that haven't come to an end, or not begun."""
        for key, request in self._unanswered.copy().items():
            try:
                called = CALLING[request.method](request)
                self._tools.keep(called.tool, called.arguments, key)
            except (NotARequest, ValidationFailed) as error:
                log.debug("a call that can't be meant isn't kept: %s", error)
            except CerememoryError as error:
                log.warning("warning: what was to be stored as the session ended isn't kept: %s", error)

    def _handle_message(self, line: bytes, write: Write) -> None:
        try:
            request = jsonrpc.read_message(line)
            if request is not None:
                self._start(request, write)
        except NotARequest as error:
            write(jsonrpc.error_message(error.message_id, error.code, str(error)))

    def _handle_batch(self, line: bytes) -> None:
        try:
            messages = jsonrpc.read_batch(line)
        except NotARequest as error:
            self._output.write(jsonrpc.error_message(error.message_id, error.code, str(error)))
            return
        batch = jsonrpc.Batch(sum(map(jsonrpc.is_answered, messages)), self._output.write)
        for message in messages:
            self._handle_message(message, batch.write)

    def _start(self, request: Request, write: Write) -> None:
        if request.method in CALLING:
            key = str(uuid.uuid4())
            self._unanswered[key] = request
            if not self._workers.submit_nowait(lambda: self._work(key, request, write)):
                del self._unanswered[key]
                busy = RateLimited("too many calls at once, try again")
                write(jsonrpc.failure_message(request.id, busy))
        elif request.method == "initialize":
            self._answer(request, self._initialize, write)
        elif (method := self._own.get(request.method)) is not None:
            self._answer(request, method, write)
        else:
            raise no_method(request)

    def _work(self, key: str, request: Request, write: Write) -> None:
        self._answer(request, partial(self._call, key), write)
        try:
            self._after_call()
        except Exception:  # a bug there: the call was answered
            log.exception("a bug after a tool call")

    def _answer(self, request: Request, method: Method, write: Write) -> None:
        """Writes what `method` returns or raises; every request gets its answer."""
        try:
            message = jsonrpc.result_message(request.id, method(request))
        except NotARequest as error:
            message = jsonrpc.error_message(request.id, error.code, str(error))
        except CerememoryError as error:
            message = jsonrpc.failure_message(request.id, error)
        except Exception as error:  # noqa: BLE001 - a bug: the caller is answered, the log has the trace
            from cerememory.telemetry.tracebacks import traceback_of  # here, for no session should need it

            log.error("a bug in answering %.64r\n%s", request.method, traceback_of(error))
            message = jsonrpc.error_message(request.id, jsonrpc.INTERNAL_ERROR, "an internal error occurred")
        write(message)

    def _initialize(self, request: Request) -> Any:
        answer: Any = self._own[request.method](request)
        self._version = answer["protocolVersion"]
        return answer

    def _call(self, key: str, request: Request) -> dict[str, Any]:
        try:
            called = CALLING[request.method](request)
            with called.asking():
                return called.answered(self._tools.call(called.tool, called.arguments, key))
        finally:
            del self._unanswered[key]
