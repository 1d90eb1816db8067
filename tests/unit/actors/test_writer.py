"""The writer: one transaction for all that waits, followers told before askers, and a disk that fails."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory import failpoints
from cerememory.actors.actor import Actor, Ping, Reply
from cerememory.actors.followers import (
    CommitsUntold,
    EdgesCommitted,
    EffectsCommitted,
    Followers,
    LinesCommitted,
    StatesCommitted,
)
from cerememory.actors.seams import World, in_thread
from cerememory.actors.supervisor import RESTARTS_MAX, RESTARTS_WINDOW_S, Supervisor
from cerememory.actors.writer import (
    GROUP_MAX,
    LAZY_S,
    AuditSynced,
    Commit,
    CommitLater,
    CommitSeries,
    Compact,
    IndexApplied,
    Writer,
)
from cerememory.domain.audit_chain import GENESIS, AuditDraft, verify_lines
from cerememory.domain.curve import Rules
from cerememory.domain.decay import STANDARD
from cerememory.errors import (
    ActorBusy,
    ActorStopped,
    InternalError,
    RecordNotFound,
    StorageDamaged,
    StorageUnavailable,
    ValidationFailed,
)
from cerememory.protocol.records import Store
from cerememory.protocol.values import RecordId
from cerememory.storage.dynamics import Curves
from cerememory.storage.frames import Frames
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, counters_key, key, state_key, system_key
from cerememory.storage.ledger import Ledger
from cerememory.storage.prepared import SavedState
from cerememory.storage.recalling import SaveRecall
from cerememory.storage.rows import Counters, Head, parse_counters, parse_head
from cerememory.storage.series import TOLD_MAX, Steps
from cerememory.telemetry.metrics import Metrics
from tests.support.committing import an_id
from tests.support.engine import WallClock
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage

ID = RecordId(bytes(16))
FRESH = STANDARD[Store.PROCEDURAL].fresh(0)
STATE = SavedState(DEFAULT_NAMESPACE, ID, 0, 2, FRESH, FRESH)
RECALL = SaveRecall(DEFAULT_NAMESPACE, (), AuditDraft(0, "recall.query.reconsolidate", (), (), {}), None)


@dataclass(frozen=True)
class Does:
    """A mutation made of a function of the ledger."""

    apply: Callable[[Ledger], Any]
    namespace: int = DEFAULT_NAMESPACE


def put(key: bytes, answer: object = None) -> Does:
    """Writes a row and an audit entry."""

    def apply(ledger: Ledger) -> object:
        ledger.put(key, b"v")
        ledger.audit(AuditDraft(0, "encode.store", (), (), {}))
        return answer

    return Does(apply)


def raising(error: Exception) -> Does:
    def apply(ledger: Ledger) -> None:
        ledger.put(b"trace", b"")
        raise error

    return Does(apply)


class Follower(Actor):
    """Keeps what it is told."""

    def __init__(self, name: str, mailbox_size: int = 64) -> None:
        super().__init__(name, mailbox_size)
        self.told: list[Any] = []

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        self.told.append(message)


@dataclass
class Watched:
    """A running writer with its store and followers; `supervisor` restarts all of them."""

    writer: Writer
    storage: MemoryStorage
    metrics: Metrics
    audit: Follower
    index: Follower
    stores: list[Follower]
    graph: Follower
    supervisor: Supervisor
    restarts: list[str] = field(default_factory=list)

    @property
    def head(self) -> Head:
        return parse_head(self.storage.rows().get(system_key(Table.HEAD)), GENESIS)

    async def commit(self, mutation: Does) -> Any:
        return await self.writer.ask(Commit(mutation))


def watched(
    storage: MemoryStorage, world: World | None = None, group_commit_s: float = 0.0, mailbox_size: int = 1_024
) -> Watched:
    metrics, restarts = Metrics(()), list[str]()
    writer = Writer(
        storage,
        world or WallClock().world(),
        metrics,
        curves=Curves(Rules()),
        group_commit_s=group_commit_s,
        audited=True,
        frames=Frames(0),
        mailbox_size=mailbox_size,
    )
    audit, index, stores = Follower("audit"), Follower("index"), [Follower(f"store {i}") for i in range(5)]
    graph = Follower("graph")
    writer.tell(Followers(audit, (index,), tuple(stores), graph))
    supervisor = Supervisor([[writer], [audit, index, *stores, graph]], restarts.append)
    return Watched(writer, storage, metrics, audit, index, stores, graph, supervisor, restarts)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def running(storage: MemoryStorage) -> AsyncIterator[Watched]:
    made = watched(storage)
    async with trio.open_nursery() as nursery:
        await made.supervisor.start(nursery)
        yield made
        storage.mend_disk()
        await made.supervisor.stop()


async def together(made: Watched, *mutations: Does) -> list[Any]:
    """The outcomes of `mutations` that were all asked at once; errors stand for themselves."""
    outcomes: list[Any] = [None] * len(mutations)

    async def ask(number: int, mutation: Does) -> None:
        try:
            outcomes[number] = await made.commit(mutation)
        except (RecordNotFound, ValidationFailed, InternalError, StorageDamaged, StorageUnavailable) as error:
            outcomes[number] = error

    async with trio.open_nursery() as nursery:
        for number, mutation in enumerate(mutations):
            nursery.start_soon(ask, number, mutation)
    return outcomes


async def test_a_mutation_is_committed_and_answered(running: Watched) -> None:
    assert await running.commit(put(b"a", "answer")) == "answer"
    assert running.storage.rows()[b"a"] == b"v"


async def test_all_that_waits_goes_into_one_transaction(running: Watched) -> None:
    answers = await together(running, *(put(b"%d" % i, i) for i in range(50)))
    assert answers == list(range(50))
    assert len(running.storage.commits) == 1
    assert running.head.commit_sequence == 1


async def test_what_comes_while_a_transaction_runs_goes_into_the_next() -> None:
    """On the real clock: the commit is held in its thread."""
    storage, entered, go_on = MemoryStorage(), threading.Event(), threading.Event()
    made = watched(storage, WallClock().world(in_thread))

    def gate() -> None:
        entered.set()
        assert go_on.wait(30)

    storage.hold_commits(gate)
    async with trio.open_nursery() as nursery:
        await made.supervisor.start(nursery)
        async with trio.open_nursery() as askers:
            askers.start_soon(made.commit, put(b"first"))
            await trio.to_thread.run_sync(entered.wait)
            for i in range(20):
                askers.start_soon(made.commit, put(b"%d" % i))
            while made.writer.mailbox_depth < 20:
                await trio.lowlevel.checkpoint()
            go_on.set()
        assert [len([key for key in changes if key[:1] != b"\xff"]) for changes in storage.commits] == [1, 20]
        await made.supervisor.stop()


async def test_a_transaction_takes_a_bounded_number_of_mutations(running: Watched) -> None:
    await together(running, *(put(b"%d" % i) for i in range(GROUP_MAX + 10)))
    assert len(running.storage.commits) == 2


async def test_requests_that_came_together_before_are_waited_for_a_moment(autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    made = watched(storage, group_commit_s=0.002)
    async with trio.open_nursery() as nursery:
        await made.supervisor.start(nursery)
        await together(made, put(b"a"), put(b"b"), put(b"c"))
        async with trio.open_nursery() as askers:
            askers.start_soon(made.commit, put(b"d"))
            await trio.sleep(0.001)
            askers.start_soon(made.commit, put(b"e"))
        assert len(storage.commits) == 2
        started = trio.current_time()
        await made.commit(put(b"f"))
        assert trio.current_time() - started == pytest.approx(0.002)
        started = trio.current_time()
        await made.commit(put(b"g"))
        assert trio.current_time() == started, "one that comes alone after one alone doesn't wait"
        await made.supervisor.stop()


async def test_a_mutation_that_is_refused_fails_alone(running: Watched) -> None:
    error = RecordNotFound("no such")
    answers = await together(running, put(b"a", 1), raising(error), put(b"b", 2))
    assert answers == [1, error, 2]
    assert {b"a", b"b"} <= running.storage.rows().keys()
    assert b"trace" not in running.storage.rows()
    assert running.restarts == []


async def test_a_bug_in_one_mutation_fails_that_one_and_the_writer_starts_again(running: Watched) -> None:
    first, failed, last = await together(running, put(b"a", 1), raising(KeyError("a bug")), put(b"b", 2))
    assert (first, last) == (1, 2)
    assert isinstance(failed, InternalError)
    assert b"trace" not in running.storage.rows()
    assert await running.commit(put(b"c", 3)) == 3
    assert running.restarts == ["writer"]
    await running.audit.ask(Ping())  # it has taken what it was told
    assert verify_lines([line for m in lines(running) for line in m.lines]).entries == 3


async def test_a_group_in_which_nothing_changed_is_no_transaction(running: Watched) -> None:
    assert await running.commit(Does(lambda ledger: "read")) == "read"
    assert running.storage.commits == []
    assert running.head.commit_sequence == 0


async def test_followers_are_told_before_the_asker_is_answered(running: Watched) -> None:
    """So whoever was answered finds its write in their mailboxes before its next question."""

    def apply(ledger: Ledger) -> None:
        ledger.put(b"k", b"v")
        ledger.index(ID)
        ledger.audit(AuditDraft(0, "encode.store", (), (), {}))
        ledger.saved(STATE)

    await running.commit(Does(apply))
    for follower in (running.audit, running.index, running.stores[2]):
        await follower.ask(Ping())
    [lines_told] = [m for m in running.audit.told if isinstance(m, LinesCommitted)]
    [effects] = [m for m in running.index.told if isinstance(m, EffectsCommitted)]
    [states] = [m for m in running.stores[2].told if isinstance(m, StatesCommitted)]
    assert (lines_told.last_sequence, effects.sequence, states.states) == (1, 1, (STATE,))
    assert effects.effects.changed == [(DEFAULT_NAMESPACE, ID)]
    assert not [m for m in running.stores[0].told if isinstance(m, StatesCommitted)]


async def test_nobody_is_told_or_answered_before_the_commit() -> None:
    storage, entered, go_on = MemoryStorage(), threading.Event(), threading.Event()
    made = watched(storage, WallClock().world(in_thread))

    def gate() -> None:
        entered.set()
        assert go_on.wait(30)

    storage.hold_commits(gate)
    answered = trio.Event()

    async def ask() -> None:
        await made.commit(put(b"a"))
        answered.set()

    async with trio.open_nursery() as nursery:
        await made.supervisor.start(nursery)
        nursery.start_soon(ask)
        await trio.to_thread.run_sync(entered.wait)
        await wait_all_tasks_blocked()
        assert not answered.is_set()
        assert made.audit.told == []
        go_on.set()
        with trio.fail_after(30):
            await answered.wait()
        await made.supervisor.stop()


def lines(made: Watched) -> list[LinesCommitted]:
    return [message for message in made.audit.told if isinstance(message, LinesCommitted)]


async def test_the_audit_log_is_told_every_line_in_order(running: Watched) -> None:
    for number in (1, 3, 2):
        await together(running, *(put(b"k") for _ in range(number)))
    await running.audit.ask(Ping())
    told = [line for message in lines(running) for line in message.lines]
    verified = verify_lines(told)
    assert (verified.entries, verified.head_hash) == (6, running.head.audit_hash)
    assert [message.last_sequence for message in lines(running)] == [1, 4, 6]


async def test_a_lazy_commit_waits_a_moment_for_company(running: Watched, autojump_clock: MockClock) -> None:
    for number in range(5):
        running.writer.post_nowait(CommitLater(put(b"lazy %d" % number)))
    await trio.sleep(0.9 * LAZY_S)
    assert running.storage.commits == []
    await trio.sleep(0.2 * LAZY_S)
    assert len(running.storage.commits) == 1
    assert {b"lazy %d" % number for number in range(5)} <= running.storage.rows().keys()


async def test_a_lazy_commit_rides_with_the_next_request(running: Watched) -> None:
    running.writer.post_nowait(CommitLater(put(b"lazy")))
    await running.commit(put(b"asked"))
    assert len(running.storage.commits) == 1
    assert {b"lazy", b"asked"} <= running.storage.rows().keys()


async def test_what_recalls_did_is_one_mutation_and_takes_no_turn_of_the_writer(
    running: Watched, autojump_clock: MockClock
) -> None:
    for _ in range(3):
        await wait_all_tasks_blocked()
        running.writer.commit_later_nowait(RECALL)
    assert running.writer.mailbox_depth == 0
    await trio.sleep(1.1 * LAZY_S)
    assert len(running.storage.commits) == 1
    assert counters(running).recalls == 3
    assert sampled(running, "cerememory_commit_batch_size_sum") == 1


async def test_of_recalls_that_are_committed_together_one_that_fails_fails_alone(
    running: Watched, autojump_clock: MockClock
) -> None:
    running.storage.commit({state_key(DEFAULT_NAMESPACE, 0, ID): b"damaged"})
    damaged = SaveRecall(DEFAULT_NAMESPACE, (STATE,), RECALL.audit, None)
    for recall in (RECALL, damaged, RECALL):
        running.writer.commit_later_nowait(recall)
    await trio.sleep(1.1 * LAZY_S)
    assert counters(running).recalls == 2
    assert running.restarts == []


async def test_what_recalls_did_is_lost_with_a_failed_commit_and_counted_and_their_stores_go_by_their_rows(
    running: Watched, autojump_clock: MockClock
) -> None:
    """Else the store would show that state for ever, whatever is changed in the row."""
    running.storage.break_disk()
    recall = SaveRecall(DEFAULT_NAMESPACE, (STATE,), RECALL.audit, None)
    for _ in range(2):
        running.writer.commit_later_nowait(recall)
    await trio.sleep(1.1 * LAZY_S)
    assert sampled(running, "cerememory_reconsolidations_dropped_total") == 2
    assert running.stores[STATE.store_code].told == [StatesCommitted((STATE, STATE))]


def counters(running: Watched) -> Counters:
    return parse_counters(running.storage.rows()[counters_key(DEFAULT_NAMESPACE)])


def sampled(running: Watched, name: str) -> float | None:
    return running.metrics.registry.get_sample_value(name)


async def test_a_lazy_commit_that_is_refused_harms_nobody(running: Watched) -> None:
    running.writer.post_nowait(CommitLater(raising(RecordNotFound("gone meanwhile"))))
    assert await running.commit(put(b"asked", 1)) == 1
    assert running.restarts == []


async def test_a_commit_that_meets_damage_fails_its_group_and_no_other(
    running: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may not need the pages that can't be read; nothing that could be tried again would mend them."""
    damage = StorageDamaged("data.mdb: is damaged")
    with monkeypatch.context() as patched:
        patched.setattr(running.storage, "commit", raises(damage))
        assert await together(running, put(b"a"), put(b"b")) == [damage, damage]
    assert await running.commit(put(b"c", 3)) == 3
    assert running.restarts == []


