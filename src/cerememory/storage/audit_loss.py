"""`serve --accept-audit-loss`: going on with an audit log that doesn't verify, and saying so in the log.

What was found is set aside beside the log, never deleted. A closed file that isn't what was closed is set aside
and no more: it is missed, as one that was moved away is. When the good beginning of the last file and the lines
that the store holds make the whole of it, it is put together again, and nothing is lost but trust. Otherwise a new
log begins with entry 1. Either way an entry `audit.loss_accepted` records what was wrong, how long the log was,
and what was set aside; and checkpoints that others kept of the old log go on to tell of it.

For a start, before any actor runs. A crash in between leaves a log that doesn't verify, and the same question.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

from cerememory.domain.audit_chain import GENESIS, AuditDraft
from cerememory.errors import AuditBroken
from cerememory.storage.audit_checkpoint import checkpoint_path, read_checkpoint
from cerememory.storage.audit_closed import check_closed, dump_closed, sealed_anew
from cerememory.storage.audit_file import FILE_MODE, complete, plan_repair
from cerememory.storage.audit_head import check_head
from cerememory.storage.audit_keys import AuditKeys, open_keys
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_tree import AuditTree
from cerememory.storage.contract import Storage, Transaction
from cerememory.storage.datadir import sync_directory
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, system_key
from cerememory.storage.ledger import commit_alone
from cerememory.storage.mutations import NoteAudit
from cerememory.storage.rows import Head, LogRow, dump_head, dump_row, parse_head, parse_log_row

REASON_CHARS_MAX = 500


def accept_loss(storage: Storage, log: Path, key_path: Path, now: int) -> str | None:
    """Make the log at `log` one that a start accepts; what was wrong with it, None when it was one already.

    `now` is in nanoseconds since the epoch. Raises `DataDirUnusable`, `OSError`, `StorageUnavailable`.
    """
    before = AuditTree(storage, log).head
    faults, aside = [], _Aside(now)
    keys, missing = _keys(key_path, before)
    faults.append(missing)
    faults.append(_fault(partial(check_head, before, keys.head_key)))
    faults.append(_mend_closed(storage, log, keys.head_key, aside))
    faults.append(_mend_log(storage, log, aside))
    faults.append(_mend_tree(storage, log, aside))
    faults.append(_mend_checkpoint(storage, log, keys, aside))
    found = [str(fault) for fault in faults if fault is not None]
    if not found:
        return None
    reason = "; ".join(found)
    summary = {
        "reason": reason[:REASON_CHARS_MAX].encode(errors="replace").decode(),
        "entries": before.audit_sequence,
        "head_hash": before.audit_hash,
        "set_aside": ", ".join(aside.names),
    }
    note = NoteAudit(DEFAULT_NAMESPACE, AuditDraft(now, "audit.loss_accepted", (), (), summary))
    commit_alone(storage, note, now, keys.head_key)
    return reason


class _Aside:
    """Gives files another name, which says when, in the same folder."""

    def __init__(self, now: int) -> None:
        self.names: list[str] = []
        self._now = now

    def put(self, file: Path) -> Path:
        """The new name, also when there is no such file."""
        named = file.with_name(f"{file.name}.refused-{self._now}")
        if file.exists():
            file.rename(named)
            sync_directory(file.parent)
            self.names.append(named.name)
        return named


def _fault(check: Callable[[], object]) -> AuditBroken | None:
    try:
        check()
    except AuditBroken as error:
        return error
    return None


def _keys(path: Path, head: Head) -> tuple[AuditKeys, AuditBroken | None]:
    """Missing ones are made anew: checkpoints of the old ones are then another log's."""
    missing = _fault(partial(open_keys, path, may_create=not head.audit_sequence))
    return open_keys(path, may_create=True), missing


def _mend_closed(storage: Storage, log: Path, key: bytes, aside: _Aside) -> AuditBroken | None:
    """Leaves closed files that are what was closed, as far as they are there; the first fault of all."""
    outbox = StoredOutbox(storage)
    faults = [_fault(partial(check_closed, closed, key)) for closed in outbox.closed]
    if any(faults):
        storage.commit(dict(dump_closed(sealed_anew(closed, key)) for closed in outbox.closed))
    while (fault := _fault(partial(plan_repair, log, outbox))) is not None:
        file = Path((fault.details or {}).get("file", log))
        if file == log:
            break
        aside.put(file)
        faults.append(fault)
    return next(filter(None, faults), None)


def _mend_log(storage: Storage, log: Path, aside: _Aside) -> AuditBroken | None:
    """Leaves a log that the store can complete."""
    outbox = StoredOutbox(storage)
    fault = _fault(partial(plan_repair, log, outbox))
    if fault is None:
        return None
    good_lines = int((fault.details or {}).get("line", 1)) - 1
    _copy_lines(aside.put(log), log, good_lines)
    if _fault(partial(plan_repair, log, outbox)) is None:
        complete(log, plan_repair(log, outbox), outbox)
    else:
        _begin_anew(storage, log, aside)
    return fault


def _mend_tree(storage: Storage, log: Path, aside: _Aside) -> AuditBroken | None:
    fault = _fault(AuditTree(storage, log).check)
    if fault is not None:
        aside.put(log)
        _begin_anew(storage, log, aside)
    return fault


def _mend_checkpoint(storage: Storage, log: Path, keys: AuditKeys, aside: _Aside) -> AuditBroken | None:
    kept_in, tree = checkpoint_path(log), AuditTree(storage, log)

    def check() -> None:
        if kept_in.exists():
            kept = read_checkpoint(kept_in, keys.signer.verifier)
            tree.check_kept(kept_in, kept, tree.whole.size)

    fault = _fault(check)
    if fault is not None:
        aside.put(kept_in)
    return fault


def _copy_lines(source: Path, target: Path, count: int) -> None:
    """The first `count` lines, nothing without a source; durable with what is appended to them."""
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "wb") as out:
        with suppress(FileNotFoundError), source.open("rb") as file:
            out.writelines(islice(file, count))
        out.flush()
        os.fsync(out.fileno())
    sync_directory(target.parent)


def _begin_anew(storage: Storage, log: Path, aside: _Aside) -> None:
    """A log without entries, in the store and in the file; what the text index has to follow stays."""
    for closed in StoredOutbox(storage).closed:
        aside.put(closed.path(log))
    storage.transact(_forget_lines)
    log.unlink(missing_ok=True)
    sync_directory(log.parent)


def _forget_lines(transaction: Transaction) -> None:
    head_key, log = system_key(Table.HEAD), system_key(Table.LOG)
    head = parse_head(transaction.get(head_key), GENESIS)
    changes: dict[bytes, bytes | None] = {head_key: dump_head(Head(head.commit_sequence, 0, GENESIS, 0))}
    for key, value in transaction.scan(log, after(log)):
        row = parse_log_row(value)
        is_followed = row.changed or row.left
        changes[key] = dump_row(LogRow(1, b"", row.changed, row.left)) if is_followed else None
    for table in map(system_key, (Table.AUDIT_TILES, Table.AUDIT_FILES)):
        changes |= dict.fromkeys(key for key, _value in transaction.scan(table, after(table)))
    transaction.write(changes)
