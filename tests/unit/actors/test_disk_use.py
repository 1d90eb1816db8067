"""The use of the disk: what was stored is counted under what it is, piece by piece, over and over."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors import disk_use
from cerememory.actors.disk_use import REST_MIN_S, DiskUse
from cerememory.actors.seams import World, inline
from cerememory.errors import StorageUnavailable
from cerememory.storage.keys import Table, key, system_key
from cerememory.telemetry.metrics import Metrics
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage

ROWS = {
    key(0, Table.CONTENT, b"1"): 1_000,
    key(7, Table.CONTENT, b"2"): 2_000,
    key(0, Table.RAW, b"1"): 500,
    key(0, Table.HISTORY, b"1"): 70,
    key(0, Table.EDGES, b"1"): 20,
    key(0, Table.EDGES_BY_TARGET, b"1"): 0,
    system_key(Table.LOG, b"1"): 300,
}


class Measured:
    def __init__(self, folder: Path, rows: dict[bytes, int]) -> None:
        self.storage = MemoryStorage()
        self.storage.commit({row_key: bytes(size) for row_key, size in rows.items()})
        self.metrics = Metrics([])
        self.index, self.audit = folder / "index", folder / "audit.jsonl"
        self.index.mkdir()
        world = World(offload=inline)
        self.use = DiskUse(self.storage, world, self.metrics, self.index, self.audit)

    def bytes_of(self, names: Iterable[str]) -> dict[str, float | None]:
        value = self.metrics.registry.get_sample_value
        return {name: value("cerememory_stored_bytes", {"table": name}) for name in names}


@pytest.mark.parametrize("at_once", [1, 3, 2_000])
async def test_rows_count_under_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, at_once: int
) -> None:
    monkeypatch.setattr(disk_use, "ROWS_AT_ONCE", at_once)
    measured = Measured(tmp_path, ROWS)
    (measured.index / "curated").mkdir()
    (measured.index / "curated" / "segment").write_bytes(bytes(400))
    (measured.index / "meta.json").write_bytes(bytes(44))
    measured.audit.write_bytes(bytes(30))
    measured.audit.with_name("audit.jsonl.000000000001-000000000002").write_bytes(bytes(25))
    assert measured.use.last is None
    await measured.use.measure()
    expected = {
        "content": 3_000 + 2 * 6,
        "raw": 500 + 6,
        "history": 70 + 6,
        "edges": 20 + 2 * 6,
        "vectors": 0,
        "other": 300 + 6,
        "index": 444,
        "audit": 55,
    }
    assert measured.bytes_of(expected) == expected
    assert measured.use.last is not None
    assert {name: measured.use.last.by_table[name] for name in expected} == expected


async def test_what_is_deleted_counts_no_more_at_the_next_measurement(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    measured = Measured(tmp_path, ROWS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(measured.use.keep_measuring)
        await trio.sleep(1)
        measured.storage.commit(dict.fromkeys(ROWS))
        assert measured.bytes_of(["raw", "audit"]) == {"raw": 506, "audit": 0}
        await trio.sleep(REST_MIN_S + 1)
        assert measured.bytes_of(["raw"]) == {"raw": 0}
        nursery.cancel_scope.cancel()


async def test_a_store_that_cannot_be_read_is_measured_the_next_time(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    measured = Measured(tmp_path, ROWS)

    def refused(start: bytes, count: int) -> list[tuple[bytes, int]]:
        raise StorageUnavailable("a test")

    async with trio.open_nursery() as nursery:
        with monkeypatch.context() as patched:
            patched.setattr(measured.storage, "row_sizes", refused)
            nursery.start_soon(measured.use.keep_measuring)
            await trio.sleep(1)
        assert logged.events("warning") == ["disk use not measured"]
        assert measured.bytes_of(["raw"]) == {"raw": None}
        await trio.sleep(REST_MIN_S + 1)
        assert measured.bytes_of(["raw"]) == {"raw": 506}
        nursery.cancel_scope.cancel()
