"""An actor whose requests take long: it does them one after the other, and meanwhile answers for itself.

A request becomes a job; a few may wait, more are `ActorBusy`. When the mailbox is closed, the job under way ends
at its next `check_going_on`, and whatever it waits for in `unless_stopped` is given up: nothing that takes minutes
holds up the end of the daemon.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from cerememory.actors.actor import LATER, Actor, Answered, Later, Ping, Reply, Request
from cerememory.errors import ActorBusy, ActorStopped, CerememoryError

R = TypeVar("R")

JOBS_MAX = 16


class JobActor(Actor):
    """Subclasses give `work`, and `keep_time` when something is to be done regularly."""

    def __init__(self, name: str, mailbox_size: int = 256) -> None:
        super().__init__(name, mailbox_size)
        self._jobs, self._waiting = trio.open_memory_channel[tuple[Any, Reply[Any]]](JOBS_MAX)
        self._unfinished = 0
        self._is_stopping = False
        self._scope = trio.CancelScope()

    async def work(self, message: Any) -> Any:
        """The answer to `message`."""
        raise TypeError(f"{self.name} doesn't know {type(message).__name__}")

    async def keep_time(self) -> None:
        """Runs as long as the mailbox is open."""

    @property
    def is_working(self) -> bool:
        """Whether there is a job that isn't done."""
        return self._unfinished > 0

    def check_going_on(self) -> None:
        """Raise `ActorStopped` when the actor is to end."""
        if self._is_stopping:
            raise ActorStopped(self.name)

    async def unless_stopped(self, call: Callable[[], Awaitable[R]]) -> R:
        """The answer of `call`, for which no end of the actor waits."""
        self.check_going_on()
        with trio.CancelScope() as self._scope:
            return await call()
        raise ActorStopped(self.name)

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        if isinstance(message, Ping) or reply is None:
            return await super().handle(message, reply)
        self.enqueue(message, reply)
        return LATER

    async def do(self, message: Request[R]) -> R | CerememoryError | Later:
        """A job of the actor's own: waits until there is room for it, and for whatever comes of it."""
        reply: Reply[R] = Reply()
        await self._jobs.send((message, reply))
        self._unfinished += 1
        return await reply.outcome()

    def enqueue(self, message: Any, reply: Reply[Any]) -> None:
        try:
            self._jobs.send_nowait((message, reply))
        except trio.WouldBlock:
            raise ActorBusy(self.name) from None
        self._unfinished += 1

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work)
            async with trio.open_nursery() as timers:
                timers.start_soon(self.keep_time)
                await super().run()
                timers.cancel_scope.cancel()
            self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        self._scope.cancel()
        self._jobs.close()

    async def _work(self) -> None:
        async for message, reply in self._waiting:
            with Answered(reply):
                try:
                    reply.resolve(await self.work(message))
                except CerememoryError as error:
                    reply.fail(error)
                finally:
                    self._unfinished -= 1

    def give_up(self) -> None:
        super().give_up()
        self._jobs.close()
        while True:
            try:
                _message, reply = self._waiting.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return
            reply.fail(ActorStopped(self.name))
