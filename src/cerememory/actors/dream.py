"""The dreamer: makes memories of what the raw journal holds, when it is asked to, and by itself at night.

A tick reads the oldest groups of entries that wait, and stores them one after the other, each in one transaction.
By itself it dreams once an interval, in every namespace where something waits; what has waited for an interval
when the daemon starts needn't wait for another. One tick runs at a time, and a failure of one that nobody asked
for is logged: the next is another try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import structlog
import trio

from cerememory.actors.actor import Request
from cerememory.actors.jobs import JobActor
from cerememory.actors.seams import World
from cerememory.actors.summaries import Summarise
from cerememory.actors.writer import Commit, Writer
from cerememory.domain.dream_records import Plan, dream_of
from cerememory.domain.dreaming import Group, dream_text
from cerememory.errors import ActorStopped
from cerememory.protocol.records import SecrecyLevel, Visibility
from cerememory.protocol.replies import Dreamt
from cerememory.protocol.requests import DEFAULT_SECRECY, DreamTick
from cerememory.protocol.values import NANOS
from cerememory.storage.contract import Storage
from cerememory.storage.dream_mutations import NOTHING, NoteTick, StoreDream, new_memories
from cerememory.storage.keys import counters_key, digest
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import Stored
from cerememory.storage.namespaces import namespaces_of
from cerememory.storage.pending import Wanted, oldest_pending_at, pending_groups
from cerememory.storage.rows import SECRECY_LEVELS, VISIBILITIES, parse_counters

BACKGROUND_GROUPS_MAX = 50
SETTLE_S = 10.0  # what a daemon has to do when it starts comes first

KeepAnswer = Callable[[Mutation[Stored[Dreamt]]], Mutation[Stored[Dreamt]]]

BY_ITSELF = DreamTick(max_groups=BACKGROUND_GROUPS_MAX)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tick(Request[Stored[Dreamt]]):
    """Dream as `tick` says; `keep_answer` wraps the last mutation when the request has an idempotency key."""

    namespace: int
    tick: DreamTick
    keep_answer: KeepAnswer


@dataclass(frozen=True, slots=True)
class TickAll(Request[None]):
    """Dream in every namespace where something waits; what fails is logged."""


def wanted_by(tick: DreamTick) -> Wanted:
    """Which entries the tick may take."""
    seen = {
        Visibility.NORMAL: True,
        Visibility.PRIVATE_SCRATCH: tick.include_private_scratch,
        Visibility.SEALED: tick.include_sealed,
    }
    levels: Sequence[SecrecyLevel] = DEFAULT_SECRECY if tick.secrecy_levels is None else tick.secrecy_levels
    return Wanted(
        frozenset(VISIBILITIES.index(visibility) for visibility, yes in seen.items() if yes),
        frozenset(SECRECY_LEVELS.index(level) for level in levels),
        None if tick.session_id is None else digest(tick.session_id),
    )


class Dreamer(JobActor):
    """`interval_s` 0: it never dreams by itself. `summarise` gives a provider's summary of texts, or None."""

    def __init__(
        self,
        storage: Storage,
        world: World,
        writer: Writer,
        summarise: Summarise,
        *,
        interval_s: int,
    ) -> None:
        super().__init__("dreamer")
        self._storage = storage
        self._world = world
        self._writer = writer
        self._summarise = summarise
        self._limiter = trio.CapacityLimiter(1)
        self.interval_s = interval_s

    async def work(self, message: Any) -> Any:
        match message:
            case Tick():
                return await self._tick(message)
            case TickAll():
                return await self._tick_all()
        return await super().work(message)

    async def keep_time(self) -> None:
        if not self.interval_s:
            return
        await trio.sleep(await self._world.offload(self._first_delay_s, self._limiter))
        while True:
            await self.do(TickAll())
            await trio.sleep(self.interval_s)

    def _first_delay_s(self) -> float:
        """An interval, less the time for which something has waited already."""
        now = self._world.now()
        waited_ns = max((now - since for since in self._waiting_since()), default=0)
        return min(max(self.interval_s - waited_ns / NANOS, SETTLE_S), self.interval_s)

    def _waiting_since(self) -> list[int]:
        """For each namespace where something waits the time of its last tick, or of its oldest entry."""
        wanted = wanted_by(BY_ITSELF)
        namespaces = namespaces_of(self._storage)
        with self._storage.read() as reader:
            oldest = {namespace: oldest_pending_at(reader, namespace, wanted) for namespace in namespaces}
            ticked = {n: parse_counters(reader.get(counters_key(n))).last_dream_tick_at for n in namespaces}
        return [ticked[namespace] or at for namespace, at in oldest.items() if at is not None]

    async def _tick_all(self) -> None:
        for namespace in await self._world.offload(partial(namespaces_of, self._storage), self._limiter):
            self.check_going_on()
            try:
                await self._tick_by_itself(namespace)
            except ActorStopped:
                raise
            except Exception:
                log.exception("dream tick failed", namespace=namespace)

    async def _tick_by_itself(self, namespace: int) -> None:
        """Where nothing is to be dreamt of, no trace is left of having looked."""
        groups = await self._groups(namespace, BY_ITSELF)
        if groups:
            stored = await self._dream(Tick(namespace, BY_ITSELF, _as_it_is), groups, self._world.now())
            log.info("dreamt", namespace=namespace, **msgspec.structs.asdict(stored.reply))

    async def _tick(self, message: Tick) -> Stored[Dreamt]:
        any_mutation = message.keep_answer(NoteTick(message.namespace, 0, NOTHING, is_dry_run=True))
        kept = await self._writer.kept(any_mutation)
        if kept is not None:
            return kept
        tick_at = self._world.now()
        groups = await self._groups(message.namespace, message.tick)
        if groups and not message.tick.dry_run:
            return await self._dream(message, groups, tick_at)
        note = NoteTick(message.namespace, tick_at, _expected(groups), message.tick.dry_run)
        return await self._writer.ask_patiently(Commit(message.keep_answer(note)))

    async def _groups(self, namespace: int, tick: DreamTick) -> list[Group]:
        return await self._world.offload(partial(self._read_groups, namespace, tick), self._limiter)

    def _read_groups(self, namespace: int, tick: DreamTick) -> list[Group]:
        with self._storage.read() as reader:
            return pending_groups(reader, namespace, wanted_by(tick), tick.max_groups)

    async def _dream(self, message: Tick, groups: list[Group], tick_at: int) -> Stored[Dreamt]:
        """Store the dreams of `groups`, of which there is at least one."""
        stored = Stored(NOTHING, 0)
        for left, group in zip(reversed(range(len(groups))), groups, strict=True):
            self.check_going_on()
            summary = await self._summary(group)
            make = partial(self._mutation, message, group, summary, tick_at, stored.reply)
            mutation = await self._world.offload(make, self._limiter)
            stored = await self._writer.ask_patiently(Commit(mutation if left else message.keep_answer(mutation)))
        return stored

    async def _summary(self, group: Group) -> str | None:
        return await self.unless_stopped(lambda: self._summarise(group.texts)) if group.texts else None

    def _mutation(
        self, message: Tick, group: Group, summary: str | None, tick_at: int, before: Dreamt
    ) -> StoreDream:
        plan = Plan(tick_at, self._world.now(), self._world.new_id(), self._world.new_id())
        dream = dream_of(group, dream_text(group, summary), plan, promote=message.tick.promote_semantic)
        return StoreDream(message.namespace, dream, new_memories(message.namespace, dream), before)


def _as_it_is(mutation: Mutation[Stored[Dreamt]]) -> Mutation[Stored[Dreamt]]:
    return mutation


def _expected(groups: list[Group]) -> Dreamt:
    """What a dry run counts: semantic memories aren't."""
    return Dreamt(
        groups_processed=len(groups),
        raw_records_processed=sum(len(group.entries) for group in groups),
        episodic_summaries_created=len(groups),
        semantic_nodes_created=0,
    )
