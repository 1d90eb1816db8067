"""The audit log: appends what was committed to the file, and syncs it a few times a second.

The file is a projection of the lines in storage, which keeps them until the file is synced and the writer
knows. So lines may gather for a moment, and nothing is lost when the file can't be written or lines didn't
come: the actor tries every second to complete the file from storage, and says that it is behind.

Once in a while, and at the end, it signs a checkpoint of what it has written, into a file beside the log.

Where a commit ends the file (`audit_rotation`), it is written and synced up to there, gets its name, and what
follows goes into a new one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from cerememory.actors.actor import Actor, Ping, Reply
from cerememory.actors.followers import CommitsUntold, LinesCommitted
from cerememory.actors.seams import World
from cerememory.actors.writer import AuditSynced, CommitLater, Writer
from cerememory.domain.audit_chain import AuditDraft
from cerememory.errors import ActorBusy, ActorStopped, Busy, DataDirUnusable, StorageDamaged, StorageUnavailable
from cerememory.storage.audit_checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from cerememory.storage.audit_closed import check_closed, close_file
from cerememory.storage.audit_file import AuditFile, Repair, complete, plan_repair
from cerememory.storage.audit_head import check_head
from cerememory.storage.audit_keys import AuditKeys
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_tree import AuditTree
from cerememory.storage.contract import Storage
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.ledger import commit_alone, record_audit_synced
from cerememory.storage.mutations import NoteAudit
from cerememory.telemetry.metrics import Metrics

GATHER_S = 0.02  # how long committed lines may wait for more before they are written
GATHER_MAX = 512
SYNC_S = 0.2  # how long written lines may wait for the sync
CHECKPOINT_S = 10.0  # between two checkpoints in the file: each is two syncs
RETRY_S = 1.0

log = structlog.get_logger(__name__)


class AuditLog(Actor):
    """Owns the file at `path`."""

    def __init__(
        self,
        storage: Storage,
        world: World,
        metrics: Metrics,
        writer: Writer,
        path: Path,
        keys: AuditKeys,
        mailbox_size: int = 256,
    ) -> None:
        super().__init__("audit", mailbox_size)
        self._storage = storage
        self._outbox = StoredOutbox(storage)
        self._world = world
        self._metrics = metrics
        self._writer = writer
        self._path = path
        self._keys = keys
        self._tree = AuditTree(storage, path)
        self._limiter = trio.CapacityLimiter(1)
        self._file: AuditFile | None = None
        self._loaded = False
        self._written = 0  # the last sequence in the file
        self._lines: list[bytes] = []  # committed behind it
        self._last = 0  # the last sequence of `_lines`; `_written` when there are none
        self._checkpointed = 0  # the size that the last checkpoint in the file is of
        self._write_due = self._sync_due = self._retry_due = self._checkpoint_due = math.inf

    async def load(self) -> None:
        """Bring the file up to what is committed; `AuditBroken` when it can't be ours.

        What stands in the way at the first time may be a mistake of whoever starts the daemon, and is an error;
        later it is a disk that fails for a while.
        """
        if self._loaded:
            await self._catch_up()
            return
        check_head(self._tree.head, self._keys.head_key)
        for closed in self._outbox.closed:
            check_closed(closed, self._keys.head_key)
        try:
            await self._bring_level()
            self._checkpointed = await self._world.offload(self._check_kept, self._limiter)
        except OSError as error:
            raise DataDirUnusable(f"{self._path}: the audit log can't be opened: {error.strerror}") from error
        self._expect_checkpoint()
        self._loaded = True

    def _check_kept(self) -> int:
        """Hold the log against the store's tree and the checkpoint beside it; the size of that, 0 for none."""
        self._tree.check()
        kept_in = checkpoint_path(self._path)
        try:
            kept = read_checkpoint(kept_in, self._keys.signer.verifier)
        except FileNotFoundError:
            return 0
        self._tree.check_kept(kept_in, kept, self._written)
        return kept.size

    async def _bring_level(self) -> None:
        self._close_file()
        repair = await self._world.offload(partial(plan_repair, self._path, self._outbox), self._limiter)
        if repair.cut:
            await self._record_cut(repair)
        fill = partial(complete, self._path, repair, self._outbox)
        self._written = await self._world.offload(fill, self._limiter)
        self._report(repair)
        self._file = await self._world.offload(partial(AuditFile.open, self._path), self._limiter)
        self._lines, self._last = [], self._written
        self._write_due = self._sync_due = math.inf
        self._tell_synced()

    async def _record_cut(self, repair: Repair) -> None:
        """Commit the evidence before the file is made whole, so that no crash in between loses it."""
        summary = {"from_sequence": repair.from_sequence, "to_sequence": repair.to_sequence}
        note = NoteAudit(DEFAULT_NAMESPACE, AuditDraft(self._world.now(), "audit.repaired", (), (), summary))
        if self._loaded:  # asking the writer could wait for ever: it may be waiting for this mailbox
            self._writer.post_nowait(CommitLater(note))
        else:
            commit = partial(commit_alone, self._storage, note, self._world.now(), self._keys.head_key)
            await self._world.offload(commit)

    def _report(self, repair: Repair) -> None:
        for away in repair.unseen:
            entries = f"{away.first} to {away.last.sequence}"
            log.info("audit entries are in a file that isn't there", file=away.name(self._path), entries=entries)
        if not repair.missing:
            return
        lines = f"{repair.from_sequence} to {repair.to_sequence}"
        if repair.cut:
            self._metrics.audit_repairs.inc()
            log.warning("audit log had been cut: completed from the store", path=str(self._path), lines=lines)
        else:
            log.info("audit log completed from the store", path=str(self._path), lines=lines)

    async def run(self) -> None:
        while True:
            received: tuple[Any, Reply[Any] | None] | None = None
            with trio.move_on_at(self._due()):
                try:
                    received = await self._mailbox.receive()
                except trio.EndOfChannel:
                    break
            if received is not None:  # nothing that is due cuts it short
                await self._handle_one(*received)
            await self._do_due()
        await self._finish()

    async def _finish(self) -> None:
        """The writer has ended: what it hasn't learned of the file is recorded from here."""
        if self._file is None:
            await self._catch_up()
        await self._write()
        await self._sync()
        if self._file is not None:
            await self._record_synced()
            await self._write_checkpoint()
        self._close_file()

    async def _record_synced(self) -> None:
        record = partial(record_audit_synced, self._storage, self._written)
        try:
            await self._world.offload(record, self._limiter)
        except StorageUnavailable as error:
            log.warning("audit progress not recorded", sequence=self._written, reason=str(error))

    def _due(self) -> float:
        if self._file is None:
            return self._retry_due
        return min(self._write_due, self._sync_due, self._checkpoint_due)

    async def _do_due(self) -> None:
        now = trio.current_time()
        if self._file is None:
            if now >= self._retry_due:
                await self._catch_up()
            return
        if now >= self._write_due or len(self._lines) >= GATHER_MAX:
            await self._write()
        if now >= self._sync_due:
            await self._sync()
        if now >= self._checkpoint_due:
            await self._write_checkpoint()

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        if isinstance(message, Ping):
            if self._file is None:
                raise StorageUnavailable("the audit log can't be written", retry_after_s=30)
            return None
        if isinstance(message, LinesCommitted):
            if message.begin_file:
                await self._begin_file(message)
            self._gather(message)
            if message.begin_file:  # an empty one wouldn't say behind which file it comes, once that is moved away
                await self._write()
                await self._sync()
            return None
        if isinstance(message, CommitsUntold):
            self._fall_behind(0.0)
            return None
        return await super().handle(message, reply)

    def takes_note(self, event: object) -> bool:
        """Lines beside others that are due to be written."""
        if not (isinstance(event, LinesCommitted) and self._lines) or event.begin_file:
            return False
        if event.first_sequence != self._last + 1 or len(self._lines) + len(event.lines) >= GATHER_MAX:
            return False
        self._gather(event)
        return True

    async def _begin_file(self, message: LinesCommitted) -> None:
        """Close the file with what was committed in front of `message`, and open the next; unless that is done, or
        left to `_catch_up`.

        A checkpoint of that end needs nothing of a closed file, so that each may be moved away at once.
        """
        if self._file is None or message.first_sequence != self._last + 1:
            return
        await self._write()
        await self._sync()
        await self._write_checkpoint()
        if self._file is not None and await self._succeeds(self._exchange_file):
            log.info("audit log rotated", path=str(self._path), entries=self._written)

    def _exchange_file(self) -> None:
        [closed] = [closed for closed in self._outbox.closed if closed.last.sequence == self._written]
        close_file(self._path, closed)
        self._close_file()
        self._file = AuditFile.open(self._path)

    def _gather(self, message: LinesCommitted) -> None:
        """Unless the file got them from storage already, or will."""
        if self._file is None or message.last_sequence <= self._last:
            return
        if message.first_sequence != self._last + 1:
            self._fall_behind(0.0)
            return
        self._lines += message.lines
        self._last = message.last_sequence
        self._write_due = min(self._write_due, trio.current_time() + GATHER_S)

    async def _write(self) -> None:
        if self._file is None or not self._lines:
            return
        lines, self._lines, self._write_due = self._lines, [], math.inf
        if await self._succeeds(partial(self._file.write, lines)):
            self._written = self._last
            self._sync_due = min(self._sync_due, trio.current_time() + SYNC_S)

    async def _sync(self) -> None:
        if self._file is None or self._sync_due == math.inf:
            return
        self._sync_due = math.inf
        if await self._succeeds(self._file.sync):
            self._tell_synced()
            self._expect_checkpoint()

    def _expect_checkpoint(self) -> None:
        if self._written != self._checkpointed:
            self._checkpoint_due = min(self._checkpoint_due, trio.current_time() + CHECKPOINT_S)

    async def _write_checkpoint(self) -> None:
        """One that can't be written is one fewer: the next comes with the next entries, or at the end."""
        self._checkpoint_due = math.inf
        size = self._written
        if size == self._checkpointed:
            return
        try:
            await self._world.offload(partial(self._sign_checkpoint, size), self._limiter)
        except (OSError, StorageDamaged) as error:
            log.error("audit checkpoint can't be written", path=str(self._path), reason=str(error))
        else:
            self._checkpointed = size

    def _sign_checkpoint(self, size: int) -> None:
        write_checkpoint(checkpoint_path(self._path), self._keys.signer.note(size, self._tree.root(size)))

    async def _succeeds(self, call: Callable[[], None]) -> bool:
        """Whether the disk did it; else the file is closed, to be completed from storage."""
        try:
            await self._world.offload(call, self._limiter)
        except OSError as error:
            log.error("audit log can't be written", path=str(self._path), reason=error.strerror)
            self._fall_behind(RETRY_S)
            return False
        return True

    def _fall_behind(self, pause_s: float) -> None:
        """Leave the file as it is; `_catch_up` completes it from storage after the pause."""
        self._close_file()
        self._retry_due = trio.current_time() + pause_s

    async def _catch_up(self) -> None:
        """Complete the file from storage, or leave it for the next try."""
        try:
            await self._bring_level()
        except (OSError, Busy) as error:
            log.error("audit log is behind", path=str(self._path), reason=str(error))
            self._fall_behind(RETRY_S)

    def _tell_synced(self) -> None:
        try:
            self._writer.post_nowait(AuditSynced(self._written))
        except (ActorBusy, ActorStopped):
            log.debug("audit progress not recorded", sequence=self._written)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
