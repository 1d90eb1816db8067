"""A second implementation of the storage contract, on a dict.

Model: one commit replaces the whole state by another immutable one, so a commit is there entirely or not at
all and a snapshot is whatever state it began with. What is committed lives as long as the object: `close`
and a new object is a new store. Capacity counts the bytes of keys and values; a commit that would exceed it is
refused as a full disk is. `break_disk` makes every commit and recovery fail until `mend_disk`, and leaves no
part of the failed commit behind. It never fails a read, never loses or reorders commits, and never blocks,
unless a test puts a gate in front of its commits with `hold_commits`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeVar

from cerememory.errors import StorageUnavailable
from cerememory.storage.contract import Changes, Compaction, Transaction

R = TypeVar("R")
UNLIMITED = 2**63


class State:
    """Immutable; its keys are sorted at the first scan."""

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        self.rows = rows
        self._sorted: list[bytes] | None = None

    def keys(self) -> list[bytes]:
        if self._sorted is None:
            self._sorted = sorted(self.rows)
        return self._sorted

    def changed(self, changes: Changes) -> State:
        rows = dict(self.rows)
        for key, value in changes.items():
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        return State(MappingProxyType(rows))

    def size_bytes(self) -> int:
        return sum(len(key) + len(value) for key, value in self.rows.items())


class _Snapshot:
    def __init__(self, state: State) -> None:
        self._state = state

    def get(self, key: bytes) -> bytes | None:
        return self._state.rows.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self._state.rows.get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        keys = self._state.keys()
        within = range(bisect_left(keys, start), bisect_left(keys, stop))
        for i in reversed(within) if reverse else within:
            yield keys[i], self._state.rows[keys[i]]


class _Transaction(_Snapshot):
    """Each `write` makes another state, which nobody else sees yet."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.changes: dict[bytes, bytes | None] = {}

    @property
    def state(self) -> State:
        return self._state

    def write(self, changes: Changes) -> None:
        self._state = self._state.changed(changes)
        self.changes.update(changes)


class MemoryStorage:
    """`commits` are the changes of every commit that succeeded, in order."""

    def __init__(self, capacity_bytes: int = UNLIMITED) -> None:
        self.commits: list[Changes] = []
        self.recoveries_tried = 0
        self._capacity_bytes = capacity_bytes
        self._state = State({})
        self._writing = threading.Lock()
        self._is_broken = False
        self._gate: Callable[[], None] = _open

    @contextmanager
    def read(self) -> Iterator[_Snapshot]:
        yield _Snapshot(self._state)

    def commit(self, changes: Changes) -> None:
        self.transact(lambda transaction: transaction.write(changes))

    def transact(self, work: Callable[[Transaction], R]) -> R:
        self._gate()
        with self._writing:
            self._check_disk()
            transaction = _Transaction(self._state)
            answer = work(transaction)
            if self._capacity_bytes < UNLIMITED and transaction.state.size_bytes() > self._capacity_bytes:
                raise StorageUnavailable(f"full at {self._capacity_bytes} bytes", retry_after_s=30)
            self._state = transaction.state
            self.commits.append(transaction.changes)
        return answer

    def readers_should_end(self) -> bool:
        return False

    def recover(self) -> None:
        self.recoveries_tried += 1
        self._check_disk()

    def break_disk(self) -> None:
        self._is_broken = True

    def mend_disk(self) -> None:
        self._is_broken = False

    def hold_commits(self, gate: Callable[[], None]) -> None:
        """Call `gate`, in the committing thread, before each commit."""
        self._gate = gate

    def _check_disk(self) -> None:
        if self._is_broken:
            raise StorageUnavailable("the disk failed a write", retry_after_s=30)

    def rows(self) -> dict[bytes, bytes]:
        """All that is committed."""
        return dict(self._state.rows)

    def compact(self) -> Compaction:
        """There is nothing but what is committed."""
        self._gate()
        self._check_disk()
        return Compaction(self.used_bytes(), self.used_bytes())

    def used_bytes(self) -> int:
        return self._state.size_bytes()

    def check_room(self) -> None:
        """There is no disk."""

    def oldest_reader_s(self) -> float:
        """Every snapshot is a copy."""
        return 0.0

    def row_sizes(self, start: bytes, count: int) -> list[tuple[bytes, int]]:
        rows = sorted((key, value) for key, value in self._state.rows.items() if key >= start)
        return [(key, len(key) + len(value)) for key, value in rows[:count]]

    def close(self) -> None:
        """Nothing is held."""


def _open() -> None:
    return
