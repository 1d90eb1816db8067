"""The CMA archive format: the exact lines that memories are carried in, and the check of them.

Owns how records become the lines of an archive, and what makes an archive whole. Leaves to others where
records come from and what becomes of them (actors), and encryption (`archive_encryption`).

An archive is JSON Lines, UTF-8, each with a newline at its end: a header that counts, one line a record,
curated ones first, and a footer with the SHA-256 of the record lines. Version 1.0 holds curated records alone,
each line being one; in version 2.0 a line also says which of the two kinds its record is. The format is that
of the reference implementation; both read each other's archives. Its other name, `jsonl`, stands for the same.

Both sides work on one line at a time: an archive may be much larger than memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Annotated, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from cerememory.domain.archive_encryption import refuse_age
from cerememory.errors import ContentTooLarge, ImportConflict, ValidationFailed
from cerememory.protocol import codec, limits
from cerememory.protocol.records import MemoryRecord, RawJournalRecord, Wire
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, Timestamp

T = TypeVar("T")

ArchivedRecord: TypeAlias = MemoryRecord | RawJournalRecord
Version: TypeAlias = Literal["1.0", "2.0"]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]

CURATED_ONLY: Version = "1.0"
WITH_RAW: Version = "2.0"
ARCHIVE_BYTES_MAX = 512 * limits.MIB

HEADER_BYTES_MAX = 65_536  # a first line that is longer is none

_NO_ARCHIVE = "encrypted or not an archive"


class Header(Wire, frozen=True, kw_only=True):
    """The first line; the counts of the two kinds stand in version 2.0 alone."""

    version: str
    timestamp: Timestamp
    record_count: Count
    curated_record_count: Count | None = None
    raw_record_count: Count | None = None

    @property
    def has_raw(self) -> bool:
        return self.version == WITH_RAW


class _Footer(Wire, frozen=True, kw_only=True):
    checksum: str


class _Curated(Wire, frozen=True, kw_only=True, tag_field="kind", tag="memory_record"):
    data: MemoryRecord


class _Raw(Wire, frozen=True, kw_only=True, tag_field="kind", tag="raw_journal_record"):
    data: RawJournalRecord


_Tagged: type[_Curated | _Raw] = _Curated | _Raw  # type: ignore[assignment]


class _Line(NamedTuple):
    """A line that isn't blank, without its end; `number` counts all lines, from 1."""

    number: int
    data: bytes


class ArchiveWriter:
    """Makes the lines of one archive, in their order but for the header, which needs the counts.

    Whoever doesn't know how much there will be keeps the record lines aside until the last is made.
    """

    def __init__(self, version: Version) -> None:
        self._version: Version = version
        self._curated = 0
        self._raw = 0
        self._hash = sha256()

    @property
    def record_count(self) -> int:
        return self._curated + self._raw

    @property
    def checksum(self) -> str:
        """The footer's, of the lines so far: 64 hex, lower case."""
        return self._hash.hexdigest()

    def curated(self, record: bytes) -> bytes:
        """The line of a MemoryRecord, given as compact wire JSON; before all raw ones."""
        if self._raw:
            raise ValueError("curated records stand before raw ones")
        self._curated += 1
        return self._line(record if self._version == CURATED_ONLY else _tagged(b"memory_record", record))

    def raw(self, record: bytes) -> bytes:
        """The line of a RawJournalRecord, given as compact wire JSON; in version 2.0 alone."""
        if self._version == CURATED_ONLY:
            raise ValueError(f"an archive of version {self._version} holds no raw records")
        self._raw += 1
        return self._line(_tagged(b"raw_journal_record", record))

    def _line(self, data: bytes) -> bytes:
        line = data + b"\n"
        self._hash.update(line)
        return line

    def header(self, timestamp: Timestamp) -> bytes:
        """The first line, for the records so far; `timestamp` is when they were read."""
        has_raw = self._version == WITH_RAW
        header = Header(
            version=self._version,
            timestamp=timestamp,
            record_count=self.record_count,
            curated_record_count=self._curated if has_raw else None,
            raw_record_count=self._raw if has_raw else None,
        )
        return codec.dump(header) + b"\n"

    def footer(self) -> bytes:
        """The last line, for the records so far."""
        return codec.dump(_Footer(checksum=self.checksum)) + b"\n"


def _tagged(kind: bytes, record: bytes) -> bytes:
    return b'{"kind":"%b","data":%b}' % (kind, record)


