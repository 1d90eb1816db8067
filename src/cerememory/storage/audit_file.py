"""The audit log as files: appended to, compared with the store, completed after a crash.

The store is the truth: each entry is committed there first, and the files are a projection of it that never
holds what the store doesn't. Owns the bytes of the log's last file and their durability, and the comparison of all
files with the store. Leaves to others the line format (`domain.audit_chain`), the store's side (`Outbox`), the
closed files' names and rows (`audit_closed`), and what follows a repair: the warning, the count, the entry. Calls
block; one owner at a time writes.

How a log is compared: in the last file the chain is followed to its end, lines that the store still holds are
compared byte by byte, and the end must be the store's head or link to the lines that the store holds behind it.
Both anchor the whole file: no byte of it can differ from what was written. A closed file has to lead from the end
of the one before it to its own, as the store has both. One that isn't there is `unseen`: whoever moved it away
knows why.

The last file may be one that the store has closed already, when a crash came in between; then it is completed up
to that end, closed, and what follows is put into the next one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Protocol

from cerememory.domain.audit_chain import ChainHead, Line, follow_lines, verify_lines
from cerememory.domain.audit_diagnosis import Tampering, diagnose, diagnose_other
from cerememory.domain.merkle import CompactRange
from cerememory.errors import AuditBroken, DataDirUnusable
from cerememory.failpoints import failpoint
from cerememory.storage.audit_closed import ClosedFile, close_file, start_behind
from cerememory.storage.audit_lines import LineReader, lines_of
from cerememory.storage.datadir import sync_directory

FILE_MODE = 0o600
GROUP_LINES = 128  # lines a repair appends with one write and one fsync: at most 8 MiB

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
    def closed(self) -> Sequence[ClosedFile]:
        """The files that were closed, the oldest first."""
        ...

    @property
    def synced(self) -> int:
        """The sequence up to which the files were fsynced, 0 for none."""
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
    """What a log lacks.

    The last file has the entries behind `start`. Its whole lines are good up to `last`; behind them is at most a
    torn line. Those up to `kept` (`kept_bytes` in all) are on the disk, as far as is known; the others are in the
    file, and may not be. The lines `from_sequence` to `to_sequence` are missing: none when the first is the
    greater. `cut` says that some of them had been fsynced, so that no crash took them. `closing` are the files
    that the last one has yet to become, `unseen` those that aren't there.
    """

    start: ChainHead
    last: ChainHead
    kept: int
    kept_bytes: int
    from_sequence: int
    to_sequence: int
    cut: bool
    is_torn: bool
    closing: tuple[ClosedFile, ...] = ()
    unseen: tuple[ClosedFile, ...] = ()

    @property
    def missing(self) -> int:
        return self.to_sequence - self.from_sequence + 1

    @property
    def first_missing(self) -> int:
        """The number of the first missing line in the last file."""
        return self.from_sequence - self.start.sequence

    def said_missing(self) -> str:
        """Of that line."""
        return f"is missing, as all up to line {self.to_sequence - self.start.sequence}"


class Watch:
    """Sees a log while it is compared, in order; this one doesn't look."""

    def line(self, line: bytes) -> None:
        """An accepted line."""

    def end(self, path: Path, closed: ClosedFile, *, is_seen: bool) -> None:
        """That was the last line of a closed file, or the file isn't there. May raise `AuditBroken`."""


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


def check_place(path: Path) -> None:
    """Raise `DataDirUnusable` for what is there and is no file: a device takes a log and keeps nothing of it."""
    try:
        is_other = path.exists() and not path.is_file()
    except OSError as error:
        raise DataDirUnusable(f"{path}: the audit log can't be looked at: {error.strerror}") from error
    if is_other:
        raise DataDirUnusable(f"{path}: is there, and isn't a file, which the audit log must be")


def plan_repair(path: Path, outbox: Outbox, watch: Watch | None = None) -> Repair:
    """What the log at `path` lacks of the store's entries; changes nothing. `complete` writes it.

    Only the end of a log is ever completed. Raises `AuditBroken` naming the file and the line when a line was
    changed, inserted or removed, when a file is another log's or goes on past the store's head, and when the store
    no longer holds what is missing; `OSError` when the disk refuses.
    """
    watch = watch or Watch()
    synced = outbox.synced  # read before the file, and the head after it: beside a daemon all three grow
    with LineReader(path, watch.line) as reader:
        first, closed = reader.first_sequence(), outbox.closed  # what was closed when it was opened is among these
        done = count_done(path, first, closed, synced)
        unseen = tuple(each for each in closed[:done] if not is_good(path, each, closed, watch))
        start = start_behind(closed[:done])
        with naming(path, start):
            return _LastFile(reader, start, tuple(closed[done:]), outbox, synced).compared(unseen)


