"""A power cut in a commit of the store: of what LMDB writes, the disk has some. It always is the state before the
commit or the one behind it.

The writes of a mutation are recorded at the system call and put into the file as it was before, so that each file
is one that a power cut could have left. Between two syncs a disk may write in any order, so these are tried: every
prefix of the pages in the order in which they were written, and sets of sectors drawn at random, so that pages are
torn, too; all with the old meta page. The new one is written when the pages are synced, as is checked here: with
it all pages are there. It is one write within a sector, which a disk writes whole or not at all; the words of it
are tried one by one nevertheless, for the number of the transaction comes last.

The audit log lies beside it as it was at that moment: what was synced, and of the rest a beginning.

Model: what was synced stays, what wasn't is there or not, sector by sector; of a file that is appended to a
beginning is there. Nothing is damaged, and no write of an earlier commit is missing.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import lmdb
import pytest

from cerememory.storage.lmdb import LmdbStorage
from tests.support.crashes import AUDIT, STORE, Mutator, Rows, contradictions, difference, rows_in
from tests.support.mutating import Order
from tests.support.reports import Report, report
from tests.support.shim import META_PAGES, SYNC, TRUNCATE, WRITE, Recorded, Shim
from tests.support.sweep import IS_FULL, seeded, swept

NAMES = [
    "encode.store",
    "encode.batch",
    "encode.update",
    "lifecycle.forget",
    "lifecycle.decay_tick",
    "lifecycle.dream_tick",
    "lifecycle.consolidate",
    "lifecycle.import, merge",
    "lifecycle.import, replace",
    "migrate-store-encryption, rows",
    "rotate-key, rows",
]
PAGE, SECTOR, WORD = 4_096, 512, 8
PREFIXES = 4  # of each commit, when not all of them are tried
SETS = 40 if IS_FULL else 2  # of sectors, of each commit
DATA = "data.mdb"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes at a place of the file."""

    offset: int
    data: bytes

    def split(self, size: int) -> Iterator[Piece]:
        return (Piece(self.offset + i, self.data[i : i + size]) for i in range(0, len(self.data), size))


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit writes: pages in their order, and the part of a meta page that makes them count.

    `audit` is what was written into the audit log before, of which `audit_synced` bytes were synced.
    """

    pages: tuple[Piece, ...]
    meta: Piece
    audit: bytes
    audit_synced: int


@dataclass(frozen=True, slots=True)
class Recording:
    """Store and audit log when the mutation began, and what was written into them from then on, and synced."""

    image: bytes
    audit: bytes
    calls: tuple[Recorded, ...]


def record(mutator: Mutator, shim: Shim, name: str, data_dir: Path) -> Recording:
    data, audit = data_dir / STORE / DATA, data_dir / AUDIT
    before: dict[str, bytes] = {}

    def begin() -> None:
        before.update(image=data.read_bytes(), audit=audit.read_bytes())
        shim.record(WRITE | SYNC | TRUNCATE, str(data), str(audit))

    shim.heal()
    ran = mutator.run(Order(data_dir=str(data_dir), scenario=name, waits=True), begin)
    shim.heal()
    assert ran.acknowledged and not ran.failure, ran.failure
    return Recording(**before, calls=tuple(shim.recorded()))


def commits_in(recording: Recording) -> list[Commit]:
    """Each one is pages, a sync, and a meta page that is written within one sector."""
    commits: list[Commit] = []
    audit, synced = recording.audit, len(recording.audit)
    awaited = "pages"
    for kind, run in groupby(recording.calls, _kind):
        calls = list(run)
        match kind:
            case "audit":
                audit, synced = _appended(audit, synced, calls)
            case "pages":
                assert awaited == kind
                whole = (Piece(each.offset, each.data) for each in calls)
                pages = tuple(page for piece in whole for page in piece.split(PAGE))
                awaited = "sync"
            case "sync":
                assert awaited == kind
                awaited = "meta"
            case "meta":
                [meta] = [Piece(each.offset, each.data) for each in calls]
                assert awaited == kind
                assert meta.offset // SECTOR == (meta.offset + len(meta.data) - 1) // SECTOR
                commits.append(Commit(pages, meta, audit, synced))
                awaited = "pages"
    return commits


def _kind(recorded: Recorded) -> str:
    if recorded.path.endswith(AUDIT):
        return "audit"
    if recorded.call == SYNC:
        return "sync"
    return "meta" if recorded.offset < META_PAGES else "pages"


def _appended(audit: bytes, synced: int, calls: Sequence[Recorded]) -> tuple[bytes, int]:
    for each in calls:
        if each.call == WRITE:
            audit += each.data
        elif each.call == TRUNCATE:
            audit = audit[: each.offset]
        else:
            synced = len(audit)
    return audit, synced


class Disk:
    """A data dir whose store is whatever is put into its file."""

    def __init__(self, path: Path) -> None:
        (path / STORE).mkdir(parents=True)
        self.path = path
        self._file = path / STORE / DATA

    def put(self, audit: bytes, image: bytes, pieces: Sequence[Piece] = ()) -> None:
        """As a machine finds it that was started again: no reader is known."""
        (self.path / STORE / "lock.mdb").unlink(missing_ok=True)
        (self.path / AUDIT).write_bytes(audit)
        with self._file.open("wb") as file:
            file.write(image)
            for piece in pieces:
                file.seek(piece.offset)
                file.write(piece.data)

    def image(self) -> bytes:
        return self._file.read_bytes()

    def rows(self) -> Rows:
        return rows_in(self.path)

    def problems(self, expected: Rows) -> Iterator[str]:
        """What is wrong with it, as it is found and once it was written to."""
        yield from self._problems_now(expected)
        with closing(LmdbStorage(self.path / STORE, map_size_bytes=64 << 20)) as storage:
            storage.recover()
        yield from self._problems_now(expected)

    def _problems_now(self, expected: Rows) -> Iterator[str]:
        found = self.rows()
        if found != expected:
            yield f"rows: {difference(found, [expected])}"
        yield from contradictions(self.path, with_index=False)


class PowerCuts:
    """Everything that the disk may have of commits, one after the other; `lost` says which was wrong, and how."""

    def __init__(self, disk: Disk, image: bytes, rng: random.Random) -> None:
        self.image = image
        self.tried = 0
        self.lost: dict[str, list[str]] = {}
        self._disk = disk
        self._rng = rng

    def try_commit(self, commit: Commit) -> None:
        """Afterwards `image` is that behind `commit`."""
        self._disk.put(commit.audit, self.image)
        old = self._disk.rows()
        for what, pieces in self._unfinished(commit):
            self._try(what, commit, pieces, old)
        pieces = [*commit.pages, commit.meta]
        self._disk.put(commit.audit, self.image, pieces)
        after, new = self._disk.image(), self._disk.rows()
        self._try("all", commit, pieces, new)
        self.image = after

    def _unfinished(self, commit: Commit) -> Iterator[tuple[str, list[Piece]]]:
        """Parts of `commit` without which it doesn't count, each with its name."""
        pages, rng = commit.pages, self._rng
        for length in swept(rng, range(len(pages) + 1), PREFIXES):
            yield f"{length} of {len(pages)} pages", list(pages[:length])
        sectors = [sector for page in pages for sector in page.split(SECTOR)]
        for number in range(SETS):
            share = rng.random()
            yield f"set {number} of sectors", [sector for sector in sectors if rng.random() < share]
        words = list(commit.meta.split(WORD))
        for length in swept(rng, range(1, len(words)), PREFIXES):
            yield f"all pages, {length} of {len(words)} words", [*pages, *words[:length]]

    def _try(self, what: str, commit: Commit, pieces: Sequence[Piece], expected: Rows) -> None:
        audit = commit.audit[: self._rng.randint(commit.audit_synced, len(commit.audit))]
        self._disk.put(audit, self.image, pieces)
        self.tried += 1
        if problems := list(self._disk.problems(expected)):
            self.lost[what] = problems


