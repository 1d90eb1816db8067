"""An audit log without a daemon: entries are committed to a store in memory, and its files are brought level."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cerememory.domain.audit_chain import GENESIS, AuditDraft
from cerememory.protocol.replies import AuditRotated
from cerememory.storage.audit_closed import ClosedFile
from cerememory.storage.audit_file import complete, plan_repair
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_rotation import CloseAuditFile
from cerememory.storage.audit_tree import AuditTree
from cerememory.storage.audit_verification import KeptCheckpoint, Verification, verify_log
from cerememory.storage.fsck import Tally
from cerememory.storage.fsck_system import check_audit_log, check_store
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, system_key
from cerememory.storage.ledger import Ledger, Mutation, record_audit_synced
from cerememory.storage.mutations import NoteAudit
from cerememory.storage.rows import Head, parse_head, parse_log_row
from tests.support.memory_storage import MemoryStorage

KEY = bytes(range(32))
NOW = 1_800_000_000_000_000_000


class RotatedLog:
    """At `path`; sealed with `KEY`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.storage = MemoryStorage()
        self.outbox = StoredOutbox(self.storage)
        self.tree = AuditTree(self.storage, path)

    @property
    def head(self) -> Head:
        with self.storage.read() as reader:
            return parse_head(reader.get(system_key(Table.HEAD)), GENESIS)

    def commit(self, *mutations: Mutation[object]) -> list[object]:
        """In one transaction; the answers."""
        with self.storage.read() as reader:
            ledger = Ledger(reader, self.head, NOW, audited=True, index_applied=0, head_key=KEY)
            answers = [ledger.attempt(mutation) for mutation in mutations]
            finished = ledger.finish()
        if finished is not None:
            self.storage.commit(finished.changes)
        return answers

    def add(self, count: int) -> None:
        """Entries, in one commit."""
        first = self.head.audit_sequence
        self.commit(
            *(
                NoteAudit(DEFAULT_NAMESPACE, AuditDraft(NOW, "lifecycle.set_mode", (), (), {"n": first + i}))
                for i in range(count)
            )
        )

    def rotate(self) -> AuditRotated:
        """Decide it: the files stay as they are."""
        [stored] = self.commit(CloseAuditFile(self.path, NOW))
        reply: AuditRotated = stored.reply  # type: ignore[attr-defined]
        return reply

    def project(self) -> None:
        """What a start does with the files."""
        reached = complete(self.path, plan_repair(self.path, self.outbox), self.outbox)
        record_audit_synced(self.storage, reached)

    def verify(self, *kept: KeptCheckpoint) -> Verification:
        return verify_log(self.path, self.outbox, kept)

    def forget_lines(self, up_to: int) -> None:
        """As commits do, once the file has them; rows are dropped whole."""
        prefix = system_key(Table.LOG)
        with self.storage.read() as reader:
            rows = list(reader.scan(prefix, after(prefix)))
        self.storage.commit({key: None for key, value in rows if parse_log_row(value).end_line <= up_to + 1})

    @property
    def closed(self) -> list[ClosedFile]:
        return self.outbox.closed

    @property
    def files(self) -> list[Path]:
        """Those that are there, in the order of their entries."""
        return [*sorted(self.path.parent.glob(f"{self.path.name}.0*")), self.path]

    def bytes(self) -> list[bytes]:
        return [file.read_bytes() for file in self.files]


def rotated(path: Path, *sizes: int) -> RotatedLog:
    """A log of so many files, each with so many entries beside the one about the rotation in front of it."""
    log = RotatedLog(path)
    for i, size in enumerate(sizes):
        if i:
            log.rotate()
        log.add(size)
        log.project()
    return log


def lines_in(*files: Path) -> list[bytes]:
    return [line for file in files for line in file.read_bytes().splitlines(keepends=True)]


def open_as_any_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files of mode 0400 be opened for reading alone, as for everybody but root, whom tests may run as."""
    os_open = os.open

    def opened(path: str | os.PathLike[str], flags: int, *args: Any, **given: Any) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY and Path(path).exists() and not Path(path).stat().st_mode & 0o200:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return os_open(path, flags, *args, **given)

    monkeypatch.setattr(os, "open", opened)


def rewrite(file: Path, change: Callable[[bytes], bytes]) -> None:
    data = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(change(data))


def findings(log: RotatedLog) -> list[str]:
    with log.storage.read() as reader:
        found = list(check_store(reader, NOW, Tally()))
    return [str(finding) for finding in (*found, *check_audit_log(log.path, log.storage, Tally()))]