class ArchiveReader:
    """Reads the archive that `chunks` make up, once; a chunk may end anywhere.

    Raises `ImportConflict`, here or from `records`, with the line (from 1) and what is wrong with it.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._lines = _lines(_bounded(chunks))
        self._hash = sha256()
        self._counts = {MemoryRecord: 0, RawJournalRecord: 0}
        self._first = _first(self._lines)
        self.header = _read_header(self._first)

    def records(self) -> Iterator[ArchivedRecord]:
        """Each record, checked as one that is encoded would be, its metadata compacted.

        Nothing is certain of them before the iteration ended: then counts and checksum were right, too.
        """
        held: _Line | None = None  # the last line is no record
        for line in self._lines:
            if held is not None:
                yield self._read_record(held)
            held = line
        self._check_end(held)

    def _read_record(self, line: _Line) -> ArchivedRecord:
        self._hash.update(line.data)
        self._hash.update(b"\n")
        record = _parse_record(line, self.header)
        self._counts[type(record)] += 1
        return _explained(line, lambda: _checked(record))

    def _check_end(self, last: _Line | None) -> None:
        if last is None:
            raise _conflict(self._first, "the archive ends after its header")
        footer = _parse(last, _Footer, "the archive was cut off, its last line is no footer: footer")
        self._check_counts()
        if footer.checksum != self._hash.hexdigest():
            raise _conflict(last, "the checksum is not that of the records: the archive was changed")

    def _check_counts(self) -> None:
        header, curated, raw = self.header, self._counts[MemoryRecord], self._counts[RawJournalRecord]
        for name, said, found in (
            ("record_count", header.record_count, curated + raw),
            ("curated_record_count", header.curated_record_count, curated),
            ("raw_record_count", header.raw_record_count, raw),
        ):
            if said is not None and said != found:
                raise _conflict(self._first, f"header.{name}: {said}, but the archive has {found}")


def _first(lines: Iterator[_Line]) -> _Line:
    """The first line, an object: whatever has another was never an archive."""
    line = next(lines, None)
    if line is None:
        raise ImportConflict("the archive is empty")
    try:
        codec.parse(line.data, dict[str, msgspec.Raw])
    except ValidationFailed:
        refuse_age(line.data)
        raise ImportConflict(_NO_ARCHIVE) from None
    return line


def _read_header(line: _Line) -> Header:
    header = _parse(line, Header, "header")
    if header.version not in (CURATED_ONLY, WITH_RAW):
        raise _conflict(line, f"version {header.version[:32]!r}, expected {CURATED_ONLY} or {WITH_RAW}")
    return header


def _parse_record(line: _Line, header: Header) -> ArchivedRecord:
    if header.has_raw:
        return _parse(line, _Tagged, "record").data
    return _parse(line, MemoryRecord, "record")


def _bounded(chunks: Iterable[bytes]) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        check_archive_bytes(size)
        yield chunk


def check_archive_bytes(size: int) -> None:
    """Of an archive that has at least `size` bytes, encrypted or not."""
    if size > ARCHIVE_BYTES_MAX:
        raise ImportConflict(f"the archive has more than {ARCHIVE_BYTES_MAX} bytes, which is the most allowed")


def _lines(chunks: Iterable[bytes]) -> Iterator[_Line]:
    """The lines that aren't blank; only the unfinished one is kept."""
    number, rest = 1, bytearray()
    for chunk in chunks:
        *ended, begun = chunk.split(b"\n")
        for piece in ended:
            rest += piece
            if not _is_blank(rest):
                yield _Line(number, bytes(rest))
            rest.clear()
            number += 1
        rest += begun
        if number == 1 and len(rest) > HEADER_BYTES_MAX:
            raise ImportConflict(_NO_ARCHIVE)
    if not _is_blank(rest):
        yield _Line(number, bytes(rest))


def _is_blank(data: bytearray) -> bool:
    return not data or data.isspace()


def _parse(line: _Line, kind: type[T], where: str) -> T:
    return _explained(line, lambda: codec.parse(line.data, kind, where))


def _explained(line: _Line, read: Callable[[], T]) -> T:
    try:
        return read()
    except (ValidationFailed, ContentTooLarge) as error:
        raise _conflict(line, str(error)) from None


def _conflict(line: _Line, reason: str) -> ImportConflict:
    return ImportConflict(f"line {line.number}: {reason}", details={"line": line.number})


def _checked(record: ArchivedRecord) -> ArchivedRecord:
    """`record`, if a memory may be like it.

    What only keeps callers from odd requests isn't asked of it: an edge to itself, a long session id. Nor is it to
    be as small as in a request: what was exported here goes in again.
    """
    if isinstance(record, RawJournalRecord) and not record.session_id.strip():
        raise ValidationFailed("record.session_id: must not be blank")
    limits.check_content(record.content, "record.content", is_archived=True)
    if record.meta is not None:
        limits.check_meta(record.meta, "record.meta")
    for where, at in _times(record):
        if at is not None and not TIMESTAMP_MIN <= at <= TIMESTAMP_MAX:
            raise ValidationFailed(f"record.{where}: out of range, years 1678 to 2261 can be kept")
    metadata = limits.check_metadata(record.metadata, "record.metadata", is_archived=True)
    return msgspec.structs.replace(record, metadata=metadata)


def _times(record: ArchivedRecord) -> Iterator[tuple[str, Timestamp | None]]:
    """Those that storage keeps as numbers."""
    yield "created_at", record.created_at
    yield "updated_at", record.updated_at
    if isinstance(record, MemoryRecord):
        yield "last_accessed_at", record.last_accessed_at
        yield "fidelity.last_decay_tick", record.fidelity.last_decay_tick
        for i, association in enumerate(record.associations):
            yield f"associations[{i}].created_at", association.created_at
            yield f"associations[{i}].last_co_activation", association.last_co_activation
