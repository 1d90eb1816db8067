"""What waits for one actor: a bounded memory channel that knows whether its actor is done with all that was sent.

trio's own statistics would tell that, too, in ten times as long, and it is asked several times in each recall.
"""

from __future__ import annotations

from typing import Generic, Self, TypeVar

import trio

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Anybody sends, one task receives. Raises what trio's memory channels raise."""

    def __init__(self, size_max: int) -> None:
        self._outside, self._inside = trio.open_memory_channel[T](size_max)
        self._sent = 0  # what is still being sent included
        self._taken = 0
        self._is_waited_at = False

    @property
    def is_done(self) -> bool:
        """Whether somebody waits here, who has handled all that was sent."""
        return self._is_waited_at and self._taken == self._sent

    @property
    def depth(self) -> int:
        """How many messages wait."""
        return self._outside.statistics().current_buffer_used

    async def send(self, message: T) -> None:
        """Waits for room."""
        self._sent += 1
        try:
            await self._outside.send(message)
        except BaseException:
            self._sent -= 1
            raise

    def send_nowait(self, message: T) -> None:
        self._outside.send_nowait(message)
        self._sent += 1

    async def receive(self) -> T:
        self._is_waited_at = True
        try:
            message = await self._inside.receive()
        finally:
            self._is_waited_at = False
        self._taken += 1
        return message

    def receive_nowait(self) -> T:
        message = self._inside.receive_nowait()
        self._taken += 1
        return message

    def close(self) -> None:
        """Let nothing more in; what is inside can still be received."""
        self._outside.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
