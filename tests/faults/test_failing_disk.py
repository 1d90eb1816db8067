"""A disk that fails: what clients see while it does, and what is on disk when it works again.

The faults are made at the system calls of a real daemon, by a preloaded library (`tests.support.shim`).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import Daemon, DaemonFailed
from tests.support.shim import ALWAYS, META_PAGES, OPEN, RENAME, STATFS, SYNC, TRUNCATE, WRITE, Shim
from tests.support.stored import stored_in

DATA = "store/data.mdb"
AUDIT = "audit.jsonl"


def daemon_under(shim: Shim, tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "data", env={**UNLIMITED, **shim.environment()})


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("calls", "below", "error"),
    [
        pytest.param(SYNC, 0, errno.EIO, id="sync-EIO"),
        pytest.param(SYNC, 0, errno.ENOSPC, id="sync-ENOSPC"),
        pytest.param(WRITE, 0, errno.EIO, id="pages-EIO"),
        pytest.param(WRITE, 0, errno.ENOSPC, id="pages-ENOSPC"),
        pytest.param(WRITE, META_PAGES, errno.EIO, id="meta-EIO"),
    ],
)
def test_a_failed_write_of_the_store_is_refused_and_leaves_nothing(
    tmp_path: Path, shim: Shim, calls: int, below: int, error: int
) -> None:
    """The client gets 503 DECAY_ENGINE_BUSY with Retry-After for each encode while the disk fails, its records
    are still read, and readiness is 503. When the disk works, readiness turns 200 by itself and encodes are
    stored. On disk: what was acknowledged, nothing of what was refused.
    """
    with daemon_under(shim, tmp_path) as daemon, Caller(daemon.address) as caller:
        before = caller.store("kept before the fault").json["record_id"]
        rule = shim.fail(calls, DATA, error, below=below)
        for _ in range(3):
            refused = caller.store("lost")
            assert (refused.status, refused.code) == (503, "DECAY_ENGINE_BUSY")
            assert int(refused.headers["retry-after"]) > 0
            assert caller.record(before).status == 200
        assert caller.readiness().json == {"status": "not_ready", "reason": "storage unavailable"}
        assert rule.acted >= 3
        shim.heal()
        caller.until_ready()
        after = caller.store("kept after the fault").json["record_id"]
        assert set(caller.found("kept")) == {before, after}
        assert caller.found("lost") == []
        assert daemon.stop() == 0
    stored = stored_in(tmp_path / "data")
    assert stored.record_ids == {before, after}
    assert stored.audit_lines_in_file == stored.head.audit_sequence


def test_a_store_that_cannot_be_opened_again_is_opened_when_it_can(tmp_path: Path, shim: Shim) -> None:
    """LMDB must be opened again after its meta page couldn't be written, and that fails, too: encodes and reads
    get 503 until the disk works, then all answer again, without a restart. On disk: what was acknowledged.
    """
    with daemon_under(shim, tmp_path) as daemon, Caller(daemon.address) as caller:
        before = caller.store("kept").json["record_id"]
        shim.fail(WRITE, DATA, errno.EIO, below=META_PAGES)
        opening = shim.fail(OPEN, "/store", errno.EIO)
        assert caller.store("lost").status == 503
        unread = caller.record(before)
        assert (unread.status, unread.code) == (503, "DECAY_ENGINE_BUSY")
        assert caller.readiness().status == 503
        assert opening.acted >= 1
        shim.heal()
        caller.until_ready()
        assert caller.record(before).status == 200
        after = caller.store("kept").json["record_id"]
        assert daemon.stop() == 0
    assert stored_in(tmp_path / "data").record_ids == {before, after}


def test_a_disk_that_cannot_say_how_full_it_is_counts_as_failing(tmp_path: Path, shim: Shim) -> None:
    """The client gets 503 until the disk answers again. On disk: what was acknowledged."""
    with daemon_under(shim, tmp_path) as daemon, Caller(daemon.address) as caller:
        shim.fail(STATFS, "data/store", errno.EIO)
        caller.until(lambda c: c.store("early").status == 503)
        assert caller.readiness().status == 503
        shim.heal()
        caller.until_ready()
        assert caller.store("late").status == 200
        assert daemon.stop() == 0
    assert "late" in stored_in(tmp_path / "data").texts.values()


def test_a_daemon_stops_on_a_disk_where_nothing_works(tmp_path: Path, shim: Shim) -> None:
    """Whoever stops it gets exit code 0: nothing that was acknowledged is lost. On disk: exactly that, and the
    next start completes file and index.
    """
    with daemon_under(shim, tmp_path) as daemon, Caller(daemon.address) as caller:
        kept = caller.store("kept").json["record_id"]
        rule = shim.fail(WRITE | SYNC | TRUNCATE | OPEN, "/data/", errno.EIO)
        assert caller.store("lost").status == 503
        assert daemon.stop() == 0
        assert "crashed" not in daemon.log()
        assert rule.acted >= 4
    shim.heal()
    with daemon_under(shim, tmp_path) as daemon, Caller(daemon.address) as caller:
        assert caller.found("kept") == [kept]
        assert daemon.stop() == 0
    stored = stored_in(tmp_path / "data")
    assert stored.record_ids == {kept}
    assert stored.audit_lines_in_file == stored.head.audit_sequence == 1


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("calls", "error"),
    [
        pytest.param(WRITE, errno.ENOSPC, id="write-ENOSPC"),
        pytest.param(SYNC, errno.EIO, id="sync-EIO"),
        pytest.param(WRITE | TRUNCATE, errno.EIO, id="write+truncate-EIO"),
    ],
)
def test_encodes_go_on_while_the_audit_file_cannot_be_written(
    tmp_path: Path, shim: Shim, calls: int, error: int
) -> None:
    """The client's encodes are acknowledged, since the store has their audit lines; readiness is 503. When the
    disk works the file is completed by itself. On disk: every entry, once, in file and store.
    """
    with daemon_under(shim, tmp_path) as daemon, Caller(daemon.address) as caller:
        caller.store("before")
        rule = shim.fail(calls, AUDIT, error)
        assert caller.store("during").status == 200
        caller.until_not_ready()
        assert caller.readiness().json["reason"] == "storage unavailable"
        assert caller.store("during").status == 200
        assert rule.acted >= 1
        shim.heal()
        caller.until_ready()
        assert caller.store("after").status == 200
        assert daemon.stop() == 0
    stored = stored_in(tmp_path / "data")
    assert len(stored.record_ids) == stored.head.audit_sequence == stored.audit_lines_in_file == 4
    assert stored.head.audit_synced == 4


def test_audit_lines_whose_sync_failed_are_written_again(tmp_path: Path, shim: Shim) -> None:
    """The client sees its encode acknowledged and, for a moment, readiness 503. After a failed sync the system
    takes its pages for written: a second sync of the same bytes would succeed and bring nothing to the disk.
    So the lines are taken off the file and written once more. On disk: every entry, once.
    """
    with daemon_under(shim, tmp_path) as daemon, Caller(daemon.address) as caller:
        writes = shim.fail(WRITE, AUDIT, 0, first=ALWAYS)  # counts, and never acts
        syncs = shim.fail(SYNC, AUDIT, errno.EIO, times=1)
        caller.store("synced late")
        caller.until(lambda _caller: syncs.acted == 1)
        caller.until(lambda _caller: syncs.matched >= 2 and writes.matched >= 2)
        caller.until_ready()
        assert daemon.stop() == 0
    stored = stored_in(tmp_path / "data")
    assert stored.audit_lines_in_file == stored.head.audit_synced == 1


def test_half_a_line_left_by_a_full_disk_is_completed(tmp_path: Path, shim: Shim) -> None:
    """The client's encode is acknowledged. The disk takes half of the line, then refuses the rest and the
    truncation, and the daemon is killed. On disk: half a line, which the next start completes.
    """
    log = tmp_path / "data" / AUDIT
    with daemon_under(shim, tmp_path) as daemon, Caller(daemon.address) as caller:
        shim.tear(AUDIT)
        rule = shim.fail(WRITE | TRUNCATE, AUDIT, errno.ENOSPC)
        caller.store("torn")
        caller.until(lambda _caller: rule.acted >= 2)
        daemon.kill()
        assert log.read_bytes() and not log.read_bytes().endswith(b"\n")
        shim.heal()
        daemon.start()
        assert daemon.stop() == 0
    assert stored_in(tmp_path / "data").audit_lines_in_file == 1


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("calls", "error"),
    [
        pytest.param(WRITE, errno.ENOSPC, id="write-ENOSPC"),
        pytest.param(SYNC, errno.EIO, id="sync-EIO"),
        pytest.param(OPEN, errno.EIO, id="open-EIO"),
    ],
)
def test_a_failing_index_delays_only_what_is_found(tmp_path: Path, shim: Shim, calls: int, error: int) -> None:
    """The client's encodes are acknowledged and read by id; recalls answer what the index has and say that it
    isn't complete. When the disk works, everything is found, without a restart. On disk: every record.
    """
    with daemon_under(shim, tmp_path) as daemon, Caller(daemon.address) as caller:
        before = caller.store("kept").json["record_id"]
        assert caller.found("kept") == [before]
        rule = shim.fail(calls, "data/index/", error)
        during = caller.store("kept").json["record_id"]
        assert caller.record(during).status == 200
        recalled = caller.recall("kept")
        assert (recalled.status, recalled.json["query_metadata"]["index_complete"]) == (200, False)
        assert rule.acted >= 1
        assert caller.readiness().status == 200
        shim.heal()
        caller.until_indexed()
        assert set(caller.found("kept")) == {before, during}
        assert daemon.stop() == 0
    assert stored_in(tmp_path / "data").record_ids == {before, during}


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("calls", "path", "error"),
    [
        pytest.param(TRUNCATE, "data/lock", errno.EIO, id="lock"),
        pytest.param(WRITE, "data/format.", errno.ENOSPC, id="format-write"),
        pytest.param(RENAME, "data/format.", errno.EIO, id="format-rename"),
        pytest.param(SYNC, "data/store", errno.EIO, id="store-directory"),
        pytest.param(WRITE, "store/compacting/data.mdb", errno.ENOSPC, id="store"),  # where a new one is made
        pytest.param(OPEN, AUDIT, errno.ENOSPC, id="audit-file"),
    ],
)
def test_a_first_start_on_a_failing_disk_can_be_repeated(
    tmp_path: Path, shim: Shim, calls: int, path: str, error: int
) -> None:
    """Whoever starts the daemon reads one line with the file and the reason, and the exit code is 1. On disk:
    nothing that keeps the next start from going on.
    """
    rule = shim.fail(calls, path, error)
    with pytest.raises(DaemonFailed, match="exit code 1\n") as failed:
        daemon_under(shim, tmp_path)
    [line] = str(failed.value).splitlines()[1:]
    assert line.startswith(f"error: {tmp_path / 'data'}")
    assert line.endswith(os.strerror(error))
    assert rule.acted >= 1
    shim.heal()
    with daemon_under(shim, tmp_path) as daemon, Caller(daemon.address) as caller:
        assert caller.store("kept").status == 200
        assert daemon.stop() == 0
    assert len(stored_in(tmp_path / "data").record_ids) == 1
