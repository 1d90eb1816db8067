"""One request to an API: when it is tried again, how long it may take, and what its failures tell."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from cerememory.providers.api import PAYLOAD, REQUEST_S, Api
from cerememory.providers.contract import Cause, Failure
from cerememory.providers.transport import HttpAnswer
from tests.support.scripted import ScriptedTransport, answered

SECRET = "sk-Secret"
BROKEN = Failure(Cause.NETWORK, "the connection broke")


class Said(msgspec.Struct):
    text: str


OK = answered(200, {"text": "hello", "unknown": 1})


def api_on(transport: ScriptedTransport) -> Api:
    return Api(transport, "/root", {"Authorization": f"Bearer {SECRET}"})


async def ask(transport: ScriptedTransport) -> Said | Failure:
    return await api_on(transport).post_json("/path", {"ask": "it"}, Said)


async def failure_of(*answers: HttpAnswer | Failure) -> Failure:
    outcome = await ask(ScriptedTransport(*answers))
    assert isinstance(outcome, Failure)
    return outcome


async def test_an_answer_is_read_as_its_type() -> None:
    transport = ScriptedTransport(OK)
    assert await ask(transport) == Said("hello")
    [request] = transport.requests
    assert request.target == "/root/path"
    assert dict(request.headers)["Authorization"] == f"Bearer {SECRET}"
    assert dict(request.headers)["Content-Type"] == "application/json"
    assert b"".join(request.body.pieces()) == b'{"ask":"it"}'


@pytest.mark.parametrize("failed", [answered(429), answered(500), answered(503), answered(529), BROKEN], ids=str)
async def test_what_may_pass_is_tried_again(failed: HttpAnswer | Failure, autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(failed, failed, failed, OK)
    assert await ask(transport) == Said("hello")
    assert transport.pauses == [0.5, 1.0, 2.0]
    assert len(set(map(id, transport.requests))) == 1


async def test_after_three_more_tries_it_is_over(autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(BROKEN, answered(429), BROKEN, answered(503), OK)
    assert await ask(transport) == Failure(Cause.BUSY, "status 503")
    assert len(transport.requests) == 4
    assert await failure_of(*[BROKEN] * 4) == BROKEN


LASTING = (
    *[answered(status) for status in (301, 400, 401, 403, 404, 413, 422)],
    *[Failure(cause, "no") for cause in (Cause.TOO_LARGE, Cause.UNTRUSTED, Cause.REFUSED)],
)


@pytest.mark.parametrize("failed", LASTING, ids=str)
async def test_what_doesnt_pass_is_not_tried_again(failed: HttpAnswer | Failure) -> None:
    transport = ScriptedTransport(failed, OK)
    outcome = await ask(transport)
    assert isinstance(outcome, Failure)
    assert not outcome.is_passing
    assert len(transport.requests) == 1


async def test_all_tries_together_have_a_minute(autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(*[BROKEN] * 4, takes_s=25.0)
    started = trio.current_time()
    assert await ask(transport) == Failure(Cause.TIMEOUT, "no answer within 60 s")
    assert trio.current_time() - started == pytest.approx(REQUEST_S)
    assert len(transport.requests) == 3


async def test_a_slow_answer_has_a_minute(autojump_clock: MockClock) -> None:
    assert await ask(ScriptedTransport(OK, takes_s=59.0)) == Said("hello")
    assert await ask(ScriptedTransport(OK, takes_s=61.0)) == Failure(Cause.TIMEOUT, "no answer within 60 s")


async def test_the_callers_deadline_ends_it(autojump_clock: MockClock) -> None:
    with trio.move_on_after(2.0) as scope:
        await ask(ScriptedTransport(OK, takes_s=30.0))
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (
            {"error": {"message": "no", "type": "invalid_request_error", "code": "model_not_found"}},
            "model_not_found",
        ),
        ({"error": {"message": "no", "type": "insufficient_quota", "code": None}}, "insufficient_quota"),
        ({"type": "error", "error": {"type": "not_found_error", "message": "no"}}, "not_found_error"),
        ({"error": {"code": 404, "message": "no", "status": "NOT_FOUND"}}, "NOT_FOUND"),
    ],
    ids=["openai code", "openai type", "claude", "gemini"],
)
async def test_a_refusal_tells_its_code(said: Any, code: str) -> None:
    assert await failure_of(answered(404, said)) == Failure(Cause.REFUSED, f"status 404 ({code})")


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"message": f"bad key {SECRET}", "code": SECRET, "type": f"{SECRET} bad"}},
        {"error": f"bad key {SECRET}"},
        {"detail": [{"input": SECRET}]},
        [SECRET],
        SECRET.encode(),
        b"\xff" + SECRET.encode(),
        b"[" * 100_000,
        b"",
    ],
    ids=repr,
)
@pytest.mark.parametrize("status", [200, 401])
async def test_a_failure_shows_neither_key_nor_what_was_sent(said: Any, status: int) -> None:
    failure = await failure_of(answered(status, said))
    wanted = {
        200: Failure(Cause.UNREADABLE, "the answer isn't what the API says"),
        401: Failure(Cause.REFUSED, "status 401"),
    }
    assert failure == wanted[status]


@pytest.mark.parametrize("said", [{}, {"text": 1}, {"text": None}, [], "text", None, b"", b"<html>", b'{"text": '])
async def test_an_answer_of_another_shape_is_unreadable(said: Any) -> None:
    transport = ScriptedTransport(answered(200, said), OK)
    outcome = await ask(transport)
    assert isinstance(outcome, Failure)
    assert outcome.cause is Cause.UNREADABLE
    assert len(transport.requests) == 1


async def test_requests_dont_show_the_key_or_the_body() -> None:
    transport = ScriptedTransport(OK)
    await ask(transport)
    assert SECRET not in repr(transport.requests)
    assert "ask" not in repr(transport.requests)


async def test_a_payload_stands_as_base64_where_it_is_named() -> None:
    transport = ScriptedTransport(OK)
    await api_on(transport).post_json("/path", {"a": f"x,{PAYLOAD}", "b": PAYLOAD}, Said, b"\x00\xff\x10")
    [request] = transport.requests
    body = b"".join(request.body.pieces())
    assert msgspec.json.decode(body) == {"a": "x,AP8Q", "b": PAYLOAD}
    assert request.body.size_bytes == len(body)


async def test_without_a_payload_its_name_is_a_text_as_any_other() -> None:
    transport = ScriptedTransport(OK)
    await api_on(transport).post_json("/path", {"a": PAYLOAD}, Said)
    assert msgspec.json.decode(b"".join(transport.requests[0].body.pieces())) == {"a": PAYLOAD}
