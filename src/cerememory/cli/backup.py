"""`cerememory backup`: a copy of the data dir that a daemon can be started on, taken while another one serves.

It is opened and checked before it gets its name. What is broken in the data dir is broken in its copy, too: such a
backup is kept, what is wrong is said, and the exit code is 1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cerememory.cli.arguments import Common
from cerememory.cli.options import UsageError
from cerememory.cli.output import note, pretty
from cerememory.cli.progress import counted
from cerememory.cli.settings import load
from cerememory.cli.stores import LOCATED, check_end, is_locked, open_readonly, refuse_remote
from cerememory.config.settings import Settings
from cerememory.domain.audit_chain import ChainHead
from cerememory.domain.visible import visible
from cerememory.errors import AuditBroken, CerememoryError
from cerememory.storage import backup as backups
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_verification import FileEnds, verify_log
from cerememory.storage.backup import AUDIT_NAME, STORE_NAME, Source
from cerememory.storage.contract import Storage
from cerememory.storage.datadir import check_format
from cerememory.storage.fsck import Finding, Tally, check
from cerememory.storage.keys import counters_range
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.rewriting import Pair
from cerememory.storage.rows import parse_counters

FINDINGS_MAX = 1_000  # what is that broken needs no longer list
BROKEN = 1


def backup(destination: Path, /, *, without_keys: bool = False, options: Common) -> int:
    """Copy the data dir as it is at one moment, while the daemon serves; the copy is checked.

    Exit code 1 when something in it doesn't add up; then the data dir should be looked at, with fsck.

    Args:
        destination: A folder, which must not be there or be empty.
        without_keys: Leave out the API keys, and the audit log's keys.
    """
    refuse_remote(options)
    settings = load(options, only=LOCATED).settings
    _refuse_inside(destination, settings.data_dir)
    with backups.draft(destination) as folder:
        copied = taken(settings, folder, with_keys=not without_keys)
    answer = {"path": str(destination), **copied.described()}
    if options.json:
        print(pretty(answer))
    else:
        _print(answer, copied)
    return BROKEN if copied.findings else 0


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that was opened again, and what is wrong with it."""

    head: ChainHead
    size_bytes: int
    tally: Tally
    findings: list[Finding]

    def described(self) -> dict[str, Any]:
        return {
            "size_bytes": self.size_bytes,
            "audit_sequence": self.head.sequence,
            "audit_head": self.head.entry_hash,
            **asdict(self.tally),
            "findings": [finding.described() for finding in self.findings],
        }


def taken(settings: Settings, folder: Path, *, with_keys: bool) -> Copied:
    """A copy of the data dir in the empty `folder`."""
    check_format(settings.data_dir)
    source = Source(settings.data_dir, settings.security.audit_log_path, with_keys)
    locked = is_locked(settings, settings.data_dir / STORE_NAME)
    opened = None if locked else partial(open_readonly, settings)
    backups.copy(source, folder, opened, _watched)
    tally, store = Tally(), folder / STORE_NAME
    findings = list(
        islice(_checked_less(folder, tally) if locked else checked(settings, folder, tally), FINDINGS_MAX)
    )
    with closing(LmdbStorage.open_readonly(store)) as storage:
        head = StoredOutbox(storage).head
    backups.forget_readers(store)
    return Copied(head, backups.size_of(folder), tally, findings)


def checked(settings: Settings, folder: Path, tally: Tally) -> Iterator[Finding]:
    """What contradicts in the copy in `folder`."""
    log = folder / AUDIT_NAME
    is_audited = settings.security.audit_log_enabled or log.exists()
    with closing(open_readonly(settings, folder / STORE_NAME)) as storage:
        audit_path = log if is_audited else None
        yield from check(storage, index_path=None, audit_path=audit_path, now=time.time_ns(), tally=tally)
        if is_audited:
            yield from _check_end(settings, storage, log)


def _check_end(settings: Settings, storage: Storage, log: Path) -> Iterator[Finding]:
    try:
        check_end(settings, storage, log)
    except CerememoryError as error:
        yield Finding("audit", str(error))


def _checked_less(folder: Path, tally: Tally) -> Iterator[Finding]:
    """What can be said of an encrypted copy without its passphrase: counts, and the chain of the audit log."""
    tally.notes.append("checked less: the store is encrypted, and no passphrase is given to look into its rows")
    with closing(LmdbStorage.open_readonly(folder / STORE_NAME)) as storage, storage.read() as reader:
        ends = FileEnds(StoredOutbox(storage).closed, StoredOutbox(storage).synced)
        for _key, value in reader.scan(*counters_range()):
            counters = parse_counters(value)
            tally.namespaces += 1
            tally.memories += sum(counters.records)
            tally.raw_entries += counters.raw_records
    try:
        verify_log(folder / AUDIT_NAME, None, ends=ends)
    except AuditBroken as error:
        yield Finding("audit", str(error))


def _refuse_inside(destination: Path, data_dir: Path) -> None:
    if destination.resolve().is_relative_to(data_dir.resolve()):
        raise UsageError(f"{destination}: lies in the data directory, and would be lost with it")


def _watched(rows: Iterator[Pair], count: int) -> Iterator[Pair]:
    return counted(rows, count, "Copying")


def _print(answer: dict[str, Any], copied: Copied) -> None:
    for finding in copied.findings:
        print(visible(str(finding)))
    for said in copied.tally.notes:
        note(said)
    print(
        f"Backed up {copied.tally.memories} memories, {copied.tally.raw_entries} raw entries"
        f" ({copied.size_bytes} bytes) to {answer['path']},"
        f" audit head {copied.head.sequence} {copied.head.entry_hash}"
    )
    if copied.findings:
        note("what doesn't add up in the copy doesn't in the data dir: see fsck")
