"""Ending the audit log's file: the mutation that decides it (`audit_closed` says what follows)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cerememory.domain.audit_chain import GENESIS, AuditDraft
from cerememory.protocol.replies import AuditRotated
from cerememory.storage.audit_closed import ClosedFile, closed_at, closed_files, dump_closed, start_behind
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.ledger import Ledger
from cerememory.storage.mutations import Stored


@dataclass(frozen=True, slots=True)
class CloseAuditFile:
    """The file of the log at `log` ends in front of this commit, whose entries are the first of the next file.

    One of them is about this. Two in one commit end one file; a log without entries stays as it is.
    """

    log: Path
    now: int

    @property
    def namespace(self) -> int:
        return DEFAULT_NAMESPACE

    def apply(self, ledger: Ledger) -> Stored[AuditRotated]:
        before = closed_files(ledger)
        if ledger.audit_end.audit_sequence == start_behind(before).sequence:
            return Stored(self._reply(before[-1] if before else None), ledger.read_from)
        closed = closed_at(ledger.audit_end, before, ledger.head_key)
        ledger.put(*dump_closed(closed))
        ledger.ends_audit_file()
        summary = {"from_sequence": closed.first, "to_sequence": closed.last.sequence}
        ledger.audit(AuditDraft(self.now, "audit.rotated", (), (), summary))
        return Stored(self._reply(closed), ledger.sequence)

    def _reply(self, closed: ClosedFile | None) -> AuditRotated:
        if closed is None:
            return AuditRotated(file=None, entries=0, last_sequence=0, head_hash=GENESIS, size_bytes=0)
        return AuditRotated(
            file=closed.name(self.log),
            entries=closed.last.sequence - closed.first + 1,
            last_sequence=closed.last.sequence,
            head_hash=closed.last.entry_hash,
            size_bytes=closed.end_bytes - closed.start_bytes,
        )
