"""The audit log's closed files: what the store recorded of each, what they are called, and how one is closed.

A log is one chain in one or more files. All but the last are closed: they are synced, can't be written any more,
and have the first and the last of their entries in their name, so that the files in the order of their names are
the log, byte by byte. The store says which there are, for a file may be moved away, and what follows it has to be
checked all the same: of each it keeps the end, where the chain and the tree were then. The code over that is an
HMAC-SHA256, as of the head: whoever hasn't got the key can't say that the log begins later than it does.

Closing is decided by a commit (`audit_rotation`), and done to the file afterwards. Until then the file is as it
was, and whoever completes it from the store finds that out, and closes it, too.
"""

from __future__ import annotations

import hmac
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cerememory.domain.audit_chain import START, ChainHead
from cerememory.domain.merkle import HASH_BYTES, CompactRange
from cerememory.errors import AuditBroken, StorageDamaged
from cerememory.failpoints import failpoint
from cerememory.storage.audit_head import tree_of
from cerememory.storage.datadir import sync_directory
from cerememory.storage.keys import Table, after, pack_sequence, system_key, unpack_sequence
from cerememory.storage.rows import Head

CLOSED_MODE = 0o400
DIGITS = 12  # names sort as their entries do, for as long as there are fewer than 10^12
_ROW = struct.Struct(f">Q32s{HASH_BYTES}s")
_SEALED = struct.Struct(">QQ32s")
_ABOUT = b"cerememory audit file\n"  # not that of a head: an old one doesn't pass for the end of a file
_NAME = re.compile(rf"(?P<log>.+)\.(?P<first>\d{{{DIGITS}}})-(?P<last>\d{{{DIGITS}}})")


class Rows(Protocol):
    """A snapshot, or a transaction in the making."""

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]: ...


@dataclass(frozen=True, slots=True)
class ClosedFile:
    """The entries from `first` to `last`. `start_bytes` and `end_bytes` are those of its lines in the whole log.

    `hashes` are of the compact range over all entries up to `last`.
    """

    first: int
    last: ChainHead
    start_bytes: int
    end_bytes: int
    hashes: tuple[bytes, ...]
    mac: bytes

    @property
    def tree(self) -> CompactRange:
        """Over all entries up to its last one."""
        return CompactRange(self.last.sequence, self.hashes)

    def name(self, log: Path) -> str:
        return f"{log.name}.{self.first:0{DIGITS}}-{self.last.sequence:0{DIGITS}}"

    def path(self, log: Path) -> Path:
        return log.with_name(self.name(log))


def start_behind(closed: Sequence[ClosedFile]) -> ChainHead:
    """What the first entry behind these files follows."""
    return closed[-1].last if closed else START


def closed_at(end: Head, before: Sequence[ClosedFile], key: bytes | None) -> ClosedFile:
    """The file behind those of `before` that ends with `end`, sealed with `key`."""
    last = ChainHead(end.audit_sequence, end.audit_hash)
    closed = _behind(before, last, end.audit_bytes, tree_of(end).hashes, bytes(HASH_BYTES))
    return closed if key is None else sealed_anew(closed, key)


def dump_closed(closed: ClosedFile) -> tuple[bytes, bytes]:
    """Its row: key and value."""
    ended = _ROW.pack(closed.end_bytes, bytes.fromhex(closed.last.entry_hash), closed.mac)
    return _row_key(closed.last.sequence), ended + b"".join(closed.hashes)


def closed_files(rows: Rows) -> list[ClosedFile]:
    """All that were closed, the oldest first; raises `StorageDamaged`."""
    prefix = system_key(Table.AUDIT_FILES)
    found: list[ClosedFile] = []
    for row_key, value in rows.scan(prefix, after(prefix)):
        found.append(_parsed(unpack_sequence(row_key[len(prefix) :]), value, found))
    return found


def _parsed(sequence: int, value: bytes, before: Sequence[ClosedFile]) -> ClosedFile:
    edge = value[_ROW.size :]
    if len(edge) != sequence.bit_count() * HASH_BYTES:
        raise StorageDamaged(f"what is known of a file of the audit log can't be read: {len(value)} bytes")
    end_bytes, entry_hash, mac = _ROW.unpack(value[: _ROW.size])
    hashes = [edge[i : i + HASH_BYTES] for i in range(0, len(edge), HASH_BYTES)]
    return _behind(before, ChainHead(sequence, entry_hash.hex()), end_bytes, hashes, mac)


def _behind(
    before: Sequence[ClosedFile], last: ChainHead, end_bytes: int, hashes: Sequence[bytes], mac: bytes
) -> ClosedFile:
    start_bytes = before[-1].end_bytes if before else 0
    return ClosedFile(start_behind(before).sequence + 1, last, start_bytes, end_bytes, tuple(hashes), mac)


def check_closed(closed: ClosedFile, key: bytes) -> None:
    """Raise `AuditBroken` unless the file was closed by somebody who has `key`."""
    if not hmac.compare_digest(sealed_anew(closed, key).mac, closed.mac):
        raise AuditBroken(
            f"that the audit log's file was closed at entry {closed.last.sequence} wasn't sealed with this audit "
            "key: the store was changed, or the key is another data dir's"
        )


def sealed_anew(closed: ClosedFile, key: bytes) -> ClosedFile:
    sequence, entry_hash = closed.last
    ended = _SEALED.pack(sequence, closed.end_bytes, bytes.fromhex(entry_hash)) + b"".join(closed.hashes)
    return replace(closed, mac=hmac.digest(key, _ABOUT + ended, "sha256"))


def _row_key(sequence: int) -> bytes:
    return system_key(Table.AUDIT_FILES, pack_sequence(sequence))


def close_file(log: Path, closed: ClosedFile) -> None:
    """Give the log's file, which has all entries of `closed` on the disk, its name for good.

    Nobody writes to it from then on. Its mode is on the disk before its name is. Raises `OSError`.
    """
    fd = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(fd, CLOSED_MODE)
        os.fsync(fd)
    finally:
        os.close(fd)
    failpoint("audit.file.closing")
    log.rename(closed.path(log))
    failpoint("audit.file.renamed")
    sync_directory(log.parent)
    failpoint("audit.file.closed")


def files_before(path: Path, first: int) -> list[Path]:
    """The closed files beside `path` that have the entries in front of `first`, without a hole, oldest first.

    `path` may be one of them itself. For a log that no store says anything of: they go by their names.
    """
    named = _NAME.fullmatch(path.name)
    log = path if named is None else path.with_name(named["log"])
    by_last = {last: (first, file) for first, last, file in _named(log)}
    before: list[Path] = []
    while first - 1 in by_last:
        first, file = by_last.pop(first - 1)
        before.insert(0, file)
    return before


def size_of_log(log: Path) -> int:
    """In bytes, of all files of the log that are there."""
    return sum(map(_size_of, (log, *(file for _first, _last, file in _named(log)))))


def _named(log: Path) -> Iterator[tuple[int, int, Path]]:
    """What lies beside `log` under the name of a closed file: its first and last entry, and where it is."""
    try:
        beside = list(log.parent.iterdir())
    except FileNotFoundError:
        return
    for file in beside:
        named = _NAME.fullmatch(file.name)
        if named is not None and named["log"] == log.name:
            yield int(named["first"]), int(named["last"]), file


def _size_of(file: Path) -> int:
    """0 for one that is gone."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
