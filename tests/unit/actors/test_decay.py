"""The decay loop: what time does to memories, what a tick writes down of it, and what a panic costs."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import UnsetType
from trio.testing import MockClock

from cerememory import failpoints
from cerememory.actors.decay import JUMP_NS
from cerememory.actors.engine import Idempotency
from cerememory.config.settings import DecaySettings, EvolutionSettings, Settings
from cerememory.errors import InternalError, RecordNotFound
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord, Store
from cerememory.protocol.replies import ArchivedMemory, Restored, Stats
from cerememory.protocol.requests import DecayForecast, DecayTick, EncodeBatch, EncodeUpdate, Forget, Restore
from cerememory.protocol.values import NANOS, RecordId, Timestamp
from cerememory.storage import archived
from cerememory.storage.decaying import PIECE_ROWS
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key
from tests.support.engine import (
    NOW,
    Running,
    running_engine,
    settings_for,
    store_body,
    to_introspect,
    to_recall,
    to_store,
)
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage

HOUR_S, DAY_S = 3_600, 86_400
DAY_NS = DAY_S * NANOS
AFTER_A_DAY = 2**-0.3  # (1 + t/S)^-d of an untouched episodic memory: t = S = 1 day, d = .3
OFF = DecaySettings(background_interval_secs=0)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Nothing ticks by itself."""
    async with running_engine(tmp_path, settings=settings_for(tmp_path, decay=OFF)) as opened:
        yield opened


def with_decay(tmp_path: Path, **decay: Any) -> Settings:
    return settings_for(tmp_path, decay=DecaySettings(**{"background_interval_secs": 0, **decay}))


async def stored(running: Running, text: str = "a kettle", **given: Any) -> RecordId:
    return (await running.engine.encode_store(to_store(text, store="episodic", **given))).reply.record_id


async def read(running: Running, record_id: RecordId) -> MemoryRecord:
    return codec.parse(bytes(await running.engine.introspect_record(to_introspect(record_id))), MemoryRecord)


async def score_of(running: Running, record_id: RecordId) -> float:
    return (await read(running, record_id)).fidelity.score


async def tick(running: Running, **given: Any) -> Any:
    return (await running.engine.lifecycle_decay_tick(DecayTick(**given))).reply


async def stats(running: Running) -> Stats:
    return await running.engine.introspect_stats()


async def test_a_memory_fades_whether_or_not_anything_ticks(running: Running) -> None:
    record_id = await stored(running)
    running.clock.at += DAY_NS

    assert await score_of(running, record_id) == pytest.approx(AFTER_A_DAY, abs=1e-6)


async def test_a_tick_changes_no_fidelity_but_writes_it_down(running: Running) -> None:
    record_id = await stored(running)
    running.clock.at += DAY_NS
    before = await score_of(running, record_id)
    assert (await stats(running)).avg_fidelity == 1.0

    assert (await tick(running)).records_updated == 1

    assert await score_of(running, record_id) == pytest.approx(before, abs=1e-9)
    assert (await stats(running)).avg_fidelity == pytest.approx(AFTER_A_DAY, abs=1e-6)
    ticked_at = (await read(running, record_id)).fidelity.last_decay_tick
    assert ticked_at is not None
    assert ticked_at >= NOW + DAY_NS


async def test_any_number_of_ticks_ends_where_none_does(tmp_path: Path) -> None:
    scores = []
    for pauses in ([5 * HOUR_S], [HOUR_S] * 5, [600] * 30):
        path = tmp_path / str(len(pauses))
        async with running_engine(path, settings=with_decay(path)) as running:
            running.clock.step_ns = 0
            record_id = await stored(running)
            for pause_s in pauses:
                running.clock.at += pause_s * NANOS
                await tick(running)
            scores.append(await score_of(running, record_id))

    assert scores == pytest.approx([scores[0]] * 3, abs=1e-12)


async def test_added_time_stays_added(running: Running) -> None:
    running.clock.step_ns = 0
    record_id = await stored(running)

    await tick(running, tick_duration_seconds=DAY_S)
    assert await score_of(running, record_id) == pytest.approx(AFTER_A_DAY, abs=1e-12)
    await tick(running)
    assert await score_of(running, record_id) == pytest.approx(AFTER_A_DAY, abs=1e-12)
    await tick(running, tick_duration_seconds=DAY_S)
    assert await score_of(running, record_id) == pytest.approx(3**-0.3, abs=1e-12)


