"""The seam below which memories are kept: ordered keys to values, read at a snapshot, committed whole.

A backend gives `Storage`; everything above speaks only this. The test suite has a second one in memory.
Keys are at most 511 bytes; values are copies that outlive their snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

KEY_BYTES_MAX = 511

Changes = Mapping[bytes, bytes | None]  # None deletes


class Reader(Protocol):
    """One consistent snapshot, used by one thread, for the length of one function call."""

    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values in the order of `keys`; None where there is none."""
        ...

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with `start <= key < stop`, ascending, or descending when `reverse`."""
        ...


class Storage(Protocol):
    """Any number of readers, one writer at a time; calls block, so they run in threads or are short."""

    def read(self) -> AbstractContextManager[Reader]: ...

    def commit(self, changes: Changes) -> None:
        """Apply all of `changes` or none, and return only when they would survive a power cut.

        Raises `StorageUnavailable` when the disk or map is full or the disk fails; then nothing of
        `changes` is there, and reads go on.
        """
        ...

    def recover(self) -> None:
        """Make writing possible again after `StorageUnavailable`, and prove it by a write; else raise it."""
        ...

    def used_bytes(self) -> int: ...

    def close(self) -> None: ...
