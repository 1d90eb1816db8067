"""The audit log as a file: appended to, compared with the store, completed after a crash.

The store is the truth: each entry is committed there first, and the file is a projection of it that never
holds what the store doesn't. Owns the file's bytes and their durability. Leaves to others the line format
(`domain.audit_chain`), the store's side (`Outbox`), and what follows a repair: the warning, the count, the
entry. Calls block; one owner at a time writes.

How the file is compared: the chain is followed to its end, lines that the store still holds are compared byte
by byte, and the end must be the store's head or link to the lines that the store holds behind it. Both anchor
the whole file: no byte of it can differ from what was written. `verify_file` computes the tree over it, too, and
holds it against the store's and against checkpoints that were kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Protocol, TypeAlias

from cerememory.domain.audit_chain import (
    GENESIS,
    LINE_BYTES_READ_MAX,
    ChainHead,
    Line,
    follow_lines,
    verify_lines,
)
from cerememory.domain.audit_diagnosis import Tampering, diagnose, diagnose_other
from cerememory.domain.checkpoint import Checkpoint, leaf_of
from cerememory.domain.merkle import CompactRange
from cerememory.errors import AuditBroken
from cerememory.failpoints import failpoint
from cerememory.storage.audit_checkpoint import check_against
from cerememory.storage.datadir import sync_directory

FILE_MODE = 0o600
READ_BUFFER_BYTES = 1_048_576
GROUP_LINES = 128  # lines a repair appends with one write and one fsync: at most 8 MiB

KeptCheckpoint: TypeAlias = tuple[Path, Checkpoint]
"""A checkpoint, and the file that it was kept in."""

_NO_LINE = (0, b"")


class Outbox(Protocol):
    """What the store holds of the log. Each attribute is read anew when asked: beside a daemon they move."""

    @property
    def head(self) -> ChainHead:
        """The last committed entry."""
        ...

    @property
    def tree(self) -> CompactRange:
        """The Merkle tree over all committed entries."""
        ...

    @property
    def synced(self) -> int:
        """The sequence up to which the file was fsynced, 0 for none."""
        ...

    @property
    def oldest_sequence(self) -> int:
        """Of the lines still held; `head.sequence + 1` when none is."""
        ...

    def lines(self, from_sequence: int) -> Iterator[tuple[int, bytes]]:
        """The held lines from `from_sequence` on, ascending, without gaps, each with its newline."""
        ...


@dataclass(frozen=True, slots=True)
class Repair:
    """What a file lacks.

    Its whole lines are good up to `last`; behind them is at most a torn line. Those up to `kept` (`kept_bytes` in
    all) are on the disk, as far as is known; the others are in the file, and may not be. The lines
    `from_sequence` to `to_sequence` are missing: none when the first is the greater. `cut` says that some of
    them had been fsynced, so that no crash took them.
    """

    last: ChainHead
    kept: int
    kept_bytes: int
    from_sequence: int
    to_sequence: int
    cut: bool

    @property
    def missing(self) -> int:
        return self.to_sequence - self.from_sequence + 1


@dataclass(frozen=True, slots=True)
class Verification:
    """A log found good. `pending` counts the entries that the store has and the file has yet to get."""

    path: Path
    entries: int
    last_sequence: int
    head_hash: str
    pending: int


class AuditFile:
    """The log, open for append. `size_bytes` is the length that is known to be good."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._synced_bytes = size_bytes
        self._fd = fd
        self._torn = False

    @classmethod
    def open(cls, path: Path) -> AuditFile:
        """The file at `path`, which was compared with the store; created when there is none (mode 0600, durably).

        Raises `OSError`.
        """
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            sync_directory(path.parent)
            return cls(fd, os.fstat(fd).st_size)
        except OSError:
            os.close(fd)
            raise

    def append(self, lines: Sequence[bytes]) -> None:
        """Write `lines` (each with its newline) with one write and make them durable with one fsync.

        Raises `OSError`; then the file keeps none of `lines`, and the call may be made again.
        """
        self.write(lines)
        self.sync()

    def write(self, lines: Sequence[bytes]) -> None:
        """Write `lines` with one write; they are durable with the next `sync`.

        Raises `OSError`; then the file keeps none of `lines`, and the call may be made again.
        """
        if self._torn:
            self.truncate(self.size_bytes)
        data = b"".join(lines)
        try:
            _write_all(self._fd, data)
        except OSError:
            self._take_back(self.size_bytes)
            raise
        self.size_bytes += len(data)
        failpoint("audit.file.written")

    def _take_back(self, size_bytes: int) -> None:
        """Back to `size_bytes` after a failure; when that fails too, the next write does it first."""
        self._torn = True
        self.size_bytes = size_bytes
        with suppress(OSError):  # the first error tells more
            self.truncate(size_bytes)

    def truncate(self, size_bytes: int) -> None:
        """Drop what lies behind `size_bytes`; durable with the next `append` or `sync`."""
        os.ftruncate(self._fd, size_bytes)
        self.size_bytes = size_bytes
        self._synced_bytes = min(self._synced_bytes, size_bytes)
        self._torn = False

    def sync(self) -> None:
        """Make durable what was written.

        Raises `OSError`; then the file keeps nothing that was written since the last sync: the system counts it
        as written from now on, and no later sync would bring it to the disk.
        """
        try:
            os.fsync(self._fd)
        except OSError:
            self._take_back(self._synced_bytes)
            raise
        self._synced_bytes = self.size_bytes
        failpoint("audit.file.synced")

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> AuditFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def plan_repair(path: Path, outbox: Outbox) -> Repair:
    """What the file at `path` lacks of the store's entries; changes nothing. `complete` writes it.

    Only the end of a file is ever completed. Raises `AuditBroken` naming the line when a line was changed,
    inserted or removed, when the file is another log or goes on past the store's head, and when the store no
    longer holds what is missing; `OSError` when the disk refuses.
    """
    return _plan(_LineReader(path), path, outbox)


