"""Keeps the actors running, and ends them in order.

Each actor runs in a task of its own. One that crashes is loaded and run again after a pause that grows; three
restarts within a minute and it is given up: its mailbox is closed, whoever waits is told, and the daemon isn't
ready any more. `stop` closes layer after layer, from the ones that surfaces ask down to the ones that write,
and waits for each to drain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
import trio

from cerememory.actors.actor import Actor

RESTARTS_MAX = 3
RESTARTS_WINDOW_S = 60.0
PAUSE_S = 0.05

log = structlog.get_logger(__name__)


@dataclass
class _Watched:
    actor: Actor
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=RESTARTS_MAX))
    ended: trio.Event = field(default_factory=trio.Event)


class Supervisor:
    """`layers` are the actors from the outermost to the innermost; `on_restart` counts restarts by name."""

    def __init__(self, layers: Sequence[Sequence[Actor]], on_restart: Callable[[str], None]) -> None:
        self._layers = [[_Watched(actor) for actor in layer] for layer in layers]
        self._on_restart = on_restart
        self.given_up: list[str] = []

    async def start(self, nursery: trio.Nursery) -> None:
        """Load and run all, the innermost first; returns when each has loaded, or raises what a load raised."""
        for layer in reversed(self._layers):
            for watched in layer:
                await watched.actor.load()
                nursery.start_soon(self._keep_running, watched)

    async def stop(self) -> None:
        for layer in self._layers:
            for watched in layer:
                watched.actor.close_mailbox()
            for watched in layer:
                await watched.ended.wait()

    async def _keep_running(self, watched: _Watched) -> None:
        try:
            await self._run_again_and_again(watched)
        except BaseException:  # Ctrl-C, or cancelled from outside: nobody else would answer
            watched.actor.give_up()
            raise
        finally:
            watched.ended.set()  # which `stop` waits for

    async def _run_again_and_again(self, watched: _Watched) -> None:
        crashed = False
        while not watched.ended.is_set():
            try:
                if crashed:
                    await watched.actor.load()
                await watched.actor.run()
                return
            except Exception:  # noqa: BLE001 - whatever it was, the actor is loaded anew
                crashed = True
                await self._after_crash(watched)

    async def _after_crash(self, watched: _Watched) -> None:
        actor = watched.actor
        log.exception("actor crashed", actor=actor.name)
        self._on_restart(actor.name)
        if self._too_often(watched.restarts):
            log.error("actor given up", actor=actor.name, restarts=RESTARTS_MAX, window_s=RESTARTS_WINDOW_S)
            actor.give_up()
            self.given_up.append(actor.name)
            watched.ended.set()
            return
        await trio.sleep(PAUSE_S * 2 ** (len(watched.restarts) - 1))

    @staticmethod
    def _too_often(restarts: deque[float]) -> bool:
        """Record a restart now; whether it is the last of too many within the window."""
        now = trio.current_time()
        restarts.append(now)
        return len(restarts) == RESTARTS_MAX and now - restarts[0] < RESTARTS_WINDOW_S

    @property
    def actors(self) -> list[Actor]:
        return [watched.actor for layer in self._layers for watched in layer]

    def mailbox_depths(self) -> dict[str, int]:
        return {actor.name: actor.mailbox_depth for actor in self.actors}
