"""What `ingest` and `drain` do. Each run ends with one line on stderr that counts.

A detached run talks to no daemon: it writes to the spool, starts a `drain`, and returns. The client, which takes a
while to load, is loaded by the others alone.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cerememory.cli.recorder.settings import api_key, check_server_url, tell, working_directory
from cerememory.errors import CerememoryError
from cerememory.recorder.batches import Batch
from cerememory.recorder.counts import Counts
from cerememory.recorder.ingest import Ingest, Terms
from cerememory.recorder.lines import LineReader
from cerememory.recorder.spool import Spool

if TYPE_CHECKING:
    from cerememory.recorder.delivery import Delivery

FAILED = 1
STDIN = 0
DETACHED_MAX_S = 15  # of a hook's recorder, whatever holds it up


def ingest(server_url: str, spool_dir: Path, line_bytes_max: int, terms: Terms) -> int:
    """The exit code. What waits in the spool goes first."""
    check_server_url(server_url)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what is pending is kept
    with _counted() as counts, Spool(spool_dir) as spool, _delivery(server_url, spool, counts) as delivery:
        delivery.send_spooled()
        Ingest(delivery.deliver, counts, tell, terms, working_directory()).run(LineReader(STDIN, line_bytes_max))
    return FAILED if counts.failures else 0


def ingest_detached(server_url: str, spool_dir: Path, line_bytes_max: int, terms: Terms) -> int:
    """The exit code; nothing was sent yet."""
    check_server_url(server_url)
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # so that what is pending is kept
    signal.alarm(DETACHED_MAX_S)
    with _counted() as counts, Spool(spool_dir) as spool:

        def keep(batch: Batch) -> None:
            spool.put(batch, durably=False)
            counts.spooled += len(batch.entries)

        Ingest(keep, counts, tell, terms, working_directory()).run(LineReader(STDIN, line_bytes_max))
        if counts.spooled and not spool.is_being_sent():
            _start_drain(server_url, spool_dir)
    return FAILED if counts.failures else 0


def drain(server_url: str, spool_dir: Path) -> int:
    """The exit code; what can't be sent now stays."""
    check_server_url(server_url)
    with _counted() as counts, Spool(spool_dir) as spool, _delivery(server_url, spool, counts) as delivery:
        delivery.send_spooled()
    return FAILED if counts.failures else 0


@contextmanager
def _counted() -> Iterator[Counts]:
    """The last line on stderr, whatever ends the block; an error that is known is told before, and counted."""
    counts = Counts()
    try:
        yield counts
    except CerememoryError as error:
        counts.failures += 1
        tell(f"error: {error}")
    finally:
        tell(f"cerememory-recorder: {counts}")


@contextmanager
def _delivery(server_url: str, spool: Spool, counts: Counts) -> Iterator[Delivery]:
    from cerememory.client import Client
    from cerememory.recorder.delivery import REQUEST_S, RETRY_FOR_S, Delivery

    with Client(server_url, api_key(), REQUEST_S, retry_for_s=RETRY_FOR_S) as client:
        yield Delivery(client, spool, counts, tell)


def _start_drain(server_url: str, spool_dir: Path) -> None:
    """In a session of its own, so that nothing that ends the hook ends it."""
    command = [sys.executable, "-P", "-m", "cerememory.cli.recorder.main", "drain"]
    subprocess.Popen(
        [*command, "--server-url", server_url, "--spool-dir", str(spool_dir)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    ).returncode = 0  # nobody waits for it
