"""The consolidator: makes one of memories that say the same, and knowledge of those that proved worth it.

A run reads the episodic memories of a namespace in one snapshot, plans, and carries the plan out in batches, so
that others' writes go on meanwhile. One run goes on at a time; who asks for another one is told so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from cerememory.actors.actor import Reply, Request
from cerememory.actors.jobs import JobActor
from cerememory.actors.seams import World
from cerememory.actors.summaries import Summarise
from cerememory.actors.writer import Commit, Writer
from cerememory.config.settings import DecaySettings
from cerememory.domain.consolidation import Merge, Plan, copied_content, criteria_of, plan_of
from cerememory.domain.dreaming import text_of
from cerememory.errors import ConsolidationInProgress, ValidationFailed
from cerememory.protocol.replies import Consolidated
from cerememory.protocol.requests import Consolidate, Strategy
from cerememory.protocol.values import NANOS, RecordId
from cerememory.storage.consolidate_mutations import (
    LOOKING_AT_ALL,
    NOTHING,
    BeginConsolidation,
    ConsolidateBatch,
    NoteConsolidation,
    SemanticCopy,
    batches_of,
)
from cerememory.storage.contract import Storage
from cerememory.storage.dynamics import Curves
from cerememory.storage.episodes import EPISODIC_CODE, Episodes, ReadContent, contents_of
from cerememory.storage.keys import counters_key
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import Stored
from cerememory.storage.rows import parse_counters

DAY_NS = 86_400 * NANOS
BATCH_RECORDS_MAX = 64  # that one transaction removes or copies
BATCH_BYTES_MAX = 8 << 20
DEDUP_BYTES_MAX = 256 << 20  # of embeddings, each of which is compared with all others

KeepAnswer = Callable[[Mutation[Stored[Consolidated]]], Mutation[Stored[Consolidated]]]


@dataclass(frozen=True, slots=True)
class Run(Request[Stored[Consolidated]]):
    """Consolidate as `request` says; `keep_answer` wraps the last mutation when it has an idempotency key."""

    namespace: int
    request: Consolidate
    keep_answer: KeepAnswer


@dataclass(frozen=True, slots=True)
class _Planned:
    """What a run at `now` is going to do, and the stamps of what it looked at.

    `last_run_at` is when the last run was; None where this one doesn't count as the one that looked since.
    """

    now: int
    last_run_at: int | None
    plan: Plan
    stamps: Mapping[RecordId, bytes]

    def expected(self) -> Consolidated:
        """What a dry run counts: semantic memories aren't."""
        return Consolidated(
            records_processed=self.plan.processed,
            records_migrated=len(self.plan.copies),
            records_compressed=self.plan.absorbed_count,
            records_pruned=len(self.plan.faint),
            semantic_nodes_created=0,
        )


@dataclass(slots=True)
class _Left:
    """What a run still has to do, in this order."""

    merges: list[tuple[Merge, ...]]
    copies: list[RecordId]
    faint: list[RecordId]

    @property
    def is_nothing(self) -> bool:
        return not (self.merges or self.copies or self.faint)

    def next_faint(self) -> tuple[RecordId, ...]:
        taken = tuple(self.faint[:BATCH_RECORDS_MAX])
        del self.faint[: len(taken)]
        return taken