async def test_a_memory_made_after_added_time_begins_whole(running: Running) -> None:
    running.clock.step_ns = 0
    await stored(running)
    await tick(running, tick_duration_seconds=30 * DAY_S)

    assert await score_of(running, await stored(running)) == 1.0


async def test_added_time_is_kept_over_a_restart(tmp_path: Path) -> None:
    storage, settings = MemoryStorage(), with_decay(tmp_path)
    async with running_engine(tmp_path, storage=storage, settings=settings) as running:
        record_id = await stored(running)
        await tick(running, tick_duration_seconds=DAY_S)
    async with running_engine(tmp_path, storage=storage, settings=settings) as running:
        assert await score_of(running, record_id) == pytest.approx(AFTER_A_DAY, abs=1e-6)


async def test_a_recall_holds_a_memory_back_and_shows_it(running: Running) -> None:
    recalled, left = await stored(running, "a kettle"), await stored(running, "a lamp")
    running.clock.at += DAY_NS
    await running.engine.recall_query(to_recall("kettle"))
    running.clock.at += 10 * DAY_NS

    assert await score_of(running, recalled) == pytest.approx(AFTER_A_DAY * (1 + 10 / 2.5) ** -0.3, abs=1e-6)
    assert await score_of(running, left) == pytest.approx(12**-0.3, abs=1e-6)
    assert (await read(running, recalled)).fidelity.stability == pytest.approx(2.5)


async def test_an_emotion_holds_a_memory_back(running: Running) -> None:
    moving = await stored(running, emotion={"joy": 1.0, "intensity": 1.0})
    plain = await stored(running)
    running.clock.at += 30 * DAY_NS

    assert await score_of(running, moving) == pytest.approx(31 ** (-0.3 / 1.5), abs=1e-6)
    assert await score_of(running, plain) == pytest.approx(31**-0.3, abs=1e-6)


async def test_a_changed_emotion_counts_from_then_on(running: Running) -> None:
    record_id = await stored(running)
    running.clock.at += DAY_NS
    before = await score_of(running, record_id)
    changed = codec.parse(codec.dump({"emotion": {"joy": 1.0, "intensity": 1.0}}), EncodeUpdate)
    await running.engine.encode_update(record_id, changed)

    assert await score_of(running, record_id) == pytest.approx(before, abs=1e-6)
    running.clock.at += DAY_NS
    assert await score_of(running, record_id) == pytest.approx(before * 2 ** (-0.3 / 1.5), abs=1e-6)


async def test_an_emotion_that_stays_the_same_moves_no_base(running: Running) -> None:
    running.clock.step_ns = 0
    emotion = {"joy": 1.0, "intensity": 1.0}
    untouched, told_again = [await stored(running, emotion=emotion) for _ in range(2)]
    running.clock.at += DAY_NS
    same = codec.parse(codec.dump({"emotion": emotion}), EncodeUpdate)
    await running.engine.encode_update(told_again, same)
    running.clock.at += DAY_NS

    assert await score_of(running, told_again) == await score_of(running, untouched)


async def test_nothing_is_pruned_by_default_however_faint(running: Running) -> None:
    record_id = await stored(running)
    running.clock.at += 10**9 * NANOS

    ticked = await tick(running, tick_duration_seconds=2**32 - 1)

    assert (ticked.records_below_threshold, ticked.records_pruned) == (0, 0)  # .3 fades to .01 in 12,000 years
    assert await score_of(running, record_id) > 0.01


@pytest.mark.parametrize("prune", ["delete", "archive"])
async def test_what_is_faint_goes_where_the_operator_wants_it(tmp_path: Path, prune: Any) -> None:
    async with running_engine(tmp_path, settings=with_decay(tmp_path, prune=prune, time_unit_secs=1)) as running:
        faint = await stored(running)
        running.clock.at += 10**7 * NANOS
        fresh = await stored(running, "a lamp")

        ticked = await tick(running)

        assert (ticked.records_updated, ticked.records_below_threshold, ticked.records_pruned) == (2, 1, 1)
        with pytest.raises(RecordNotFound):
            await read(running, faint)
        assert (await read(running, fresh)).id == fresh
        assert not (await running.engine.recall_query(to_recall("kettle"))).memories
        assert (await stats(running)).total_records == 1
        restored = await running.engine.lifecycle_restore(Restore(record_ids=(faint,)))
        assert restored.reply.records_restored == (prune == "archive")


