"""`cerememory-recorder` as a process of its own, with a spool that a test gives it."""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cerememory.recorder.spool import LOCK
from tests.support.daemon import COMMAND, NO_ENV, WAIT_S, clean_environment

RECORDER = COMMAND.with_name("cerememory-recorder")
EVENT = {"session_id": "s", "event_type": "user_message"}


def event(content: Any, **fields: Any) -> str:
    """A line of ingest's input."""
    return json.dumps({**EVENT, "content": content, **fields}) + "\n"


def environment(spool: Path, env: Mapping[str, str] = NO_ENV) -> dict[str, str]:
    return clean_environment({"CEREMEMORY_RECORDER_SPOOL_DIR": str(spool), **env})


def recorder(
    *arguments: str | Path, spool: Path, stdin: str = "", env: Mapping[str, str] = NO_ENV, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command run to its end."""
    return subprocess.run(
        [RECORDER, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(spool, env),
        timeout=WAIT_S,
        check=False,
        cwd=cwd,
    )


def counted(ran: subprocess.CompletedProcess[str]) -> str:
    """What the last line on stderr counts."""
    name, _space, counts = ran.stderr.splitlines()[-1].partition(" ")
    assert name == "cerememory-recorder:"
    return counts


def kept(spool: Path) -> list[str]:
    """The names of all that is in the spool but its lock."""
    return sorted(path.name for path in spool.iterdir() if path.name != LOCK)


def wait_for_sender(spool: Path) -> None:
    """Returns once no process sends what is there."""
    with (spool / LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def batches(spool: Path) -> list[Path]:
    """What waits, the oldest first."""
    return sorted(spool.glob("batch-*.jsonl"))
