"""What a life takes from the world, all of it from its seed: the order of tasks, time, ids, and the power."""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors.actor import Actor
from cerememory.actors.mailbox import Mailbox
from cerememory.actors.seams import World
from cerememory.protocol.values import NANOS, RecordId
from tests.support.engine import NOW

R = TypeVar("R")

TURNS = (0, 0, 0, 1, 1, 2, 6)  # how often a task lets others go first
SLOW_S = (0.002, 0.02, 0.3, 3.0, 40.0)  # what work off the loop may take; the last is over every deadline
SLOWNESS = 0.03
MILLIS = 1_000_000
_UUID_7, _VARIANT = 0x7 << 76, 0b10 << 62


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """trio's scheduler draws from `seed`, through the hook that trio has for hypothesis. It has no public one."""
    run: Any = importlib.import_module("trio._core._run")
    numbers = getattr(run, "_r", None)
    if not isinstance(numbers, random.Random) or not hasattr(run, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        raise RuntimeError(f"trio {trio.__version__} schedules by other means: find its hook for hypothesis anew")
    state, allowed = numbers.getstate(), run._ALLOW_DETERMINISTIC_SCHEDULING
    numbers.seed(seed)
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        numbers.setstate(state)
        run._ALLOW_DETERMINISTIC_SCHEDULING = allowed


class Hanging(Exception):
    """Whoever waits has waited for too long."""


def jumping_clock(limit_s: float) -> MockClock:
    """Jumps to the next deadline when everybody waits; without one, or after `limit_s`, it raises `Hanging`."""
    clock: Any = MockClock(autojump_threshold=0)
    jump = clock._autojump

    def jump_or_raise() -> None:
        if (
            trio.current_time() > limit_s
            or trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf
        ):
            raise Hanging(f"at {trio.current_time()}, where a life lasts {limit_s} s at most")
        jump()

    clock._autojump = jump_or_raise
    return clock  # type: ignore[no-any-return]


class Power:
    """Of one run of the machine. It goes at one of the points that tasks pass, or never."""

    def __init__(self, points: float = math.inf) -> None:
        self.is_on = True
        self.passed = 0
        self._points = points
        self._at_cut: list[Callable[[], None]] = []

    def at_cut(self, call: Callable[[], None]) -> None:
        self._at_cut.append(call)

    def point(self) -> bool:
        """Whether there is power behind this point."""
        self.passed += 1
        if self.is_on and self.passed >= self._points:
            self.is_on = False
            for call in self._at_cut:
                call()
        return self.is_on


class SimulatedWorld:
    """Wall time goes with the loop's clock, but for what it was set by; each look takes a microsecond."""

    def __init__(self, rng: random.Random, power: Power) -> None:
        self._rng = rng
        self._power = power
        self._looks = 0
        self.set_by_s = 0
        self.may_be_slow = False

    def start(self, power: Power) -> None:
        """A new run of the machine."""
        self._power = power
        self.may_be_slow = False

    def now(self) -> int:
        self._looks += 1
        return NOW + round((trio.current_time() + self.set_by_s) * NANOS) + 1_000 * self._looks

    def new_id(self) -> RecordId:
        """A UUIDv7 (RFC 9562, section 5.7)."""
        bits = self._rng.getrandbits(74)
        value = self.now() // MILLIS << 80 | _UUID_7 | bits >> 62 << 64 | _VARIANT | bits & (1 << 62) - 1
        return RecordId(value.to_bytes(16, "big"))

    async def pause(self) -> None:
        """Let others go first for some turns, each of which may be the last."""
        for _ in range(self._rng.choice(TURNS)):
            if self._power.point():
                await trio.lowlevel.checkpoint()

    async def offload(self, call: Callable[[], R], limiter: trio.CapacityLimiter | None = None) -> R:
        """Inline, between two pauses; as in a thread, a call that has begun is waited for."""
        await trio.lowlevel.checkpoint()
        if limiter is None:
            return await self._worked(call)
        async with limiter:
            return await self._worked(call)

    async def _worked(self, call: Callable[[], R]) -> R:
        with trio.CancelScope(shield=True):
            await self.pause()
            if self.may_be_slow and self._power.is_on and self._rng.random() < SLOWNESS:
                await trio.sleep(self._rng.choice(SLOW_S))
        try:
            return call()
        finally:
            with trio.CancelScope(shield=True):
                await self.pause()

    def world(self) -> World:
        return World(now=self.now, new_id=self.new_id, offload=self.offload)

    @contextmanager
    def pauses_before_messages(self) -> Iterator[None]:
        """Each actor that is made within pauses before it takes the next message."""
        make = Actor.__init__

        def make_pausing(actor: Actor, name: str, mailbox_size: int = 256) -> None:
            make(actor, name, mailbox_size)
            actor._mailbox = _PausingMailbox(mailbox_size, self.pause)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Actor, "__init__", make_pausing)
            yield


class _PausingMailbox(Mailbox[Any]):
    def __init__(self, size_max: int, pause: Callable[[], Awaitable[None]]) -> None:
        super().__init__(size_max)
        self._pause = pause

    async def receive(self) -> Any:
        await self._pause()
        return await super().receive()
