"""The writer: the only one who commits.

Whatever waits in its mailbox goes into one transaction (group commit): each mutation is decided on its own,
the audit lines of all are chained, and one sync makes all durable. Only then are the askers answered, after the
followers (audit log, text index, vectors) have been told: whoever was answered finds its write in their
mailboxes before its next question.

A series (an import) has a transaction of its own: it may take long, and what waits meanwhile waits for it. So does
what waits while the store is compacted, for then nobody may write.

A commit that fails is an answer to everybody in its group, and leaves nothing behind. The writer then tries,
once a second and before each further group, to write again; until that works the daemon isn't ready.
Lazy commits (what recalls do to memories) have no asker and wait a moment for company.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import structlog
import trio

from cerememory.actors.actor import Actor, Answered, Ping, Reply, Request
from cerememory.actors.followers import Followers
from cerememory.actors.seams import World
from cerememory.domain.audit_chain import GENESIS
from cerememory.errors import ActorStopped, CerememoryError, InternalError, StorageDamaged, StorageUnavailable
from cerememory.failpoints import failpoint
from cerememory.storage.contract import Compaction, Reader, Storage, Transaction
from cerememory.storage.dynamics import Curves
from cerememory.storage.frames import Frames
from cerememory.storage.keys import Table, system_key
from cerememory.storage.ledger import Finished, Ledger, Mutation
from cerememory.storage.mutations import Stored, kept_answer
from cerememory.storage.recalling import SaveRecall, SaveRecalls, recalls_of, together
from cerememory.storage.rows import Head, dump_head, parse_head
from cerememory.storage.series import Committed, Series, run_series
from cerememory.telemetry.metrics import Metrics

R = TypeVar("R")

GROUP_MAX = 512
LAZY_MAX = 4_096
LAZY_S = 0.25
SYNCED_S = 1.0  # how long the audit log's progress may wait for a transaction to ride in
RETRY_S = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Commit(Request[R]):
    """Apply `mutation` in the next transaction and answer what it answers."""

    mutation: Mutation[R]


@dataclass(frozen=True, slots=True)
class CommitSeries(Request[R]):
    """Apply the mutations of `series`, all of them or none, and answer what it returns."""

    series: Series[R]


@dataclass(frozen=True, slots=True)
class Compact(Request[Compaction]):
    """Rid the store of what was deleted or replaced."""


@dataclass(frozen=True, slots=True)
class CommitLater:
    """An event: apply `mutation` within `LAZY_S`; nobody waits for it."""

    mutation: Mutation[None]


@dataclass(frozen=True, slots=True)
class AuditSynced:
    """An event from the audit log: its file has all entries up to `sequence`."""

    sequence: int


@dataclass(frozen=True, slots=True)
class IndexApplied:
    """An event from the text index: it has on disk all changes up to commit `sequence`."""

    sequence: int


@dataclass(slots=True)
class _Pending:
    mutation: Mutation[Any]
    reply: Reply[Any] | None
    outcome: Any = None


@dataclass(slots=True)
class _Group:
    pending: list[_Pending] = field(default_factory=list)
    bugs: list[Exception] = field(default_factory=list)


class Writer(Actor):
    def __init__(
        self,
        storage: Storage,
        world: World,
        metrics: Metrics,
        *,
        curves: Curves,
        frames: Frames,
        group_commit_s: float,
        audited: bool,
        head_key: bytes | None = None,
        mailbox_size: int = 1_024,
    ) -> None:
        super().__init__("writer", mailbox_size)
        self._storage = storage
        self._world = world
        self._metrics = metrics
        self._curves = curves
        self._frames = frames
        self._group_commit_s = group_commit_s
        self._audited = audited
        self._head_key = head_key
        self._followers = Followers()
        self._head = Head(0, 0, GENESIS, 0)
        self._alone: deque[tuple[CommitSeries[Any] | Compact, Reply[Any]]] = deque()  # what no group goes with
        self._lazy: list[_Pending] = []
        self._lazy_due = math.inf
        self._synced = 0
        self._index_applied = 0
        self._companions = 1
        self._failure: StorageUnavailable | None = None
        self._loaded = False

    def tell(self, followers: Followers) -> None:
        """Whom commits are told to."""
        self._followers = followers

    async def kept(self, mutation: Mutation[Stored[R]]) -> Stored[R] | None:
        """What is kept for the request that `mutation` is the last of, once whoever follows knows what it did.

        A writer that has crashed behind a commit tells them before it does anything else.
        """
        with self._storage.read() as reader:
            found = kept_answer(reader, mutation)
        if found is not None:
            await self.ask_patiently(Ping())
        return found

    @property
    def last_commit(self) -> int:
        """The sequence of a commit that whoever reads from now on sees; mostly the newest."""
        return self._head.commit_sequence

    def commit_later_nowait(self, recall: SaveRecall) -> None:
        """`CommitLater`, as `post_nowait`; beside others that wait already it takes no turn of the loop."""
        if self.is_idle and 0 < len(self._lazy) < LAZY_MAX - 1:
            self._lazy.append(_Pending(recall, None))
        else:
            self.post_nowait(CommitLater(recall))

    async def load(self) -> None:
        with self._storage.read() as reader:
            self._head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
        self._metrics.audit_sequence.set(self._head.audit_sequence)
        if self._loaded:
            await self._followers.tell_untold()
        self._loaded = True

    async def run(self) -> None:
        try:
            while True:
                group = await self._next_group()
                if group or self._lazy_is_due():
                    await self._commit(group + self._take_lazy())
                elif self._failure is not None and not self._alone:
                    await self._recover()
                while self._alone:
                    await self._do_alone(*self._alone.popleft())
        except trio.EndOfChannel:
            await self._commit(self._take_lazy())

    async def _next_group(self) -> list[_Pending]:
        """The requests that go into the next transaction; none when only what is lazy is due."""
        group: list[_Pending] = []
        retry_due = self._retry_due()
        while not (group or self._alone) and len(self._lazy) < LAZY_MAX:
            item = await self._next_item(min(self._lazy_due, retry_due))
            if item is None:
                return group
            self._admit(item, group)
            self._drain(group)
        if group and len(group) < self._companions and self._group_commit_s:
            await self._wait_for_companions(group)
        if group:
            self._companions = len(group)
        return group

    async def _next_item(self, due: float) -> tuple[Any, Reply[Any] | None] | None:
        """What comes next; None when nothing does until `due`. A scope costs a tenth of what a commit does."""
        if due == math.inf:
            return await self._mailbox.receive()
        with trio.move_on_at(due):
            return await self._mailbox.receive()
        return None

    def _lazy_is_due(self) -> bool:
        return trio.current_time() >= self._lazy_due or len(self._lazy) >= LAZY_MAX

    def _retry_due(self) -> float:
        return math.inf if self._failure is None else trio.current_time() + RETRY_S

    def _drain(self, group: list[_Pending]) -> None:
        while len(group) < GROUP_MAX:
            try:
                self._admit(self._mailbox.receive_nowait(), group)
            except (trio.WouldBlock, trio.EndOfChannel):
                return

    async def _wait_for_companions(self, group: list[_Pending]) -> None:
        """Requests came together before: give as many as then a moment to arrive."""
        with trio.move_on_after(self._group_commit_s):
            while len(group) < self._companions:
                try:
                    self._admit(await self._mailbox.receive(), group)
                except trio.EndOfChannel:
                    return

    def _admit(self, item: tuple[Any, Reply[Any] | None], group: list[_Pending]) -> None:
        message, reply = item
        if isinstance(message, Commit):
            group.append(_Pending(message.mutation, reply))
        elif isinstance(message, (CommitSeries, Compact)) and reply is not None:
            self._alone.append((message, reply))
        elif isinstance(message, CommitLater):
            self._lazy.append(_Pending(message.mutation, None))
            self._lazy_due = min(self._lazy_due, trio.current_time() + LAZY_S)
        elif isinstance(message, AuditSynced):
            self._synced = max(self._synced, message.sequence)
            self._lazy_due = min(self._lazy_due, trio.current_time() + SYNCED_S)
        elif isinstance(message, IndexApplied):
            self._index_applied = max(self._index_applied, message.sequence)
        elif isinstance(message, Ping) and reply is not None:
            self._answer_ping(reply)
        else:
            raise TypeError(f"writer doesn't know {type(message).__name__}")

    def _answer_ping(self, reply: Reply[None]) -> None:
        if self._failure is None:
            reply.resolve(None)
        else:
            reply.fail(self._failure)

    def _take_lazy(self) -> list[_Pending]:
        taken, self._lazy, self._lazy_due = self._lazy, [], math.inf
        return _joined(taken)

    async def _commit(self, pending: list[_Pending]) -> None:
        group = _Group(pending)
        try:
            if self._failure is None or await self._recover():
                await self._commit_group(group)
            else:
                await self._fail(group, self._failure)
        finally:
            for item in pending:
                if item.reply is not None:
                    item.reply.close()
        if group.bugs:
            raise group.bugs[0]

    async def _commit_group(self, group: _Group) -> None:
        started = time.perf_counter()
        try:
            finished = await self._world.offload(partial(self._transact, group))
        except StorageUnavailable as error:
            log.error("commit failed", reason=str(error), cause=str(error.__cause__), requests=len(group.pending))
            self._failure = error
            await self._fail(group, error)
            return
        except StorageDamaged as error:  # of what this group needed; others may not need it
            log.error("commit failed", reason=str(error), requests=len(group.pending))
            await self._fail(group, error)
            return
        if finished is not None:
            self._metrics.commit_duration.observe(time.perf_counter() - started)
            self._metrics.commit_batch_size.observe(len(group.pending))
            await self._tell(finished)
        for item in group.pending:
            _answer(item, group)

    async def _fail(self, group: _Group, error: CerememoryError) -> None:
        """Everybody is answered; what recalls did is lost."""
        for item in group.pending:
            item.outcome = error
            _answer(item, group)
        lost = [recall for item in group.pending for recall in recalls_of(item.mutation)]
        self._metrics.reconsolidations_dropped.inc(len(lost))
        await self._followers.tell_saved([saved for recall in lost for saved in recall.states])

    def _transact(self, group: _Group) -> Finished | None:
        """Decide every mutation and commit them together; runs in the writer's thread."""
        head = self._head_to_commit()
        with self._storage.read() as reader:
            ledger = self._open_ledger(reader, head, self._world.now())
            for item in group.pending:
                _decide(ledger, item, group)
            finished = ledger.finish()
        if finished is not None:
            with self._frames.writing(finished.changes):
                self._storage.commit(finished.changes)
            self._head = finished.head
        elif head != self._head:
            self._storage.commit({system_key(Table.HEAD): dump_head(head)})
            self._head = head
        return finished

    def _head_to_commit(self) -> Head:
        """With what the audit log has synced since the last commit."""
        if self._synced <= self._head.audit_synced:
            return self._head
        return replace(self._head, audit_synced=self._synced)

    def _open_ledger(self, reader: Reader, head: Head, now: int) -> Ledger:
        return Ledger(
            reader,
            head,
            now,
            audited=self._audited,
            index_applied=self._index_applied,
            curves=self._curves,
            head_key=self._head_key,
        )

    def give_up(self) -> None:
        super().give_up()
        while self._alone:
            _request, reply = self._alone.popleft()
            reply.fail(ActorStopped(self.name))

    async def _do_alone(self, request: CommitSeries[Any] | Compact, reply: Reply[Any]) -> None:
        with Answered(reply):
            if self._failure is not None and not await self._recover():
                reply.fail(self._failure)
            elif isinstance(request, Compact):
                await self._compact(reply)
            else:
                await self._commit_series(request.series, reply)

    async def _compact(self, reply: Reply[Compaction]) -> None:
        try:
            reply.resolve(await self._world.offload(self._storage.compact))
        except StorageUnavailable as error:
            log.error("compaction failed", reason=str(error), cause=str(error.__cause__))
            self._failure = error
            reply.fail(error)
            await self._recover()  # at once: all rows are there, and writing most likely works
        except StorageDamaged as error:
            reply.fail(error)

    async def _commit_series(self, series: Series[Any], reply: Reply[Any]) -> None:
        try:
            committed = await self._world.offload(partial(self._transact_series, series))
        except StorageUnavailable as error:
            log.error("commit failed", reason=str(error), cause=str(error.__cause__))
            self._failure = error
            reply.fail(error)
        except CerememoryError as error:
            reply.fail(error)
        else:
            await self._tell_of_series(committed)
            failpoint("writer.before_reply")
            reply.resolve(committed.answer)

    def _transact_series(self, series: Series[Any]) -> Committed[Any]:
        """Runs in the writer's thread."""
        head = self._head_to_commit()
        open_ledger = partial(self._open_ledger, now=self._world.now())

        def work(transaction: Transaction) -> Committed[Any]:
            return run_series(transaction, series, head, open_ledger)

        with self._frames.writing(None):
            committed = self._storage.transact(work)
        failpoint("writer.series.committed")
        self._head = committed.head
        return committed

    async def _tell_of_series(self, committed: Committed[Any]) -> None:
        if committed.told is None:
            self._metrics.audit_sequence.set(committed.head.audit_sequence)
            await self._followers.tell_untold()
            await self._followers.tell_gone(committed.dropped)
        else:
            for finished in committed.told:
                await self._tell(finished)

    async def _tell(self, finished: Finished) -> None:
        self._metrics.audit_sequence.set(finished.head.audit_sequence)
        await self._followers.tell(finished)

    async def _recover(self) -> bool:
        """Whether writing works again."""
        try:
            await self._world.offload(self._storage.recover)
        except StorageUnavailable as error:
            self._failure = error
            return False
        log.info("writing works again")
        self._failure = None
        return True


