"""Runs a command with one of LMDB's syncs switched off: a mistake that a test of durability has to notice.

python unsynced.py sync|metasync COMMAND ARGUMENTS...
"""

from __future__ import annotations

import runpy
import sys
from functools import partial
from typing import Any

import lmdb


def main() -> None:
    switch, command = sys.argv[1:3]
    unsynced: Any = partial(lmdb.open, **{switch: False})  # type: ignore[arg-type]
    lmdb.open = unsynced
    sys.argv = sys.argv[2:]
    runpy.run_path(command, run_name="__main__")


if __name__ == "__main__":
    main()
