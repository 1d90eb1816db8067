"""The enrichment actor: gives stored memories the vectors and relations that a provider makes of them.

It follows the commits by their log, a piece at a time: what waits is in storage, so nothing that waits takes
memory, holds up a writer, or is lost at a restart. Only durable curated memories are enriched; working memory and
the raw journal aren't.

What the provider refuses stays without. A provider that can't be reached, or is busy, is asked again for the same
few memories after pauses that grow, for most of an hour; then those, too, stay without. The log of changes is cut
behind the text index and the newest audit entries (`Ledger`): what it lacks when its turn comes stays without.
A provider that is configured for the first time begins with what is stored from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
import trio

from cerememory.actors.actor import Actor, Reply
from cerememory.actors.followers import CommitsUntold, EffectsCommitted
from cerememory.actors.seams import World
from cerememory.actors.writer import Commit, CommitLater, Writer
from cerememory.errors import ActorBusy, ActorStopped, Busy
from cerememory.providers.contract import Failure, Provider, Relation, Vector
from cerememory.storage import enrichment
from cerememory.storage.contract import Storage
from cerememory.storage.enrichment import Addition, Enrich, Gap, NoteEnriched, Offer
from cerememory.storage.keys import Address

PIECE = 8  # memories that are asked for together
ASKED_AT_ONCE = 4  # requests: half of the provider's connections are left to recalls
TRIES_MAX = 12
PAUSE_S = 5.0
PAUSE_MAX_S = 600.0
RETRY_S = 1.0  # between two tries to commit

log = structlog.get_logger(__name__)


class Enricher(Actor):
    def __init__(
        self, storage: Storage, world: World, writer: Writer, provider: Provider, mailbox_size: int = 256
    ) -> None:
        super().__init__("enrichment", mailbox_size)
        self._storage = storage
        self._world = world
        self._writer = writer
        self._provider = provider
        self._offer = Offer(
            text_vectors=provider.embed_text is not None,
            image_vectors=provider.embed_image is not None,
            relations=provider.extract_relations is not None,
        )
        self._room = trio.CapacityLimiter(ASKED_AT_ONCE)
        self._wake = trio.Event()
        self._done = 0

    async def load(self) -> None:
        done = enrichment.enriched_to(self._storage)
        self._done = enrichment.last_sequence(self._storage) if done is None else done
        if done is None:
            self._note_done()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            await super().run()
            nursery.cancel_scope.cancel()

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case EffectsCommitted():
                if message.effects.changed:
                    self._wake.set()
                return None
            case CommitsUntold():
                self._wake.set()
                return None
        return await super().handle(message, reply)

    async def _follow(self) -> None:
        while True:
            self._wake = trio.Event()
            while await self._take():
                pass
            await self._wake.wait()

    async def _take(self) -> bool:
        """Enrich the next part of the log; whether there was one."""
        changed = await self._world.offload(partial(enrichment.changed_after, self._storage, self._done))
        if changed.missed:
            log.warning("memories stay without enrichment", reason="the log of changes doesn't reach back to them")
        was_asked = False
        for start in range(0, len(changed.addresses), PIECE):
            was_asked |= await self._fill(changed.addresses[start : start + PIECE])
        self._done = changed.sequence
        if was_asked:
            self._note_done()
        return bool(changed.addresses)

    def _note_done(self) -> None:
        """Whatever isn't noted is looked at once more after a restart."""
        try:
            self._writer.post_nowait(CommitLater(NoteEnriched(self._done)))
        except (ActorBusy, ActorStopped):
            log.debug("enrichment progress not recorded", sequence=self._done)

    async def _fill(self, addresses: Sequence[Address]) -> bool:
        """Ask for what the memories lack, until it is there or won't come; whether anything was asked."""
        pause_s = PAUSE_S
        for tries in range(TRIES_MAX):
            gaps = await self._gaps(addresses)
            addresses = await self._fill_each(gaps)
            if not addresses:
                return bool(gaps) or tries > 0
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        log.warning(
            "memories stay without enrichment", reason="the provider didn't answer", records=len(addresses)
        )
        return True

    async def _gaps(self, addresses: Sequence[Address]) -> list[Gap]:
        return await self._world.offload(partial(enrichment.gaps_in, self._storage, addresses, self._offer))

    async def _fill_each(self, gaps: list[Gap]) -> list[Address]:
        """Those for which to ask again later."""
        left: list[Address] = []

        async def fill(gap: Gap) -> None:
            async with self._room:
                if await self._fill_one(gap):
                    left.append(gap.address)

        async with trio.open_nursery() as nursery:
            for gap in gaps:
                nursery.start_soon(fill, gap)
        return left

    async def _fill_one(self, gap: Gap) -> bool:
        """Whether to ask once more: the provider may give later what it didn't, or the memory was changed."""
        vector, relations = await self._vector(gap), await self._relations(gap)
        addition = await self._world.offload(partial(_addition, gap, vector, relations))
        if addition.content is not None or addition.metadata is not None:
            was_added = await self._commit(Enrich(gap, addition, self._provider.name))
            if not was_added:
                return True
        return any(isinstance(outcome, Failure) and outcome.is_passing for outcome in (vector, relations))

    async def _vector(self, gap: Gap) -> Vector | Failure | None:
        if not gap.lacks_vector:
            return None
        if gap.picture is None:
            return await self._provider.embed_text(gap.words) if self._provider.embed_text else None
        if self._provider.embed_image is None:
            return None
        return await self._provider.embed_image(gap.picture.data, gap.picture.image_format)

    async def _relations(self, gap: Gap) -> tuple[Relation, ...] | Failure | None:
        if not gap.lacks_relations or self._provider.extract_relations is None:
            return None
        return await self._provider.extract_relations(gap.words)

    async def _commit(self, mutation: Enrich) -> bool:
        """Once the provider has given something, it isn't thrown away because the disk is full."""
        while True:
            try:
                return await self._writer.ask(Commit(mutation))
            except Busy:
                await trio.sleep(RETRY_S)


def _addition(
    gap: Gap, vector: Vector | Failure | None, relations: tuple[Relation, ...] | Failure | None
) -> Addition:
    """What of the outcomes can be added."""
    kept = None if isinstance(vector, Failure) else vector
    content = None if kept is None else enrichment.content_with(gap, kept)
    if relations is None or isinstance(relations, Failure):
        return Addition(kept, content, None, 0)
    return Addition(kept, content, enrichment.metadata_with(gap, relations), len(relations))
