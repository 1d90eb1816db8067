"""The decay loop: writes down, once in a while, what time has done to the memories of every namespace.

Readers compute fidelities for the moment they read, so a tick that comes late, or never, changes no answer; it
keeps the averages true, lets the stores evolve, and takes away what is faint where the rules say so.

A tick is a sequence of short commits (`storage.decaying`), so that others commit in between. Whatever goes wrong
in one is a panic: counted, logged with its traceback, and the loop goes on after a pause. The daemon stays ready:
nobody waits for this actor but who asked for a tick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
import trio

from cerememory.actors.actor import Request
from cerememory.actors.jobs import JobActor
from cerememory.actors.seams import World
from cerememory.actors.writer import Commit, Writer
from cerememory.config.settings import DecaySettings
from cerememory.errors import ActorStopped, CerememoryError, InternalError
from cerememory.failpoints import failpoint
from cerememory.protocol.replies import Decayed
from cerememory.protocol.values import NANOS, RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.decaying import (
    NOTHING_SEEN,
    PRUNED_AT_ONCE,
    DropArchived,
    FinishTick,
    Piece,
    PruneMemories,
    Seen,
    TickPiece,
)
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import Stored
from cerememory.storage.namespaces import namespaces_of
from cerememory.telemetry.metrics import Metrics

PAUSE_MIN_S = 5.0  # after a panic; it doubles, up to the interval
JUMP_NS = 86_400 * NANOS  # a wall clock that moved by more, against the loop's, was set
DAY_NS = 86_400 * NANOS

KeepAnswer = Callable[[Mutation[Stored[Decayed]]], Mutation[Stored[Decayed]]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tick(Request[Stored[Decayed]]):
    """Tick one namespace now, as if `duration_s` more had passed; None: no more than has.

    `keep_answer` wraps the last mutation when the request has an idempotency key.
    """

    namespace: int
    duration_s: int | None
    keep_answer: KeepAnswer


@dataclass(frozen=True, slots=True)
class TickAll(Request[bool]):
    """Tick every namespace; whether none of them ended in a panic."""


@dataclass(slots=True)
class _Progress:
    """What a tick under way has found."""

    now: int
    seen: Seen = NOTHING_SEEN
    updated: list[RecordId] = field(default_factory=list)
    doomed: list[RecordId] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        self.seen = self.seen.plus(piece.seen)
        self.updated += piece.updated
        self.doomed += piece.doomed


class Decayer(JobActor):
    """`settings.background_interval_secs` 0: it ticks only when asked."""

    def __init__(
        self, storage: Storage, world: World, writer: Writer, metrics: Metrics, settings: DecaySettings
    ) -> None:
        super().__init__("decay")
        self._storage = storage
        self._world = world
        self._writer = writer
        self._metrics = metrics
        self._settings = settings
        self._limiter = trio.CapacityLimiter(1)

    @property
    def interval_s(self) -> int:
        return self._settings.background_interval_secs

    async def work(self, message: Any) -> Any:
        match message:
            case Tick():
                return await self._ask_tick(message)
            case TickAll():
                return await self._tick_all()
        return await super().work(message)

    async def keep_time(self) -> None:
        if not self.interval_s:
            return
        pause_s = min(PAUSE_MIN_S, self.interval_s)
        is_whole = True
        while True:
            watch = _Watch(self._world)
            await trio.sleep(self.interval_s if is_whole else pause_s)
            if watch.jumped():
                log.warning("decay tick skipped: the wall clock was set", by_s=watch.jumped() // NANOS)
                continue
            is_whole = await self.do(TickAll()) is True
            pause_s = min(PAUSE_MIN_S, self.interval_s) if is_whole else min(2 * pause_s, self.interval_s)

    async def _tick_all(self) -> bool:
        is_whole = True
        for namespace in await self._world.offload(partial(namespaces_of, self._storage), self._limiter):
            self.check_going_on()
            try:
                await self._tick(Tick(namespace, None, _as_it_is))
            except ActorStopped:
                raise
            except CerememoryError as error:
                log.warning("decay tick failed", namespace=namespace, reason=str(error))
                is_whole = False
            except Exception:  # noqa: BLE001 - a panic of the loop is counted, and the loop goes on
                self._note_panic(namespace)
                is_whole = False
        return is_whole

    async def _ask_tick(self, message: Tick) -> Stored[Decayed]:
        try:
            return await self._tick(message)
        except CerememoryError:
            raise
        except Exception as error:
            self._note_panic(message.namespace)
            raise InternalError("the decay tick failed") from error

    def _note_panic(self, namespace: int) -> None:
        self._metrics.decay_panics.inc()
        log.exception("decay tick panicked", namespace=namespace)

    async def _tick(self, message: Tick) -> Stored[Decayed]:
        with self._metrics.decay_tick_duration.time():
            return await self._ticked(message)

    async def _ticked(self, message: Tick) -> Stored[Decayed]:
        kept = await self._writer.kept(message.keep_answer(self._finish(message, _Progress(0), 0)))
        if kept is not None:
            return kept
        progress = _Progress(self._world.now())
        await self._tick_pieces(message, progress)
        pruned = await self._prune(message, progress)
        finish = self._finish(message, progress, pruned)
        return await self._writer.ask_patiently(Commit(message.keep_answer(finish)))

    async def _tick_pieces(self, message: Tick, progress: _Progress) -> None:
        position: bytes | None = None
        while True:
            self.check_going_on()
            failpoint("decay.piece")
            piece = await self._writer.ask_patiently(
                Commit(TickPiece(message.namespace, position, progress.now, message.duration_s or 0))
            )
            progress.add(piece)
            position = piece.following
            if position is None:
                return

    async def _prune(self, message: Tick, progress: _Progress) -> int:
        """Take away what is faint, as far as the rules want it; how many memories left."""
        kept_until = None
        if self._settings.prune == "archive":
            kept_until = progress.now + self._settings.archive_days * DAY_NS
        pruned = 0
        for start in range(0, len(progress.doomed), PRUNED_AT_ONCE):
            self.check_going_on()
            doomed = tuple(progress.doomed[start : start + PRUNED_AT_ONCE])
            prune = PruneMemories(message.namespace, doomed, progress.now, message.duration_s, kept_until)
            pruned += await self._writer.ask_patiently(Commit(prune))
        await self._writer.ask_patiently(Commit(DropArchived(message.namespace, progress.now)))
        return pruned

    def _finish(self, message: Tick, progress: _Progress, pruned: int) -> FinishTick:
        return FinishTick(
            message.namespace,
            progress.now,
            message.duration_s,
            progress.seen,
            tuple(progress.updated),
            pruned,
        )


class _Watch:
    """Whether the wall clock was set since: it and the loop's clock don't agree any more."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._wall, self._loop = world.now(), trio.current_time()

    def jumped(self) -> int:
        """By how many nanoseconds; 0 for less than a day."""
        passed = round((trio.current_time() - self._loop) * NANOS)
        by = self._world.now() - self._wall - passed
        return by if abs(by) > JUMP_NS else 0


def _as_it_is(mutation: Mutation[Stored[Decayed]]) -> Mutation[Stored[Decayed]]:
    return mutation
