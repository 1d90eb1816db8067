"""A copy of a data dir as it was at one moment, taken beside its owner; a data dir itself.

    backup/        0700
      store/         the rows of one snapshot, written anew: no byte of what was deleted before
      audit.jsonl    up to the snapshot's last entry, completed from its lines; beside it those of the log's
                     closed files that were there
      keys/          the keys, as they are
      format.json

What follows from the rows (the text index) isn't in it, nor what is its owner's alone (`lock`, `run/`). Rows are
copied as they lie in the store: what is sealed there stays sealed. Nothing of the original is changed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from cerememory.errors import AuditBroken, DataDirUnusable, StorageUnavailable
from cerememory.failpoints import failpoint
from cerememory.storage.audit_closed import CLOSED_MODE, DIGITS, size_of_log, start_behind
from cerememory.storage.audit_file import complete, plan_repair
from cerememory.storage.audit_lines import LineReader
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.contract import Storage
from cerememory.storage.datadir import FORMAT_NAME, PRIVATE_DIR, PRIVATE_FILE, check_format, sync_directory
from cerememory.storage.lmdb import LOCK_NAME, LmdbStorage, Watch, unwatched

Opened: TypeAlias = Callable[[Path], Storage]
"""Opens the store in a folder for one thread that only reads."""

AUDIT_NAME, KEYS_NAME, STORE_NAME = "audit.jsonl", "keys", "store"


@dataclass(frozen=True, slots=True)
class Source:
    """What is copied. `audit_path` may lie outside of the data dir. Of keys only those in the data dir are copied,
    unless `with_keys` is false: who keeps the audit log's key elsewhere wants it apart from the log.
    """

    data_dir: Path
    audit_path: Path
    with_keys: bool


@contextmanager
def draft(destination: Path) -> Iterator[Path]:
    """An empty private folder that becomes `destination` when the block ends well, whole and durable.

    It lies beside `destination`, which must not exist or be empty. Raises `DataDirUnusable` when that isn't so, or
    it can't be made; then, and when the block raises, nothing is left of it.
    """
    try:
        if destination.exists() and any(destination.iterdir()):
            raise DataDirUnusable(f"{destination}: isn't empty; name a folder that isn't there")
        folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.absolute().parent))
    except OSError as error:
        raise DataDirUnusable(f"{destination}: can't be made: {error.strerror}") from error
    try:
        yield folder
        _give_name(folder, destination)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what stays hasn't the name, and is nobody's backup


def _give_name(folder: Path, destination: Path) -> None:
    try:
        _sync_tree(folder)
        failpoint("backup.synced")
        folder.rename(destination)
        sync_directory(destination.absolute().parent)
    except OSError as error:
        raise StorageUnavailable(f"{destination}: can't be written: {error.strerror}") from error


def copy(source: Source, folder: Path, opened: Opened | None, watch: Watch = unwatched) -> None:
    """Fill the empty `folder` from `source`.

    `opened` opens the copied store, which may be sealed; None when nobody here can: then the start on the copy
    completes its audit log. `watch` is given the rows as they are copied. An audit log that isn't the store's is
    copied as it is, for `fsck` to name. Raises `DataDirUnusable` for what is no data
    dir of this format, `StorageUnavailable` when there is too little room or the disk fails.
    """
    check_format(source.data_dir)
    try:
        _copy_file(source.data_dir / FORMAT_NAME, folder / FORMAT_NAME)
        _copy_store(source, folder / STORE_NAME, watch)
        failpoint("backup.rows_copied")
        _copy_audit_log(source.audit_path, folder)
        if opened is not None:
            _complete_audit_log(folder, opened)
        keys = source.data_dir / KEYS_NAME
        if source.with_keys and keys.is_dir():
            _copy_folder(keys, folder / KEYS_NAME)
    except OSError as error:
        raise StorageUnavailable(f"{error.filename or folder}: {error.strerror}") from error


def size_of(folder: Path) -> int:
    """The bytes of all files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _copy_store(source: Source, folder: Path, watch: Watch) -> None:
    folder.mkdir(mode=PRIVATE_DIR)
    with closing(LmdbStorage.open_readonly(source.data_dir / STORE_NAME)) as storage:
        _check_room(storage, source, folder)
        storage.copy(folder, watch)
    forget_readers(folder)


def forget_readers(store: Path) -> None:
    """LMDB's table of readers is of this machine and moment; whoever opens the store makes another."""
    (store / LOCK_NAME).unlink(missing_ok=True)


def _check_room(storage: LmdbStorage, source: Source, folder: Path) -> None:
    audit_bytes = size_of_log(source.audit_path)
    needed, free = storage.live_bytes() + audit_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise StorageUnavailable(f"{folder.parent.parent}: has {free} bytes free, the copy needs {needed}")


def _copy_audit_log(path: Path, folder: Path) -> None:
    """The log is read after the snapshot was: it may lack lines that the snapshot holds, and go on behind it."""
    target = folder / AUDIT_NAME
    with closing(LmdbStorage.open_readonly(folder / STORE_NAME)) as storage:
        outbox = StoredOutbox(storage)  # no row that it looks at is sealed
        closed, last = outbox.closed, outbox.head.sequence
    forget_readers(folder / STORE_NAME)
    for file in closed:
        with suppress(FileNotFoundError):
            _copy_file(file.path(path), file.path(target), CLOSED_MODE)
    with LineReader(path) as opened:  # what the snapshot calls the log's last file may be a closed one by now
        first = start_behind(closed).sequence + 1
        since = next(path.parent.glob(f"{path.name}.{first:0{DIGITS}}-*"), None)
        begins = opened.first_sequence() or first
        if begins == first or since is None:
            _copy_lines(opened, target, last - begins + 1)
            return
    with LineReader(since) as reader:
        _copy_lines(reader, target, last - first + 1)


def _complete_audit_log(folder: Path, opened: Opened) -> None:
    with closing(opened(folder / STORE_NAME)) as storage, suppress(AuditBroken):  # which is for `fsck` to say
        outbox = StoredOutbox(storage)
        repair = plan_repair(folder / AUDIT_NAME, outbox)
        if not repair.cut:  # somebody did that: no copy hides it
            complete(folder / AUDIT_NAME, repair, outbox)
    forget_readers(folder / STORE_NAME)


def _copy_lines(reader: LineReader, target: Path, count: int) -> None:
    """The first `count` whole lines; no file when there is none."""
    if reader.exists:
        with os.fdopen(_new_file(target), "wb") as out:
            out.writelines(islice(reader, max(count, 0)))


def _copy_folder(source: Path, target: Path) -> None:
    target.mkdir(mode=PRIVATE_DIR)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            _copy_folder(path, target / path.name)
        elif path.is_file():
            _copy_file(path, target / path.name)


def _copy_file(source: Path, target: Path, mode: int = PRIVATE_FILE) -> None:
    with source.open("rb") as file, os.fdopen(_new_file(target, mode), "wb") as out:
        shutil.copyfileobj(file, out)


def _new_file(path: Path, mode: int = PRIVATE_FILE) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _sync_tree(path)
        else:
            _sync_file(path)
    sync_directory(folder)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