async def test_an_archived_memory_comes_back_as_it_was(tmp_path: Path) -> None:
    settings = with_decay(tmp_path, prune="archive", time_unit_secs=1)
    async with running_engine(tmp_path, settings=settings) as running:
        other = await stored(running, "a lamp")
        edge = {"target_id": str(other), "association_type": "semantic", "weight": 0.5}
        record_id = await stored(running, embedding=[1.0, 0.5], associations=[edge])
        running.clock.at += 10**7 * NANOS
        await running.engine.recall_query(to_recall("lamp"))
        before = await read(running, record_id)
        await tick(running)
        await running.engine.lifecycle_restore(Restore(record_ids=(record_id,)))

        after = await read(running, record_id)
        assert (after.content, after.associations, after.created_at) == (
            before.content,
            before.associations,
            before.created_at,
        )
        assert after.fidelity.score == pytest.approx(before.fidelity.score, rel=1e-3)
        assert [m.relevance_score for m in (await running.engine.recall_query(to_recall("kettle"))).memories]


def archived_of(listed: Restored) -> tuple[ArchivedMemory, ...]:
    assert not isinstance(listed.archived, UnsetType)
    return listed.archived


async def test_what_can_be_restored_is_listed_until_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decay = DecaySettings(background_interval_secs=0, prune="archive", archive_days=3_650, time_unit_secs=1)
    frozen = EvolutionSettings(enabled=False)  # or what is pruned changes from tick to tick
    settings = settings_for(tmp_path, decay=decay, evolution=frozen)
    async with running_engine(tmp_path, settings=settings) as running:
        texts, apart_ns = ["a kettle", "a lamp", "x" * 81], 10**7 * NANOS
        record_ids = []
        for text in texts:  # each is archived before the next one is made
            record_ids.append(await stored(running, text))
            running.clock.at += apart_ns
            await tick(running)
        fresh = await stored(running, "a fresh one")

        async def listed(*wanted: RecordId) -> Restored:
            request = Restore(record_ids=wanted or None, dry_run=True)
            before = await stats(running)
            answer = await running.engine.lifecycle_restore(request)
            assert await stats(running) == before
            return answer.reply

        found = await listed()
        assert (found.records_restored, [each.record_id for each in archived_of(found)]) == (3, record_ids)
        assert [each.summary for each in archived_of(found)] == [*texts[:2], "x" * 80 + "..."]
        for each in archived_of(found):  # the clock of tests goes on a little at each look
            assert each.store is Store.EPISODIC
            assert each.kept_until - each.created_at == pytest.approx(apart_ns + 3_650 * DAY_NS, abs=NANOS)
        some = await listed(record_ids[1], fresh, record_ids[0], record_ids[1])
        assert (some.records_restored, [each.record_id for each in archived_of(some)]) == (
            2,
            [record_ids[1], record_ids[0]],
        )
        monkeypatch.setattr(archived, "LISTED_MAX", 1)
        cut = await listed()
        assert (cut.records_restored, [each.record_id for each in archived_of(cut)]) == (3, record_ids[:1])

        await running.engine.lifecycle_restore(Restore(record_ids=(record_ids[0],)))
        assert [each.record_id for each in archived_of(await listed())] == [record_ids[1]]
        assert (await listed(record_ids[0])).records_restored == 0


async def test_the_archive_may_keep_for_longer_than_a_clock_goes(tmp_path: Path) -> None:
    settings = with_decay(tmp_path, prune="archive", archive_days=2**32 - 1, time_unit_secs=1)
    async with running_engine(tmp_path, settings=settings) as running:
        record_id = await stored(running)
        running.clock.at += 365 * DAY_NS
        assert (await tick(running)).records_pruned == 1
        running.clock.at += 100 * 365 * DAY_NS
        await tick(running)

        restored = await running.engine.lifecycle_restore(Restore(record_ids=(record_id,)))
        assert restored.reply.records_restored == 1


