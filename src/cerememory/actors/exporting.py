"""What an export reads: the records of one snapshot, as the lines of an archive, and the archive they make.

So an archive is what was committed at one moment, without what the last quarter second's recalls did. A snapshot
that is open for long would keep the store from growing, and its free pages from being used. This one is open while
lines are spooled, which is as fast as the disk, never for as long as a client reads; and it is given up for a
newer one when somebody waits for its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cerememory.domain.archive_encryption import Encryption
from cerememory.domain.cma import WITH_RAW, ArchiveWriter, Version
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.dynamics import Curves
from cerememory.storage.keys import Table, after, key, state_key, trailing_id
from cerememory.storage.rows import (
    parse_content_row,
    parse_raw_row,
    parse_state_row,
    raw_json,
    record_json,
)
from cerememory.storage.spool import Spool


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into an archive: durable memories of the stores, `held` (JSON, by id) of working memory, and in
    version 2.0 the raw journal. Fidelities are those of `now` (nanoseconds).
    """

    namespace: int
    version: Version
    store_codes: frozenset[int]
    held: Mapping[RecordId, bytes]
    now: int


def spool_lines(storage: Storage, curves: Curves, contents: Contents, spool: Spool) -> ArchiveWriter:
    """Put the record lines into the empty `spool`; the writer that made them knows their count and checksum."""
    while True:
        writer = ArchiveWriter(contents.version)
        with storage.read() as reader:
            for line in _lines(reader, curves, contents, writer):
                spool.write(line)
                if storage.readers_should_end():
                    break
            else:
                return writer
        spool.clear()


def _lines(reader: Reader, curves: Curves, contents: Contents, writer: ArchiveWriter) -> Iterator[bytes]:
    yield from map(writer.curated, _memories(reader, curves, contents))
    yield from map(writer.curated, _held(reader, contents))
    if contents.version == WITH_RAW:
        yield from map(writer.raw, _raw(reader, contents.namespace))


def _held(reader: Reader, contents: Contents) -> Iterator[bytes]:
    """But for those that have become lasting memories since they were looked at: one id stands for one thing."""
    for record_id, record in contents.held.items():
        if reader.get(key(contents.namespace, Table.CONTENT, record_id)) is None:
            yield record


def _memories(reader: Reader, curves: Curves, contents: Contents) -> Iterator[bytes]:
    namespace, of_store = contents.namespace, curves.of(reader, contents.namespace)
    for record_id, value in _rows(reader, namespace, Table.CONTENT):
        row = parse_content_row(value)
        state = reader.get(state_key(namespace, row.created_at, record_id))
        if row.store_code in contents.store_codes and state is not None:
            current = of_store[row.store_code].current(parse_state_row(state)[1], contents.now)
            yield record_json(record_id, row, current, reader.get(key(namespace, Table.EDGES, record_id)))


def _raw(reader: Reader, namespace: int) -> Iterator[bytes]:
    for record_id, value in _rows(reader, namespace, Table.RAW):
        yield raw_json(record_id, parse_raw_row(value))


def _rows(reader: Reader, namespace: int, table: Table) -> Iterator[tuple[RecordId, bytes]]:
    prefix = key(namespace, table)
    for row_key, value in reader.scan(prefix, after(prefix)):
        yield trailing_id(row_key), value


def plain_parts(header: bytes, lines: Spool, footer: bytes) -> Iterator[bytes]:
    """The archive, in parts that aren't empty."""
    yield header
    yield from lines.read()
    yield footer


def encrypted_parts(encryption: Encryption, parts: Iterator[bytes]) -> Iterator[bytes]:
    yield encryption.start()
    yield from map(encryption.encrypt, parts)
    yield encryption.finish()
