"""The spool: batches that wait on the disk for the daemon, in a directory that its owner alone may enter.

A batch is a file `batch-*.jsonl`, written under another name first, so it is whole or not there; their names sort
by the time they were made. What can't be sent is renamed to `*.bad-REASON` and stays for somebody to look at. The
directory is bounded in files and bytes, what was set aside included: a full spool takes nothing, and says so.

Any number of processes write; whoever sends what is there holds the spool's lock, which the kernel takes back from
a process that dies.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from cerememory.errors import DataDirUnusable, StorageUnavailable, ValidationFailed
from cerememory.recorder.batches import Batch, parse_batch

FILES_MAX = 10_000
BYTES_MAX = 512 * 1_048_576
BATCH_BYTES_MAX = 64 * 1_048_576  # of a file that is read
DRAFT_AGE_MAX_S = 3_600.0  # what is older was left by a process that died

PRIVATE_DIR = 0o700
PRIVATE_FILE = 0o600
LOCK = "lock"
_OTHERS = 0o077
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
_BATCH, _DRAFT, _ENDING = "batch-", "draft-", ".jsonl"


class Usage(NamedTuple):
    batches: int
    set_aside: int
    size_bytes: int

    def leaves_no_room(self, more_bytes: int, files_max: int, bytes_max: int) -> bool:
        return self.batches + self.set_aside >= files_max or self.size_bytes + more_bytes > bytes_max

    def __str__(self) -> str:
        aside = f", {self.set_aside} set aside" if self.set_aside else ""
        return f"{self.batches} batches wait{aside}, {self.size_bytes} bytes"


class Spool:
    """`path` is made when it isn't there; a context manager that closes it.

    Raises `DataDirUnusable` for one that isn't a directory of this user, closed to others: it isn't changed.
    """

    def __init__(self, path: Path, files_max: int = FILES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.path = path
        self._files_max = files_max
        self._bytes_max = bytes_max
        self._fd = _open_private(path)
        try:  # a file, for some network file systems lock nothing else
            self._lock_fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | _SAFE, PRIVATE_FILE, dir_fd=self._fd)
        except OSError as error:
            os.close(self._fd)
            raise DataDirUnusable(f"{path / LOCK}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock_fd)
        os.close(self._fd)

    def put(self, batch: Batch, *, durably: bool = True) -> str:
        """The name it got. `StorageUnavailable` when it wasn't taken: the spool or the disk is full, or fails.

        Without `durably` nobody waits for the disk: a power cut may take it.
        """
        data = batch.dump()
        lost = f"{len(batch.entries)} events weren't kept"
        if (usage := self.usage()).leaves_no_room(len(data), self._files_max, self._bytes_max):
            what = "start the daemon, or remove what was set aside"
            raise StorageUnavailable(f"{self.path} is full ({usage}), {lost}: {what}")
        name = f"{_BATCH}{time.time_ns():020d}-{secrets.token_hex(4)}{_ENDING}"
        try:
            self._write_whole(name, data, durably)
        except OSError as error:
            raise StorageUnavailable(f"{self.path}: {error.strerror}, {lost}") from error
        return name

    def batches(self) -> list[str]:
        """The names of what waits, the oldest first."""
        return sorted(name for name in self._names() if _is_batch(name))

    def read(self, name: str) -> Batch:
        """Raises `ValidationFailed` for what is no batch, `FileNotFoundError` for one that is gone."""
        try:
            data = self._read(name)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ValidationFailed(f"{error.strerror}") from error
        if not data or len(data) > BATCH_BYTES_MAX:
            raise ValidationFailed(f"{len(data)} bytes")
        return parse_batch(data)

    def remove(self, name: str) -> None:
        """If it is there."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def set_aside(self, name: str, reason: str) -> str:
        """The name it has now, `*.bad-REASON`; it is never sent again."""
        bad = f"{name}.bad-{reason}"
        os.rename(name, bad, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        return bad

    def usage(self) -> Usage:
        batches = set_aside = size_bytes = 0
        with os.scandir(self._fd) as entries:
            for entry in entries:
                size_bytes += _size(entry)
                batches += _is_batch(entry.name)
                set_aside += ".bad-" in entry.name
        return Usage(batches, set_aside, size_bytes)

    def check_writable(self) -> None:
        """`StorageUnavailable` unless a file can be made here."""
        name = f"{_DRAFT}{secrets.token_hex(4)}"
        try:
            self._write(name, b"", durably=False)
        except OSError as error:
            raise StorageUnavailable(f"{self.path}: {error.strerror}") from error
        self.remove(name)

    @contextmanager
    def sending(self) -> Iterator[bool]:
        """Whether nobody else sends what is here, for the length of the block. Drafts of the dead go."""
        is_ours = self._try_lock()
        try:
            if is_ours:
                self._sweep()
            yield is_ours
        finally:
            if is_ours:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def is_being_sent(self) -> bool:
        """Whether a process is at it, which will find what was put before it was asked."""
        if not self._try_lock():
            return True
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        return False

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _write_whole(self, name: str, data: bytes, durably: bool) -> None:
        draft = f"{_DRAFT}{name}"
        try:
            self._write(draft, data, durably)
            os.rename(draft, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            self.remove(draft)
            raise
        if durably:
            os.fsync(self._fd)

    def _write(self, name: str, data: bytes, durably: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
        fd = os.open(name, flags, PRIVATE_FILE, dir_fd=self._fd)
        with os.fdopen(fd, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            if durably:
                os.fsync(fd)

    def _read(self, name: str) -> bytes:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _SAFE, dir_fd=self._fd)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValidationFailed("no file")
            return file.read(BATCH_BYTES_MAX + 1)

    def _names(self) -> list[str]:
        with os.scandir(self._fd) as entries:
            return [entry.name for entry in entries]

    def _sweep(self) -> None:
        now = time.time()
        for name in self._names():
            with suppress(FileNotFoundError):  # its writer was faster
                if name.startswith(_DRAFT) and now - os.stat(name, dir_fd=self._fd).st_mtime > DRAFT_AGE_MAX_S:
                    os.unlink(name, dir_fd=self._fd)


def _is_batch(name: str) -> bool:
    return name.startswith(_BATCH) and name.endswith(_ENDING)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def _open_private(path: Path) -> int:
    try:
        path.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE)
    except FileExistsError:
        raise DataDirUnusable(f"{path}: is not a directory") from None
    except OSError as error:
        reason = "is a symbolic link" if path.is_symlink() else f"can't be used: {error.strerror}"
        raise DataDirUnusable(f"{path}: {reason}") from None
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & _OTHERS:
        os.close(fd)
        mode = f"mode {stat.S_IMODE(found.st_mode):o}, user {found.st_uid}"
        raise DataDirUnusable(f"{path}: others may enter it ({mode}); make it 0700 and yours, or give another")
    return fd