@pytest.mark.parametrize("name", NAMES)
def test_a_power_cut_in_a_commit_leaves_the_state_before_or_the_one_behind(
    name: str, mutator: Mutator, mutator_shim: Shim, base: Path, fast_path: Path
) -> None:
    data_dir = Path(shutil.copytree(base, fast_path / "data"))
    recording = record(mutator, mutator_shim, name, data_dir)
    commits = commits_in(recording)
    assert commits
    cuts = PowerCuts(Disk(fast_path / "disk"), recording.image, seeded())
    for commit in commits:
        cuts.try_commit(commit)
    written = (data_dir / STORE / DATA).read_bytes()  # and lengthened to its last page, which is no write
    assert cuts.image.ljust(len(written), b"\0") == written
    found = Report(
        what="Power cut in a commit: page writes that reached the disk, in part, in any order",
        runs=cuts.tried,
        points=sum(len(commit.pages) + 1 for commit in commits),
        losses=len(cuts.lost),
        details={"runs": {name: cuts.tried}},
    )
    report(f"pages {name}", found)
    assert cuts.lost == {}


def test_the_store_has_free_pages_and_values_with_pages_of_their_own(
    mutator: Mutator, mutator_shim: Shim, base: Path, fast_path: Path
) -> None:
    """And the commit of a large memory writes both: into pages that were free, and a value over several pages."""
    data_dir = Path(shutil.copytree(base, fast_path / "data"))
    with lmdb.open(str(data_dir / STORE), readonly=True) as environment:
        info, stat = environment.info(), environment.stat()
    live = 2 + stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    assert stat["overflow_pages"] > 10
    assert info["last_pgno"] + 1 - live > 10
    size = (data_dir / STORE / DATA).stat().st_size
    recording = record(mutator, mutator_shim, "encode.store", data_dir)
    written = [each for each in recording.calls if each.call == WRITE and each.offset >= META_PAGES]
    assert any(each.offset < size for each in written)
    assert any(len(each.data) > 2 * PAGE for each in written)
