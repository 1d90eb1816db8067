"""The end of the audit log as the store's head has it: a Merkle tree's right edge, and the code that seals both.

A commit's entries are added to the tree in the ledger, so that a checkpoint never scans the log. Of each *tile*
of 256 entries a row keeps the tree's hash over them and where their lines end in the file: with these, any proof
is made from a few hashes and at most three tiles of the file.

The code is an HMAC-SHA256 with a key that the store doesn't hold. Whoever can write to the store and hasn't got
the key can put back what was there before, and nothing else.
"""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

from cerememory.domain.checkpoint import leaf_of
from cerememory.domain.merkle import HASH_BYTES, CompactRange
from cerememory.errors import AuditBroken, StorageDamaged
from cerememory.storage.keys import Table, pack_sequence, system_key
from cerememory.storage.rows import Head

TILE_LEVEL = 8
TILE_ENTRIES = 1 << TILE_LEVEL
_SEALED = struct.Struct(">QQ32s")
_TILE = struct.Struct(f">Q{HASH_BYTES}s")
_ABOUT = b"cerememory audit head\n"  # the key is used for nothing else; this says so in the bytes


class Tile(NamedTuple):
    """`end_bytes` is the size of the log up to the tile's last line."""

    end_bytes: int
    root: bytes


def tree_of(head: Head) -> CompactRange:
    """The tree over all entries up to `head`; raises `StorageDamaged`."""
    edge = head.audit_edge
    try:
        return CompactRange(
            head.audit_sequence, [edge[i : i + HASH_BYTES] for i in range(0, len(edge), HASH_BYTES)]
        )
    except ValueError as error:
        raise StorageDamaged(f"the head of the audit log can't be read: {error}") from error


class Growth:
    """The log's end while a group adds to it; `tiles` are the rows of those that it completes."""

    def __init__(self, head: Head) -> None:
        self.tiles: dict[bytes, bytes | None] = {}
        self._tree = tree_of(head)
        self._size_bytes = head.audit_bytes

    def add(self, line: bytes) -> None:
        self._size_bytes += len(line)
        completed = self._tree.append(leaf_of(line))
        if len(completed) > TILE_LEVEL:
            number = self._tree.size // TILE_ENTRIES - 1
            self.tiles[tile_key(number)] = _TILE.pack(self._size_bytes, completed[TILE_LEVEL])

    def head(self, commit_sequence: int, audit_hash: str, audit_synced: int, key: bytes | None) -> Head:
        sequence, edge = self._tree.size, b"".join(self._tree.hashes)
        mac = b"" if key is None else _mac(key, sequence, audit_hash, self._size_bytes, edge)
        return Head(commit_sequence, sequence, audit_hash, audit_synced, self._size_bytes, edge, mac)


def check_head(head: Head, key: bytes) -> None:
    """Raise `AuditBroken` unless the end of the log was written by somebody who has `key`."""
    expected = _mac(key, head.audit_sequence, head.audit_hash, head.audit_bytes, head.audit_edge)
    if head.audit_sequence and not hmac.compare_digest(expected, head.audit_mac):
        raise AuditBroken(
            "the store's head of the audit log wasn't sealed with this audit key: the store was changed, "
            "or the key is another data dir's"
        )


def _mac(key: bytes, sequence: int, audit_hash: str, size_bytes: int, edge: bytes) -> bytes:
    sealed = _ABOUT + _SEALED.pack(sequence, size_bytes, bytes.fromhex(audit_hash)) + edge
    return hmac.digest(key, sealed, "sha256")


def tile_key(number: int) -> bytes:
    return system_key(Table.AUDIT_TILES, pack_sequence(number))


def parse_tile(value: bytes) -> Tile:
    try:
        return Tile(*_TILE.unpack(value))
    except struct.error as error:
        raise StorageDamaged(f"a tile of the audit log can't be read: {error}") from error
