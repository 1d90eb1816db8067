"""Taking secrets out of what is stored: a piece of the scan a request, each one transaction of the writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from cerememory.actors.seams import World
from cerememory.actors.writer import Commit, Writer
from cerememory.domain.audit_chain import GENESIS
from cerememory.protocol.replies import Redacted
from cerememory.protocol.requests import Redact
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, system_key
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import Stored
from cerememory.storage.redacting import NOTHING, Piece, RedactPiece, look_at_piece
from cerememory.storage.rows import parse_head

KeepAnswer = Callable[[Mutation[Stored[Any]]], Mutation[Stored[Any]]]
"""Wraps the mutation that answers, when the request came with an idempotency key."""


@dataclass(frozen=True, slots=True)
class Redacting:
    """Scans take turns, a piece each: looking for secrets takes a thread's whole attention."""

    storage: Storage
    world: World
    writer: Writer
    limiter: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))

    async def redact(self, namespace: int, request: Redact, keep_answer: KeepAnswer) -> Stored[Redacted]:
        """Raises `ValidationFailed` for a cursor that no answer had."""
        now = self.world.now()
        any_mutation = keep_answer(RedactPiece(namespace, NOTHING, now))
        kept = await self.writer.kept(any_mutation)
        if kept is not None:
            return kept
        piece, sequence = await self.world.offload(partial(self._look, namespace, request), self.limiter)
        if request.dry_run:
            return Stored(piece.reply(len(piece.hits), piece.secrets), sequence)
        if not piece.hits:  # unless the first try has taken them out meanwhile
            return await self.writer.kept(any_mutation) or Stored(piece.reply(0, {}), sequence)
        return await self.writer.ask(Commit(keep_answer(RedactPiece(namespace, piece, now))))

    def _look(self, namespace: int, request: Redact) -> tuple[Piece, int]:
        with self.storage.read() as reader:
            head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
            return look_at_piece(reader, namespace, request), head.commit_sequence
