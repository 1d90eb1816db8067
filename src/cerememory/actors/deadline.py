"""How long an operation may ask: a deadline ends the asking, not the work."""

from __future__ import annotations

from types import TracebackType

import trio

from cerememory.errors import ActorBusy
from cerememory.protocol.deadlines import OPERATION_S


class Deadline:
    """A block that has to end within `limit_s`: `ActorBusy`, naming what was `asked`, when it doesn't.

    The time of an operation counts from `begun_at` on (on the loop's clock; None: now). One that mostly waits for
    nobody has its blocks around the waiting alone: a block costs as much as reading some memories.
    """

    __slots__ = ("_asked", "_scope")

    def __init__(self, asked: str, limit_s: float = OPERATION_S, *, begun_at: float | None = None) -> None:
        self._asked = asked
        begun_at = trio.current_time() if begun_at is None else begun_at
        self._scope = trio.CancelScope(deadline=begun_at + limit_s)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        is_caught = self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise ActorBusy(self._asked) from None
        return is_caught
