"""Whether a data dir adds up: rows, log, audit log and text index, each against the others. Nothing is changed.

May run beside the daemon that owns the data dir: what is compared with the rows is read before their snapshot, and
may lack what the log still has for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cerememory.errors import StorageDamaged
from cerememory.storage.contract import Storage
from cerememory.storage.fsck_index import check_index, open_index
from cerememory.storage.fsck_rows import Finding, Tally
from cerememory.storage.fsck_system import check_audit_log, check_store
from cerememory.storage.text_index import TextIndex

__all__ = ["Finding", "Tally", "check", "damage"]


def check(
    storage: Storage, *, index_path: Path | None, audit_path: Path | None, now: int, tally: Tally
) -> Iterator[Finding]:
    """What contradicts, as it is found; `tally` says afterwards what was looked at.

    `index_path` and `audit_path`: where text index and audit log are; None for what isn't kept. `now` is in
    nanoseconds.
    """
    index = None if index_path is None else open_index(index_path, tally)
    try:
        if isinstance(index, Finding):
            yield index
        with storage.read() as reader:
            yield from check_store(reader, now, tally)
            if isinstance(index, TextIndex):
                yield from check_index(index, reader, tally)
    except StorageDamaged as error:
        yield damage(error, tally)
    finally:
        if isinstance(index, TextIndex):
            index.close()
    if audit_path is not None:
        yield from check_audit_log(audit_path, storage, tally)


def damage(error: StorageDamaged, tally: Tally) -> Finding:
    """What ends the look at a store: there is more of it that nobody has seen."""
    tally.notes.append("the other rows weren't looked at: the store can't be read")
    return Finding("store", str(error))
