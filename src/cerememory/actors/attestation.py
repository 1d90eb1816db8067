"""What the daemon says of its audit log to those who don't take its word: checkpoints, and proofs between them.

Owns no state: the tree is in the store, where each commit adds its entries to it. So a checkpoint has every entry
of a write that was answered.
"""

from __future__ import annotations

from functools import partial

import trio

from cerememory.actors.seams import World
from cerememory.domain.note_signatures import Signer
from cerememory.errors import ValidationFailed
from cerememory.protocol.replies import AuditConsistency, AuditInclusion
from cerememory.protocol.requests import AuditProof
from cerememory.storage.audit_tree import AuditTree


class Attestation:
    def __init__(self, tree: AuditTree, signer: Signer, world: World) -> None:
        self._tree = tree
        self._signer = signer
        self._world = world
        self._limiter = trio.CapacityLimiter(1)  # a proof may read some of the log: one at a time

    def checkpoint(self) -> bytes:
        """Takes a tenth of a millisecond."""
        tree = self._tree.whole
        return self._signer.note(tree.size, tree.root)

    async def proof(self, request: AuditProof) -> AuditConsistency | AuditInclusion:
        """Raises `ValidationFailed`, naming the field."""
        match request:
            case AuditProof(old=int(old), new=int(new), entry=None, size=None):
                return await self._consistency(old, new)
            case AuditProof(old=None, new=None, entry=int(entry), size=int(size)):
                return await self._inclusion(entry, size)
            case _:
                raise ValidationFailed("old, new, entry, size: give old and new, or entry and size")

    async def _consistency(self, old: int, new: int) -> AuditConsistency:
        self._check_size(new, "new")
        if old > new:
            raise ValidationFailed(f"old: {old} is more than new, {new}")
        hashes = await self._world.offload(partial(self._tree.consistency, old, new), self._limiter)
        return AuditConsistency(old=old, new=new, hashes=tuple(hash_.hex() for hash_ in hashes))

    async def _inclusion(self, entry: int, size: int) -> AuditInclusion:
        self._check_size(size, "size")
        if not 1 <= entry <= size:
            raise ValidationFailed(f"entry: expected 1 to {size}, got {entry}")
        leaf, hashes = await self._world.offload(partial(self._tree.inclusion, entry, size), self._limiter)
        return AuditInclusion(index=entry - 1, leaf_hash=leaf.hex(), hashes=tuple(hash_.hex() for hash_ in hashes))

    def _check_size(self, size: int, field: str) -> None:
        entries = self._tree.whole.size
        if size > entries:
            raise ValidationFailed(f"{field}: {size} is more than the log's {entries} entries")
