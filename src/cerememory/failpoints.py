"""Named places at which a test makes the program fail.

`failpoint("storage.commit.before_fsync")` does nothing unless a test has armed that name. A process is armed
through the environment variable `CEREMEMORY_TEST_FAILPOINTS="name=action[@n],…"` (the n-th passage, the first
by default), which `serve` refuses together with auth. Actions: `crash` raises `InjectedCrash`, `kill` ends the
process by SIGKILL.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

VARIABLE = "CEREMEMORY_TEST_FAILPOINTS"


class InjectedCrash(Exception):
    """What an armed failpoint raises: no known error, so it is handled as a bug would be."""


@dataclass
class _Armed:
    action: Callable[[str], None]
    countdown: int


_armed: dict[str, _Armed] = {}
_watching: list[Callable[[str], None]] = []


def failpoint(name: str) -> None:
    """Does what `name` is armed for, once; free of charge when nothing is armed."""
    if _armed or _watching:
        _pass(name)


def _pass(name: str) -> None:
    for seen in _watching:
        seen(name)
    armed = _armed.get(name)
    if armed is None:
        return
    armed.countdown -= 1
    if armed.countdown == 0:
        del _armed[name]
        armed.action(name)


def _crash(name: str) -> None:
    raise InjectedCrash(name)


def _kill(_name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ACTIONS: dict[str, Callable[[str], None]] = {"crash": _crash, "kill": _kill}


def arm(name: str, action: str | Callable[[str], None] = "crash", passage: int = 1) -> None:
    """Arm `name` for its `passage`-th passage from now."""
    _armed[name] = _Armed(ACTIONS[action] if isinstance(action, str) else action, passage)


def watch(seen: Callable[[str], None]) -> None:
    """Show `seen` the name of every failpoint that is passed from now; it may end the process there."""
    _watching.append(seen)


def disarm() -> None:
    """Neither armed nor watched any more."""
    _armed.clear()
    _watching.clear()


def arm_from(environ: Mapping[str, str]) -> bool:
    """Arm what the environment variable names; whether it named anything."""
    for item in filter(None, environ.get(VARIABLE, "").split(",")):
        name, _, rest = item.partition("=")
        action, _, passage = rest.partition("@")
        arm(name.strip(), action or "crash", int(passage or 1))
    return bool(_armed)
