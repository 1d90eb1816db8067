"""What the audit log says of one record: the lines that name it, oldest first.

The log has no index by record, for it is a log: its files are searched from end to end (a gigabyte takes about a
second), and what they lack yet is in the store. What is in a file that was moved away isn't found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from cerememory.domain.audit_chain import AuditEntry, parse_line
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.audit_closed import ClosedFile
from cerememory.storage.audit_lines import LineReader, lines_of
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.contract import Storage
from cerememory.storage.keys import DEFAULT_NAMESPACE

ENTRIES_MAX = 1_000


def entries_about(path: Path, storage: Storage, namespace: int, record_id: RecordId) -> list[AuditEntry]:
    """At most `ENTRIES_MAX`. Entries that name too many records to list them don't count."""
    named = format_id(record_id).encode()
    found = (parse_line(line) for line in _lines(path, storage) if named in line)
    about = (e for e in found if record_id in e.record_ids and namespace_of_entry(e) == namespace)
    return list(islice(about, ENTRIES_MAX))


def namespace_of_entry(entry: AuditEntry) -> int:
    """Only entries of other namespaces than the default one say which."""
    named = entry.summary.get("namespace", DEFAULT_NAMESPACE)
    return named if isinstance(named, int) else DEFAULT_NAMESPACE


def _lines(path: Path, storage: Storage) -> Iterator[bytes]:
    """The whole lines of the files, and those that only the store has."""
    last, outbox = b"", StoredOutbox(storage)
    with LineReader(path) as reader:  # opened before it is asked what is closed: it may be closed meanwhile
        for line in chain(_lines_in_front(path, reader.first_sequence(), outbox.closed), reader):
            last = line
            yield line
    written = parse_line(last).sequence if last else 0
    for _sequence, line in outbox.lines(written + 1):
        yield line


def _lines_in_front(path: Path, first: int | None, closed: Iterable[ClosedFile]) -> Iterator[bytes]:
    """Those of the closed files that come before entry `first`."""
    for file in closed:
        if file.first == first:
            return
        yield from lines_of(file.path(path))
