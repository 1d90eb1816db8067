"""No answer before its transaction is on the disk, at the level of system calls.

SIGKILL keeps the page cache, so a killed daemon proves nothing about syncs. Here strace watches the daemon, and
the trace is judged (`tests.support.traced`); a daemon whose LMDB doesn't sync must be found out by it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import unsynced
from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import Daemon
from tests.support.programs import require
from tests.support.traced import SYNCS, Call, SyncOrder, parse_trace, tracer

THREADS = 6
ENCODES = 6  # by each thread


def traced_encodes(tmp_path: Path, launcher: Sequence[str] = ()) -> list[Call]:
    """The calls of a new daemon that several clients store into at once, until it has stopped."""
    require("strace")
    trace = tmp_path / "trace"
    command = [*tracer(trace), *launcher]
    with Daemon(tmp_path / "new" / "data", env=UNLIMITED, launcher=command) as daemon:
        threads = [threading.Thread(target=store_some, args=(daemon.address, n)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert daemon.stop() == 0
    with trace.open(errors="replace") as lines:
        return list(parse_trace(lines))


def store_some(address: str, number: int) -> None:
    with Caller(address) as caller:
        for i in range(ENCODES):
            assert caller.store(f"memory {i} of thread {number}").status == 200


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    return traced_encodes(tmp_path_factory.mktemp("traced"))


def test_no_answer_is_written_before_its_transaction_is_synced(calls: list[Call]) -> None:
    """Each client saw its answer after the sync of its record's pages and the synchronous write of the meta page
    that makes them count: it is on disk whatever happens then.
    """
    order = SyncOrder(calls)
    assert len(order.answers) == THREADS * ENCODES
    assert order.violations(order.answers) == []


def test_no_audit_line_is_written_before_its_transaction_is_synced(calls: list[Call]) -> None:
    """On disk, the audit file never has an entry that the store could lack, even if the power fails."""
    order = SyncOrder(calls)
    assert {line.record_id for line in order.audit_lines} == {answer.record_id for answer in order.answers}
    assert order.violations(order.audit_lines) == []


def test_the_directories_of_a_new_store_are_synced_before_the_first_answer(calls: list[Call]) -> None:
    """On disk, the store's file has its name in a directory that has its name in one: a synced file whose name
    isn't on the disk is lost with it.
    """
    first_answer = min(answer.call.start for answer in SyncOrder(calls).answers)
    synced = {call.path for call in calls if call.name in SYNCS and call.end < first_answer}
    file = next(Path(call.path) for call in calls if call.path.endswith("/new/data/store/data.mdb"))
    assert {str(directory) for directory in file.parents[:4]} <= synced


@pytest.mark.parametrize(
    ("switch", "reason"),
    [
        ("sync", "told before its pages were synced"),
        ("metasync", "told before its meta page was written and synced"),
    ],
)
def test_a_store_that_does_not_sync_is_found_out(tmp_path: Path, switch: str, reason: str) -> None:
    """With LMDB's syncs switched off every client sees its answer all the same: each one is a violation."""
    order = SyncOrder(traced_encodes(tmp_path, [sys.executable, unsynced.__file__, switch]))
    assert order.violations(order.answers) == [f"{answer.record_id}: {reason}" for answer in order.answers]
    assert len(order.answers) == THREADS * ENCODES