def _plan(reader: _LineReader, path: Path, outbox: Outbox) -> Repair:
    synced = outbox.synced  # read before the file, and the head after it: beside a daemon all three grow
    with _naming(path):
        last, kept, kept_bytes = _follow(reader, outbox, synced)
        head = outbox.head
        _check_end(last, reader.torn, head, outbox)
    return Repair(last, kept, kept_bytes, last.sequence + 1, head.sequence, cut=last.sequence < synced)


def complete(path: Path, repair: Repair, outbox: Outbox) -> int:
    """Append to the file at `path`, durably, all the lines that aren't known to be on the disk.

    Those that are in the file are written anew, as a torn one is: a sync of them may have failed, and none that
    follows would bring them to the disk. Returns the sequence that the file then ends with: beside a running
    writer it may be behind `to_sequence`. A file that lacks nothing and is known to be synced is left alone.
    """
    reached = repair.last.sequence
    if not repair.missing and repair.to_sequence <= outbox.synced:
        return reached
    with AuditFile.open(path) as file:
        file.truncate(repair.kept_bytes)
        lines = iter(outbox.lines(repair.kept + 1))
        while group := list(islice(lines, GROUP_LINES)):
            file.append([line for _sequence, line in group])
            reached = group[-1][0]
        file.sync()
    return reached


def verify_file(path: Path, outbox: Outbox | None, kept: Sequence[KeptCheckpoint] = ()) -> Verification:
    """Check the log at `path`, and change nothing.

    With `outbox`, it is the log of that store and may lack only entries that were never fsynced. Without, the
    chain alone is checked, and a missing file is an empty log. Either way it must continue the log of each
    checkpoint in `kept`. Raises `AuditBroken` naming the line and the reason, `OSError` for a file that can't be
    read.
    """
    tree = _GrowingTree({checkpoint.size for _path, checkpoint in kept})
    verification = _verify_chain(path, tree) if outbox is None else _verify_with(outbox, path, tree)
    for kept_in, checkpoint in kept:
        check_against(kept_in, checkpoint, tree.size, tree.root_at)
    return verification


def _verify_chain(path: Path, tree: _GrowingTree) -> Verification:
    reader = _LineReader(path, tree.add)
    with _naming(path):
        verified = verify_lines(reader)
        if reader.torn:
            _refuse(verified.entries + 1, f"has no line end in {len(reader.torn)} bytes", Tampering.CUT)
    return Verification(path, *verified, pending=0)


def _verify_with(outbox: Outbox, path: Path, tree: _GrowingTree) -> Verification:
    reader = _LineReader(path, tree.add)
    repair = _plan(reader, path, outbox)
    with _naming(path):
        if repair.cut or (repair.missing and not path.exists()):
            missing = f"is missing, as all up to line {repair.to_sequence}"
            _refuse(repair.from_sequence, missing, _of_missing(reader.torn))
        stored = outbox.tree
        for _sequence, line in islice(outbox.lines(repair.from_sequence), stored.size - tree.size):
            tree.add(line)
        if tree.root_at(stored.size) != stored.root:
            raise AuditBroken(f"the store has another tree over these {stored.size} entries")
    return Verification(path, repair.last.sequence, *repair.last, pending=repair.missing)


class _GrowingTree:
    """The tree over the lines so far, and its roots at the sizes in `wanted`."""

    def __init__(self, wanted: Collection[int]) -> None:
        self._tree = CompactRange()
        self._wanted = wanted
        self._roots: dict[int, bytes] = {}
        self._note()

    @property
    def size(self) -> int:
        return self._tree.size

    def add(self, line: bytes) -> None:
        self._tree.append(leaf_of(line))
        self._note()

    def root_at(self, size: int) -> bytes | None:
        """None for a size that isn't this one and wasn't wanted."""
        return self._tree.root if size == self.size else self._roots.get(size)

    def _note(self) -> None:
        if self._tree.size in self._wanted:
            self._roots[self._tree.size] = self._tree.root