async def test_the_archive_lets_go_of_what_nobody_wanted_back(tmp_path: Path) -> None:
    settings = with_decay(tmp_path, prune="archive", archive_days=7, time_unit_secs=1)
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage, settings=settings) as running:
        record_id = await stored(running)
        running.clock.at += 10**7 * NANOS
        await tick(running)
        running.clock.at += 8 * DAY_NS
        await tick(running)

        assert (
            await running.engine.lifecycle_restore(Restore(record_ids=(record_id,)))
        ).reply.records_restored == 0
        archive = key(DEFAULT_NAMESPACE, Table.ARCHIVED)
        assert not [row_key for row_key in storage.rows() if row_key.startswith(archive)]


@pytest.mark.parametrize("how", ["forgotten", "expired"])
async def test_working_memory_loses_its_edge_to_what_leaves_the_archive_for_good(tmp_path: Path, how: str) -> None:
    settings = with_decay(tmp_path, prune="archive", archive_days=7, time_unit_secs=1)
    async with running_engine(tmp_path, settings=settings) as running:
        archived = await stored(running)
        running.clock.at += 10**7 * NANOS
        await tick(running)
        edge = {"target_id": str(archived), "association_type": "semantic", "weight": 0.5}
        pointing = to_store("a lamp", store="working", associations=[edge])
        held = (await running.engine.encode_store(pointing)).reply.record_id
        assert len((await read(running, held)).associations) == 1
        if how == "forgotten":
            await running.engine.lifecycle_forget(Forget(record_ids=(archived,), confirm=True))
        else:
            running.clock.at += 8 * DAY_NS
            await tick(running)

        assert (await read(running, held)).associations == ()


async def test_a_tick_is_many_short_commits(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage, settings=with_decay(tmp_path)) as running:
        for _ in range(9):
            records = [store_body(f"kettle {i}", store="episodic") for i in range(1_000)]
            await running.engine.encode_batch(codec.parse(codec.dump({"records": records}), EncodeBatch))
        running.clock.at += DAY_NS
        before = len(storage.commits)

        ticked = await tick(running)

        state = key(DEFAULT_NAMESPACE, Table.STATE)
        written = [sum(k.startswith(state) for k in changes) for changes in storage.commits[before:]]
        assert ticked.records_updated == sum(written) == 9_000
        assert max(written) <= PIECE_ROWS
        assert len([count for count in written if count]) == math.ceil(9_000 / PIECE_ROWS)


async def test_a_tick_writes_only_what_moved(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage, settings=with_decay(tmp_path)) as running:
        await stored(running)
        before = len(storage.commits)
        await tick(running)
        state = key(DEFAULT_NAMESPACE, Table.STATE)

        assert len(storage.commits) > before
        assert not [k for changes in storage.commits[before:] for k in changes if k.startswith(state)]


async def test_encodes_are_committed_between_the_pieces_of_a_tick(tmp_path: Path) -> None:
    async with running_engine(tmp_path, settings=with_decay(tmp_path)) as running:
        for _ in range(5):
            records = [store_body(f"kettle {i}", store="episodic") for i in range(1_000)]
            await running.engine.encode_batch(codec.parse(codec.dump({"records": records}), EncodeBatch))
        running.clock.at += DAY_NS
        order: list[str] = []

        async def ticked() -> None:
            await tick(running)
            order.append("tick")

        async def encoded() -> None:
            await stored(running)
            order.append("encode")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ticked)
            nursery.start_soon(encoded)
        assert order == ["encode", "tick"]


async def test_the_loop_ticks_every_namespace_by_itself(tmp_path: Path, autojump_clock: MockClock) -> None:
    settings = with_decay(tmp_path, background_interval_secs=HOUR_S)
    async with running_engine(tmp_path, settings=settings) as running:
        await stored(running)
        elsewhere = await running.engine.namespace("elsewhere", create=True)
        await running.engine.encode_store(to_store("a lamp", store="episodic"), namespace=elsewhere)
        running.clock.at += HOUR_S * NANOS
        await trio.sleep(HOUR_S + 1)

        for namespace in (DEFAULT_NAMESPACE, elsewhere):
            here = await running.engine.introspect_stats(namespace=namespace)
            assert here.avg_fidelity == pytest.approx((1 + 1 / 24) ** -0.3, abs=1e-6)
            assert here.background_decay_enabled