class Consolidator(JobActor):
    """`summarise` gives a provider's summary of a text, or None."""

    def __init__(
        self,
        storage: Storage,
        world: World,
        writer: Writer,
        curves: Curves,
        decay: DecaySettings,
        summarise: Summarise,
    ) -> None:
        super().__init__("consolidator")
        self._storage = storage
        self._world = world
        self._writer = writer
        self._curves = curves
        self._decay = decay
        self._summarise = summarise
        self._limiter = trio.CapacityLimiter(1)

    def enqueue(self, message: Any, reply: Reply[Any]) -> None:
        if self.is_working:
            raise ConsolidationInProgress("a consolidation is under way; try again when it is done")
        super().enqueue(message, reply)

    async def work(self, message: Any) -> Any:
        if isinstance(message, Run):
            return await self._run(message)
        return await super().work(message)

    async def _run(self, message: Run) -> Stored[Consolidated]:
        any_mutation = message.keep_answer(NoteConsolidation(message.namespace, 0, NOTHING))
        kept = await self._writer.kept(any_mutation)
        if kept is not None:
            return kept
        if not message.request.dry_run:
            await self._writer.ask_patiently(Commit(BeginConsolidation(message.namespace)))
        read = partial(self._plan, message.namespace, message.request, self._world.now())
        planned = await self._world.offload(read, self._limiter)
        if not message.request.dry_run:
            return await self._carry_out(message, planned)
        note = NoteConsolidation(message.namespace, planned.now, planned.expected())
        return await self._writer.ask_patiently(Commit(message.keep_answer(note)))

    @property
    def _faint_below(self) -> float:
        return 0.0 if self._decay.prune == "never" else self._decay.faint_threshold

    def _plan(self, namespace: int, request: Consolidate, now: int) -> _Planned:
        with self._storage.read() as reader:
            counters = parse_counters(reader.get(counters_key(namespace)))
            criteria = criteria_of(request, counters.last_consolidated_at, self._faint_below, now)
            curve = self._curves.of(reader, namespace)[EPISODIC_CODE]
            episodes = Episodes(reader, namespace, curve, now)
            if request.dedup and episodes.embedded_bytes > DEDUP_BYTES_MAX:
                raise ValidationFailed(f"dedup: compares at most {DEDUP_BYTES_MAX} bytes of embeddings")
            plan = plan_of(episodes.read(), criteria, episodes.embeddings, now)
        last_run_at = counters.last_consolidated_at
        if last_run_at == LOOKING_AT_ALL and request.strategy is Strategy.SELECTIVE:
            last_run_at = None  # it doesn't: the next run has that before it still
        return _Planned(now, last_run_at, plan, episodes.stamps)

    async def _carry_out(self, message: Run, planned: _Planned) -> Stored[Consolidated]:
        plan = planned.plan
        left = _Left(batches_of(plan.merges, BATCH_RECORDS_MAX), list(plan.copies), list(plan.faint))
        kept_until = planned.now + self._decay.archive_days * DAY_NS if self._decay.prune == "archive" else None
        stored, processed = Stored(NOTHING, 0), plan.processed
        while True:
            self.check_going_on()
            merges = left.merges.pop(0) if left.merges else ()
            copies = () if merges else await self._copies(message.namespace, left)
            faint = () if merges or copies else left.next_faint()
            batch = ConsolidateBatch(
                namespace=message.namespace,
                now=planned.now,
                last_run_at=planned.last_run_at,
                stamps=planned.stamps,
                merges=merges,
                copies=copies,
                faint=faint,
                faint_below=self._faint_below,
                kept_until=kept_until,
                processed=processed,
                before=stored.reply,
                is_last=left.is_nothing,
            )
            last = message.keep_answer(batch) if left.is_nothing else batch
            stored, processed = await self._writer.ask_patiently(Commit(last)), 0
            if left.is_nothing:
                return stored

    async def _copies(self, namespace: int, left: _Left) -> tuple[SemanticCopy, ...]:
        """Those of the next records, as many as one transaction takes; of records that are gone there are none."""
        read = partial(self._contents, namespace, left.copies[:BATCH_RECORDS_MAX])
        found = await self._world.offload(read, self._limiter)
        del left.copies[: len(found)]
        return tuple([await self._copy(record_id, read) for record_id, read in found if read is not None])

    def _contents(self, namespace: int, record_ids: list[RecordId]) -> list[tuple[RecordId, ReadContent | None]]:
        with self._storage.read() as reader:
            return contents_of(reader, namespace, record_ids, BATCH_BYTES_MAX)

    async def _copy(self, record_id: RecordId, read: ReadContent) -> SemanticCopy:
        content = read.content
        summary = None if content.summary is not None else await self._summary(text_of(content))
        return SemanticCopy(record_id, self._world.new_id(), read.raw, copied_content(content, summary))

    async def _summary(self, text: str) -> str | None:
        return await self.unless_stopped(lambda: self._summarise([text])) if text else None
