"""A command whose output is a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.daemon import COMMAND, NO_ENV, WAIT_S, clean_environment

COLUMNS = "100"


def shown_by(*arguments: str | Path, env: Mapping[str, str] = NO_ENV) -> str:
    """What `cerememory` writes to a terminal; asserts that it succeeds."""
    ours, theirs = pty.openpty()
    told = {"TERM": "xterm-256color", "COLUMNS": COLUMNS, **env}
    process = subprocess.Popen(
        [COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=theirs, env=clean_environment(told)
    )
    os.close(theirs)
    try:
        text = _read_to_end(ours)
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return text


def _read_to_end(terminal: int) -> str:
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # Linux says so when the other end is closed
            part = b""
        if not part:
            return b"".join(parts).decode().replace("\r\n", "\n")
        parts.append(part)