def _joined(lazy: list[_Pending]) -> list[_Pending]:
    """What recalls did, as few mutations."""
    recalls = [item.mutation for item in lazy if isinstance(item.mutation, SaveRecall)]
    others = [item for item in lazy if not isinstance(item.mutation, SaveRecall)]
    return others + [_Pending(mutation, None) for mutation in together(recalls)]


def _decide(ledger: Ledger, item: _Pending, group: _Group) -> None:
    """A bug in one mutation fails that one; the others commit, then the writer restarts."""
    try:
        failpoint("actor.writer.received")
        item.outcome = ledger.attempt(item.mutation)
    except CerememoryError as error:
        item.outcome = error
        if isinstance(item.mutation, SaveRecalls) and len(item.mutation.recalls) > 1:  # one of them is to blame
            for recall in item.mutation.recalls:
                _decide(ledger, _Pending(recall, None), group)
    except Exception as error:  # noqa: BLE001 - raised again by `_commit`, once the others are safe
        item.outcome = InternalError(f"{type(item.mutation).__name__} crashed")
        group.bugs.append(error)


def _answer(item: _Pending, group: _Group) -> None:
    """A bug here, too, fails one request alone."""
    if item.reply is None:
        return
    try:
        failpoint("writer.before_reply")
        if isinstance(item.outcome, CerememoryError):
            item.reply.fail(item.outcome)
        else:
            item.reply.resolve(item.outcome)
    except Exception as error:  # noqa: BLE001 - raised again by `_commit`, once the others are answered
        group.bugs.append(error)
