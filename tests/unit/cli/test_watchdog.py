"""Signs of life: given while the engine answers, and not when only another process would help."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors.engine import BROKEN, BUSY, UNAVAILABLE, Engine
from cerememory.cli.watchdog import BUSY_MAX_S, watch
from cerememory.telemetry.sd_notify import Notifier
from tests.support.logged import Logged, quiet

INTERVAL_S = 30.0


class Scripted:
    """An engine whose readiness is what the test says."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason
        self.hangs = False

    async def not_ready(self) -> str | None:
        if self.hangs:
            await trio.sleep_forever()
        return self.reason


class Kept(Notifier):
    """When it was told of life, on the test's clock, and every status."""

    def __init__(self, watchdog_s: float | None = INTERVAL_S) -> None:
        super().__init__(None, watchdog_s)
        self.alive_at: list[float] = []
        self.told: list[str] = []

    def alive(self) -> None:
        self.alive_at.append(trio.current_time())

    def status(self, status: str) -> None:
        self.told.append(status)


@pytest.fixture(autouse=True)
def logged() -> object:
    with quiet() as kept:
        yield kept


@pytest.fixture
def engine() -> Scripted:
    return Scripted()


@pytest.fixture
async def kept(engine: Scripted) -> AsyncIterator[Kept]:
    notifier = Kept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, cast(Engine, engine), notifier)
        yield notifier
        nursery.cancel_scope.cancel()


def after(kept: Kept, moment: float) -> list[float]:
    return [at for at in kept.alive_at if at >= moment]


async def test_it_is_said_twice_in_an_interval(kept: Kept, autojump_clock: MockClock) -> None:
    await trio.sleep(INTERVAL_S * 2 + 1)
    assert kept.alive_at == [0, 15, 30, 45, 60]
    assert kept.told == [], "that it serves was said before"


async def test_a_hung_engine_gives_no_sign(engine: Scripted, kept: Kept, autojump_clock: MockClock) -> None:
    await trio.sleep(1)
    engine.hangs = True
    await trio.sleep(10 * INTERVAL_S)
    assert len(kept.alive_at) == 1


async def test_a_broken_engine_gives_none_until_it_is_whole_again(
    engine: Scripted, kept: Kept, logged: Logged, autojump_clock: MockClock
) -> None:
    await trio.sleep(1)
    engine.reason = BROKEN
    await trio.sleep(INTERVAL_S)
    assert len(kept.alive_at) == 1
    assert len(logged.events("error")) == 1
    engine.reason, mended_at = None, trio.current_time()
    await trio.sleep(2)
    assert 0 <= after(kept, mended_at)[0] - mended_at <= 1, "it looks every second meanwhile"
    assert kept.told == [f"not ready: {BROKEN}", "ready"]


async def test_a_full_disk_is_no_reason_to_end(engine: Scripted, kept: Kept, autojump_clock: MockClock) -> None:
    await trio.sleep(1)
    engine.reason, since = UNAVAILABLE, trio.current_time()
    await trio.sleep(100 * INTERVAL_S)
    assert len(after(kept, since)) == 200
    assert kept.told[-1] == f"not ready: {UNAVAILABLE}"


async def test_a_busy_engine_has_half_an_hour_each_time(
    engine: Scripted, kept: Kept, autojump_clock: MockClock
) -> None:
    for _ in range(2):
        engine.reason, since = BUSY, trio.current_time()
        await trio.sleep(BUSY_MAX_S - INTERVAL_S)
        assert after(kept, trio.current_time() - INTERVAL_S)
        engine.reason = None
        await trio.sleep(INTERVAL_S)
    engine.reason, since = BUSY, trio.current_time()
    await trio.sleep(2 * BUSY_MAX_S)
    assert max(kept.alive_at) - since <= BUSY_MAX_S + INTERVAL_S / 2


async def test_nobody_waits_without_a_watchdog(autojump_clock: MockClock, engine: Scripted) -> None:
    notifier = Kept(None)
    await watch(cast(Engine, engine), notifier)
    assert notifier.alive_at == []