async def test_a_compaction_that_meets_damage_is_refused(
    running: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.storage, "compact", raises(StorageDamaged("data.mdb: is damaged")))
    with pytest.raises(StorageDamaged):
        await running.writer.ask(Compact())
    assert await running.commit(put(b"c", 3)) == 3
    assert running.restarts == []


def raises(error: Exception) -> Callable[..., Any]:
    def call(*_given: object) -> Any:
        raise error

    return call


async def test_a_failed_commit_is_an_answer_to_everybody_in_its_group_and_leaves_nothing(running: Watched) -> None:
    await running.commit(put(b"before"))
    rows = running.storage.rows()
    running.storage.break_disk()
    outcomes = await together(running, put(b"a"), put(b"b"))
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 2
    assert running.storage.rows() == rows
    assert running.restarts == []
    assert len(lines(running)) == 1


async def test_until_writing_works_again_requests_are_refused_and_pings_fail(running: Watched) -> None:
    running.storage.break_disk()
    await together(running, put(b"a"))
    with pytest.raises(StorageUnavailable):
        await running.writer.ask(Ping())
    with pytest.raises(StorageUnavailable):
        await running.commit(put(b"b"))
    running.storage.mend_disk()
    assert await running.commit(put(b"c", 3)) == 3
    await running.writer.ask(Ping())


