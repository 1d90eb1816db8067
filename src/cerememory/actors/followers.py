"""Who follows the writer's commits, and what they are told of them.

A follower learns of a commit before whoever asked for it is answered: its next question finds the commit in the
follower's mailbox. One that was given up learns of it from storage, at the daemon's next start.
"""

from __future__ import annotations

from dataclasses import dataclass

from cerememory.actors.actor import Actor
from cerememory.storage.keys import Address
from cerememory.storage.ledger import Effects, Finished
from cerememory.storage.prepared import SavedState, by_store


@dataclass(frozen=True, slots=True)
class LinesCommitted:
    """To the audit log: `lines` are committed and end with entry `last_sequence`; they may begin a file."""

    lines: tuple[bytes, ...]
    last_sequence: int
    begin_file: bool = False

    @property
    def first_sequence(self) -> int:
        return self.last_sequence - len(self.lines) + 1


@dataclass(frozen=True, slots=True)
class EffectsCommitted:
    """To the indexes: what commit `sequence` changed."""

    sequence: int
    effects: Effects


@dataclass(frozen=True, slots=True)
class CommitsUntold:
    """To all followers: some commits are ones that they never heard of. The writer crashed, or it was a series."""


@dataclass(frozen=True, slots=True)
class RecordsGone:
    """To all stores: these records were removed, from storage or from working memory."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class StatesCommitted:
    """To a durable store: these states of its memories are on disk, or lost. Its rows say which."""

    states: tuple[SavedState, ...]


@dataclass(frozen=True, slots=True)
class EdgesCommitted:
    """To the graph: these memories have other edges than before, or are gone."""

    addresses: tuple[Address, ...]


class Followers:
    """`stores` in the order of their codes."""

    def __init__(
        self,
        audit_log: Actor | None = None,
        indexes: tuple[Actor, ...] = (),
        stores: tuple[Actor, ...] = (),
        graph: Actor | None = None,
    ) -> None:
        self._audit_log = audit_log
        self._indexes = indexes
        self._stores = stores
        self._graph = graph

    async def tell(self, finished: Finished) -> None:
        """What a commit did."""
        if self._audit_log is not None and finished.audit_lines:
            last, begin_file = finished.head.audit_sequence, finished.effects.ends_audit_file
            await self._audit_log.inform(LinesCommitted(finished.audit_lines, last, begin_file))
        effects = finished.effects
        if effects.concern_indexes:
            for index in self._indexes:
                await index.inform(EffectsCommitted(finished.head.commit_sequence, effects))
        if self._graph is not None and (effects.relinked or effects.deletions):
            await self._graph.inform(EdgesCommitted((*effects.relinked, *effects.deletions)))
        await self.tell_gone((*effects.deletions, *effects.dropped))
        await self.tell_saved(effects.saved)

    async def tell_untold(self) -> None:
        """That there are commits which nobody tells of."""
        for follower in filter(None, (self._audit_log, *self._indexes, self._graph)):
            await follower.inform(CommitsUntold())

    async def tell_saved(self, saved: list[SavedState]) -> None:
        """Each store, of its own: these are on disk, or lost."""
        for code, states in by_store(saved).items():
            await self._stores[code].inform(StatesCommitted(tuple(states)))

    async def tell_gone(self, gone: tuple[Address, ...]) -> None:
        for store in self._stores if gone else ():
            await store.inform(RecordsGone(gone))