def count_done(log: Path, first: int | None, closed: Sequence[ClosedFile], synced: int) -> int:
    """How many of `closed` have their names: the last file, which begins with entry `first`, comes behind them.

    An empty one, or one that begins otherwise, may come behind any. Where it isn't the one behind all of them,
    something of it was never synced, and the file in front of it has its name.
    """
    starts = [each.first for each in closed]
    if first in starts:
        return starts.index(first)
    done = sum(each.last.sequence <= synced for each in closed)
    while done < len(closed) and closed[done].path(log).exists():
        done += 1
    return len(closed) if first == start_behind(closed).sequence + 1 else done


def is_good(log: Path, file: ClosedFile, closed: Sequence[ClosedFile], watch: Watch) -> bool:
    """False for a closed file that isn't there; `AuditBroken` for one that isn't what was closed."""
    path = file.path(log)
    with LineReader(path, watch.line) as reader:
        if reader.exists:
            start = start_behind(closed[: closed.index(file)])
            with naming(path, start):
                _follow_closed(reader, start, file.last)
        watch.end(path, file, is_seen=reader.exists)
        return reader.exists


def _follow_closed(reader: LineReader, start: ChainHead, end: ChainHead) -> None:
    last = start
    for line in follow_lines(reader, start):
        last = line.head
        if last.sequence > end.sequence:
            refuse(
                last.sequence - start.sequence,
                "goes on past the entry that the file was closed with",
                Tampering.INSERTED,
            )
    if reader.torn:
        refuse(last.sequence - start.sequence + 1, f"has no line end in {len(reader.torn)} bytes", Tampering.CUT)
    if last.sequence < end.sequence:
        missing = f"is missing, as all up to line {end.sequence - start.sequence}"
        refuse(last.sequence - start.sequence + 1, missing, Tampering.CUT_OR_OLDER)
    if last != end:
        refuse(last.sequence - start.sequence, "is not the entry that the file was closed with", Tampering.REBUILT)


@dataclass(frozen=True, slots=True)
class _LastFile:
    """The log's last file, which begins behind `start`, held against the store. `closing`: as in `Repair`."""

    reader: LineReader
    start: ChainHead
    closing: tuple[ClosedFile, ...]
    outbox: Outbox
    synced: int

    def compared(self, unseen: tuple[ClosedFile, ...]) -> Repair:
        last, kept, kept_bytes = self._followed()
        head = self.outbox.head
        self._check_closing(last)
        self._check_end(last, head)
        return Repair(
            self.start,
            last,
            kept,
            kept_bytes,
            last.sequence + 1,
            head.sequence,
            cut=last.sequence < self.synced,
            is_torn=bool(self.reader.torn),
            closing=self.closing,
            unseen=unseen,
        )

    def _refuse(self, sequence: int, reason: str, kind: Tampering) -> NoReturn:
        refuse(self._number(sequence), reason, kind)

    def _number(self, sequence: int) -> int:
        """Of the line with this entry."""
        return sequence - self.start.sequence

    def _followed(self) -> tuple[ChainHead, int, int]:
        """The head after an unbroken chain of lines, of which those that the store holds are the same there.

        With it, the last of them that is on the disk or that the store holds no more, and where that one ends.
        """
        oldest, kept, kept_bytes = self.outbox.oldest_sequence, self.start.sequence, 0
        held = self.outbox.lines(max(oldest, self.start.sequence + 1))
        sequence, data = 0, b""
        lines = iter(self.reader)
        last = Line(self.start.sequence, b"", self.start.entry_hash)
        for last in follow_lines(lines, self.start):
            if last.sequence >= oldest and sequence < last.sequence:
                sequence, data = next(held, _NO_LINE)
            if sequence == last.sequence and data != last.data:
                kind = diagnose_other(last.data, next(lines, b""), data)
                self._refuse(sequence, "is not the entry that the store holds", kind)
            if last.sequence <= self.synced or last.sequence < oldest:
                kept, kept_bytes = last.sequence, self.reader.size_bytes
        return last.head, kept, kept_bytes

    def _check_closing(self, last: ChainHead) -> None:
        """A file that is to be closed ends where it was closed, or earlier."""
        if self.closing and last.sequence >= self.closing[0].last.sequence and last != self.closing[0].last:
            past = "goes on past, or isn't, the entry that the file was closed with"
            self._refuse(self.closing[0].last.sequence, past, Tampering.INSERTED)

    def _check_end(self, last: ChainHead, head: ChainHead) -> None:
        """The file ends at the store's head, or in front of lines that the store holds and that follow it."""
        if last.sequence + bool(self.reader.torn) > head.sequence:
            self._refuse(head.sequence + 1, "goes on past the store's last entry", Tampering.INSERTED)
        if last.sequence < head.sequence:
            self._check_missing(last, head)
            self._check_torn(last.sequence + 1)
        elif last != head:
            self._refuse(last.sequence, "ends another log than the store's", Tampering.REBUILT)

    def _check_missing(self, last: ChainHead, head: ChainHead) -> None:
        oldest = self.outbox.oldest_sequence
        if oldest > last.sequence + 1:
            missing = f"is missing, and the store holds no line before {self._number(oldest)}"
            self._refuse(last.sequence + 1, missing, of_missing(bool(self.reader.torn)))
        held = (line for _sequence, line in self.outbox.lines(last.sequence + 1))
        try:
            end = verify_lines(islice(held, head.sequence - last.sequence), last).head
        except AuditBroken:
            end = None
        if end != head:
            other = "is of another log: the store's next entries do not follow it"
            self._refuse(max(last.sequence, self.start.sequence + 1), other, Tampering.REBUILT)

    def _check_torn(self, sequence: int) -> None:
        """What a crash leaves of a line is its beginning, and zeros where the file grew before its data came."""
        _sequence, line = next(self.outbox.lines(sequence))
        if not line.startswith(self.reader.torn.rstrip(b"\0")):
            torn_from = "is torn, and not the beginning of the entry that the store holds"
            self._refuse(sequence, torn_from, Tampering.EDITED)


