"""The text index actor: applies what was committed, in groups, and answers searches.

A search is answered from the last index commit. When changes wait that this commit doesn't have, a search
makes the index commit at once and waits for it, 50 ms at most: nobody misses a write that was acknowledged
before. A search that may wait longer does, also for an index that is still catching up. Without searches, the
index commits soon after a change, but rests between two commits for a multiple of what the last one took.
Meanwhile many changes are made ready, so that a search has little more than the commit to wait for. When there
are more than one commit takes, they go into several, and who tells of more waits: the mailbox never fills with
changes, so searches and pings have their turn, whatever is being loaded.

The index is derived. At start, and after any failure, it catches up from storage: from the feed of changed
ids, or, when it is new, damaged, outdated or older than the feed, from all rows. Until it is level, searches
answer from what there is and say that the index isn't complete; so does one that waited in vain.

In its files, words of what is gone stay until tantivy merges them away. To be rid of them it is renewed: wiped
and built again, while searches go on with what they saw before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import structlog
import trio

from cerememory.actors.actor import LATER, Actor, Answered, Reply, Request
from cerememory.actors.followers import CommitsUntold, EffectsCommitted
from cerememory.actors.index_changes import Changes, Step
from cerememory.actors.seams import World
from cerememory.actors.searches import Look, Search, Searched, SearchRaw, itself
from cerememory.actors.settling import Settling
from cerememory.actors.working import Evicted, TellAnew, ToldAnew
from cerememory.actors.writer import IndexApplied, Writer
from cerememory.errors import ActorBusy, ActorStopped, StorageUnavailable
from cerememory.failpoints import failpoint
from cerememory.storage import reindex
from cerememory.storage.contract import Storage
from cerememory.storage.text_index import Snapshot, TextIndex, TextIndexError

FRESH_WITHIN_S = 0.05
GATHER_S = 0.01
REST_FACTOR, REST_MAX_S = 20, 1.0  # so that commits nobody asked for take a twentieth of a core at the most
AHEAD_MIN = 50  # documents that are worth making ready before their commit
GATHER_MAX = 2_000  # documents after which the index commits without waiting, and that one commit takes
WAITING_MAX = 100_000  # documents at which whoever tells of more waits until a commit has taken some: 15 MB
PROGRESS_EVERY = 20_000  # rows of a rebuild between two lines in the log
RETRY_S = 1.0
RETRY_MAX_S = 30.0

QUESTIONS = (Search, SearchRaw, Look)
Question: TypeAlias = Search | SearchRaw | Look[Any]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Renew(Request[None]):
    """Build the index again from the rows; answered when it is level, and no file of the old one is left."""


@dataclass(slots=True, eq=False)
class _Waiter:
    request: Question
    reply: Reply[Any]
    answered: trio.Event = field(default_factory=trio.Event)


class TextIndexer(Actor):
    """Owns the index in `path` (None: in memory). Its tasks share its state on one thread."""

    def __init__(
        self,
        storage: Storage,
        world: World,
        writer: Writer,
        working: Actor,
        path: Path | None,
        mailbox_size: int = 256,
    ) -> None:
        super().__init__("text_index", mailbox_size)
        self._storage = storage
        self._world = world
        self._writer = writer
        self._working = working
        self._path = path
        self._limiter = trio.CapacityLimiter(1)
        self._index: TextIndex | None = None
        self._snapshot: Snapshot | None = None
        self._noting = False  # whether changes are kept at all
        self._noting_stored = False  # whether those of what is stored are; before, they come through the feed
        self._level = False  # whether index and noted changes are all that is committed
        self._untold = False  # whether the feed has changes that nobody told of
        self._lacks_working = False  # whether working memory is yet to tell of what it holds
        self._behind_since = math.inf
        self._rested_at = -math.inf
        self._settling = Settling()
        self._room = trio.Event()
        self._reset()

    def _reset(self) -> None:
        self._changes = Changes()
        self._waiters: list[_Waiter] = []  # for the next index commit
        self._waiters_now: list[_Waiter] | None = None  # for the one under way
        self._wake = trio.Event()
        self._renewals: list[Reply[None]] = []  # of an index that is yet to be wiped
        self._renewed: list[Reply[None]] = []  # of one that was wiped, and isn't level again

    def lag_s(self) -> float:
        """How long the oldest change that searches don't see has been waiting."""
        return max(0.0, trio.current_time() - min(self._behind_since, self._changes.since))

    async def load(self) -> None:
        """Open the index; `run` catches up with what it lacks, and opens it when that failed here."""
        self._fall_behind()
        self._reset()
        await self._try_open()

    def _fall_behind(self) -> None:
        """Whatever was noted comes through the feed, and from working memory once more."""
        self._noting = self._noting_stored = self._level = False
        self._changes = Changes()
        self._make_room()
        self._behind_since = min(self._behind_since, trio.current_time())

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            for reply in (*self._renewals, *self._renewed):
                reply.close()
            self._fall_behind()
            await self._close()

    async def _run(self) -> None:
        async with trio.open_nursery() as answering:
            async with trio.open_nursery() as following:
                following.start_soon(self._follow)
                async for message, reply in self._mailbox:
                    if isinstance(message, QUESTIONS) and reply is not None and self._may_wait(message):
                        answering.start_soon(self._answer_when_fresh, self._wait_for_commit(message, reply))
                    else:
                        await self._handle_one(message, reply)
                following.cancel_scope.cancel()
            await self._commit_last()
            answering.cancel_scope.cancel()  # nothing more comes: who still waits gets what there is

    async def _commit_last(self) -> None:
        """What can't be committed any more comes from the feed, at the daemon's next start."""
        try:
            while self._level and self._changes:
                await self._commit_changes()
        except (TextIndexError, StorageUnavailable) as error:
            log.error("text index is behind", reason=str(error))

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case Search() | SearchRaw() | Look():
                return message.answer(self._snapshot, is_fresh=self._is_whole)
            case EffectsCommitted():
                self._note_effects(message)
                return None
            case Evicted():
                evicted = [(message.namespace, record_id) for record_id in message.record_ids]
                self._note(Step([], [], [], evicted, 0))
                return None
            case ToldAnew():
                self._lacks_working = self._lacks_working and not message.is_all
                self._note(Step([], [], list(message.documents), [], 0))
                self._resolve_unless_due()
                return None
            case CommitsUntold():
                self._untold, self._level = True, False
                self._wake.set()
                return None
            case Renew() if reply is not None:
                self._renewals.append(reply)
                self._level = False
                self._wake.set()
                return LATER
        return await super().handle(message, reply)

    async def inform(self, event: object) -> None:
        """Waits while too much is waiting: the writer is slowed down to what the index can do."""
        while self._changes.size > WAITING_MAX:
            await self._room.wait()
        await super().inform(event)

    def _make_room(self) -> None:
        self._room.set()
        self._room = trio.Event()

    def takes_note(self, event: object) -> bool:
        """What changed, beside other changes that are due to be committed."""
        if not (isinstance(event, EffectsCommitted) and self._changes):
            return False
        self._note_effects(event)
        return True

    def _note_effects(self, event: EffectsCommitted) -> None:
        effects = event.effects
        if self._noting_stored:
            self._note(Step(effects.changed, effects.left, effects.held, [], event.sequence))
        else:
            self._note(Step([], [], effects.held, [], 0))

    def _note(self, step: Step) -> None:
        if not (self._noting and step.size):
            return
        changes = self._changes
        is_first = not changes
        changes.add(step)
        if is_first or changes.unready >= AHEAD_MIN or changes.size >= GATHER_MAX:  # else it is due as it was
            self._wake.set()

    @property
    def _is_whole(self) -> bool:
        """Whether the last index commit has all but what was noted since."""
        return self._level and not self._lacks_working

    def _may_wait(self, request: Question) -> bool:
        """Whether what the last index commit lacks comes in a moment, or may yet come in the time of `request`."""
        if self._level:
            return bool(self._changes or self._waiters_now is not None or not self._is_whole)
        return trio.current_time() < request.fresh_by

    def _wait_for_commit(self, request: Question, reply: Reply[Any]) -> _Waiter:
        waiter = _Waiter(request, reply)
        if self._waiters_now is not None and not self._changes:
            self._waiters_now.append(waiter)
            return waiter
        if not self._level:  # which may be so for long
            self._waiters = [each for each in self._waiters if not each.answered.is_set()]
        self._waiters.append(waiter)
        self._wake.set()
        return waiter

    async def _answer_when_fresh(self, waiter: _Waiter) -> None:
        """A crash ends the wait, too: this search isn't to blame, and gets what there is."""
        try:
            with trio.move_on_at(max(waiter.request.fresh_by, trio.current_time() + FRESH_WITHIN_S)):
                await waiter.answered.wait()
        finally:
            self._resolve(waiter, is_fresh=False)

    def _resolve(self, waiter: _Waiter, *, is_fresh: bool) -> None:
        if waiter.answered.is_set():
            return
        waiter.answered.set()
        with Answered(waiter.reply):
            waiter.reply.resolve(waiter.request.answer(self._snapshot, is_fresh=is_fresh))

    def _resolve_all(self, waiters: list[_Waiter]) -> None:
        """Answer those who waited for a commit; where it isn't all that they lack, who may wait longer does."""
        for waiter in waiters:
            if self._is_whole or not self._may_wait(waiter.request):
                self._resolve(waiter, is_fresh=self._is_whole)
            else:
                self._waiters.append(waiter)

    def _resolve_unless_due(self) -> None:
        """Answer those whom no commit will answer."""
        if self._level and not self._changes:
            waiters, self._waiters = self._waiters, []
            self._resolve_all(waiters)

    def search_nowait(self, request: Search) -> Searched | None:
        """The answer, when the last index commit has all that was told; None: `ask`, which waits for what is due.

        A snapshot never changes, so it may be searched by whoever asks; the way through the mailbox and back
        would cost a sixth of the search. What is damaged is for the actor to mend.
        """
        if not self.is_idle or self._may_wait(request):
            return None
        try:
            return request.answer(self._snapshot, is_fresh=self._is_whole)
        except TextIndexError:
            return None

    async def search_aside(self, request: Search) -> Searched:
        """The answer, searched for in a thread: thousands of hits take long. As above, the actor meets damage."""
        looked = await self.ask(Look(itself, request.fresh_by))
        try:
            return await self._world.offload(partial(request.answer, looked.found, is_fresh=looked.complete))
        except TextIndexError:
            return await self.ask(request)

    async def _follow(self) -> None:
        pause = RETRY_S
        while True:
            try:
                await self._become_level()
                pause = RETRY_S
                await self._stay_level()
            except (TextIndexError, StorageUnavailable) as error:
                log.error("text index is behind", reason=str(error), retry_in_s=pause)
                self._fall_behind()
                self._wait_for_the_next()
                await self._close()
                await trio.sleep(pause)
                pause = min(2 * pause, RETRY_MAX_S)

    def _wait_for_the_next(self) -> None:
        """After an index commit that failed."""
        self._waiters += self._waiters_now or []
        self._waiters_now = None

    async def _become_level(self) -> None:
        index = self._index or await self._open()
        if self._renewals:
            self._noting_stored = False  # more may change meanwhile than could be noted
            index = await self._renew()
        if await self._in_thread(partial(reindex.needs_rebuild, index, self._storage)):
            await self._rebuild(index)
        await self._apply_feed(index)
        # Commits go on, and the feed might never be seen at its end. So from here on changes are noted, and what
        # was committed before comes from the feed.
        self._noting = self._noting_stored = self._untold = True
        while self._untold:
            self._untold = False
            await self._apply_feed(index)
        self._level = not self._renewals
        self._behind_since = math.inf
        self._note_commit()
        self._tell_applied(index)
        self._ask_working()
        renewed, self._renewed = self._renewed, []
        self._show(index)
        for reply in renewed:
            reply.resolve(None)
        self._resolve_unless_due()

    def _show(self, index: TextIndex) -> None:
        """Let searches see the last commit; of an index that is being renewed they saw more before."""
        if self._snapshot is None or not (self._renewals or self._renewed):
            self._snapshot = index.snapshot()

    async def _apply_feed(self, index: TextIndex) -> None:
        """Up to where the feed ends when its last piece is read."""
        while await self._in_thread(partial(reindex.apply_log, index, self._storage)) >= reindex.IDS_MAX:
            self._show(index)
        self._show(index)

    async def _rebuild(self, index: TextIndex) -> None:
        total = await self._in_thread(partial(reindex.record_count, self._storage))
        if not total:
            return
        log.info("text index is being rebuilt", records=total)
        reported, pieces = 0, reindex.rebuild(index, self._storage)
        while (done := await self._in_thread(partial(_next_piece, pieces))) is not None:
            self._show(index)
            if done - reported >= PROGRESS_EVERY:
                reported = done
                log.info("text index is being rebuilt", done=done, records=total)
        log.info("text index is rebuilt", records=total)

    async def _stay_level(self) -> None:
        while self._level:
            await self._until_due()
            if self._level:  # else a commit before those that are noted may be in the feed alone
                await self._commit_changes()

    async def _until_due(self) -> None:
        while self._level and not self._is_due():
            self._wake = trio.Event()
            with trio.move_on_at(self._due() if self._changes else self._settling.due):
                await self._wake.wait()
            if self._level and self._changes.unready >= AHEAD_MIN:
                await self._make_ready()
            elif self._level and not self._changes and trio.current_time() >= self._settling.due:
                await self._settle()

    async def _make_ready(self) -> None:
        if self._index is not None:
            steps = self._changes.take_unready(GATHER_MAX)
            with trio.CancelScope(shield=True):  # once taken, changes are made ready
                await self._in_thread(partial(_add, self._index, self._storage, steps))

    async def _settle(self) -> None:
        """A step towards fewer segments; searches see them at the end."""
        index, started = self._index, trio.current_time()
        if index is None:
            return
        with trio.CancelScope(shield=True):
            is_settled = await self._in_thread(index.settle)
        self._settling.stepped(started)
        if is_settled:
            self._show(index)
            self._note_commit()

    @property
    def is_scattered(self) -> bool:
        """Whether the index is to settle; one in memory is small, and gone with the process."""
        return self._path is not None and self._index is not None and self._index.is_scattered

    def _note_commit(self) -> None:
        self._settling.committed(is_scattered=self.is_scattered)

    def _is_due(self) -> bool:
        changes = self._changes
        if not changes:
            return False
        in_time = trio.current_time() >= self._due()
        return bool(self._waiters) or in_time or changes.size >= GATHER_MAX

    def _due(self) -> float:
        return max(self._changes.since + GATHER_S, self._rested_at)

    async def _commit_changes(self) -> None:
        index = self._index
        if index is None:
            return
        started = trio.current_time()
        steps = self._changes.take(GATHER_MAX)
        self._make_room()
        self._waiters_now = []
        if not self._changes:  # else they wait for changes of a later commit
            self._waiters_now, self._waiters = self._waiters, []
        with trio.CancelScope(shield=True):  # once taken, changes are committed
            await self._in_thread(partial(_apply, index, self._storage, steps))
        self._snapshot = index.snapshot()
        waiters, self._waiters_now = self._waiters_now, None
        self._resolve_all(waiters)
        self._rested_at = _rested_at(started)
        self._note_commit()
        self._tell_applied(index)

    def _tell_applied(self, index: TextIndex) -> None:
        """The feed up to there isn't needed any more: an index that loses it is rebuilt from the rows."""
        try:
            self._writer.post_nowait(IndexApplied(index.applied_sequence()))
        except (ActorBusy, ActorStopped):
            log.debug("index progress not recorded", sequence=index.applied_sequence())

    def _ask_working(self) -> None:
        try:
            self._working.post_nowait(TellAnew(self))
            self._lacks_working = True
        except ActorStopped:
            log.debug("working memory has ended")
        except ActorBusy:
            log.warning("working memory isn't searchable until its next change")

    async def _try_open(self) -> None:
        try:
            await self._open()
        except TextIndexError as error:
            log.error("text index can't be opened", reason=str(error))

    async def _open(self) -> TextIndex:
        await self._close()
        index: TextIndex
        index, reason = await self._in_thread(partial(reindex.open_index, self._path))
        if reason:
            log.warning("text index is started anew", reason=reason)
        self._index = index
        self._show(index)
        return index

    async def _renew(self) -> TextIndex:
        await self._close()
        index: TextIndex
        self._index = index = await self._in_thread(partial(reindex.renew_index, self._path))
        failpoint("text_index.wiped")
        self._renewed += self._renewals
        self._renewals = []
        return index

    async def _in_thread(self, call: Any) -> Any:
        return await self._world.offload(call, self._limiter)

    async def _close(self) -> None:
        """Let go of the index, whatever state it is in; searches go on with the last snapshot."""
        index, self._index = self._index, None
        if index is None:
            return
        try:
            with trio.CancelScope(shield=True):
                await self._in_thread(index.close)
        except TextIndexError as error:
            log.warning("text index was closed after an error", reason=str(error))


def _apply(index: TextIndex, storage: Storage, steps: list[Step]) -> None:
    _add(index, storage, steps)
    index.commit()


def _add(index: TextIndex, storage: Storage, steps: list[Step]) -> None:
    """The log may have brought the index beyond some of `steps`; of these only what no log has is new."""
    for step in steps:
        index.apply(step.held, step.evicted, 0)
    beyond = [step for step in steps if step.sequence > index.applied_sequence()]
    changed = [address for step in beyond for address in step.changed]
    left = [place for step in beyond for place in step.left]
    sequence = max((step.sequence for step in beyond), default=0)
    reindex.apply_changes(index, storage, changed, left, sequence)


def _rested_at(started: float) -> float:
    """When the next commit may follow one that began at `started` and ends now."""
    now = trio.current_time()
    return now + min(REST_MAX_S, REST_FACTOR * (now - started))


def _next_piece(pieces: Iterator[int]) -> int | None:
    return next(pieces, None)
