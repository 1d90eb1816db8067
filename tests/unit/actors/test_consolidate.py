"""The consolidator: what a run does, how often, and that one goes on at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory.actors import consolidate
from cerememory.actors.actor import Ping
from cerememory.actors.consolidate import Consolidator, Run
from cerememory.actors.summaries import Summarise, summariser
from cerememory.actors.supervisor import Supervisor
from cerememory.actors.writer import Commit, Writer
from cerememory.config.settings import DecaySettings
from cerememory.domain.audit_chain import AuditEntry
from cerememory.domain.consolidation import LOOK_BACK_NS
from cerememory.domain.curve import Rules
from cerememory.domain.derivation import semantic_ids_of
from cerememory.domain.dreaming import DAY_NS
from cerememory.errors import ActorStopped, ConsolidationInProgress, StorageUnavailable, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent, Store
from cerememory.protocol.replies import Consolidated
from cerememory.protocol.requests import ConflictResolution, Consolidate, ImportStrategy, Strategy
from cerememory.protocol.values import RecordId
from cerememory.storage.archive_mutations import NoteImport, Terms
from cerememory.storage.consolidate_mutations import LOOKING_AT_ALL
from cerememory.storage.dynamics import Curves
from cerememory.storage.frames import Frames
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, counters_key, key, system_key
from cerememory.storage.mutations import Once, Stored
from cerememory.storage.namespaces import OpenNamespace
from cerememory.storage.rows import ContentRow, Counters, parse_content_row, parse_counters, parse_log_row
from cerememory.telemetry.metrics import Metrics
from tests.support.committing import a_record, an_id, storing, updating
from tests.support.engine import NOW, WallClock
from tests.support.memory_storage import MemoryStorage

OTHER = 1
FULL = Strategy.FULL


def counts(
    processed: int, migrated: int = 0, compressed: int = 0, pruned: int = 0, *, is_dry: bool = False
) -> Consolidated:
    return Consolidated(
        records_processed=processed,
        records_migrated=migrated,
        records_compressed=compressed,
        records_pruned=pruned,
        semantic_nodes_created=0 if is_dry else migrated,
    )


@dataclass
class Consolidating:
    storage: MemoryStorage
    writer: Writer
    consolidator: Consolidator
    wall: WallClock

    async def store(self, number: int, text: str = "kettle", at: int = NOW, **given: Any) -> None:
        await self.writer.ask(Commit(storing(a_record(number, text, at, **given))))

    async def run(self, namespace: int = DEFAULT_NAMESPACE, **given: Any) -> Consolidated:
        return (await self.run_once(Run(namespace, Consolidate(**given), lambda mutation: mutation))).reply

    async def run_once(self, run: Run) -> Stored[Consolidated]:
        return await self.consolidator.ask(run)

    def memories(self, store: Store, namespace: int = DEFAULT_NAMESPACE) -> dict[RecordId, ContentRow]:
        prefix = key(namespace, Table.CONTENT)
        pairs = self.storage.rows().items()
        rows = {RecordId(k[-16:]): parse_content_row(value) for k, value in pairs if k.startswith(prefix)}
        return {record_id: row for record_id, row in rows.items() if row.store is store}

    def summaries(self) -> set[str | None]:
        """Of the semantic memories."""
        return {codec.parse(row.content, MemoryContent).summary for row in self.memories(Store.SEMANTIC).values()}

    def counters(self) -> Counters:
        return parse_counters(self.storage.rows().get(counters_key(DEFAULT_NAMESPACE)))

    def entries(self) -> list[dict[str, Any]]:
        """The summaries of the audit entries of consolidation."""
        prefix = system_key(Table.LOG)
        rows = sorted(pair for pair in self.storage.rows().items() if pair[0].startswith(prefix))
        lines = [line for _key, value in rows for line in parse_log_row(value).lines.splitlines()]
        found = [codec.parse(line, AuditEntry) for line in lines]
        return [entry.summary for entry in found if entry.operation == "lifecycle.consolidate"]


@asynccontextmanager
async def consolidating(
    storage: MemoryStorage | None = None,
    summarise: Summarise | None = None,
    decay: DecaySettings | None = None,
) -> AsyncIterator[Consolidating]:
    store, wall = storage or MemoryStorage(), WallClock(step_ns=0)
    world, curves = wall.world(), Curves(Rules())
    writer = Writer(store, world, Metrics(()), curves=curves, group_commit_s=0.002, audited=True, frames=Frames(0))
    consolidator = Consolidator(
        store, world, writer, Curves(Rules()), decay or DecaySettings(), summarise or summariser(None, 1)
    )
    restarts: list[str] = []
    supervisor = Supervisor([[consolidator], [writer]], restarts.append)
    async with trio.open_nursery() as nursery:
        await supervisor.start(nursery)
        yield Consolidating(store, writer, consolidator, wall)
        await supervisor.stop()
    assert restarts == []


@pytest.fixture
async def running() -> AsyncIterator[Consolidating]:
    async with consolidating() as opened:
        yield opened


async def test_memories_get_their_copies_and_duplicates_become_one(running: Consolidating) -> None:
    await running.store(1, "The tide", embedding=[1.0, 0.0])
    await running.store(2, "the  tide", embedding=[1.0, 0.1])
    await running.store(3, "bread")
    await running.store(4, "known", store="semantic")
    assert await running.run(strategy=FULL) == counts(3, migrated=2, compressed=1)
    assert set(running.memories(Store.EPISODIC)) == {an_id(1), an_id(3)}
    assert running.summaries() == {"The tide", "bread", None}


async def test_a_run_after_a_run_finds_nothing_to_do(running: Consolidating) -> None:
    for number in range(3):
        await running.store(number, f"text {number}")
    assert await running.run(strategy=FULL) == counts(3, migrated=3)
    left = running.memories(Store.EPISODIC)
    assert await running.run(strategy=FULL) == counts(3)
    assert await running.run() == counts(0)
    assert running.memories(Store.EPISODIC) == left
    assert len(running.memories(Store.SEMANTIC)) == 3


async def test_what_the_strategies_look_at(running: Consolidating) -> None:
    await running.store(1, "old")
    assert await running.run() == counts(1, migrated=1)
    running.wall.at += DAY_NS
    await running.store(2, "new", running.wall.at)
    await running.writer.ask(Commit(updating(1, now=running.wall.at, metadata={"a": 1})))
    assert await running.run(dry_run=True) == counts(2, migrated=2, is_dry=True)
    await running.store(3, "of yesterday", running.wall.at - DAY_NS)
    assert await running.run(strategy=Strategy.SELECTIVE, min_age_hours=24) == counts(3, migrated=2)
    assert await running.run(strategy=FULL) == counts(3, migrated=1)


async def test_an_incremental_run_looks_at_what_came_since(running: Consolidating) -> None:
    await running.store(1, "old")
    await running.run()
    running.wall.at += 1
    await running.store(2, "new", running.wall.at)
    assert await running.run() == counts(1, migrated=1)
    assert running.counters().last_consolidated_at == running.wall.at


async def test_a_memory_that_was_too_young_is_looked_at_when_it_is_old_enough(running: Consolidating) -> None:
    await running.store(1)
    assert await running.run(min_age_hours=24) == counts(1)
    running.wall.at += DAY_NS
    assert await running.run(min_age_hours=24) == counts(1, migrated=1)


async def test_after_an_import_an_incremental_run_looks_at_all(running: Consolidating) -> None:
    """What came in may have been made, and edited, before the last run."""
    terms = Terms("any", ImportStrategy.MERGE, ConflictResolution.KEEP_NEWER, has_raw=False)
    await running.run()
    await running.store(1, at=NOW - DAY_NS)
    await running.writer.ask(Commit(NoteImport(DEFAULT_NAMESPACE, terms, 0, (), NOW)))
    assert await running.run(dry_run=True) == counts(0)
    await running.writer.ask(Commit(NoteImport(DEFAULT_NAMESPACE, terms, 1, (), NOW)))
    assert await running.run() == counts(1, migrated=1)


@pytest.mark.parametrize("text", ["kettle", None])
async def test_a_selective_run_after_an_import_leaves_it_to_the_next_to_look_at_all(
    running: Consolidating, text: str | None
) -> None:
    """Whether or not it finds something to do."""
    terms = Terms("any", ImportStrategy.MERGE, ConflictResolution.KEEP_NEWER, has_raw=False)
    if text is not None:
        await running.store(1, text, at=NOW - 10 * DAY_NS)
    running.wall.at += DAY_NS
    await running.store(2, at=NOW - DAY_NS)
    await running.writer.ask(Commit(NoteImport(DEFAULT_NAMESPACE, terms, 1, (), NOW)))
    await running.run(strategy=Strategy.SELECTIVE, min_age_hours=9 * 24)
    assert (await running.run()).records_migrated == 1
    assert running.counters().last_consolidated_at == running.wall.at


async def test_an_incremental_run_looks_at_what_is_committed_behind_its_look(running: Consolidating) -> None:
    """With the time at which it was asked for, which was before it."""
    await running.run()
    asked_at = running.wall.at
    running.wall.at += LOOK_BACK_NS - 1
    await running.run()
    await running.store(1, at=asked_at)
    running.wall.at += DAY_NS
    assert await running.run() == counts(1, migrated=1)


async def test_what_came_once_the_clock_was_set_back_is_looked_at(running: Consolidating) -> None:
    running.wall.at += DAY_NS
    await running.run()
    running.wall.at -= DAY_NS
    await running.store(1, at=running.wall.at)
    running.wall.at += 2 * DAY_NS
    assert await running.run() == counts(1, migrated=1)


async def test_a_run_after_the_clock_was_set_back_looks_at_all(running: Consolidating) -> None:
    """What was too young at the last one would be passed by else, until something touches it."""
    await running.store(1, at=NOW)
    running.wall.at += 3 * DAY_NS
    assert await running.run(min_age_hours=24 * 9) == counts(1)
    running.wall.at -= DAY_NS
    assert await running.run() == counts(1, migrated=1)


async def test_what_an_import_brings_beside_the_first_run_is_looked_at() -> None:
    terms = Terms("any", ImportStrategy.MERGE, ConflictResolution.KEEP_NEWER, has_raw=False)

    opened: list[Consolidating] = []

    async def summarise(texts: Sequence[str]) -> str | None:
        if texts == ["kettle"]:
            await opened[0].store(2, "brought", NOW - 30 * DAY_NS)
            await opened[0].writer.ask(Commit(NoteImport(DEFAULT_NAMESPACE, terms, 1, (), NOW)))
        return None

    async with consolidating(summarise=summarise) as made:
        opened.append(made)
        await made.store(1)
        assert await made.run() == counts(1, migrated=1)
        made.wall.at += DAY_NS
        assert await made.run() == counts(2, migrated=1)


async def test_selective_without_a_criterion_is_refused(running: Consolidating) -> None:
    with pytest.raises(ValidationFailed, match="selective"):
        await running.run(strategy=Strategy.SELECTIVE)
    assert running.entries() == []


async def test_a_dry_run_counts_what_the_run_will_do_and_changes_nothing(running: Consolidating) -> None:
    for number in range(4):
        await running.store(number, "same", embedding=[1.0], at=NOW + number)
    await running.store(9, "another")
    before = running.memories(Store.EPISODIC)
    assert await running.run(strategy=FULL, dry_run=True) == counts(5, migrated=2, compressed=3, is_dry=True)
    assert running.memories(Store.EPISODIC) == before
    assert running.counters().last_consolidated_at is None
    assert await running.run(strategy=FULL) == counts(5, migrated=2, compressed=3)
    assert [entry["dry_run"] for entry in running.entries()] == [True, False, False]


async def test_near_embeddings_are_merged_only_when_asked_for(running: Consolidating) -> None:
    await running.store(1, "one", embedding=[1.0, 0.0])
    await running.store(2, "two", embedding=[1.0, 0.1])
    assert (await running.run(strategy=FULL, dry_run=True)).records_compressed == 0
    assert (await running.run(strategy=FULL, dedup=True)).records_compressed == 1


async def test_too_many_embeddings_are_not_all_compared(
    running: Consolidating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consolidate, "DEDUP_BYTES_MAX", 15)
    await running.store(1, embedding=[1.0] * 4)
    with pytest.raises(ValidationFailed, match="dedup"):
        await running.run(strategy=FULL, dedup=True)
    assert await running.run(strategy=FULL) == counts(1, migrated=1)


async def test_a_long_plan_is_carried_out_in_batches_whose_entries_add_up(
    running: Consolidating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consolidate, "BATCH_RECORDS_MAX", 3)
    for number in range(5):
        await running.store(number, "same", NOW + number, embedding=[1.0])
    for number in range(10, 17):
        await running.store(number, f"text {number}")
    before = len(running.storage.commits)
    assert await running.run(strategy=FULL) == counts(12, migrated=8, compressed=4)
    assert len(running.storage.commits) - before == 1 + 5, "one says that the first run begins"
    entries = running.entries()
    for name in Consolidated.__struct_fields__:
        assert sum(entry[name] for entry in entries) == getattr(counts(12, migrated=8, compressed=4), name)
    assert [entry["records_migrated"] for entry in entries] == [0, 0, 3, 3, 2]


async def test_large_contents_make_small_batches(running: Consolidating, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consolidate, "BATCH_BYTES_MAX", 1)
    for number in range(3):
        await running.store(number, f"text {number}")
    before = len(running.storage.commits)
    await running.run(strategy=FULL)
    assert len(running.storage.commits) - before == 1 + 3


async def test_a_run_that_finds_nothing_leaves_an_entry(running: Consolidating) -> None:
    assert await running.run() == counts(0)
    [entry] = running.entries()
    assert entry == {**dict.fromkeys(Consolidated.__struct_fields__, 0), "dry_run": False}


async def test_each_namespace_has_its_own_memories(running: Consolidating) -> None:
    await running.writer.ask(Commit(OpenNamespace("theirs")))
    await running.store(1)
    await running.store(2, namespace=OTHER)
    assert await running.run(OTHER) == counts(1, migrated=1)
    assert running.memories(Store.SEMANTIC) == {}
    assert len(running.memories(Store.SEMANTIC, OTHER)) == 1


async def test_a_provider_summarises_what_has_no_summary() -> None:
    asked: list[Sequence[str]] = []

    async def summarise(texts: Sequence[str]) -> str | None:
        asked.append(texts)
        return "In short." if texts == ["one"] else None

    async with consolidating(summarise=summarise) as running:
        await running.store(1, "one")
        await running.store(2, "two")
        await running.store(3, "three", summary="Has one.", store="episodic")
        await running.run(strategy=FULL)
        assert running.summaries() == {"In short.", "two", "Has one."}
    assert sorted(texts[0] for texts in asked) == ["one", "two"]


@pytest.mark.parametrize("prune", ["never", "archive", "delete"])
async def test_what_is_faint_goes_as_the_rules_say(prune: Any) -> None:
    async with consolidating(decay=DecaySettings(prune=prune, faint_threshold=0.3, archive_days=2)) as running:
        await running.store(1, "faint", NOW - 400 * DAY_NS)
        await running.store(2, "clear")
        gone = 0 if prune == "never" else 1
        expected = counts(2, migrated=2, pruned=gone, is_dry=True)
        assert await running.run(strategy=FULL, dry_run=True) == expected
        assert await running.run(strategy=FULL) == counts(2, migrated=2, pruned=gone)
        assert len(running.memories(Store.EPISODIC)) == 2 - gone
        archived = key(DEFAULT_NAMESPACE, Table.ARCHIVED, an_id(1))
        assert (archived in running.storage.rows()) == (prune == "archive")
        assert len(running.memories(Store.SEMANTIC)) == 2


async def sleeping(texts: Sequence[str]) -> str | None:
    await trio.sleep(100.0)
    return None


async def test_one_run_goes_on_at_a_time(autojump_clock: MockClock) -> None:
    answers: list[Consolidated] = []
    async with consolidating(summarise=sleeping) as running:
        await running.store(1)

        async def ask() -> None:
            answers.append(await running.run(strategy=FULL))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            with pytest.raises(ConsolidationInProgress):
                await running.run(strategy=FULL)
            await running.consolidator.ask(Ping())
        assert answers == [counts(1, migrated=1)]
        assert await running.run(strategy=FULL) == counts(1)


async def test_the_end_comes_while_a_provider_thinks(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with consolidating(summarise=sleeping) as running:
            await running.store(1)

            async def ask() -> None:
                with pytest.raises(ActorStopped):
                    await running.run(strategy=FULL)

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            stopped_at = trio.current_time()
        assert trio.current_time() == stopped_at
    assert running.counters().last_consolidated_at == LOOKING_AT_ALL


async def test_a_key_that_came_before_gets_its_answer(running: Consolidating) -> None:
    def kept(**given: Any) -> Run:
        return Run(
            DEFAULT_NAMESPACE,
            Consolidate(**given),
            lambda mutation: Once(mutation, b"k" * 16, b"b", NOW, NOW + DAY_NS, Consolidated),
        )

    await running.store(1)
    first = await running.run_once(kept(strategy=FULL))
    await running.store(2)
    again = await running.run_once(kept(strategy=FULL))
    assert (again.reply, again.sequence, again.replayed) == (first.reply, first.sequence, True)
    assert len(running.memories(Store.SEMANTIC)) == 1


async def test_after_a_crash_between_batches_the_next_run_does_the_rest(
    running: Consolidating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consolidate, "BATCH_RECORDS_MAX", 2)
    for number in range(5):
        await running.store(number, f"text {number}")
    commits = len(running.storage.commits) + 1  # the run begins, and the first batch

    def gate() -> None:
        if len(running.storage.commits) > commits:
            running.storage.break_disk()

    running.storage.hold_commits(gate)
    with pytest.raises(StorageUnavailable):
        await running.run()
    copied = [
        record_id for record_id, row in running.memories(Store.EPISODIC).items() if semantic_ids_of(row.metadata)
    ]
    assert len(copied) == len(running.memories(Store.SEMANTIC)) == 2
    running.storage.hold_commits(lambda: None)
    running.storage.mend_disk()
    assert await running.run() == counts(5, migrated=3)
    assert await running.run() == counts(0)
    assert len(running.memories(Store.SEMANTIC)) == 5
