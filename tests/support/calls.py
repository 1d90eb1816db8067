"""Plain HTTP calls to a daemon, without retries: what a test sent is what the daemon got, once.

A `Caller` keeps one connection and is for one thread. `ask` answers whatever came; a connection that broke
before the answer was whole raises `NoAnswer`: the daemon may have done what was asked, or not.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

WAIT_S = 30.0  # how long a test waits for an event that must come
UNLIMITED = {"CEREMEMORY_RATE_LIMIT__REQUESTS_PER_SECOND": "0"}  # for daemons that are asked under load
NO_HEADERS: Mapping[str, str] = {}


class NoAnswer(Exception):
    """The connection ended before an answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names in lower case; `json` is None for an empty body."""

    status: int
    headers: dict[str, str]
    json: Any

    @property
    def code(self) -> str:
        """The CMP code of an error."""
        return str(self.json["code"])


class Caller:
    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: object | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        return self.send(method, path, data, {**kind, **headers})

    def send(self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            self._connection.request(method, path, data, dict(headers))
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise NoAnswer(str(error)) from error
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, json.loads(content) if content else None)

    def store(self, text: str, *, key: str | None = None, **given: Any) -> Answer:
        return self.ask("POST", "/v1/encode", store_body(text, **given), _idempotent(key))

    def store_batch(self, texts: list[str], *, key: str | None = None) -> Answer:
        body = {"records": [store_body(text) for text in texts]}
        return self.ask("POST", "/v1/encode/batch", body, _idempotent(key))

    def store_raw(self, text: str) -> Answer:
        return self.ask("POST", "/v1/encode/raw", {"session_id": "s-1", **store_body(text)})

    def record(self, record_id: str) -> Answer:
        return self.ask("GET", f"/v1/introspect/record/{record_id}")

    def recall(self, text: str) -> Answer:
        body = {"cue": {"text": text}, "recall_mode": "perfect", "reconsolidate": False}
        return self.ask("POST", "/v1/recall/query", body)

    def recall_raw(self, text: str) -> Answer:
        return self.ask("POST", "/v1/recall/raw", {"query": text})

    def found(self, text: str) -> list[str]:
        """The ids that a recall finds, best first."""
        self.until_indexed()
        return [memory["record"]["id"] for memory in self.recall(text).json["memories"]]

    def stats(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("GET", "/v1/introspect/stats").json
        return answer

    def readiness(self) -> Answer:
        return self.ask("GET", "/readiness")

    def until(self, seen: Callable[[Self], bool]) -> None:
        """Look until `seen` says so, each time after an answer of the daemon."""
        deadline = time.monotonic() + WAIT_S
        while not seen(self):
            assert time.monotonic() < deadline, "the daemon never got there"
            self.ask("GET", "/health")

    def until_ready(self) -> None:
        self.until(lambda caller: caller.readiness().status == 200)

    def until_not_ready(self) -> None:
        self.until(lambda caller: caller.readiness().status == 503)

    def until_indexed(self) -> None:
        """Until searches see all that is committed."""
        self.until(lambda c: bool(c.recall("anything").json["query_metadata"]["index_complete"]))


def store_body(text: str, **given: Any) -> dict[str, Any]:
    return {"content": {"blocks": [{"modality": "text", "format": "plain", "text": text}]}, **given}


def _idempotent(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}
