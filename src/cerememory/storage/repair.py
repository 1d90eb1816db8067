"""Mending what follows from other rows, when `fsck` finds that it doesn't: indexes, counters, the text index.

What says something by itself is never touched: memories with their states, versions, vectors and edges, archived
memories, raw entries, kept answers, what imports can be undone by, the log, and the audit log beside the store.
What is broken there stays, for `fsck` to name and a backup to bring back. What is kept of an import that can't be
undone says nothing, and goes.

All rows are mended in one transaction, with an audit entry that counts them; then the text index is built again
from what is stored, beside the old one, whose place it takes. A crash in between leaves the old one, which the
next repair finds, or none, which the next start builds.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cerememory.domain.audit_chain import AuditDraft
from cerememory.errors import DataDirUnusable, StorageDamaged
from cerememory.failpoints import failpoint
from cerememory.storage import reindex
from cerememory.storage.contract import Storage
from cerememory.storage.fsck import Finding, Tally, check
from cerememory.storage.fsck_rows import Fix
from cerememory.storage.inverted_index import IndexWriteFailed
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table
from cerememory.storage.ledger import Ledger
from cerememory.storage.mutations import NoteAudit
from cerememory.storage.series import Steps, commit_series_alone
from cerememory.storage.spool import Spool
from cerememory.storage.text_index import wipe

OPERATION = "maintenance.repair"
PIECE = 1_000  # rows that one step mends
FRESH_NAME = "index.new"
INDEXED_BY = frozenset({Table.GROUPS.name.lower()})  # parts that give documents of the text index their words

Progress = Callable[[int], None]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes | None]])


def unwatched(_count: int) -> None:
    """The progress of what nobody looks at."""


@dataclass(slots=True)
class Repair:
    """What is to be mended: `rows` counts the rows by their part. `index`: the text index, too.

    `aside`: what stood in its place and was no directory, by its new name.
    """

    rows: Counter[str] = field(default_factory=Counter)
    index: bool = False
    aside: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.rows) or self.index

    @property
    def summary(self) -> dict[str, int | bool]:
        return {**self.rows, "text_index": self.index}


def repair(
    storage: Storage,
    *,
    index_path: Path | None,
    spool_path: Path,
    now: int,
    audited: bool,
    head_key: bytes | None = None,
) -> Repair:
    """Mend all that can be, in a store whose only owner this is; answers what was.

    `index_path`: where the text index is, None when it isn't kept. `spool_path` is a folder on the disk in which
    what is to be mended is put aside. `now` is in nanoseconds; `head_key` seals the head. Raises `AuditBroken`
    when another key did, before anything is written.
    """
    with Spool(spool_path) as spool:
        fixes, found = _Fixes(spool), Repair()
        for finding in check(storage, index_path=index_path, audit_path=None, now=now, tally=Tally()):
            _note(finding, found, fixes)
        fixes.flush()
        found.index = found.index and index_path is not None
        if found:
            steps = partial(_steps, fixes, found, now)
            commit_series_alone(storage, steps, now, audited=audited, head_key=head_key)
            failpoint("repair.committed")
    if found.index and index_path is not None:
        rebuilt = _rebuilt(index_path, storage)
        found.index, found.aside = rebuilt is not None, rebuilt and rebuilt.aside
    return found


def _note(finding: Finding, found: Repair, fixes: _Fixes) -> None:
    if finding.fix is not None:
        fixes.add(finding.fix)
        found.rows[finding.part] += 1
    if finding.part == "index" or (finding.fix is not None and finding.part in INDEXED_BY):
        found.index = True


class _Fixes:
    """Any number of fixes, put aside in pieces of `PIECE`."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._ends = [0]
        self._waiting: list[Fix] = []

    def add(self, fix: Fix) -> None:
        self._waiting.append(fix)
        if len(self._waiting) == PIECE:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._spool.write(_encoder.encode(self._waiting))
            self._ends.append(self._spool.size_bytes)
            self._waiting = []

    def pieces(self) -> Iterator[Sequence[Fix]]:
        for start, stop in zip(self._ends, self._ends[1:], strict=False):
            yield _decoder.decode(b"".join(self._spool.read(start, stop)))


@dataclass(frozen=True, slots=True)
class FixRows:
    fixes: Sequence[Fix]
    namespace: int = DEFAULT_NAMESPACE

    def apply(self, ledger: Ledger) -> None:
        for row_key, value in self.fixes:
            if value is None:
                ledger.delete(row_key)
            else:
                ledger.put(row_key, value)


def _steps(fixes: _Fixes, found: Repair, now: int) -> Steps[None]:
    for piece in fixes.pieces():
        yield FixRows(piece)
    summary: dict[str, Any] = found.summary
    yield NoteAudit(DEFAULT_NAMESPACE, AuditDraft(now, OPERATION, (), (), summary))


def _rebuilt(index_path: Path, storage: Storage) -> Rebuilt | None:
    """The new index; None when a row can't be read, which is a finding."""
    try:
        return rebuild_index(index_path, storage)
    except StorageDamaged:
        return None


class Rebuilt(NamedTuple):
    """A text index of so many `records`. `aside`: the new name of what stood in its place and was no directory."""

    records: int
    aside: Path | None


def rebuild_index(index_path: Path, storage: Storage, progress: Progress = unwatched) -> Rebuilt:
    """Build the text index again, beside the old one, whose place it takes.

    `progress` is told how many were added since. Raises `StorageDamaged` when a row can't be read,
    `DataDirUnusable` when the index can't be written; then the old one stays.
    """
    place = index_path.resolve() if index_path.is_dir() else index_path  # a link to a directory stays
    fresh, done = place.with_name(FRESH_NAME), 0
    try:
        with closing(reindex.renew_index(fresh)) as index:
            for reached in reindex.rebuild(index, storage):
                progress(reached - done)
                done = reached
        aside = wipe(place)
        fresh.rename(place)
    except (IndexWriteFailed, OSError) as error:
        raise DataDirUnusable(f"{index_path}: can't be built again: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Rebuilt(done, aside)