def of_missing(is_torn: bool) -> Tampering:
    """An older copy ends with a whole line."""
    return Tampering.CUT if is_torn else Tampering.CUT_OR_OLDER


def refuse(line: int, reason: str, kind: Tampering) -> NoReturn:
    raise AuditBroken(f"line {line}: {reason}", details={"line": line, "kind": kind})


@contextmanager
def naming(path: Path, start: ChainHead) -> Iterator[None]:
    """Puts the file's name in front of what is found wrong with it, and behind it what that looks like.

    `start` is what the file's first line has to follow.
    """
    try:
        yield
    except AuditBroken as error:
        details = {**(error.details or {}), "file": str(path)}
        if "line" in details and "kind" not in details:
            details["kind"] = diagnose(lambda: lines_of(path), details["line"], start)
        what = f" ({details['kind']})" if "kind" in details else ""
        raise AuditBroken(f"{path}: {error}{what}", details=details) from None


def complete(path: Path, repair: Repair, outbox: Outbox) -> int:
    """Append to the log at `path`, durably, all the lines that aren't known to be on the disk; close its file
    where the store has closed it, and go on in the next.

    Those that are in the file are written anew, as a torn one is: a sync of them may have failed, and none that
    follows would bring them to the disk. Returns the sequence that the log then ends with: beside a running
    writer it may be behind `to_sequence`. A log that lacks nothing and is known to be synced is left alone.
    """
    if not repair.missing and repair.to_sequence <= outbox.synced:
        return repair.last.sequence
    if repair.closing and path.exists():
        path.chmod(FILE_MODE)  # whoever was about to close it may have come as far as its mode
    with AuditFile.open(path) as file:
        file.truncate(repair.kept_bytes)
    lines, reached = iter(outbox.lines(repair.kept + 1)), repair.kept
    for closed in repair.closing:
        reached = _append(path, islice(lines, closed.last.sequence - reached), reached)
        close_file(path, closed)
    return _append(path, lines, reached)


def _append(path: Path, lines: Iterable[tuple[int, bytes]], reached: int) -> int:
    """Of `lines`, the last one's sequence; `reached` when there is none."""
    with AuditFile.open(path) as file:
        rest = iter(lines)
        while group := list(islice(rest, GROUP_LINES)):
            file.append([line for _sequence, line in group])
            reached = group[-1][0]
        file.sync()
    return reached


def _write_all(fd: int, data: bytes) -> None:
    """A short write means that the disk or a limit is full: the next one says which."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
