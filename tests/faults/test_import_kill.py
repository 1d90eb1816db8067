"""The daemon is killed (SIGKILL) in the middle of an import: what was there before is there, or all of the new."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest
from msgspec.structs import replace

from cerememory.domain.cma import WITH_RAW, ArchiveReader
from cerememory.failpoints import VARIABLE as FAILPOINTS
from cerememory.protocol.records import MemoryRecord, RawJournalRecord
from cerememory.protocol.values import RecordId
from tests.support.archives import BUNDLE, archive_of
from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import WAIT_S, Daemon
from tests.support.stored import stored_in

READ = list(ArchiveReader([BUNDLE]).records())
MEMORY = next(record for record in READ if isinstance(record, MemoryRecord))
ENTRY = next(record for record in READ if isinstance(record, RawJournalRecord))
MEMORIES, ENTRIES = 1_200, 300
ARCHIVE = archive_of(
    WITH_RAW,
    [replace(MEMORY, id=RecordId(i.to_bytes(16, "big"))) for i in range(MEMORIES)],
    [replace(ENTRY, id=RecordId((MEMORIES + i).to_bytes(16, "big"))) for i in range(ENTRIES)],
)


def put(address: str, archive: bytes, strategy: str) -> int | None:
    """The status of the answer; None when the daemon went away instead."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
    try:
        connection.request("PUT", f"/v1/archive?strategy={strategy}", archive)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("failpoint", "is_new"),
    [
        ("writer.series.step=kill", False),
        ("writer.series.step=kill@16", False),
        ("writer.series.committed=kill", True),
        ("http.before_answer=kill@2", True),
    ],
)
def test_a_kill_in_an_import_leaves_the_old_or_the_new(tmp_path: Path, failpoint: str, is_new: bool) -> None:
    data = tmp_path / "data"
    with Daemon(data, env=UNLIMITED) as daemon:
        assert put(daemon.address, BUNDLE, "merge") == 200
        with Caller(daemon.address) as caller:
            caller.store("there before")
    with Daemon(data, env={**UNLIMITED, FAILPOINTS: failpoint}) as daemon:
        with Caller(daemon.address) as caller:
            caller.store("the moment before")
        assert put(daemon.address, ARCHIVE, "replace") is None
        daemon.wait()
    stored = stored_in(data)
    found = (len(stored.texts), len(stored.raw_texts))
    assert found == ((MEMORIES, ENTRIES) if is_new else (8, 2))
    with Daemon(data, env=UNLIMITED) as daemon, Caller(daemon.address) as caller:
        caller.until_indexed()
        assert bool(caller.found("moment")) is not is_new
        assert put(daemon.address, ARCHIVE, "replace") == 200
    again = stored_in(data)
    assert (len(again.texts), len(again.raw_texts)) == (MEMORIES, ENTRIES)
