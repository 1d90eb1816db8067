"""Taking an import back: what it comes to is decided in the writer's transaction, or foreseen by a dry run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from cerememory.actors.actor import Actor
from cerememory.actors.seams import World
from cerememory.actors.stores import Memory
from cerememory.actors.working import CommitWithHeld, Held, HeldIn
from cerememory.domain.audit_chain import GENESIS
from cerememory.protocol.replies import ImportUndone
from cerememory.protocol.requests import UndoImport
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, system_key
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import Stored
from cerememory.storage.rows import parse_head
from cerememory.storage.series import Series
from cerememory.storage.undo_import import find_batch, look_at, look_at_held, undo_steps
from cerememory.storage.undo_rows import rows_prefix

KeepAnswer = Callable[[Mutation[Stored[Any]]], Mutation[Stored[Any]]]
"""Wraps the mutation that answers, when the request came with an idempotency key."""


@dataclass(frozen=True, slots=True)
class Undoing:
    """Undoes imports of any namespace."""

    storage: Storage
    world: World
    working: Actor

    async def undo(self, namespace: int, request: UndoImport, keep_answer: KeepAnswer) -> Stored[ImportUndone]:
        """Raises `RecordNotFound` for what is no import, `ImportConflict` for one that was changed since."""
        if request.dry_run:
            held = _updated_at(await self.working.ask(Held(namespace)))
            return await self.world.offload(partial(self._foreseen, namespace, request, held))
        now = self.world.now()

        def begin(held_in: HeldIn) -> Series[Stored[ImportUndone]]:
            held = _updated_at(held_in(namespace))
            return partial(undo_steps, namespace, request, held, now, keep_answer)

        return await self.working.ask(CommitWithHeld(begin, lambda _stored: None))

    def _foreseen(self, namespace: int, request: UndoImport, held: Mapping[RecordId, int]) -> Stored[ImportUndone]:
        position: bytes | None = rows_prefix(namespace, request.batch_id)
        with self.storage.read() as reader:
            batch = find_batch(reader, namespace, request.batch_id)
            undone = look_at_held(batch, held)
            while position is not None:
                looked = look_at(reader, namespace, request.batch_id, position)
                undone, position = undone.joined(looked.undone), looked.position
            head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
        return Stored(undone.reply(request.batch_id, batch), head.commit_sequence)


def _updated_at(memories: tuple[Memory, ...]) -> dict[RecordId, int]:
    return {memory.record_id: memory.row.updated_at for memory in memories}
