"""What an actor is: one owner of one state, reached through one bounded mailbox.

`ask` sends a frozen request and waits for its answer; `post_nowait` and `post` send an event that has none.
`run` takes messages one after the other and hands them to `handle`, whose result is the answer. A handler
that wants to answer later keeps the `Reply` and returns `LATER`.

A known error is an answer. Anything else ends `run`: the asker is woken with `InternalError`, the supervisor
reloads the actor, and the messages that wait in the mailbox are handled then.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

import trio
from structlog.contextvars import get_contextvars

from cerememory.actors.mailbox import Mailbox
from cerememory.errors import ActorBusy, ActorStopped, CerememoryError, InternalError
from cerememory.failpoints import failpoint

R = TypeVar("R")


class Request(Generic[R]):
    """A frozen message; R is the type of its answer."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Ping(Request[None]):
    """Answered by every actor when its turn comes; an actor that can't do its work fails it."""


class Later:
    """The type of `LATER`: the reply was kept, the answer comes from elsewhere."""


LATER = Later()


class Reply(Generic[R]):
    """Where one answer goes. Closing it unanswered tells the asker that its handler crashed."""

    __slots__ = ("_context", "_outcome", "_settled")

    def __init__(self) -> None:
        self._outcome: R | CerememoryError | Later = LATER
        self._settled = trio.Event()
        self._context = copy_context()

    def asked_by(self) -> dict[str, Any]:
        """What the asker's log lines carry, its request id among them."""
        return self._context.run(get_contextvars)

    def resolve(self, value: R) -> None:
        self._settle(value)

    def fail(self, error: CerememoryError) -> None:
        self._settle(error)

    def _settle(self, outcome: R | CerememoryError) -> None:
        if not self._settled.is_set():
            self._outcome = outcome
            self._settled.set()

    def close(self) -> None:
        self._settled.set()

    async def outcome(self) -> R | CerememoryError | Later:
        """The answer, once there is one; `LATER` when there will be none."""
        await self._settled.wait()
        return self._outcome


class Actor:
    """Subclasses give `handle`, and `load` when they keep something that storage has."""

    def __init__(self, name: str, mailbox_size: int = 256) -> None:
        self.name = name
        self._mailbox = Mailbox[tuple[Any, Reply[Any] | None]](mailbox_size)

    async def ask(self, request: Request[R]) -> R:
        """The answer, under the caller's deadline. A full mailbox is `ActorBusy` at once."""
        return await self.answer(request, self.send_nowait(request))

    def send_nowait(self, request: Request[R]) -> Reply[R]:
        """The first half of `ask`, for one who may have to come back for the answer: `answer` is the second."""
        reply: Reply[R] = Reply()
        self._send_nowait(request, reply)
        return reply

    async def ask_patiently(self, request: Request[R]) -> R:
        """`ask` that waits for room in the mailbox: what nobody waits for needn't be refused."""
        reply: Reply[R] = Reply()
        await self._send(request, reply)
        return await self.answer(request, reply)

    async def answer(self, request: Request[R], reply: Reply[R]) -> R:
        outcome = await reply.outcome()
        if isinstance(outcome, CerememoryError):
            raise outcome
        if isinstance(outcome, Later):
            raise InternalError(f"{self.name} crashed while it handled {type(request).__name__}")
        return outcome

    def post_nowait(self, event: object) -> None:
        """Send an event that may be refused: `ActorBusy` when the mailbox is full."""
        self._send_nowait(event, None)

    async def post(self, event: object) -> None:
        """Send an event and wait for room: back-pressure on whoever produces faster than this consumes."""
        await self._send(event, None)

    async def inform(self, event: object) -> None:
        """`post` to a follower; one that was given up learns of it from storage, at the daemon's next start.

        While there is room this takes no turn of the event loop: the writer's askers wait for it.
        """
        if self.is_idle and self.takes_note(event):
            return
        with suppress(ActorStopped):
            try:
                self.post_nowait(event)
            except ActorBusy:
                await self.post(event)

    def takes_note(self, event: object) -> bool:
        """Whether `event`, which comes while the actor waits for a message, was dealt with on the spot.

        That is for what is only noted down, beside what waits for the actor already: it needn't be woken for it.
        """
        return False

    async def _send(self, message: object, reply: Reply[Any] | None) -> None:
        try:
            await self._mailbox.send((message, reply))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise ActorStopped(self.name) from None

    def _send_nowait(self, message: object, reply: Reply[Any] | None) -> None:
        try:
            self._mailbox.send_nowait((message, reply))
        except trio.WouldBlock:
            raise ActorBusy(self.name) from None
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise ActorStopped(self.name) from None

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a message: then all that was sent has been handled."""
        return self._mailbox.is_done

    @property
    def mailbox_depth(self) -> int:
        return self._mailbox.depth

    async def load(self) -> None:
        """Read the state anew from storage; called before each `run`."""

    async def run(self) -> None:
        """Handle messages until the mailbox is closed and empty."""
        async for message, reply in self._mailbox:
            await self._handle_one(message, reply)

    async def _handle_one(self, message: Any, reply: Reply[Any] | None) -> None:
        with Answered(reply):
            failpoint(f"actor.{self.name}.received")
            try:
                outcome = await self.handle(message, reply)
            except CerememoryError as error:
                if reply is None:
                    raise
                reply.fail(error)
                return
            failpoint(f"actor.{self.name}.handled")
            if reply is not None and outcome is not LATER:
                reply.resolve(outcome)

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        """The answer to `message`, or `LATER`."""
        if isinstance(message, Ping):
            return None
        raise TypeError(f"{self.name} doesn't know {type(message).__name__}")

    def close_mailbox(self) -> None:
        """Let nothing more in; `run` ends when what is inside has been handled."""
        self._mailbox.close()

    def give_up(self) -> None:
        """Close the mailbox and answer `ActorStopped` to everybody who waits in it."""
        self._mailbox.close()
        while True:
            try:
                _message, reply = self._mailbox.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                return
            if reply is not None:
                reply.fail(ActorStopped(self.name))


class Answered:
    """Closes a reply when its handler crashes, so that the asker wakes."""

    __slots__ = ("_reply",)

    def __init__(self, reply: Reply[Any] | None) -> None:
        self._reply = reply

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._reply is not None:
            error.add_note(f"asked by {self._reply.asked_by()}")
            self._reply.close()
