"""Idempotency keys: a request that comes again under its key is answered as it was the first time."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

from cerememory.actors.seams import World
from cerememory.storage.keys import NOWHERE, digest
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import Once, Stored

R = TypeVar("R")
KEPT_NS = 24 * 3_600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Idempotency:
    """Whose key it is (`scope`), the key itself, and the digest of the request it came with."""

    scope: str
    key: str
    body_digest: bytes

    def with_body(self, body: bytes) -> Idempotency:
        """The one that covers, too, the `body` (its digest) that came as a stream."""
        return Idempotency(self.scope, self.key, blake2b(self.body_digest + body, digest_size=16).digest())


class KeptAnswers:
    """What `Once` keeps, from now on and for `KEPT_NS`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def once(
        self, mutation: Mutation[Stored[R]], reply_type: type[Any] | None, idempotency: Idempotency | None
    ) -> Mutation[Stored[R]]:
        """`mutation`, answered anew from what was kept when its idempotency key came before."""
        if idempotency is None or mutation.namespace == NOWHERE:
            return mutation
        key_digest = digest(f"{idempotency.scope}\0{idempotency.key}")
        now = self._world.now()
        return Once(mutation, key_digest, idempotency.body_digest, now, now + KEPT_NS, reply_type)
