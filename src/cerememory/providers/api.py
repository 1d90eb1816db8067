"""A provider's JSON API: one POST with its deadline, its retries, and its answer as a typed value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import trio
from msgspec import Struct

import cerememory
from cerememory.errors import ValidationFailed
from cerememory.protocol import codec
from cerememory.providers.contract import Cause, Failure
from cerememory.providers.transport import Body, HttpAnswer, HttpRequest, Transport

T = TypeVar("T")

REQUEST_S = 60.0  # with all tries and the pauses between them
PAUSES_S = (0.5, 1.0, 2.0)
PAYLOAD = "@payload@"  # where, in a JSON body, `Api.post_json` puts the payload
JSON = "application/json"

_CODE = re.compile(r"[A-Za-z][A-Za-z_]{0,63}", re.ASCII)


class Api:
    """`root` is the path of all requests up to their own; `headers` hold the key, and nothing shows them."""

    def __init__(self, transport: Transport, root: str, headers: Mapping[str, str]) -> None:
        self._transport = transport
        self._root = root
        self._headers = (("User-Agent", f"cerememory/{cerememory.__version__}"), *headers.items())

    async def post_json(self, path: str, body: object, answer_type: type[T], payload: bytes = b"") -> T | Failure:
        """As `post`. When there is a `payload`, the first `PAYLOAD` in `body` stands for its base64."""
        dumped = codec.dump(body)
        before, _, after = dumped.partition(PAYLOAD.encode()) if payload else (dumped, b"", b"")
        return await self.post(path, Body(before, payload, after, encoded=True), JSON, answer_type)

    async def post(self, path: str, body: Body, content_type: str, answer_type: type[T]) -> T | Failure:
        """The answer to `body`, after as many tries as it takes and a minute allows."""
        headers = (*self._headers, ("Content-Type", content_type))
        answer = await self._answer(HttpRequest(self._root + path, headers, body))
        return answer if isinstance(answer, Failure) else _read(answer, answer_type)

    async def _answer(self, request: HttpRequest) -> HttpAnswer | Failure:
        with trio.move_on_after(REQUEST_S):
            for pause_s in PAUSES_S:
                answer = await self._transport.exchange(request)
                if not _is_worth_another_try(answer):
                    return answer
                await trio.sleep(pause_s)
            return await self._transport.exchange(request)
        return Failure(Cause.TIMEOUT, f"no answer within {REQUEST_S:g} s")


def _is_worth_another_try(answer: HttpAnswer | Failure) -> bool:
    if isinstance(answer, Failure):
        return answer.cause is Cause.NETWORK
    return _is_busy(answer.status)


def _is_busy(status: int) -> bool:
    return status == 429 or status >= 500


def _read(answer: HttpAnswer, answer_type: type[T]) -> T | Failure:
    if not 200 <= answer.status < 300:
        cause = Cause.BUSY if _is_busy(answer.status) else Cause.REFUSED
        return Failure(cause, f"status {answer.status}{_code_of(answer.body)}")
    try:
        return codec.parse(answer.body, answer_type)
    except ValidationFailed:  # its words may quote the answer
        return Failure(Cause.UNREADABLE, "the answer isn't what the API says")


class _Error(Struct):
    """What a refusal says for programs: OpenAI `code` and `type`, Anthropic `type`, Gemini `status`."""

    status: str | int | None = None
    code: str | int | None = None
    type: str | None = None


class _Refusal(Struct):
    error: _Error


def _code_of(body: bytes) -> str:
    """The refusal's code, in brackets, "" without one; its message is left alone, it may quote what was sent."""
    try:
        error = codec.parse(body, _Refusal).error
    except ValidationFailed:
        return ""
    codes = [code for code in (error.status, error.code, error.type) if isinstance(code, str)]
    return next((f" ({code})" for code in codes if _CODE.fullmatch(code)), "")
