"""A disk that fails: what clients see while it does, and what is on disk when it works again.

The faults are made at the system calls of a real daemon, by a preloaded library (`tests.support.shim`).
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import Daemon
from tests.support.shim import META_PAGES, OPEN, SYNC, WRITE, Shim
from tests.support.stored import stored_in

DATA = "store/data.mdb"


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(("calls", "below"), [(SYNC, 0), (WRITE, 0), (WRITE, META_PAGES)])
def test_a_failed_write_of_the_store_is_refused_and_leaves_nothing(
    tmp_path: Path, shim: Shim, calls: int, below: int, error: int
) -> None:
    """The client gets 503 DECAY_ENGINE_BUSY with Retry-After for each encode while the disk fails, its records
    are still read, and readiness is 503. When the disk works, readiness turns 200 by itself and encodes are
    stored. On disk: what was acknowledged, nothing of what was refused.
    """
    with Daemon(tmp_path / "data", env={**UNLIMITED, **shim.environment()}) as daemon, Caller(daemon.address) as c:
        before = c.store("kept before the fault").json["record_id"]
        rule = shim.fail(calls, DATA, error, below=below)
        for _ in range(3):
            refused = c.store("lost")
            assert (refused.status, refused.code) == (503, "DECAY_ENGINE_BUSY")
            assert int(refused.headers["retry-after"]) > 0
            assert c.record(before).status == 200
        assert c.readiness().status == 503
        assert rule.acted >= 3
        shim.heal()
        c.until_ready()
        after = c.store("kept after the fault").json["record_id"]
        assert c.found("kept")[:2] and set(c.found("kept")) == {before, after}
        assert c.found("lost") == []
        assert daemon.stop() == 0
    stored = stored_in(tmp_path / "data")
    assert stored.record_ids == {before, after}
    assert stored.audit_lines_in_file == stored.head.audit_sequence
