"""A memory that answers what a test tells it to, in the place of whichever `connect` would find.

Fault model: it answers each operation with one fixed answer, or raises a given error; it checks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest

from cerememory.cli import consolidate, dream, encode, load, recall, stats, timeline
from cerememory.errors import CerememoryError
from cerememory.protocol import codec


class FakeMemory:
    """`calls` has the operation, its body as JSON, and its path's parts, of each call."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.error: CerememoryError | None = None
        self.calls: list[tuple[str, Any, dict[str, str]]] = []

    def call(
        self, operation_name: str, body: object | None = None, *, path_params: Mapping[str, str] | None = None
    ) -> Any:
        sent = None if body is None else msgspec.json.decode(codec.dump(body))
        self.calls.append((operation_name, sent, dict(path_params or {})))
        if self.error is not None:
            raise self.error
        return self.answers.get(operation_name)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> FakeMemory:
    memory = FakeMemory()
    for module in (consolidate, dream, encode, load, recall, stats, timeline):
        monkeypatch.setattr(module, "connect", lambda options, **_: nullcontext(memory))
    return memory
