"""A process that plays scenarios (`tests.support.scenarios`), each in a child that may die at any moment.

    python -m tests.support.mutating

Reads orders from stdin and says on stdout what becomes of them, a line of JSON each; the last one of an order
tells how the child ended. All modules are imported once, in the parent: a child is there in a millisecond. A
preloaded library (`tests.support.shim`) works in the children, too.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import trio

from cerememory import failpoints
from cerememory.actors.seams import World
from cerememory.telemetry import logs
from tests.support.scenarios import BY_NAME, world_of

FAILED = 70


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Play `scenario` on `data_dir`.

    `series`: which ids and time it gets. `seed`: of the order in which trio runs tasks that are ready. `kill_at`:
    the passage of a failpoint, counted from the beginning of the mutation, at which the child is killed. `waits`:
    before the mutation the child says `ready` and goes on when it gets a line.
    """

    data_dir: str
    scenario: str
    series: int = 1
    seed: int = 0
    kill_at: int = 0
    waits: bool = False


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the child, or the parent at its end, has to say. `status` is that of `waitpid`."""

    ready: bool = False
    acknowledged: bool = False
    passed: list[str] = []
    failure: str = ""
    status: int | None = None


class _Stage:
    """`scenarios.Stage` in the child that plays `order`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.data_dir = Path(order.data_dir)
        self.world: World = world_of(order.series)
        self.passed: list[str] = []

    def begin(self) -> None:
        failpoints.watch(self._pass)
        if self._order.waits:
            _tell(Told(ready=True))
            sys.stdin.buffer.readline()

    def _pass(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) == self._order.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def acknowledge(self) -> None:
        _tell(Told(acknowledged=True))


def main() -> None:
    logs.configure("warn", "pretty")
    for line in sys.stdin.buffer:
        child = os.fork()
        if not child:
            _play(msgspec.json.decode(line, type=Order))
        _tell(Told(status=os.waitpid(child, 0)[1]))


def _play(order: Order) -> NoReturn:
    """In the child, which ends here."""
    try:
        _seed_scheduler(order.seed)
        stage = _Stage(order)
        BY_NAME[order.scenario].play(stage)
        _tell(Told(passed=stage.passed))
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the parent is told, and the test fails by it
        _tell(Told(failure=traceback.format_exc()))
        os._exit(FAILED)


def _seed_scheduler(seed: int) -> None:
    """Trio runs ready tasks in an order drawn at random; private names, the ones that hypothesis uses."""
    core: Any = trio._core._run
    core._ALLOW_DETERMINISTIC_SCHEDULING = True
    core._r.seed(seed)


def _tell(told: Told) -> None:
    """In one write, straight to the pipe: what is told is told when the process dies next."""
    os.write(sys.stdout.fileno(), msgspec.json.encode(told) + b"\n")


if __name__ == "__main__":
    main()