class _LineReader:
    """The whole lines of a file, each with its newline; afterwards, in `torn`, what is left of it.

    No file reads as an empty one. A line over `LINE_BYTES_READ_MAX` counts as torn. `seen` is called with each
    line when the next one, or the end, is asked for: it was accepted.
    """

    def __init__(self, path: Path, seen: Callable[[bytes], object] | None = None) -> None:
        self.size_bytes = 0
        self.torn = b""
        self._path = path
        self._seen = seen

    def __iter__(self) -> Iterator[bytes]:
        try:
            file = self._path.open("rb", buffering=READ_BUFFER_BYTES)
        except FileNotFoundError:
            return
        with file:
            while line := file.readline(LINE_BYTES_READ_MAX):
                if not line.endswith(b"\n"):
                    self.torn = line
                    return
                self.size_bytes += len(line)
                yield line
                if self._seen is not None:
                    self._seen(line)


def _follow(reader: _LineReader, outbox: Outbox, synced: int) -> tuple[ChainHead, int, int]:
    """The head after an unbroken chain of lines, of which those that the store holds are the same there.

    With it, the last of them that is on the disk or that the store holds no more, and where that one ends.
    """
    oldest, kept, kept_bytes = outbox.oldest_sequence, 0, 0
    held = outbox.lines(oldest)
    sequence, data = 0, b""
    lines = iter(reader)
    last = Line(0, b"", GENESIS)
    for last in follow_lines(lines):
        if last.sequence >= oldest and sequence < last.sequence:
            sequence, data = next(held, _NO_LINE)
        if sequence == last.sequence and data != last.data:
            kind = diagnose_other(last.data, next(lines, b""), data)
            _refuse(sequence, "is not the entry that the store holds", kind)
        if last.sequence <= synced or last.sequence < oldest:
            kept, kept_bytes = last.sequence, reader.size_bytes
    return last.head, kept, kept_bytes


def _check_end(last: ChainHead, torn: bytes, head: ChainHead, outbox: Outbox) -> None:
    """The file ends at the store's head, or in front of lines that the store holds and that follow it."""
    if last.sequence + bool(torn) > head.sequence:
        _refuse(head.sequence + 1, "goes on past the store's last entry", Tampering.INSERTED)
    if last.sequence < head.sequence:
        _check_missing(last, torn, head, outbox)
        _check_torn(last.sequence + 1, torn, outbox)
    elif last != head:
        _refuse(last.sequence, "ends another log than the store's", Tampering.REBUILT)


def _check_missing(last: ChainHead, torn: bytes, head: ChainHead, outbox: Outbox) -> None:
    oldest = outbox.oldest_sequence
    if oldest > last.sequence + 1:
        missing = f"is missing, and the store holds no line before {oldest}"
        _refuse(last.sequence + 1, missing, _of_missing(torn))
    held = (line for _sequence, line in outbox.lines(last.sequence + 1))
    try:
        end = verify_lines(islice(held, head.sequence - last.sequence), last).head
    except AuditBroken:
        end = None
    if end != head:
        other = "is of another log: the store's next entries do not follow it"
        _refuse(max(last.sequence, 1), other, Tampering.REBUILT)


def _of_missing(torn: bytes) -> Tampering:
    """An older copy ends with a whole line."""
    return Tampering.CUT if torn else Tampering.CUT_OR_OLDER


def _check_torn(number: int, torn: bytes, outbox: Outbox) -> None:
    """What a crash leaves of a line is its beginning, and zeros where the file grew before its data came."""
    _sequence, line = next(outbox.lines(number))
    if not line.startswith(torn.rstrip(b"\0")):
        torn_from = "is torn, and not the beginning of the entry that the store holds"
        _refuse(number, torn_from, Tampering.EDITED)


def _refuse(number: int, reason: str, kind: Tampering) -> NoReturn:
    raise AuditBroken(f"line {number}: {reason}", details={"line": number, "kind": kind})


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the file's name in front of what is found wrong with it, and behind it what that looks like."""
    try:
        yield
    except AuditBroken as error:
        details = dict(error.details or {})
        if "line" in details and "kind" not in details:
            details["kind"] = diagnose(lambda: _LineReader(path), details["line"])
        what = f" ({details['kind']})" if "kind" in details else ""
        raise AuditBroken(f"{path}: {error}{what}", details=details) from None


def _write_all(fd: int, data: bytes) -> None:
    """A short write means that the disk or a limit is full: the next one says which."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
