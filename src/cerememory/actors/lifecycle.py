"""What changes memories because time passes or somebody says so: decay ticks, modes, forgetting, restoring; and
ridding the disk of what was forgotten.

Owns no state: what is decided is decided in the writer's transactions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cerememory.actors.actor import Actor
from cerememory.actors.decay import Decayer, Tick
from cerememory.actors.seams import World
from cerememory.actors.stores import Memory
from cerememory.actors.text_index import Renew
from cerememory.actors.working import Held
from cerememory.actors.writer import Commit, CommitSeries, Compact
from cerememory.config.settings import DecaySettings
from cerememory.domain.audit_chain import GENESIS
from cerememory.protocol import limits
from cerememory.protocol.replies import Compacted, Decayed, Forgotten, Restored
from cerememory.protocol.requests import DecayTick, Forget, Restore, SetMode
from cerememory.protocol.values import RecordId
from cerememory.storage.archived import restorable
from cerememory.storage.contract import Storage
from cerememory.storage.decaying import RestoreMemories
from cerememory.storage.forgetting import ForgetRecords, HeldMemory
from cerememory.storage.keys import Table, system_key
from cerememory.storage.ledger import Mutation
from cerememory.storage.modes import SetModes
from cerememory.storage.mutations import Stored
from cerememory.storage.rows import parse_head
from cerememory.storage.undo_rows import drop_steps, with_undo

REFERENCE_DURATION_S = 3_600  # what a tick adds in the reference when its request doesn't say

KeepAnswer = Callable[[Mutation[Stored[Any]]], Mutation[Stored[Any]]]
"""Wraps the mutation that answers, when the request came with an idempotency key."""


class Lifecycle:
    def __init__(
        self,
        storage: Storage,
        writer: Actor,
        working: Actor,
        text_index: Actor,
        decayer: Decayer,
        world: World,
        settings: DecaySettings,
    ) -> None:
        self._storage = storage
        self._writer = writer
        self._working = working
        self._text_index = text_index
        self._decayer = decayer
        self._world = world
        self._settings = settings

    @property
    def decays_by_itself(self) -> bool:
        return self._decayer.interval_s > 0

    async def decay_tick(self, namespace: int, request: DecayTick, keep_answer: KeepAnswer) -> Stored[Decayed]:
        duration_s = request.tick_duration_seconds
        if duration_s is None and self._settings.profile == "reference":
            duration_s = REFERENCE_DURATION_S
        return await self._decayer.ask(Tick(namespace, duration_s, keep_answer))

    async def set_mode(self, namespace: int, request: SetMode, keep_answer: KeepAnswer) -> Stored[None]:
        mutation = SetModes(namespace, request.mode, request.scope, self._world.now())
        return await self._writer.ask(Commit(keep_answer(mutation)))

    async def forget(self, namespace: int, request: Forget, keep_answer: KeepAnswer) -> Stored[Forgotten]:
        limits.check_forget(request)
        held = {memory.record_id: _held(memory) for memory in await self._working.ask(Held(namespace))}
        mutation = ForgetRecords(namespace, request, held, self._world.now())
        return await self._writer.ask(Commit(mutation if request.dry_run else keep_answer(mutation)))

    async def restore(self, namespace: int, request: Restore, keep_answer: KeepAnswer) -> Stored[Restored]:
        """Bring back what decay archived, or say what could be."""
        limits.check_restore(request)
        if request.dry_run:
            return await self._world.offload(partial(_restorable, self._storage, namespace, request.record_ids))
        mutation = RestoreMemories(namespace, request.record_ids or (), self._world.now())
        return await self._writer.ask(Commit(keep_answer(mutation)))

    async def compact(self) -> Compacted:
        """Leave no byte of what was deleted, in the store and in the text index, nor for an undo of imports."""
        for namespace in await self._world.offload(partial(with_undo, self._storage)):
            await self._writer.ask(CommitSeries(partial(drop_steps, namespace)))
        compaction = await self._writer.ask(Compact())
        await self._text_index.ask(Renew())
        return Compacted(bytes_before=compaction.bytes_before, bytes_after=compaction.bytes_after)


def _restorable(storage: Storage, namespace: int, record_ids: tuple[RecordId, ...] | None) -> Stored[Restored]:
    with storage.read() as reader:
        head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
    return Stored(restorable(storage, namespace, record_ids), head.commit_sequence)


def _held(memory: Memory) -> HeldMemory:
    return HeldMemory(memory.row.created_at, tuple(edge.target_id for edge in memory.associations()))
