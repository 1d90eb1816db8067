"""What takes how much of the disk: measured once in a while, piece by piece, so that nobody who asks has to scan.

Rows are counted by what they hold, as they lie in the store; the text index and the audit log by their files. The
daemon alone keeps measuring: it starts with it, and rests `REST` times as long as it took, at least `REST_MIN_S`.
Sizes are of all namespaces together, so whoever is shown one of them alone isn't shown these.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

from cerememory.actors.seams import World
from cerememory.errors import CerememoryError
from cerememory.storage.audit_closed import size_of_log
from cerememory.storage.contract import Storage
from cerememory.storage.keys import NAMESPACE_BYTES, Table
from cerememory.telemetry.metrics import Metrics

ROWS_AT_ONCE = 2_000
PAUSE_S = 0.05  # between two pieces: others have the disk and the interpreter
REST, REST_MIN_S = 20, 600.0
OTHER = "other"  # lists, counters, the log of changes, kept answers, keys
NAMED = {
    Table.CONTENT.value: "content",
    Table.STATE.value: "states",
    Table.HISTORY.value: "history",
    Table.ARCHIVED.value: "archived",
    Table.VECTORS.value: "vectors",
    Table.EDGES.value: "edges",
    Table.EDGES_BY_TARGET.value: "edges",
    Table.RAW.value: "raw",
    Table.UNDO.value: "undo",
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes by what takes them, as they were found in a measurement that ended at `measured_at` (nanoseconds)."""

    by_table: dict[str, int]
    measured_at: int


class DiskUse:
    """`index_path` None: the text index is in memory. `audit_path` may not be there. `last` is None at first."""

    def __init__(
        self, storage: Storage, world: World, metrics: Metrics, index_path: Path | None, audit_path: Path
    ) -> None:
        self._storage = storage
        self._world = world
        self._metrics = metrics
        self._index_path = index_path
        self._audit_path = audit_path
        self._limiter = trio.CapacityLimiter(1)
        self.last: Sizes | None = None

    async def keep_measuring(self) -> None:
        while True:
            started = trio.current_time()
            try:
                await self.measure()
            except (CerememoryError, OSError) as error:
                log.warning("disk use not measured", reason=str(error))
            await trio.sleep(max(REST_MIN_S, REST * (trio.current_time() - started)))

    async def measure(self, pause_s: float = PAUSE_S) -> None:
        """Set `last` and the gauges. Raises `StorageUnavailable`, or `OSError` for the files."""
        sizes = dict.fromkeys((*NAMED.values(), OTHER), 0)
        position: bytes | None = b""
        while position is not None:
            piece = partial(self._storage.row_sizes, position, ROWS_AT_ONCE)
            rows = await self._world.offload(piece, self._limiter)
            for key, size_bytes in rows:
                sizes[NAMED.get(key[NAMESPACE_BYTES : NAMESPACE_BYTES + 1], OTHER)] += size_bytes
            position = rows[-1][0] + b"\0" if len(rows) == ROWS_AT_ONCE else None
            await trio.sleep(pause_s)
        sizes |= await self._world.offload(self._file_sizes, self._limiter)
        self.last = Sizes(sizes, self._world.now())
        for name, size_bytes in sizes.items():
            self._metrics.stored_bytes.labels(name).set(size_bytes)

    def _file_sizes(self) -> dict[str, int]:
        index = [] if self._index_path is None else _files_below(self._index_path)
        return {"index": sum(map(_size_of, index)), "audit": size_of_log(self._audit_path)}


def _files_below(folder: Path) -> Iterable[Path]:
    """The index has a folder for memories and one for raw entries. `os.walk` passes over what is gone."""
    return (Path(place, name) for place, _folders, names in os.walk(folder) for name in names)


def _size_of(path: Path) -> int:
    """0 for a file that is gone: the index drops its segments whenever it likes."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
