"""The seam below which memories are kept: ordered keys to values, read at a snapshot, committed whole.

A backend gives `Storage`; everything above speaks only this. The test suite has a second one in memory.
Keys are at most 511 bytes; values are copies that outlive their snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

R = TypeVar("R")
KEY_BYTES_MAX = 511

Changes = Mapping[bytes, bytes | None]  # None deletes


@dataclass(frozen=True, slots=True)
class Compaction:
    """What `Storage.compact` did: `used_bytes` before and after it."""

    bytes_before: int
    bytes_after: int


class Reader(Protocol):
    """One consistent snapshot, used by one thread, for the length of one function call."""

    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values in the order of `keys`; None where there is none."""
        ...

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with `start <= key < stop`, ascending, or descending when `reverse`."""
        ...


class Transaction(Reader, Protocol):
    """A snapshot that changes are written to, and read back from, before they are committed."""

    def write(self, changes: Changes) -> None: ...


class Storage(Protocol):
    """Any number of readers, one writer at a time; calls block, so they run in threads or are short."""

    def read(self) -> AbstractContextManager[Reader]: ...

    def commit(self, changes: Changes) -> None:
        """Apply all of `changes` or none, and return only when they would survive a power cut.

        Raises `StorageUnavailable` when the disk or map is full or the disk fails; then nothing of
        `changes` is there, and reads go on.
        """
        ...

    def transact(self, work: Callable[[Transaction], R]) -> R:
        """Run `work` and commit what it wrote, as `commit` does; when it raises, nothing is there.

        For changes that are too many to be in memory at once. `work` may be run again from its start, on a
        new transaction, and must not read otherwise.
        """
        ...

    def readers_should_end(self) -> bool:
        """Whether somebody waits until nobody reads: a read that takes long should end, and begin anew."""
        ...

    def recover(self) -> None:
        """Make writing possible again after `StorageUnavailable`, and prove it by a write; else raise it."""
        ...

    def compact(self) -> Compaction:
        """Write all rows anew, so that no byte is left of what was deleted or replaced, and give back its room.

        Nobody may write meanwhile. Reads go on, but for the moment in which the old store is exchanged for the new
        one; a crash leaves one of them whole. Raises `StorageUnavailable`; then all rows are as they were.
        """
        ...

    def used_bytes(self) -> int: ...

    def check_room(self) -> None:
        """Raise `StorageUnavailable` when the next commit would be refused for want of room on the disk."""
        ...

    def oldest_reader_s(self) -> float:
        """For how long the oldest snapshot that isn't the newest is known to be read; 0 when there is none.

        What was deleted since can't be given back meanwhile.
        """
        ...

    def row_sizes(self, start: bytes, count: int) -> list[tuple[bytes, int]]:
        """The first `count` keys from `start` on, each with the bytes of key and value; no value is read."""
        ...

    def close(self) -> None: ...
