"""Whose turn it is with a data dir: commands have it one after the other, and a daemon for as long as it runs.

So a command is waited for, as it lasts a moment, also by a daemon that starts; a daemon isn't.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cerememory.errors import DataDirLocked
from cerememory.storage.datadir import DataDir, Owner, locked_by, owner_of

FREE_WITHIN_S = 10.0  # how long other commands may take with the data dir
TOLD_AFTER_S = 1.0

Tell = Callable[[str], None]


def take(path: Path, tell: Tell) -> DataDir:
    """The data dir, as soon as no command owns it; `tell` of a wait that is long.

    Raises `DataDirLocked`, at once naming a daemon, after `FREE_WITHIN_S` a command.
    """
    taken = take_unless_served(path, tell)
    if isinstance(taken, Owner):
        raise locked_by(path, taken)
    return taken


def take_unless_served(path: Path, tell: Tell) -> DataDir | Owner:
    """What `take` returns, or the daemon that owns the data dir now."""
    started, told = time.monotonic(), False
    while True:
        try:
            return DataDir.acquire(path)  # which takes a moment to give up
        except DataDirLocked:
            owner = owner_of(path)  # None: it doesn't own it any more, or hasn't said yet who it is
            if owner is not None and owner.address:
                return owner
        waited_s = time.monotonic() - started
        if waited_s >= FREE_WITHIN_S:
            who = "another process" if owner is None else f"{owner}, a command"
            raise DataDirLocked(f"{path}: in use by {who}; try again when it is done")
        if waited_s >= TOLD_AFTER_S and not told:
            tell(f"{path}: in use by another command; waiting until it is done")
            told = True
