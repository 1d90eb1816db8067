"""A store written anew: its rows, and nothing else, in a fresh LMDB environment.

LMDB's own compact copy takes pages as they are. Behind a value that doesn't fill its last page they have whatever
the memory of the process held when the page was made: parts of other rows, deleted long ago. So rows are read and
put one by one, which takes three times as long: see ADR 0011.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import lmdb

Pair: TypeAlias = tuple[bytes, bytes]

PIECE_ROWS, PIECE_BYTES = 1_000, 1 << 20  # put with one call, for whose length no other thread runs
COMMIT_BYTES = 64 << 20  # changed pages are in memory until they are committed


def write_rows(pairs: Iterator[Pair], folder: Path, map_size_bytes: int) -> None:
    """Write `pairs`, ascending by key, into a new environment in `folder`, durably.

    Raises `lmdb.Error` and `MemoryError`; whatever is in `folder` then is worth nothing.
    """
    with lmdb.open(str(folder), map_size=map_size_bytes, max_dbs=0, mode=0o600, sync=False) as environment:
        while _write_part(environment, pairs):
            pass
        environment.sync(True)


def _write_part(environment: Any, pairs: Iterator[Pair]) -> bool:
    """One transaction; whether there may be more to write."""
    written = 0
    with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
        while written < COMMIT_BYTES:
            piece, size_bytes = _piece(pairs)
            if not piece:
                return False
            cursor.putmulti(piece, append=True)
            written += size_bytes
    return True


def _piece(pairs: Iterator[Pair]) -> tuple[list[Pair], int]:
    """The next pairs, and their size."""
    piece: list[Pair] = []
    size_bytes = 0
    for pair in pairs:
        piece.append(pair)
        size_bytes += len(pair[0]) + len(pair[1])
        if len(piece) >= PIECE_ROWS or size_bytes >= PIECE_BYTES:
            break
    return piece, size_bytes
