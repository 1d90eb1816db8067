"""LMDB's data file, looked at without its map: whether every page is there that the map will be asked for.

A page that the file has lost, read through the map, kills the process with SIGBUS. So nobody opens a file that a
copy or a disk has cut off. Its length alone doesn't tell: pages that a transaction takes and gives back again are
counted and never written, and a whole file may end before the last page. Where it does, the pages of its trees are
looked up, each by a read that can fail.

Source of the layout: MDB_meta, MDB_page and MDB_node in mdb.c of LMDB 0.9, as C lays them out on this machine.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cerememory.errors import StorageDamaged

REMEDY = "restore the data directory from a backup"
TRIES = 3  # to see a store that somebody commits to as of one commit

_PAGE = struct.Struct("@N4H")  # number, padding, flags, end of the pointers to nodes, end of the room between
_META = struct.Struct("@2I P N 2I5N 2I5N 2N")  # one tree is: page size or padding, flags and depth, counts, root
_NODE = struct.Struct(
    "@I2H"
)  # low half of a child, or size of a value; flags, or high part of a child; size of key
_NUMBER = struct.Struct("@N")
_MAGIC, _LAYOUT = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOWS = 0x01, 0x02, 0x01
_NO_PAGE = (1 << 8 * _NUMBER.size) - 1  # the root of an empty tree
_PAGE_BYTES = range(256, 65_537)


class _Meta(NamedTuple):
    """What a commit has left: the roots of its two trees, rows and free pages, among the pages up to the last."""

    transaction: int
    page_bytes: int
    roots: tuple[int, int]
    last_page: int


class _Lost(Exception):
    """A page that is needed isn't there, or isn't one."""


def check_whole(path: Path) -> None:
    """Raise `StorageDamaged` when pages of the last commit aren't in the file; one that isn't LMDB's is for LMDB.

    May be called beside a running owner, whose commits write all pages before they count.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # which LMDB says, or makes the file
        return
    with os.fdopen(fd, "rb", buffering=0):
        if not os.fstat(fd).st_size:
            raise StorageDamaged(f"{path}: is empty; {REMEDY}, or remove it if nothing was ever stored there")
        for _try in range(TRIES):
            meta = _newest(fd)
            if meta is None or _is_long_enough(fd, meta):
                return
            try:
                _walk(fd, meta)
            except _Lost as lost:
                if _newest(fd) == meta:
                    raise StorageDamaged(
                        f"{path}: is cut off at {os.fstat(fd).st_size} bytes: {lost}; {REMEDY}"
                    ) from None
            else:
                return


def _newest(fd: int) -> _Meta | None:
    """What the last commit has left, of the two that are kept; None when LMDB won't read them either."""
    first = _meta_at(fd, 0)
    second = None if first is None else _meta_at(fd, first.page_bytes)
    return None if first is None or second is None else max(first, second)


def _meta_at(fd: int, offset: int) -> _Meta | None:
    found = os.pread(fd, _META.size, offset + _PAGE.size)
    if len(found) < _META.size:
        return None
    magic, layout, _address, _map_size, page_bytes, *trees, last_page, transaction = _META.unpack(found)
    if (magic, layout) != (_MAGIC, _LAYOUT) or page_bytes not in _PAGE_BYTES:
        return None
    return _Meta(transaction, page_bytes, (trees[5], trees[12]), last_page)


def _is_long_enough(fd: int, meta: _Meta) -> bool:
    return os.fstat(fd).st_size // meta.page_bytes > meta.last_page


def _walk(fd: int, meta: _Meta) -> None:
    """Raises `_Lost` at the first page of the trees that isn't there."""
    count = os.fstat(fd).st_size // meta.page_bytes
    waiting = [root for root in meta.roots if root != _NO_PAGE]
    for _page in range(count):  # in a file that isn't damaged no page is met twice
        if not waiting:
            return
        number = waiting.pop()
        if number >= count:
            raise _Lost(f"page {number} isn't there")
        page = os.pread(fd, meta.page_bytes, number * meta.page_bytes)
        try:
            waiting += _children(page, count)
        except struct.error:
            raise _Lost(f"page {number} can't be read") from None
    raise _Lost("its pages go round in a circle")


def _children(page: bytes, count: int) -> Iterator[int]:
    """The pages of a tree right below `page`. Raises `_Lost` when a long value of it ends behind page `count`."""
    _number, _padding, flags, lower, _upper = _PAGE.unpack_from(page)
    for place in struct.unpack_from(f"@{max(lower - _PAGE.size, 0) // 2}H", page, _PAGE.size):
        low, high, key_bytes = _NODE.unpack_from(page, place)
        if flags & _BRANCH:
            yield low | high << 32
        elif flags & _LEAF and high & _OVERFLOWS:
            (first,) = _NUMBER.unpack_from(page, place + _NODE.size + key_bytes)
            after = first + (_PAGE.size - 1 + low) // len(page) + 1
            if after > count:
                raise _Lost(f"page {after - 1}, the end of a value, isn't there")
