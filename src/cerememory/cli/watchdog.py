"""Signs of life for a service manager, which ends a daemon that gives none and starts another.

They are given while the engine answers as /readiness would, so a loop that hangs gives none, and neither does an
engine of which an actor was given up: nothing but a start brings that back. A full disk, on the other hand, is as
full for the next daemon. An engine that is busy may be importing, or compacting: it has `BUSY_MAX_S`.
"""

from __future__ import annotations

import math

import structlog
import trio

from cerememory.actors.engine import BROKEN, BUSY, Engine
from cerememory.telemetry.sd_notify import Notifier

BUSY_MAX_S = 1_800.0
RETRY_S = 1.0

log = structlog.get_logger(__name__)


async def watch(engine: Engine, notifier: Notifier) -> None:
    """Say that the daemon lives, twice in each interval of the watchdog, for as long as it does."""
    if notifier.watchdog_s is None:
        return
    pause_s = notifier.watchdog_s / 2
    busy_since, told, lived = math.inf, None, True
    while True:
        reason = await engine.not_ready()
        busy_since = min(busy_since, trio.current_time()) if reason == BUSY else math.inf
        lives = reason != BROKEN and trio.current_time() - busy_since <= BUSY_MAX_S
        if lives:
            notifier.alive()
        if reason != told:
            notifier.status("ready" if reason is None else f"not ready: {reason}")
            told = reason
        if lived and not lives:
            log.error("no signs of life for the service manager until it is ready again", reason=reason)
        lived = lives
        await trio.sleep(pause_s if lives else min(RETRY_S, pause_s))
