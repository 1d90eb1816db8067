"""Log rotation by reopening: where stdout and stderr go to files, those are opened anew once they were renamed.

The daemon logs to stderr alone. Whoever sends that into a file (launchd, a shell, `StandardError=append:`) rotates
it by giving it another name, and sends SIGHUP: what is logged from then on goes into a file of the old name.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

PATH_BYTES_MAX = 1_024  # what F_GETPATH fills


class LogFiles:
    """The files that the given descriptors are open on, by the names that they have now."""

    def __init__(self, descriptors: Iterable[int] = (1, 2)) -> None:
        self._paths = {fd: path for fd in descriptors if (path := _path_of(fd)) is not None}

    def reopen(self) -> None:
        """Write on into the files that have the names now; one that isn't there is made. Raises `OSError`."""
        for fd, path in self._paths.items():
            if not _is_open_on(fd, path):
                _open_anew(fd, path)


def _path_of(fd: int) -> Path | None:
    """The name of the regular file that `fd` is open on; None for all else."""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        path = Path(_name_of(fd))
    except OSError:  # closed, or the system doesn't say
        return None
    return path if _is_open_on(fd, path) else None


def _name_of(fd: int) -> str:
    if sys.platform == "darwin":
        found: bytes = fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(PATH_BYTES_MAX))
        return os.fsdecode(found.rstrip(b"\0"))
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def _is_open_on(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _open_anew(fd: int, path: Path) -> None:
    """With the mode that the file had under the name before."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        os.dup2(opened, fd)
    finally:
        os.close(opened)
