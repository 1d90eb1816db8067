"""`cerememory-recorder ingest --detach` as hooks write it, read without the library for command lines.

Whatever isn't usual is left to that library: `usual` says None.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cerememory.cli.options import is_whole
from cerememory.cli.recorder.runs import ingest_detached
from cerememory.cli.recorder.settings import (
    BATCH_RECORDS,
    EVENT_BYTES,
    EVENT_BYTES_MAX,
    FLUSH_MS,
    MILLI,
    spool_path,
)
from cerememory.recorder.ingest import Terms

URL, SPOOL_DIR, BYTES = "--server-url", "--spool-dir", "--max-event-bytes"


def usual(arguments: list[str]) -> Callable[[], int] | None:
    """The run, when `arguments` are the options that hooks use, each once and with a value."""
    told = dict(zip(arguments[::2], arguments[1::2], strict=False))
    event_bytes = told.get(BYTES, str(EVENT_BYTES))
    if len(told) * 2 != len(arguments) or not {URL} <= told.keys() <= {URL, SPOOL_DIR, BYTES}:
        return None
    is_odd = any(value.startswith("-") for value in told.values())
    if is_odd or not is_whole(event_bytes, EVENT_BYTES_MAX):
        return None
    spool_dir = spool_path(Path(told[SPOOL_DIR]) if SPOOL_DIR in told else None)
    return partial(ingest_detached, told[URL], spool_dir, int(event_bytes), Terms(BATCH_RECORDS, FLUSH_MS * MILLI))
