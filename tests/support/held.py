"""Work off the event loop that a test holds: an `Offload` with a gate in front of the calls it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from cerememory.actors.seams import inline

HELD_S = 60.0


class HeldOffload:
    """Runs calls inline, but those of the functions named by `hold` only once `release` was called.

    A call is named by its function: `_apply` for `partial(_apply, …)`. One that was `hold`ed with `after` has
    run already while it is held: what it saw is old by the time its caller goes on. A gate that nobody opens
    opens by itself after a minute on the loop's clock, so that a test that fails ends.
    """

    def __init__(self) -> None:
        self._gates: dict[str, tuple[trio.Event, bool]] = {}
        self._held: dict[str, trio.Event] = {}

    def hold(self, name: str, *, after: bool = False) -> None:
        self._gates[name] = (trio.Event(), after)
        self._held[name] = trio.Event()

    def release(self, name: str) -> None:
        self.pass_by(name).set()

    def pass_by(self, name: str) -> trio.Event:
        """Hold no further calls; what is held already goes on once the event is set."""
        gate, _after = self._gates.pop(name)
        return gate

    async def until_held(self, name: str) -> None:
        with trio.fail_after(30):
            await self._held[name].wait()

    async def __call__(self, call: Callable[[], Any], limiter: trio.CapacityLimiter | None = None) -> Any:
        name = getattr(getattr(call, "func", call), "__name__", "")
        gate, after = self._gates.get(name, (None, False))
        if gate is not None and not after:
            await self._wait(name, gate)
        outcome = await inline(call, limiter)
        if gate is not None and after:
            await self._wait(name, gate)
        return outcome

    async def _wait(self, name: str, gate: trio.Event) -> None:
        self._held[name].set()
        with trio.move_on_after(HELD_S):
            await gate.wait()