async def test_a_panic_is_counted_logged_and_survived(
    tmp_path: Path, autojump_clock: MockClock, logged: Logged
) -> None:
    settings = with_decay(tmp_path, background_interval_secs=HOUR_S)
    async with running_engine(tmp_path, settings=settings) as running:
        await stored(running)
        running.clock.at += HOUR_S * NANOS
        failpoints.arm("decay.piece")
        await trio.sleep(HOUR_S + 1)

        assert running.counted("cerememory_decay_panics_total") == 1.0
        [line] = [line for line in logged.lines if line["event"] == "decay tick panicked"]
        assert "InjectedCrash" in line["exception"]
        assert await running.engine.not_ready() is None
        assert (await stats(running)).avg_fidelity == 1.0
        await trio.sleep(60)  # it tries again soon
        assert (await stats(running)).avg_fidelity < 1.0
        assert running.counted("cerememory_decay_panics_total") == 1.0


async def test_a_loop_that_keeps_panicking_keeps_the_daemon_ready(
    tmp_path: Path, autojump_clock: MockClock, logged: Logged
) -> None:
    settings = with_decay(tmp_path, background_interval_secs=HOUR_S)
    async with running_engine(tmp_path, settings=settings) as running:
        await stored(running)

        def again(name: str) -> None:
            failpoints.arm(name, again)
            raise RuntimeError("always")

        failpoints.arm("decay.piece", again)
        await trio.sleep(12 * HOUR_S)

        panics = running.counted("cerememory_decay_panics_total")
        assert 12 <= panics < 40  # its pauses grow up to the interval
        assert await running.engine.not_ready() is None


async def test_a_panic_of_a_tick_that_was_asked_for_fails_that_one(running: Running, logged: Logged) -> None:
    await stored(running)
    failpoints.arm("decay.piece")

    with pytest.raises(InternalError):
        await tick(running)

    assert running.counted("cerememory_decay_panics_total") == 1.0
    assert (await tick(running)).records_updated == 1
    assert await running.engine.not_ready() is None


async def test_a_wall_clock_that_was_set_skips_a_tick(
    tmp_path: Path, autojump_clock: MockClock, logged: Logged
) -> None:
    settings = with_decay(tmp_path, background_interval_secs=HOUR_S)
    async with running_engine(tmp_path, settings=settings) as running:
        await stored(running)
        await trio.sleep(1)
        running.clock.at += JUMP_NS + 2 * HOUR_S * NANOS
        await trio.sleep(HOUR_S)

        assert "decay tick skipped: the wall clock was set" in logged.events("warning")
        assert (await stats(running)).avg_fidelity == 1.0
        await trio.sleep(HOUR_S)
        assert (await stats(running)).avg_fidelity < 1.0


async def test_the_same_key_ticks_once(running: Running) -> None:
    running.clock.step_ns = 0
    record_id = await stored(running)
    again = Idempotency("open", "k", b"d" * 16)
    request = DecayTick(tick_duration_seconds=DAY_S)

    first = await running.engine.lifecycle_decay_tick(request, again)
    second = await running.engine.lifecycle_decay_tick(request, again)

    assert second.replayed
    assert second.reply == first.reply
    assert await score_of(running, record_id) == pytest.approx(AFTER_A_DAY, abs=1e-12)


async def test_the_audit_entry_says_what_was_done(running: Running) -> None:
    record_id = await stored(running)
    running.clock.at += DAY_NS
    await tick(running, tick_duration_seconds=60)
    await trio.testing.wait_all_tasks_blocked(0.3)

    entry = codec.parse(running.audit_lines[-1], dict)
    assert entry["operation"] == "lifecycle.decay_tick"
    assert entry["record_ids"] == [str(record_id)]
    assert entry["store_types"] == ["episodic"]
    assert entry["summary"] == {
        "records_below_threshold": 0,
        "records_pruned": 0,
        "records_updated": 1,
        "tick_duration_seconds": 60,
    }


