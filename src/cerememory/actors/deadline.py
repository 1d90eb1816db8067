"""How long an operation may ask: a deadline ends the asking, not the work."""

from __future__ import annotations

from types import TracebackType

import trio

from cerememory.errors import ActorBusy

OPERATION_S = 30.0


class Deadline:
    """A block that has to end within `limit_s`: `ActorBusy`, naming what was `asked`, when it doesn't."""

    __slots__ = ("_asked", "_scope")

    def __init__(self, asked: str, limit_s: float = OPERATION_S) -> None:
        self._asked = asked
        self._scope = trio.CancelScope(deadline=trio.current_time() + limit_s)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        is_caught = self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise ActorBusy(self._asked) from None
        return is_caught
