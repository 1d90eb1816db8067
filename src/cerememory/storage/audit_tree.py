"""The Merkle tree over the audit log at any size that it ever had: roots, and the proofs that clients ask for.

Whole tiles are rows in the store, and of the others the store has the lines (`audit_head`). Only a proof that ends
within an older tile reads that one from the log's files; it is checked against its row first, so that a file that
was changed proves nothing. What is read never changes, for the log only grows; at most three tiles are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cerememory.domain.audit_chain import GENESIS
from cerememory.domain.checkpoint import Checkpoint, leaf_of
from cerememory.domain.merkle import CompactRange, consistency_proof, inclusion_proof, root_at, root_of
from cerememory.errors import AuditBroken, AuditEntriesAway, StorageDamaged
from cerememory.storage.audit_checkpoint import check_against
from cerememory.storage.audit_closed import ClosedFile, closed_files
from cerememory.storage.audit_head import TILE_ENTRIES, TILE_LEVEL, Tile, parse_tile, tile_key, tree_of
from cerememory.storage.audit_lines import LineReader
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, system_key
from cerememory.storage.rows import Head, parse_head


class AuditTree:
    """`path` is the log's last file. Every method raises `StorageDamaged` when store and files don't agree, and
    `AuditEntriesAway` for what is in a closed file that isn't there.
    """

    def __init__(self, storage: Storage, path: Path) -> None:
        self._storage = storage
        self._path = path

    @property
    def head(self) -> Head:
        with self._storage.read() as reader:
            return parse_head(reader.get(system_key(Table.HEAD)), GENESIS)

    @property
    def whole(self) -> CompactRange:
        """Over all that is committed."""
        return tree_of(self.head)

    def root(self, size: int) -> bytes:
        """Of the first `size` entries, which are committed."""
        return root_at(size, _Nodes(self._storage, self._path))

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Both are sizes that the log has had."""
        return consistency_proof(old, new, _Nodes(self._storage, self._path))

    def inclusion(self, entry: int, size: int) -> tuple[bytes, list[bytes]]:
        """The leaf's hash of `entry`, from 1, and the proof that a log of `size` has it."""
        nodes = _Nodes(self._storage, self._path)
        return nodes(0, entry - 1), inclusion_proof(entry - 1, size, nodes)

    def check_kept(self, kept_in: Path, kept: Checkpoint, entries: int) -> None:
        """Raise `AuditBroken` unless the log, of `entries`, continues that of the checkpoint in `kept_in`."""
        try:
            check_against(kept_in, kept, entries, self.root)
        except AuditEntriesAway as error:
            raise AuditBroken(f"{kept_in}: the log can't be held against this checkpoint: {error}") from error

    def check(self) -> None:
        """Raise `AuditBroken` unless the tiles are those of the head's tree."""
        whole = self.whole
        try:
            root = self.root(whole.size)
        except StorageDamaged as error:
            raise AuditBroken(str(error)) from error
        if root != whole.root:
            raise AuditBroken("the store's tree over the audit log isn't the one that its head was sealed with")


class _Nodes:
    """`merkle.Nodes` for one proof."""

    def __init__(self, storage: Storage, path: Path) -> None:
        self._storage = storage
        self._path = path
        self._leaves: dict[int, list[bytes]] = {}  # of the tiles that were looked into

    def __call__(self, level: int, index: int) -> bytes:
        if level >= TILE_LEVEL:
            return root_of(self._tiles(index << level - TILE_LEVEL, 1 << level - TILE_LEVEL))
        number, start = divmod(index << level, TILE_ENTRIES)
        if number not in self._leaves:
            self._leaves[number] = self._leaves_of(number)
        leaves = self._leaves[number][start : start + (1 << level)]
        if len(leaves) != 1 << level:
            raise StorageDamaged(f"the store has no audit entry {number * TILE_ENTRIES + start + len(leaves) + 1}")
        return root_of(leaves)

    def _tiles(self, first: int, count: int) -> list[bytes]:
        with self._storage.read() as reader:
            rows = list(reader.scan(tile_key(first), tile_key(first + count)))
        if len(rows) != count:
            raise StorageDamaged(f"the store has {len(rows)} of the audit tiles {first} to {first + count - 1}")
        return [parse_tile(value).root for _key, value in rows]

    def _leaves_of(self, number: int) -> list[bytes]:
        """The hashes of the entries of a tile; of the last one, as many as there are."""
        tile = self._tile(number)
        if tile is None:
            return self._stored_leaves(number)
        for is_last_try in (False, True):  # a file may be closed in between, and have another name then
            try:
                leaves = self._leaves_in_files(number, tile) or self._stored_leaves(number)
            except AuditEntriesAway:
                if is_last_try:
                    raise
                leaves = self._stored_leaves(number)
            if root_of(leaves) == tile.root:
                return leaves
        first = number * TILE_ENTRIES + 1
        raise StorageDamaged(f"{self._path}: entries {first} to {first + TILE_ENTRIES - 1} were changed")

    def _tile(self, number: int) -> Tile | None:
        with self._storage.read() as reader:
            value = reader.get(tile_key(number))
        return None if value is None else parse_tile(value)

    def _leaves_in_files(self, number: int, tile: Tile) -> list[bytes]:
        """None of them, when the last file hasn't got all of the tile yet."""
        before = self._tile(number - 1) if number else None
        start_bytes = before.end_bytes if before is not None else 0
        try:
            lines = b"".join(self._read(start_bytes, tile.end_bytes))
        except OSError as error:
            raise StorageDamaged(f"{self._path}: {error.strerror}") from error
        is_whole = len(lines) == tile.end_bytes - start_bytes
        return [leaf_of(line) for line in lines.splitlines(keepends=True)] if is_whole else []

    def _read(self, start_bytes: int, end_bytes: int) -> Iterator[bytes]:
        """These bytes of the log, from each file that has some; fewer when the last file ends before."""
        with self._storage.read() as reader:
            closed = closed_files(reader)
        for file in closed:
            start, end = max(start_bytes, file.start_bytes), min(end_bytes, file.end_bytes)
            if start < end:
                yield _piece(self._closed_path(file), start - file.start_bytes, end - start)
        last_starts = closed[-1].end_bytes if closed else 0
        if end_bytes > last_starts:
            start = max(start_bytes, last_starts)
            yield _piece(self._path, start - last_starts, end_bytes - start)

    def _closed_path(self, file: ClosedFile) -> Path:
        """Where the file is: the log's last one may have yet to be closed."""
        path = file.path(self._path)
        if path.exists():
            return path
        with LineReader(self._path) as reader:
            if reader.first_sequence() == file.first:
                return self._path
        entries = f"entries {file.first} to {file.last.sequence}"
        raise AuditEntriesAway(f"{entries} of the audit log can't be read: {path.name} isn't there")

    def _stored_leaves(self, number: int) -> list[bytes]:
        lines = StoredOutbox(self._storage).lines(number * TILE_ENTRIES + 1)
        return [leaf_of(line) for _sequence, line in islice(lines, TILE_ENTRIES)]


def _piece(path: Path, start_bytes: int, size_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start_bytes)
        return file.read(size_bytes)
