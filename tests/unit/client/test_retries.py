"""Which failures are ridden through, and which reach the caller at once."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from cerememory.client import Client, DaemonBusy, DaemonUnreachable
from cerememory.errors import ContentTooLarge, RateLimited, WorkingMemoryFull
from tests.support.fake_daemon import (
    WAIT_S,
    FakeDaemon,
    Handler,
    Reply,
    answer,
    cut_short,
    hang_up,
    held,
    refusal,
)

BUSY = refusal(503, "DECAY_ENGINE_BUSY", "index is busy, try again", retry_after=4)


class FakeTime:
    """A clock that only moves by waiting; each wait may make something happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.at_wait: Callable[[], object] = lambda: None

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        self.at_wait()


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(default=answer({"done": True})) as daemon:
        yield daemon


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def client(daemon: FakeDaemon, time: FakeTime) -> Iterator[Client]:
    with Client(daemon.url, timeout_s=60, clock=time.clock, wait=time.wait, chance=lambda: 1.0) as client:
        yield client


@pytest.mark.parametrize("operation", ["recall.query", "encode.store", "lifecycle.consolidate"])
def test_a_daemon_that_is_away_and_comes_back_is_ridden_through(
    daemon: FakeDaemon, client: Client, time: FakeTime, operation: str
) -> None:
    daemon.stop()
    time.at_wait = lambda: daemon.start() if len(time.waits) == 3 else None
    assert client.call(operation, {}) == {"done": True}
    assert time.waits == pytest.approx([0.1, 0.2, 0.4])
    assert len(daemon.requests) == 1


def test_a_restart_between_two_calls_is_not_noticed(daemon: FakeDaemon, client: Client) -> None:
    client.call("lifecycle.consolidate", {})
    daemon.stop()
    daemon.start()
    assert client.call("lifecycle.consolidate", {}) == {"done": True}


@pytest.mark.parametrize("fault", [hang_up(), cut_short()], ids=["hang up", "cut short"])
@pytest.mark.parametrize("operation", ["recall.query", "lifecycle.export", "encode.store"])
def test_a_call_whose_answer_got_lost_is_asked_again(
    daemon: FakeDaemon, client: Client, fault: Reply, operation: str
) -> None:
    daemon.then(fault)
    assert client.call(operation, {"a": 1}) == {"done": True}
    assert len(daemon.requests) == 2


def test_a_daemon_killed_between_commit_and_answer_stores_once(
    daemon: FakeDaemon, client: Client, time: FakeTime
) -> None:
    committed: dict[str, bytes] = {}
    daemon.then(_committing(committed, hang_up()))
    restart = iter([None, daemon.start])

    def kill_then_restart() -> None:
        daemon.stop()
        if (start := next(restart)) is not None:
            start()
            daemon.then(_committing(committed, answer({"done": True})))

    time.at_wait = kill_then_restart
    assert client.call("encode.store", {"content": "x"}) == {"done": True}
    first, second = daemon.requests
    assert first == second
    assert list(committed) == [first.headers["idempotency-key"]]


def _committing(committed: dict[str, bytes], then: Reply) -> Reply:
    """Keeps one result a key, as the daemon does, before it answers."""

    def reply(handler: Handler) -> None:
        key = handler.headers["Idempotency-Key"]
        committed.setdefault(key, b"stored")
        then(handler)

    return reply


@pytest.mark.parametrize("fault", [hang_up(), BUSY], ids=["hang up", "busy"])
def test_a_stream_is_sent_once(daemon: FakeDaemon, client: Client, fault: Reply) -> None:
    daemon.then(fault)
    with pytest.raises((DaemonUnreachable, DaemonBusy)):
        client.import_archive(iter([b"abc"]), 3, {"archive_id": "a"})
    assert len(daemon.requests) == 1


def test_a_key_makes_any_write_repeatable(daemon: FakeDaemon, client: Client) -> None:
    daemon.then(hang_up(), BUSY)
    assert client.call("lifecycle.forget", {"confirm": True}, idempotency_key="k") == {"done": True}
    assert [request.headers["idempotency-key"] for request in daemon.requests] == ["k"] * 3


@pytest.mark.parametrize("operation", ["lifecycle.forget", "lifecycle.consolidate", "lifecycle.set_mode"])
def test_every_write_is_given_a_key_and_repeated(daemon: FakeDaemon, client: Client, operation: str) -> None:
    daemon.then(hang_up())
    assert client.call(operation, {}) == {"done": True}
    first, second = (request.headers["idempotency-key"] for request in daemon.requests)
    assert first == second


def test_a_stream_gets_a_new_connection(daemon: FakeDaemon, client: Client) -> None:
    client.call("introspect.stats")
    daemon.then(answer({"records_imported": 0}))
    client.import_archive(iter([b"abc"]), 3, {"archive_id": "a"})
    assert daemon.connections_made == 2


