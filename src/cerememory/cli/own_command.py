"""Where the command `cerememory` is, for files that others start it from."""

from __future__ import annotations

import sys
from pathlib import Path


def own_command() -> Path | None:
    """That of this installation, with its whole path; None when there is none beside the interpreter."""
    beside = Path(sys.executable).absolute().with_name("cerememory")
    return beside if beside.exists() else None
