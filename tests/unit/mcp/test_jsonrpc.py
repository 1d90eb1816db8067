"""Lines to requests, results and errors to lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cerememory import errors
from cerememory.client import DaemonUnreachable
from cerememory.mcp import jsonrpc
from cerememory.mcp.jsonrpc import NotARequest, Request, failure_message, read_batch, read_message
from cerememory.mcp.values import VALUES_MAX


def line(**message: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}).encode()


@pytest.mark.parametrize("message_id", [0, -7, "", "a"])
def test_a_request_has_an_id_a_method_and_parameters(message_id: int | str) -> None:
    read = read_message(line(id=message_id, method="ping", params={"a": 1}))
    assert read == Request(message_id, "ping", {"a": 1})


@pytest.mark.parametrize("message", [line(id=1, method="ping"), line(id=1, method="ping", params=None)])
def test_parameters_may_be_missing(message: bytes) -> None:
    assert read_message(message + b"\r\n") == Request(1, "ping", {})


@pytest.mark.parametrize(
    "message",
    [
        line(method="notifications/initialized"),
        line(method="notifications/cancelled", params={"requestId": 1}),
        line(id=1, result={}),
        line(id=1, error={"code": -1, "message": "no"}),
        b"\n",
        b"",
    ],
)
def test_what_asks_for_no_answer_is_no_request(message: bytes) -> None:
    assert read_message(message) is None


@pytest.mark.parametrize(
    ("message", "code", "message_id"),
    [
        (b"{nope", jsonrpc.PARSE_ERROR, None),
        (b'{"id": 7, "method": "ping"', jsonrpc.PARSE_ERROR, None),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "p\xff"}', jsonrpc.PARSE_ERROR, 7),
        (b'{"method": "ping", "params": {"id": "no", "x": "\xe4"}, "id": "s"}', jsonrpc.PARSE_ERROR, "s"),
        (b'{"id": 7, "method": "ping", "params": {"x": "\\ud800"}}', jsonrpc.PARSE_ERROR, 7),
        (b'{"id": "\\ud800", "method": "\xff"}', jsonrpc.PARSE_ERROR, None),  # found by fuzzing
        (b'{"id": [7], "method": "\xff"}', jsonrpc.PARSE_ERROR, None),
        (b"\xff\xfe\n", jsonrpc.PARSE_ERROR, None),
        (b'"\xff"', jsonrpc.PARSE_ERROR, None),
        (b"[" * 100_000, jsonrpc.PARSE_ERROR, None),
        (b"[]", jsonrpc.INVALID_REQUEST, None),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', jsonrpc.INVALID_REQUEST, None),
        (b"1", jsonrpc.INVALID_REQUEST, None),
        (b"{}", jsonrpc.INVALID_REQUEST, None),
        (b'{"id": 7, "method": "ping"}', jsonrpc.INVALID_REQUEST, 7),
        (line(id=7), jsonrpc.INVALID_REQUEST, 7),
        (line(id=7, method=1), jsonrpc.INVALID_REQUEST, 7),
        (line(id=None, method="ping"), jsonrpc.INVALID_REQUEST, None),
        (line(id=True, method="ping"), jsonrpc.INVALID_REQUEST, None),
        (line(id=1.5, method="ping"), jsonrpc.INVALID_REQUEST, None),
        (line(id=7, method="ping", params=[1]), jsonrpc.INVALID_PARAMS, 7),
    ],
)
def test_what_cant_be_a_request_is_refused_under_its_id(
    message: bytes, code: int, message_id: int | str | None
) -> None:
    with pytest.raises(NotARequest) as caught:
        read_message(message)
    assert (caught.value.code, caught.value.message_id) == (code, message_id)
    assert jsonrpc.error_message(message_id, code, str(caught.value))


MANY = b"[" + b"[]," * VALUES_MAX + b"0]"


@pytest.mark.parametrize(
    ("message", "message_id"),
    [
        (b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"x": ' + MANY + b"}}", 7),
        (b'{"params": ' + MANY + b', "method": "\xff", "id": "s"}', "s"),
        (b'{"id": ' + MANY + b"}", None),
        (b'{"id": "\\ud800", "x": ' + MANY + b"}", None),
        (b'{"id": 7, "x": ' + MANY, None),
        (MANY, None),
    ],
)
def test_a_message_of_too_many_values_is_refused_unread(message: bytes, message_id: int | str | None) -> None:
    for read in (read_message, read_batch):
        with pytest.raises(NotARequest, match=f"may have {VALUES_MAX} values") as caught:
            read(message)
        assert (caught.value.code, caught.value.message_id) == (jsonrpc.INVALID_REQUEST, message_id)


def test_a_text_may_be_of_nothing_but_commas() -> None:
    text = ",[{" * VALUES_MAX
    read = read_message(line(id=1, method="tools/call", params={"text": text}))
    assert read is not None
    assert read.params == {"text": text}


def error_in(message: bytes) -> Any:
    decoded = json.loads(message)
    assert (decoded["jsonrpc"], decoded["id"]) == ("2.0", 1)
    return decoded["error"]


@pytest.mark.parametrize(
    ("error", "code", "cmp_code"),
    [
        (errors.ValidationFailed("m"), -32602, "VALIDATION_ERROR"),
        (errors.ContentTooLarge("m"), -32602, "CONTENT_TOO_LARGE"),
        (errors.RecordNotFound("m"), -32602, "RECORD_NOT_FOUND"),
        (errors.ForgetUnconfirmed("m"), -32602, "FORGET_UNCONFIRMED"),
        (errors.IdempotencyConflict("m"), -32602, "IMPORT_CONFLICT"),
        (errors.Unauthorized("m"), -32603, "UNAUTHORIZED"),
        (errors.InternalError("m"), -32603, "INTERNAL_ERROR"),
        (errors.ExportFailed("m"), -32603, "EXPORT_FAILED"),
    ],
)
def test_an_error_says_whose_making_it_is_and_keeps_its_cmp_code(
    error: errors.CerememoryError, code: int, cmp_code: str
) -> None:
    answered = error_in(failure_message(1, error))
    assert answered == {"code": code, "message": "m", "data": {"code": cmp_code, "message": "m"}}


def test_an_error_that_passes_says_when() -> None:
    answered = error_in(failure_message(1, errors.RateLimited("slow down", retry_after_s=7)))
    assert answered["code"] == -32603
    assert answered["data"] == {"code": "RATE_LIMITED", "message": "slow down", "retry_after": 7}


def test_a_daemon_that_is_away_is_named() -> None:
    gone = DaemonUnreachable("http://127.0.0.1:8420 can't be reached", was_sent=False)
    answered = error_in(failure_message(1, gone))
    assert answered["code"] == -32603
    assert "127.0.0.1:8420" in answered["data"]["message"]


def test_details_are_passed_on() -> None:
    error = errors.PreconditionFailed("m", details={"version": 3})
    assert error_in(failure_message(1, error))["data"]["details"] == {"version": 3}