async def test_it_tries_by_itself_once_a_second_whether_writing_works_again(
    running: Watched, autojump_clock: MockClock, logged: Logged
) -> None:
    running.storage.break_disk()
    await together(running, put(b"a"))
    before = running.storage.recoveries_tried
    await trio.sleep(10)
    assert 9 <= running.storage.recoveries_tried - before <= 11
    running.storage.mend_disk()
    await trio.sleep(1.5)
    await running.writer.ask(Ping())
    assert "writing works again" in logged.events("info")


async def test_after_a_failure_numbers_go_on_without_a_gap(running: Watched) -> None:
    await running.commit(put(b"a"))
    running.storage.break_disk()
    await together(running, put(b"b"), put(b"c"))
    running.storage.mend_disk()
    await running.commit(put(b"d"))
    await running.audit.ask(Ping())
    assert running.head.commit_sequence == 2
    assert verify_lines([line for message in lines(running) for line in message.lines]).last_sequence == 2


async def test_how_far_the_audit_file_is_synced_is_committed_soon_without_a_request(
    running: Watched, autojump_clock: MockClock
) -> None:
    await running.commit(put(b"a"))
    running.writer.post_nowait(AuditSynced(1))
    await trio.sleep(2)
    assert running.head.audit_synced == 1
    assert running.head.commit_sequence == 1, "which is no commit that anybody asked for"


