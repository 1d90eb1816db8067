"""JSON-RPC 2.0 as MCP uses it: one message a line or a body, requests in, results and errors out.

`read_message` takes a line apart; what can't be a request raises `NotARequest`, with the id to answer to when
there is one. `read_batch` takes a batch apart, and `Batch` puts its answers together. What has too many values
(`values`) is refused before any is made. Source: the JSON-RPC 2.0 specification; MCP's narrowing (no null ids,
batches in one version alone).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from cerememory.errors import (
    CerememoryError,
    Conflict,
    Invalid,
    RecordNotFound,
    Refused,
    answer_of,
    is_ours,
    public_message,
)
from cerememory.mcp.values import VALUES_MAX, too_many

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
RESOURCE_NOT_FOUND = -32002  # MCP's own

BATCH_MAX = 256

_CALLERS_MAKING = (Invalid, Refused, RecordNotFound, Conflict)

MessageId: TypeAlias = int | str | None


class Request(msgspec.Struct, frozen=True):
    id: MessageId
    method: str
    params: dict[str, Any]


class _Named(msgspec.Struct):
    """Of a message, what can be said without reading the rest."""

    id: msgspec.Raw = msgspec.Raw(b"null")


class NotARequest(Exception):
    """A line that gets an error for an answer, under `message_id` (None: it has none that can be read)."""

    def __init__(self, code: int, message: str, message_id: MessageId = None) -> None:
        super().__init__(message)
        self.code = code
        self.message_id = message_id


def read_message(line: bytes) -> Request | None:
    """The request in `line`; None for what asks for no answer: notifications, answers, empty lines."""
    if not line.strip():
        return None
    message = _decoded(line)
    if not isinstance(message, dict):
        raise NotARequest(INVALID_REQUEST, "expected one message, a JSON object")
    if "method" not in message and ("result" in message or "error" in message):
        return None
    if "id" not in message and isinstance(message.get("method"), str):
        return None
    return _request(message)


def read_batch(line: bytes) -> list[bytes]:
    """The messages in a line that holds an array. Raises `NotARequest` for what is none, is empty or too long."""
    messages = _decoded(line)
    if not isinstance(messages, list) or not 0 < len(messages) <= BATCH_MAX:
        raise NotARequest(INVALID_REQUEST, f"a batch has from 1 to {BATCH_MAX} messages")
    return [msgspec.json.encode(message) for message in messages]


def is_answered(line: bytes) -> bool:
    """Whether `read_message` finds something that gets an answer, be it an error."""
    try:
        return read_message(line) is not None
    except NotARequest:
        return True


class Batch:
    """Collects the `count` answers to a batch, from any thread, and writes them as one array."""

    def __init__(self, count: int, write: Callable[[bytes], None]) -> None:
        self._missing = count
        self._write = write
        self._answers: list[bytes] = []
        self._lock = threading.Lock()

    def write(self, answer: bytes) -> None:
        with self._lock:
            self._answers.append(answer)
            self._missing -= 1
            is_whole = self._missing == 0
        if is_whole:
            self._write(b"[" + b",".join(self._answers) + b"]")


def _decoded(line: bytes) -> Any:
    if too_many(line):
        raise NotARequest(INVALID_REQUEST, f"a message may have {VALUES_MAX} values", _skimmed_id(line))
    try:
        return msgspec.json.decode(line)
    except UnicodeDecodeError:
        raise NotARequest(PARSE_ERROR, "the message is not UTF-8", _salvaged_id(line)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotARequest(PARSE_ERROR, f"the message is not JSON: {error}", _salvaged_id(line)) from None


def _skimmed_id(line: bytes) -> MessageId:
    """The id of a message that isn't to be read."""
    try:
        raw = bytes(msgspec.json.decode(line, type=_Named).id)
        return None if raw[:1] in (b"[", b"{") else _id({"id": msgspec.json.decode(raw)})
    except (ValueError, RecursionError):
        return None


def _salvaged_id(line: bytes) -> MessageId:
    """The id of a message that strict reading refused, by a reader that lets bad text pass."""
    try:
        message = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return _id(message) if isinstance(message, dict) else None


def _id(message: dict[str, Any]) -> MessageId:
    """An id that can be sent back, else None: a lenient reader takes text that can't be written as JSON."""
    found = message.get("id")
    if not isinstance(found, (int, str)) or isinstance(found, bool):
        return None
    try:
        msgspec.json.encode(found)
    except ValueError:
        return None
    return found


def _request(message: dict[str, Any]) -> Request:
    message_id, method, params = _id(message), message.get("method"), message.get("params")
    if message.get("jsonrpc") != "2.0":
        raise NotARequest(INVALID_REQUEST, 'jsonrpc: must be "2.0"', message_id)
    if message_id is None:
        raise NotARequest(INVALID_REQUEST, "id: must be a string or an integer")
    if not isinstance(method, str):
        raise NotARequest(INVALID_REQUEST, "method: must be a string", message_id)
    if params is not None and not isinstance(params, dict):
        raise NotARequest(INVALID_PARAMS, "params: must be an object", message_id)
    return Request(message_id, method, params or {})


def result_message(message_id: MessageId, result: object) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": message_id, "result": result})


def error_message(message_id: MessageId, code: int, message: str, data: object | None = None) -> bytes:
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return msgspec.json.encode({"jsonrpc": "2.0", "id": message_id, "error": error})


def failure_message(message_id: MessageId, error: CerememoryError, request_id: str | None = None) -> bytes:
    """`error` as an answer: invalid parameters when the caller made it; the CMP code is in the data.

    With the `request_id` under which the log has them, our own failures keep their words to the log.
    """
    code = INVALID_PARAMS if isinstance(error, _CALLERS_MAKING) else INTERNAL_ERROR
    message, details = str(error), error.details
    if request_id is not None and is_ours(error):
        message, details = public_message(error), {"request_id": request_id}
    data: dict[str, Any] = {"code": answer_of(error).code, "message": message}
    if error.retry_after_s is not None:
        data["retry_after"] = error.retry_after_s
    if details is not None:
        data["details"] = details
    return error_message(message_id, code, message, data)
