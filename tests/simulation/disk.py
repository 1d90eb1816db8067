"""Disks that lose what wasn't synced when the power goes, and that fail now and then.

Model of the store: a commit is written, then synced. What is read is what was written; a cut while it is being
synced leaves the commit whole or not at all. A commit that fails leaves nothing, and so may the next few and the
recoveries between them. Work of a transaction may be run twice, as the contract has it.

Model of files: they are real ones, in a folder of memory, whose fsync is this module's. What a cut leaves of a
file is what was synced, then the beginning of what was appended since, then zeros, up to the length that it
had. A file that was cut short since may be as it was before. Names that were made or changed since their
directory was synced may be the old or the new. A sync that fails is as Linux has it: what it was to write never
reaches the disk, unless it is written anew.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from cerememory.errors import StorageUnavailable
from cerememory.storage.contract import Compaction, Transaction
from tests.simulation.world import Power
from tests.support.memory_storage import MemoryStorage

R = TypeVar("R")

FAILURES = 0.01  # of commits, and of syncs of files
FAILING_MAX = 4  # how many writes in a row fail
REPEATED = 0.05  # of transactions that are run twice


class FakeStore(MemoryStorage):
    """The rows of a machine, over all runs of it; see the module for what they are exposed to."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.may_fail = False
        self._rng = rng
        self._power = Power()
        self._synced = self._state
        self._failing = 0

    def start(self, power: Power) -> None:
        """A new run of the machine: what was synced is what there is."""
        self._power = power
        self._state = self._synced
        self._failing = 0
        self.may_fail = False

    def transact(self, work: Callable[[Transaction], R]) -> R:
        self._check_disk()
        if self._rng.random() < REPEATED:
            self._run_in_vain(work)
        answer = super().transact(work)
        if not self._power.point():
            if self._rng.random() < 0.5:
                self._synced = self._state
            raise StorageUnavailable("the power went")
        self.sync()
        self._power.point()
        return answer

    def sync(self) -> None:
        """What was written is there to stay."""
        self._synced = self._state

    def _run_in_vain(self, work: Callable[[Transaction], R]) -> None:
        def broken_off(transaction: Transaction) -> None:
            work(transaction)
            raise _BrokenOff

        try:
            super().transact(broken_off)
        except _BrokenOff:
            return

    def recover(self) -> None:
        self._check_disk()

    def compact(self) -> Compaction:
        self._check_disk()
        self._power.point()
        return Compaction(self.used_bytes(), self.used_bytes())

    def _check_disk(self) -> None:
        if not self._power.is_on:
            raise StorageUnavailable("there is no power")
        if self.may_fail and not self._failing and self._rng.random() < FAILURES:
            self._failing = self._rng.randint(1, FAILING_MAX)
        if self._failing:
            self._failing -= 1
            raise StorageUnavailable("the disk failed a write", retry_after_s=30)


class _BrokenOff(Exception):
    """Ends a transaction whose work is run again."""


class FakeFiles:
    """The files below `root`, over all runs of a machine; see the module for what they are exposed to."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.may_fail = False
        self._root = root
        self._rng = rng
        self._power = Power()
        self._inodes: dict[Path, int] = {}  # the names that are synced, and whose they are
        self._synced: dict[int, bytes] = {}  # by inode
        self._forgotten: dict[int, tuple[int, bytes]] = {}  # by inode: from where on no sync will write what
        self._left: dict[Path, tuple[int, bytes]] = {}  # when the power went

    def start(self, power: Power) -> None:
        """A new run of the machine: what there is was synced."""
        self._power = power
        self._power.at_cut(self._note)
        self.may_fail = False
        self._note()
        self._inodes = {path: inode for path, (inode, _content) in self._left.items()}
        self._synced = dict(self._left.values())
        self._forgotten = {}

    def _note(self) -> None:
        found = [path for path in self._root.rglob("*") if path.is_file()]
        self._left = {path: (path.stat().st_ino, path.read_bytes()) for path in sorted(found)}

    def lose_unsynced(self) -> None:
        """After a cut, once nobody has a file open: leave what the disk has."""
        kept = {path: self._surviving(path) for path in sorted({*self._inodes, *self._left})}
        for path, content in kept.items():
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
                path.chmod(0o600)

    def _surviving(self, path: Path) -> bytes | None:
        """The content of the file called `path`, None for none."""
        synced, left = self._inodes.get(path), self._left.get(path)
        if synced is not None and (left is None or left[0] != synced) and self._rng.random() < 0.5:
            return self._synced[synced]
        if left is None or (synced is None and self._rng.random() < 0.5):
            return None
        return self._torn(*left)

    def _torn(self, inode: int, content: bytes) -> bytes:
        synced, content = self._synced.get(inode, b""), self._written(inode, content)
        shared = _shared(synced, content)
        if shared != synced and self._rng.random() < 0.5:
            return synced
        added = content[len(shared) :]
        kept = added[: self._rng.randint(0, len(added))]
        zeros = self._rng.choice((0, self._rng.randint(0, len(added) - len(kept))))
        return shared + kept + bytes(zeros)

    def _written(self, inode: int, content: bytes) -> bytes:
        """What syncs write of `content`."""
        start, forgotten = self._forgotten.get(inode, (0, b""))
        stop = start + len(forgotten)
        is_as_it_was = content[start:stop] == forgotten  # else it was written anew
        return content[:start] + bytes(len(forgotten)) + content[stop:] if is_as_it_was else content

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Python's syncs of these files come here; others do nothing, for speed."""
        ftruncate = os.ftruncate

        def truncate(fd: int, size: int) -> None:
            ftruncate(fd, size)
            self._note_truncated(fd, size)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", self._sync)
            patch.setattr(os, "ftruncate", truncate)
            yield

    def _note_truncated(self, fd: int, size: int) -> None:
        inode = os.fstat(fd).st_ino
        if size <= self._forgotten.get(inode, (0, b""))[0]:
            self._forgotten.pop(inode, None)

    def _sync(self, fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if not path.is_relative_to(self._root):
            return
        if not self._power.point():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            self._sync_names(path)
        else:
            self._sync_content(path, status.st_ino)
        self._power.point()

    def _sync_names(self, directory: Path) -> None:
        others = {path: inode for path, inode in self._inodes.items() if path.parent != directory}
        inside = {path: path.stat().st_ino for path in directory.iterdir() if path.is_file()}
        self._inodes = {**others, **inside}
        for inode in inside.values():
            self._synced.setdefault(inode, b"")

    def _sync_content(self, path: Path, inode: int) -> None:
        content = path.read_bytes()
        if self.may_fail and self._rng.random() < FAILURES:
            reached = len(_shared(self._synced.get(inode, b""), content))
            self._forgotten[inode] = (reached, content[reached:])
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._synced[inode] = self._written(inode, content)


def _shared(one: bytes, other: bytes) -> bytes:
    """What both begin with."""
    if other.startswith(one):
        return one
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((i for i, (a, b) in pairs if a != b), len(other))]
