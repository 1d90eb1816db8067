"""The LMDB map when it is full: it grows under readers, or says that it can't."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cerememory.actors.seams import in_thread
from cerememory.errors import StorageUnavailable
from cerememory.protocol.values import format_id
from cerememory.storage.keys import after
from cerememory.storage.lmdb import LmdbStorage
from tests.support.engine import running_engine, store_body, to_introspect, to_store
from tests.support.gated import gated
from tests.support.logged import Logged, quiet

MIB = 1 << 20
PAGE_BYTES = 4096  # what is too little for two pages that belong together may be left
READERS = 3
ROWS = 2_000
# A process that may map no more than it has: the map can't grow, and everything goes on with the old one.
NO_ROOM_TO_GROW = """
import resource, sys
from pathlib import Path
from cerememory.errors import StorageUnavailable
from cerememory.storage.lmdb import LmdbStorage

storage = LmdbStorage(Path(sys.argv[1]), map_size_bytes=32 << 20)
storage.commit({b"kept": b"1"})
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (16 << 20),) * 2)
large = bytes(1 << 20)
try:
    for i in range(40):
        storage.commit({b"%d" % i: large})
except StorageUnavailable as error:
    print(error)
with storage.read() as reader:
    print(reader.get(b"kept"), reader.get(b"%d" % i), reader.get(b"%d" % (i - 1)) == large)
storage.recover()
storage.close()
"""


@pytest.fixture(autouse=True)
def logged() -> Iterator[Logged]:
    with quiet() as kept:
        yield kept


@contextmanager
def stored(path: Path, map_size_bytes: int, map_size_bytes_max: int | None = None) -> Iterator[LmdbStorage]:
    path.mkdir()
    storage = LmdbStorage(path, map_size_bytes=map_size_bytes, map_size_bytes_max=map_size_bytes_max)
    try:
        yield storage
    finally:
        storage.close()


class ScanningThreads:
    """Threads that scan all rows again and again, and note what a snapshot may never show."""

    def __init__(self, storage: LmdbStorage) -> None:
        self.wrong: list[str] = []
        self._storage = storage
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._scan) for _ in range(READERS)]

    def __enter__(self) -> ScanningThreads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _scan(self) -> None:
        while not self._stop.is_set():
            with self._storage.read() as reader:
                rows = list(reader.scan(b"r", after(b"r")))
            if [key for key, _value in rows] != [b"r%06d" % i for i in range(len(rows))] or len(rows) % 10:
                self.wrong.append(f"{len(rows)} rows, up to {rows[-1][0]!r}")


def test_a_map_grows_while_threads_read_through_it(tmp_path: Path) -> None:
    """Nobody is refused: readers see whole commits through each growth, and growth isn't starved by them. On
    disk: every row.
    """
    with stored(tmp_path / "store", MIB) as storage:
        with ScanningThreads(storage) as readers:
            for start in range(0, ROWS, 10):
                storage.commit({b"r%06d" % i: b"v" * 1_000 for i in range(start, start + 10)})
        assert readers.wrong == []
        assert storage.map_size_bytes >= 4 * MIB
        with storage.read() as reader:
            assert sum(1 for _row in reader.scan(b"r", after(b"r"))) == ROWS


async def test_a_map_at_its_limit_refuses_writes_and_serves_reads(tmp_path: Path) -> None:
    """The client gets StorageUnavailable (503) with a time to come back, its memories are read, and the daemon
    isn't ready until a small write finds room. On disk: what was acknowledged.
    """
    with stored(tmp_path / "store", MIB, MIB) as storage:
        async with running_engine(tmp_path, storage=storage, offload=in_thread) as running:
            kept = (await running.engine.encode_store(to_store("kept"))).reply.record_id
            with pytest.raises(StorageUnavailable, match="at its limit") as refused:
                for _ in range(100):
                    await running.engine.encode_store(to_store("much " * 10_000))
            assert refused.value.retry_after_s == 30
            assert await running.engine.not_ready() == "storage unavailable"
            assert format_id(kept) in bytes(await running.engine.introspect_record(to_introspect(kept))).decode()


async def test_a_full_map_is_full_until_something_is_forgotten(tmp_path: Path) -> None:
    """The client gets 503 with Retry-After for what has no room, its memories are read and found. Forgetting
    always has room, though it takes pages before it gives back others; then encodes are stored, without a restart.
    """
    with stored(tmp_path / "store", MIB, 8 * MIB) as storage:
        async with gated(tmp_path, storage=storage, offload=in_thread) as daemon:
            client, ids = daemon.client, list[str]()
            batch = {"records": [store_body("much " * 800)] * 30}
            while (answer := await client.post("/v1/encode/batch", batch)).status == 200:
                ids += [stored["record_id"] for stored in answer.json["results"]]
            for text in ("much " * 800, "little " * 20, "x"):  # until not the smallest fits
                while (answer := await client.post("/v1/encode", store_body(text))).status == 200:
                    ids.append(answer.json["record_id"])
                assert (answer.status, answer.code, answer.headers["retry-after"]) == (
                    503,
                    "DECAY_ENGINE_BUSY",
                    "30",
                )
            assert (await client.get("/readiness")).json["reason"] == "storage unavailable"
            assert (await client.get(f"/v1/introspect/record/{ids[0]}")).status == 200
            await daemon.running.until_indexed()
            found = await client.post("/v1/recall/query", {"cue": {"text": "much"}, "reconsolidate": False})
            assert found.json["memories"]
            for forgotten in (ids[:1], ids[1:2], ids[2:3], ids[3:40]):
                body = {"record_ids": forgotten, "confirm": True}
                answer = await client.ask("DELETE", "/v1/lifecycle/forget", body)
                assert (answer.status, answer.json) == (200, {"records_deleted": len(forgotten)})
            assert (await client.get("/readiness")).status == 200
            assert (await client.post("/v1/encode", store_body("much " * 800))).status == 200
            unused_bytes = storage.map_size_bytes - storage.used_bytes()
            assert unused_bytes <= PAGE_BYTES, "nobody else has what was kept for it"


def test_a_system_that_grants_no_larger_map_refuses_that_commit_alone(tmp_path: Path) -> None:
    """The client gets StorageUnavailable (503) for the commit that has no room. LMDB is left without a map, is
    opened again, and goes on. On disk: what was there before.
    """
    (tmp_path / "store").mkdir()
    child = [sys.executable, "-c", NO_ROOM_TO_GROW, str(tmp_path / "store")]
    told = subprocess.run(child, check=True, capture_output=True, text=True).stdout.splitlines()
    assert told[0].startswith("the memory map can't grow to 67108864 bytes")
    assert told[1] == "b'1' None True"
