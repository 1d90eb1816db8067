"""What the audit log says of one record: the lines that name it, oldest first.

The log has no index by record, for it is a log: its file is searched from end to end (a gigabyte takes about a
second), and what the file lacks yet is in the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cerememory.domain.audit_chain import AuditEntry, parse_line
from cerememory.protocol.values import RecordId, format_id
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
    """The whole lines of the file, and those that only the store has."""
    last = b""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    last = line
                    yield line
    written = parse_line(last).sequence if last else 0
    for _sequence, line in StoredOutbox(storage).lines(written + 1):
        yield line
