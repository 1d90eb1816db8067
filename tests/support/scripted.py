"""A provider's transport without a network: answers in turn, on the test's clock."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
import trio

from cerememory.providers.contract import Failure
from cerememory.providers.transport import HttpAnswer, HttpRequest


class ScriptedTransport:
    """Gives its answers in turn, each after `takes_s`; notes what was asked, and when."""

    def __init__(self, *answers: HttpAnswer | Failure, takes_s: float = 0.0) -> None:
        self._answers = deque(answers)
        self._takes_s = takes_s
        self.requests: list[HttpRequest] = []
        self.asked_at: list[float] = []

    async def exchange(self, request: HttpRequest) -> HttpAnswer | Failure:
        self.requests.append(request)
        self.asked_at.append(trio.current_time())
        await trio.sleep(self._takes_s)
        return self._answers.popleft()

    @property
    def pauses(self) -> list[float]:
        return [round(b - a, 6) for a, b in zip(self.asked_at, self.asked_at[1:], strict=False)]


def answered(status: int, said: Any = b"") -> HttpAnswer:
    return HttpAnswer(status, said if isinstance(said, bytes) else msgspec.json.encode(said))