@pytest.mark.parametrize(
    ("busy", "waited_s"),
    [
        (BUSY, 4),
        (refusal(429, "RATE_LIMITED", retry_after=2), 2),
        (refusal(503, "DECAY_ENGINE_BUSY", Retry_After="3"), 3),
        (refusal(503, "WORKING_MEMORY_FULL"), 1),
    ],
)
def test_a_busy_daemon_is_asked_again_when_it_said(
    daemon: FakeDaemon, client: Client, time: FakeTime, busy: Reply, waited_s: float
) -> None:
    daemon.then(busy)
    assert client.call("recall.query", {}) == {"done": True}
    assert time.waits == [waited_s]


@pytest.mark.parametrize(
    ("busy", "kind", "retry_after_s"),
    [
        (refusal(429, "RATE_LIMITED", retry_after=120), RateLimited, 120),
        (refusal(503, "WORKING_MEMORY_FULL", retry_after=61), WorkingMemoryFull, 61),
    ],
)
def test_a_daemon_that_stays_busy_past_the_limit_is_reported_at_once(
    daemon: FakeDaemon,
    client: Client,
    time: FakeTime,
    busy: Reply,
    kind: type[RateLimited],
    retry_after_s: int,
) -> None:
    daemon.then(busy)
    with pytest.raises(kind) as caught:
        client.call("recall.query", {})
    assert caught.value.retry_after_s == retry_after_s
    assert time.waits == []


@pytest.mark.parametrize(
    "reply",
    [refusal(400, "VALIDATION_ERROR"), refusal(404, "RECORD_NOT_FOUND"), refusal(500, "INTERNAL_ERROR")],
)
def test_other_errors_are_not_asked_again(daemon: FakeDaemon, client: Client, reply: Reply) -> None:
    daemon.then(reply)
    with pytest.raises(Exception, match="no"):
        client.call("recall.query", {})
    assert len(daemon.requests) == 1


def test_a_daemon_that_stays_away_is_reported_within_the_limit(
    daemon: FakeDaemon, client: Client, time: FakeTime
) -> None:
    daemon.stop()
    with pytest.raises(DaemonUnreachable, match="is the daemon running") as caught:
        client.call("recall.query", {})
    assert daemon.url in str(caught.value)
    assert not caught.value.was_sent
    assert 50 < time.now <= 60


def test_one_try_is_enough_where_the_caller_says_so(daemon: FakeDaemon, time: FakeTime) -> None:
    daemon.stop()
    client = Client(daemon.url, retry_for_s=0, clock=time.clock, wait=time.wait)
    with pytest.raises(DaemonUnreachable):
        client.call("recall.query", {})
    assert time.waits == []


def test_an_answer_that_takes_too_long_is_given_up(daemon: FakeDaemon) -> None:
    release = threading.Event()
    daemon.then(held(release, answer({})))
    with Client(daemon.url, timeout_s=0.05) as client:
        with pytest.raises(DaemonUnreachable, match="the time limit passed") as caught:
            client.call("introspect.stats")
        assert caught.value.was_sent
        release.set()


def test_the_limit_is_on_the_whole_answer_not_on_each_part(daemon: FakeDaemon, time: FakeTime) -> None:
    """The clock runs out with the first part; the second is not waited for."""
    release = threading.Event()
    was_released: queue.Queue[bool] = queue.Queue()

    def half_now_half_later(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        time.now += 60
        handler.wfile.write(b'"four')
        was_released.put(release.wait(WAIT_S))

    daemon.then(half_now_half_later)
    client = Client(daemon.url, timeout_s=60, clock=time.clock, wait=time.wait)
    with client, pytest.raises(DaemonUnreachable, match="the time limit passed"):
        client.call("introspect.stats")
    release.set()
    assert was_released.get(timeout=WAIT_S)  # by the line above, not by its own limit


def test_closing_the_client_ends_its_retries(daemon: FakeDaemon) -> None:
    daemon.stop()
    client = Client(daemon.url, chance=lambda: 1.0)
    client.close()
    with pytest.raises(DaemonUnreachable):
        client.call("recall.query", {})


def test_an_early_refusal_of_a_large_body_is_read(daemon: FakeDaemon, client: Client) -> None:
    """The daemon answers and closes before it has read the body."""
    daemon.reads_bodies = False
    daemon.then(refusal(413, "CONTENT_TOO_LARGE", "body: too large", Connection="close"))
    with pytest.raises(ContentTooLarge, match="body: too large"):
        client.call("encode.store", {"content": "x" * 16_000_000})
    assert daemon.connections_made == 1


def test_the_body_of_a_repeated_call_is_the_same(daemon: FakeDaemon, client: Client) -> None:
    daemon.then(hang_up())
    client.call("encode.batch", {"records": [{"content": "ä"}]})
    assert [json.loads(request.body) for request in daemon.requests] == [{"records": [{"content": "ä"}]}] * 2
