"""The audit log: appends what was committed to the file, one write and one sync for all that waits.

The file is a projection of the lines in storage. When it can't be written, nothing is lost: the actor tries
again every second to complete it from there, and says so. The writer is told how far the file is synced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from cerememory.actors.actor import Actor, Ping, Reply
from cerememory.actors.seams import World
from cerememory.actors.writer import AuditSynced, Commit, LinesCommitted, Writer
from cerememory.domain.audit_chain import GENESIS, AuditDraft, ChainHead
from cerememory.errors import ActorBusy, ActorStopped, DataDirUnusable, StorageUnavailable
from cerememory.storage.audit_file import AuditFile, Repair, complete, plan_repair
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, after, pack_sequence, system_key, unpack_sequence
from cerememory.storage.ledger import commit_alone
from cerememory.storage.mutations import NoteAudit
from cerememory.storage.rows import Head, parse_head
from cerememory.telemetry.metrics import Metrics

GROUP_MAX = 512
RETRY_S = 1.0

log = structlog.get_logger(__name__)


class StoredOutbox:
    """`audit_file.Outbox` over storage; every attribute is read anew."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def _head(self) -> Head:
        with self._storage.read() as reader:
            return parse_head(reader.get(system_key(Table.HEAD)), GENESIS)

    @property
    def head(self) -> ChainHead:
        head = self._head()
        return ChainHead(head.audit_sequence, head.audit_hash)

    @property
    def synced(self) -> int:
        return self._head().audit_synced

    @property
    def oldest_sequence(self) -> int:
        prefix = system_key(Table.AUDIT_OUTBOX)
        with self._storage.read() as reader:
            for row_key, _value in reader.scan(prefix, after(prefix)):
                return unpack_sequence(row_key[len(prefix) :])
        return self.head.sequence + 1

    def lines(self, from_sequence: int) -> Iterator[tuple[int, bytes]]:
        """One row at a time, each in a snapshot of its own: a long repair pins nothing."""
        sequence = from_sequence
        while (row := self._row_with(sequence)) is not None:
            first, value = row
            for number, line in enumerate(value.splitlines(keepends=True), first):
                if number >= sequence:
                    yield number, line
            sequence = first + value.count(b"\n")

    def _row_with(self, sequence: int) -> tuple[int, bytes] | None:
        """The row that holds line `sequence`: the last one that doesn't start behind it."""
        prefix = system_key(Table.AUDIT_OUTBOX)
        with self._storage.read() as reader:
            for row_key, value in reader.scan(prefix, prefix + pack_sequence(sequence + 1), reverse=True):
                first = unpack_sequence(row_key[len(prefix) :])
                return (first, value) if first + value.count(b"\n") > sequence else None
        return None


class AuditLog(Actor):
    """Owns the file at `path`."""

    def __init__(
        self,
        storage: Storage,
        world: World,
        metrics: Metrics,
        writer: Writer,
        path: Path,
        mailbox_size: int = 256,
    ) -> None:
        super().__init__("audit", mailbox_size)
        self._storage = storage
        self._outbox = StoredOutbox(storage)
        self._world = world
        self._metrics = metrics
        self._writer = writer
        self._path = path
        self._limiter = trio.CapacityLimiter(1)
        self._file: AuditFile | None = None
        self._loaded = False

    async def load(self) -> None:
        """Bring the file up to what is committed; `AuditBroken` when it can't be ours."""
        try:
            await self._bring_level()
        except OSError as error:
            if self._loaded:
                raise
            raise DataDirUnusable(f"{self._path}: the audit log can't be opened: {error.strerror}") from error
        self._loaded = True

    async def _bring_level(self) -> None:
        self._close_file()
        repair = await self._world.offload(partial(plan_repair, self._path, self._outbox), self._limiter)
        if repair.cut:
            await self._record_cut(repair)
        reached = await self._world.offload(partial(self._complete, repair), self._limiter)
        self._report(repair)
        self._file = AuditFile.open(self._path)
        self._tell_synced(reached)

    def _complete(self, repair: Repair) -> int:
        """Write what is missing, durably; the sequence that the file then ends with."""
        reached = self._outbox.head.sequence
        complete(self._path, repair, self._outbox)
        return reached

    async def _record_cut(self, repair: Repair) -> None:
        """Commit the evidence before the file is made whole, so that no crash in between loses it."""
        summary = {"from_sequence": repair.from_sequence, "to_sequence": repair.to_sequence}
        note = NoteAudit(AuditDraft(self._world.now(), "audit.repaired", (), (), summary))
        if self._loaded:
            await self._writer.ask(Commit(note))
        else:
            await self._world.offload(partial(commit_alone, self._storage, note, self._world.now()))

    def _report(self, repair: Repair) -> None:
        if not repair.missing:
            return
        lines = f"{repair.from_sequence} to {repair.to_sequence}"
        if repair.cut:
            self._metrics.audit_repairs.inc()
            log.warning("audit log had been cut: completed from the store", path=str(self._path), lines=lines)
        else:
            log.info("audit log completed after an unclean stop", path=str(self._path), lines=lines)

    async def run(self) -> None:
        while True:
            with trio.move_on_after(math.inf if self._file is not None else RETRY_S):
                try:
                    message, reply = await self._mailbox.receive()
                except trio.EndOfChannel:
                    break
                await self._handle_one(message, reply)
                continue
            await self._catch_up()
        self._close_file()

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        if isinstance(message, Ping):
            if self._file is None:
                raise StorageUnavailable("the audit log can't be written", retry_after_s=30)
            return None
        if isinstance(message, LinesCommitted):
            await self._append(message)
            return None
        return await super().handle(message, reply)

    async def _append(self, first: LinesCommitted) -> None:
        if self._file is None:
            return  # `_catch_up` takes them from storage
        lines, last_sequence = self._gather(first)
        try:
            await self._world.offload(partial(self._file.append, lines), self._limiter)
        except OSError as error:
            log.error("audit log can't be written", path=str(self._path), reason=error.strerror)
            self._close_file()
            return
        self._tell_synced(last_sequence)

    def _gather(self, first: LinesCommitted) -> tuple[list[bytes], int]:
        lines, last_sequence = list(first.lines), first.last_sequence
        while len(lines) < GROUP_MAX:
            try:
                message, reply = self._mailbox.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            if isinstance(message, LinesCommitted):
                lines += message.lines
                last_sequence = message.last_sequence
            elif reply is not None:
                reply.resolve(None)  # a ping: the file is open
        return lines, last_sequence

    async def _catch_up(self) -> None:
        """Complete the file from storage, or leave it for the next try."""
        try:
            await self.load()
        except OSError as error:
            log.error("audit log is behind", path=str(self._path), reason=error.strerror)

    def _tell_synced(self, sequence: int) -> None:
        try:
            self._writer.post_nowait(AuditSynced(sequence))
        except (ActorBusy, ActorStopped):
            log.debug("audit progress not recorded", sequence=sequence)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