async def test_how_far_the_audit_file_is_synced_never_goes_back(running: Watched) -> None:
    for sequence in (2, 1):
        running.writer.post_nowait(AuditSynced(sequence))
        await running.commit(put(b"a"))
    assert running.head.audit_synced == 2


async def test_what_the_index_has_on_disk_trims_the_log(running: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cerememory.storage.ledger.TRIM_EVERY", 1)

    def apply(ledger: Ledger) -> None:
        ledger.put(b"k", b"v")
        ledger.index(ID)

    for _ in range(3):
        await running.commit(Does(apply))
    running.writer.post_nowait(IndexApplied(2))
    await running.commit(Does(apply))
    log = [key for key in running.storage.rows() if key.startswith(system_key(Table.LOG))]
    assert len(log) == 2


async def test_a_full_mailbox_is_busy_before_anything_was_stored(autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    made = watched(storage, mailbox_size=2)
    for number in range(2):
        made.writer.post_nowait(CommitLater(put(b"%d" % number)))
    with pytest.raises(ActorBusy):
        await made.commit(put(b"a"))
    assert storage.commits == []


async def test_what_waits_at_a_stop_is_committed_lazies_too(autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    made = watched(storage)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(made.commit, put(b"%d" % number))
        await wait_all_tasks_blocked()
        made.writer.post_nowait(CommitLater(put(b"lazy")))
        await made.supervisor.start(nursery)
        await made.supervisor.stop()
    assert {b"0", b"4", b"lazy"} <= storage.rows().keys()
    with pytest.raises(ActorStopped):
        await made.commit(put(b"late"))


async def test_a_follower_that_was_given_up_stops_no_write(running: Watched) -> None:
    running.index.give_up()
    running.audit.give_up()

    def apply(ledger: Ledger) -> str:
        ledger.put(b"k", b"v")
        ledger.index(ID)
        ledger.audit(AuditDraft(0, "encode.store", (), (), {}))
        return "stored"

    assert await running.commit(Does(apply)) == "stored"
    assert running.restarts == []


async def test_a_crash_between_commit_and_answer_fails_one_request_and_the_followers_look_for_themselves(
    running: Watched,
) -> None:
    failpoints.arm("writer.before_reply")
    outcomes = await together(running, put(b"a", 1), put(b"b", 2))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["InternalError", "int"]
    assert {b"a", b"b"} <= running.storage.rows().keys(), "what was committed stays"
    assert await running.commit(put(b"c", 3)) == 3
    await running.audit.ask(Ping())
    await running.graph.ask(Ping())
    assert [m for m in running.audit.told if isinstance(m, CommitsUntold)]
    assert [m for m in running.graph.told if isinstance(m, CommitsUntold)]
    assert running.head.commit_sequence == 2


def edges_of(number: int) -> bytes:
    return key(DEFAULT_NAMESPACE, Table.EDGES, an_id(number))


async def test_the_graph_is_told_whose_edges_have_changed_and_who_is_gone_and_of_nothing_else(
    running: Watched,
) -> None:
    def remove(ledger: Ledger) -> None:
        ledger.delete(edges_of(2))
        ledger.unindex(an_id(3))

    await running.commit(put(b"a"))
    await together(running, put(edges_of(1)), Does(remove), put(b"b"))
    await running.graph.ask(Ping())
    told = [message for message in running.graph.told if not isinstance(message, Ping)]
    assert {type(message) for message in told} == {EdgesCommitted}
    addresses = [address for message in told for address in message.addresses]
    assert sorted(addresses) == [(DEFAULT_NAMESPACE, an_id(i)) for i in (1, 2, 3)]


async def test_the_graph_is_not_told_of_edges_that_were_refused(running: Watched) -> None:
    def refuse(ledger: Ledger) -> None:
        ledger.put(edges_of(1), b"")
        raise ValidationFailed("no")

    await together(running, Does(refuse), put(b"a"))
    await running.graph.ask(Ping())
    assert [message for message in running.graph.told if not isinstance(message, Ping)] == []


async def test_a_message_that_it_does_not_know_is_a_bug(running: Watched, autojump_clock: MockClock) -> None:
    running.writer.post_nowait(object())
    await trio.sleep(1)
    assert running.restarts == ["writer"]
    assert await running.commit(put(b"a", 1)) == 1


async def test_a_new_writer_goes_on_where_the_last_one_stopped(autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    for number in range(3):
        made = watched(storage)
        async with trio.open_nursery() as nursery:
            await made.supervisor.start(nursery)
            await made.commit(put(b"%d" % number))
            await made.supervisor.stop()
        assert (made.head.commit_sequence, made.head.audit_sequence) == (number + 1, number + 1)
        assert not [m for m in made.audit.told if isinstance(m, CommitsUntold)]


def index(*numbers: int) -> Does:
    def apply(ledger: Ledger) -> None:
        for number in numbers:
            ledger.put(b"%d" % number, b"")
            ledger.index(RecordId(number.to_bytes(16, "big")))

    return Does(apply)


def series(*mutations: Does) -> CommitSeries[list[Any]]:
    """Of `mutations`; answers their answers."""

    def steps() -> Steps[list[Any]]:
        answers = []
        for mutation in mutations:
            answers.append((yield mutation))
        return answers

    return CommitSeries(steps)


async def test_a_series_is_one_transaction_behind_what_came_before_it(running: Watched) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.commit, put(b"before"))
        await wait_all_tasks_blocked()
        assert await running.writer.ask(series(put(b"a", 1), put(b"b", 2))) == [1, 2]
    assert [sorted({b"a", b"b", b"before"} & set(changes)) for changes in running.storage.commits] == [
        [b"before"],
        [b"a", b"b"],
    ]
    assert running.head.commit_sequence == 3
    await running.commit(put(b"behind"))
    assert running.head.commit_sequence == 4


async def test_what_a_series_did_is_told_before_it_is_answered(running: Watched) -> None:
    await running.writer.ask(series(index(1), put(b"a"), index(2)))
    await wait_all_tasks_blocked()
    told = [message for message in running.index.told if isinstance(message, EffectsCommitted)]
    assert [message.sequence for message in told] == [1, 3]
    [lines] = running.audit.told
    assert isinstance(lines, LinesCommitted)
    assert lines.last_sequence == 1


async def test_after_a_large_series_the_followers_look_for_themselves(running: Watched) -> None:
    await running.writer.ask(series(put(b"a"), index(*range(TOLD_MAX + 1))))
    await wait_all_tasks_blocked()
    for follower in (running.audit, running.index, running.graph):
        assert follower.told == [CommitsUntold()]
    assert running.metrics.registry.get_sample_value("cerememory_audit_sequence") == 1.0


async def test_a_known_error_of_a_series_is_its_answer_and_leaves_nothing(running: Watched) -> None:
    with pytest.raises(RecordNotFound):
        await running.writer.ask(series(put(b"a"), raising(RecordNotFound("no"))))
    assert running.storage.rows() == {}
    assert (running.restarts, running.index.told) == ([], [])
    assert await running.commit(put(b"b", "next")) == "next"


async def test_a_bug_in_a_series_fails_it_alone(running: Watched) -> None:
    with pytest.raises(InternalError, match="crashed while it handled CommitSeries"):
        await running.writer.ask(series(put(b"a"), raising(KeyError("bug"))))
    assert await running.commit(put(b"b", "next")) == "next"
    assert b"a" not in running.storage.rows()
    assert running.restarts == ["writer"]


async def test_a_series_that_the_disk_refuses_leaves_nothing_and_the_writer_recovers(
    running: Watched, autojump_clock: MockClock
) -> None:
    running.storage.break_disk()
    with pytest.raises(StorageUnavailable):
        await running.writer.ask(series(put(b"a")))
    with pytest.raises(StorageUnavailable):
        await running.writer.ask(series(put(b"a")))
    with pytest.raises(StorageUnavailable):
        await running.writer.ask(Ping())
    running.storage.mend_disk()
    assert await running.writer.ask(series(put(b"a", 1))) == [1]
    await running.writer.ask(Ping())


async def test_a_series_that_waits_at_a_stop_is_committed(storage: MemoryStorage) -> None:
    made = watched(storage)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.writer.ask, series(put(b"a")))
        await wait_all_tasks_blocked()
        await made.supervisor.start(nursery)
        await made.supervisor.stop()
    assert storage.rows()[b"a"] == b"v"


async def test_a_series_that_waits_for_a_writer_that_is_given_up_is_told(
    storage: MemoryStorage, autojump_clock: MockClock, logged: Logged
) -> None:
    made, errors = watched(storage), list[type[Exception]]()

    async def ask(request: CommitSeries[list[Any]]) -> None:
        with pytest.raises((InternalError, ActorStopped)) as caught, trio.fail_after(2 * RESTARTS_WINDOW_S):
            await made.writer.ask(request)
        errors.append(caught.type)

    async with trio.open_nursery() as nursery:
        for mutation in (*[raising(KeyError("bug"))] * RESTARTS_MAX, put(b"a")):
            nursery.start_soon(ask, series(mutation))
            await wait_all_tasks_blocked()
        await made.supervisor.start(nursery)
        await trio.sleep(RESTARTS_WINDOW_S)
        await made.supervisor.stop()
    assert sorted(error.__name__ for error in errors) == ["ActorStopped", *["InternalError"] * RESTARTS_MAX]
