"""`cerememory-recorder ingest` and `drain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from cerememory.cli.arguments import WholeNumber
from cerememory.cli.recorder import runs
from cerememory.cli.recorder.settings import (
    BATCH_RECORDS,
    EVENT_BYTES,
    EVENT_BYTES_MAX,
    FLUSH_MS,
    FLUSH_MS_MAX,
    MILLI,
    SERVER_URL,
    spool_path,
)
from cerememory.protocol.requests import BATCH_RECORDS_MAX
from cerememory.recorder.ingest import Terms

EventBytes: TypeAlias = Annotated[WholeNumber, Parameter(validator=Number(gte=1, lte=EVENT_BYTES_MAX))]
Records: TypeAlias = Annotated[WholeNumber, Parameter(validator=Number(gte=1, lte=BATCH_RECORDS_MAX))]
FlushMs: TypeAlias = Annotated[WholeNumber, Parameter(validator=Number(gte=1, lte=FLUSH_MS_MAX))]


def ingest(
    *,
    server_url: str = SERVER_URL,
    spool_dir: Path | None = None,
    max_event_bytes: EventBytes = EVENT_BYTES,
    batch_max_records: Records = BATCH_RECORDS,
    flush_interval_ms: FlushMs = FLUSH_MS,
    detach: bool = False,
) -> int:
    """Record the Capture Events on stdin, one JSON object a line.

    Exit code 1 when a line or a batch was refused.

    Args:
        server_url: The daemon; its key comes from CEREMEMORY_SERVER_API_KEY.
        spool_dir: Where events wait (CEREMEMORY_RECORDER_SPOOL_DIR, else ~/.cerememory/recorder/spool).
        max_event_bytes: Longer lines are refused.
        batch_max_records: So many events are sent at once.
        flush_interval_ms: How long an event waits for others to be sent with.
        detach: Write to the spool alone, have another process send it, and return.
    """
    terms = Terms(batch_max_records, flush_interval_ms * MILLI)
    run = runs.ingest_detached if detach else runs.ingest
    return run(server_url, spool_path(spool_dir), max_event_bytes, terms)


def drain(*, server_url: str = SERVER_URL, spool_dir: Path | None = None) -> int:
    """Send what waits in the spool.

    Args:
        server_url: The daemon; its key comes from CEREMEMORY_SERVER_API_KEY.
        spool_dir: Where events wait (CEREMEMORY_RECORDER_SPOOL_DIR, else ~/.cerememory/recorder/spool).
    """
    return runs.drain(server_url, spool_path(spool_dir))