async def test_stores_whose_memories_fade_fast_fade_slower_from_then_on(running: Running) -> None:
    running.clock.step_ns = 0
    record_id = await stored(running)
    running.clock.at += 365 * DAY_NS  # .17: more than half of the store is below .3
    before = await score_of(running, record_id)
    await tick(running)

    [moved] = (await running.engine.introspect_evolution()).parameter_adjustments
    assert (moved.store, moved.parameter) == (Store.EPISODIC, "decay_exponent")
    assert (moved.original_value, moved.current_value) == pytest.approx((0.3, 0.27))
    assert await score_of(running, record_id) == pytest.approx(before, abs=1e-12)
    running.clock.at += DAY_NS
    assert await score_of(running, record_id) == pytest.approx(before * 2**-0.27, abs=1e-9)
    assert await score_of(running, await stored(running)) == 1.0
    assert (await read(running, await stored(running))).fidelity.decay_rate == pytest.approx(0.27)


async def test_evolution_can_be_switched_off(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, decay=OFF, evolution=EvolutionSettings(enabled=False))
    async with running_engine(tmp_path, settings=settings) as running:
        await stored(running)
        running.clock.at += 365 * DAY_NS
        await tick(running)

        assert (await running.engine.introspect_evolution()).parameter_adjustments == ()


async def test_what_evolved_is_kept_over_a_restart(tmp_path: Path) -> None:
    storage, settings = MemoryStorage(), with_decay(tmp_path)
    async with running_engine(tmp_path, storage=storage, settings=settings) as running:
        await stored(running)
        running.clock.at += 365 * DAY_NS
        await tick(running)
        before = await running.engine.introspect_evolution()
        assert before.parameter_adjustments
    async with running_engine(tmp_path, storage=storage, settings=settings) as running:
        assert await running.engine.introspect_evolution() == before
        assert (await stats(running)).evolution_metrics == before


async def test_a_forecast_says_what_comes_true(running: Running) -> None:
    running.clock.step_ns = 0
    record_id = await stored(running)
    then = Timestamp(NOW + 30 * DAY_NS)

    [forecast] = (
        await running.engine.introspect_decay_forecast(DecayForecast(record_ids=(record_id,), forecast_at=then))
    ).forecasts
    assert forecast.current_fidelity == 1.0
    running.clock.at = then
    assert await score_of(running, record_id) == pytest.approx(forecast.forecasted_fidelity, abs=1e-12)
    assert forecast.estimated_threshold_date is not None
    running.clock.at = forecast.estimated_threshold_date
    assert await score_of(running, record_id) == pytest.approx(0.1, abs=1e-6)


async def test_working_memory_does_not_fade_in_a_forecast_either(running: Running) -> None:
    record_id = (await running.engine.encode_store(to_store("a kettle", store="working"))).reply.record_id
    running.clock.at += DAY_NS

    request = DecayForecast(record_ids=(record_id,), forecast_at=Timestamp(NOW + 30 * DAY_NS))
    [forecast] = (await running.engine.introspect_decay_forecast(request)).forecasts

    assert forecast.current_fidelity == await score_of(running, record_id) == 1.0
    assert (forecast.forecasted_fidelity, forecast.estimated_threshold_date) == (1.0, None)


async def test_a_forecast_of_a_memory_that_is_not_there_says_so(running: Running) -> None:
    with pytest.raises(RecordNotFound):
        await running.engine.introspect_decay_forecast(
            DecayForecast(record_ids=(RecordId(bytes(15) + b"\x09"),), forecast_at=Timestamp(NOW))
        )


async def test_the_reference_profile_compounds_and_prunes(tmp_path: Path) -> None:
    """F(3600 s) = 3601^-.3 = .0857, and a second hour takes it below .01: the specification's own numbers."""
    async with running_engine(tmp_path, settings=with_decay(tmp_path, profile="reference")) as running:
        running.clock.step_ns = 0
        record_id = await stored(running)

        await tick(running)  # a request without a duration means an hour
        assert await score_of(running, record_id) == pytest.approx(3_601**-0.3, abs=1e-12)
        ticked = await tick(running)
        assert (ticked.records_below_threshold, ticked.records_pruned) == (1, 1)
