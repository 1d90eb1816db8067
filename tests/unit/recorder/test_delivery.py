"""What becomes of batches: sent, kept for later, or set aside; never lost, never stored twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cerememory.client import Client
from cerememory.errors import StorageUnavailable
from cerememory.recorder.batches import Batch, new_entry
from cerememory.recorder.counts import Counts
from cerememory.recorder.delivery import PAUSE_MAX_S, PAUSE_S, Delivery
from cerememory.recorder.spool import Spool
from tests.support.fake_daemon import FakeDaemon, Reply, answer, hang_up, raw_answer, refusal
from tests.support.recorder import kept

STORED = answer({"results": []})
UNAVAILABLE = refusal(503, "DECAY_ENGINE_BUSY", "index is busy")


def batch(*texts: str) -> Batch:
    return Batch(tuple(new_entry(f'{{"text":"{text}"}}'.encode(), None) for text in texts))


class Run:
    """One run of a recorder beside a daemon; its clock moves when a test says so."""

    def __init__(self, daemon: FakeDaemon, spool: Spool) -> None:
        self.counts = Counts()
        self.told: list[str] = []
        self.now = 0.0
        self.client = Client(daemon.url, "sesame", 10, retry_for_s=0.0)
        self.delivery = Delivery(self.client, spool, self.counts, self.told.append, lambda: self.now)

    @property
    def sent_and_spooled(self) -> tuple[int, int]:
        return self.counts.sent, self.counts.spooled


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(default=STORED) as daemon:
        yield daemon


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool") as spool:
        yield spool


@pytest.fixture
def run(daemon: FakeDaemon, spool: Spool) -> Iterator[Run]:
    run = Run(daemon, spool)
    yield run
    run.client.close()


@pytest.fixture
def next_run(daemon: FakeDaemon, spool: Spool) -> Iterator[Run]:
    run = Run(daemon, spool)
    yield run
    run.client.close()


def texts(daemon: FakeDaemon) -> list[list[str]]:
    """Of each request's records."""
    return [[record["text"] for record in request.json["records"]] for request in daemon.requests]


def test_a_batch_is_sent_with_key_and_idempotency_key(daemon: FakeDaemon, run: Run, spool: Spool) -> None:
    made = batch("a", "b")
    run.delivery.deliver(made)
    [request] = daemon.requests
    assert (request.method, request.path) == ("POST", "/v1/encode/raw/batch")
    assert request.headers["authorization"] == "Bearer sesame"
    assert request.headers["idempotency-key"] == made.key
    assert request.json == {"records": [{"text": "a"}, {"text": "b"}]}
    assert (run.sent_and_spooled, spool.batches(), run.told) == ((2, 0), [], [])


@pytest.mark.parametrize(
    "reply",
    [
        hang_up(),
        UNAVAILABLE,
        refusal(500, "INTERNAL_ERROR"),
        refusal(429, "RATE_LIMITED"),
        refusal(408, "VALIDATION_ERROR"),
        raw_answer(b"", 502),
    ],
    ids=["no answer", "503", "500", "429", "408", "502"],
)
def test_what_passes_is_waited_for_in_the_spool(
    daemon: FakeDaemon, run: Run, next_run: Run, spool: Spool, reply: Reply
) -> None:
    """The next run sends it first, and it is the same request."""
    daemon.then(reply)
    run.delivery.deliver(batch("old"))
    assert (run.sent_and_spooled, len(spool.batches()), run.counts.failures) == ((0, 1), 1, 0)
    next_run.delivery.send_spooled()
    next_run.delivery.deliver(batch("new"))
    assert texts(daemon) == [["old"], ["old"], ["new"]]
    first, again, _new = daemon.requests
    assert first.headers["idempotency-key"] == again.headers["idempotency-key"]
    assert first.body == again.body
    assert (next_run.sent_and_spooled, spool.batches()) == ((2, 0), [])


def test_a_daemon_that_is_away_is_left_alone_for_a_while(daemon: FakeDaemon, run: Run, spool: Spool) -> None:
    daemon.then(UNAVAILABLE, UNAVAILABLE)
    for text in "ab":
        run.delivery.deliver(batch(text))
    assert len(daemon.requests) == 1
    run.now += PAUSE_S
    run.delivery.deliver(batch("c"))  # the oldest is tried first, and nothing else
    assert texts(daemon) == [["a"], ["a"]]
    run.now += PAUSE_S
    run.delivery.deliver(batch("d"))  # now the pause is longer
    assert len(daemon.requests) == 2
    run.now += PAUSE_S
    run.delivery.deliver(batch("e"))
    assert texts(daemon)[2:] == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert (run.sent_and_spooled, spool.batches()) == ((5, 0), [])


def test_the_pause_has_an_end(daemon: FakeDaemon, run: Run) -> None:
    daemon.then(*[UNAVAILABLE] * 12)
    for _ in range(12):
        run.delivery.deliver(batch("x"))
        run.now += PAUSE_MAX_S
    assert len(daemon.requests) == 12


def test_the_daemon_may_ask_for_a_longer_pause(daemon: FakeDaemon, run: Run) -> None:
    daemon.then(refusal(429, "RATE_LIMITED", retry_after=7))
    run.delivery.deliver(batch("a"))
    run.now += 6.9
    run.delivery.deliver(batch("b"))
    assert len(daemon.requests) == 1
    run.now += 0.1
    run.delivery.deliver(batch("c"))
    assert texts(daemon) == [["a"], ["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    "reply",
    [
        refusal(401, "UNAUTHORIZED", "no such key"),
        refusal(403, "UNAUTHORIZED", "may not write"),
        refusal(404, "VALIDATION_ERROR", "no such route"),
        raw_answer(b"<h1>Hello</h1>", 400),
        raw_answer(b"", 302),
        raw_answer(b"<h1>Hello</h1>", 200),
    ],
    ids=["401", "403", "404", "another service's 400", "302", "another service's 200"],
)
def test_a_refusal_of_everything_loses_nothing(
    daemon: FakeDaemon, run: Run, next_run: Run, spool: Spool, reply: Reply
) -> None:
    """The rest of the run isn't tried, nothing is set aside, and the run fails."""
    spool.put(batch("before"))
    daemon.then(reply)
    run.delivery.send_spooled()
    for text in "ab":
        run.delivery.deliver(batch(text))
    assert len(daemon.requests) == 1
    assert (run.sent_and_spooled, len(spool.batches())) == ((0, 2), 3)
    assert run.counts.failures == 1
    [told] = run.told
    assert told.startswith("error: ") and str(spool.path) in told
    next_run.delivery.send_spooled()
    assert texts(daemon)[1:] == [["before"], ["a"], ["b"]]
    assert next_run.sent_and_spooled == (3, 0)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (refusal(400, "VALIDATION_ERROR", "records[0].content: blank"), "records[0].content: blank"),
        (refusal(409, "IMPORT_CONFLICT", "another body"), "another body"),
        (raw_answer(b"<h1>Too large</h1>", 413), "answered 413"),
    ],
    ids=["400", "409", "a proxy's 413"],
)
def test_a_refused_batch_is_set_aside_when_it_comes_again_and_the_rest_goes_on(
    daemon: FakeDaemon, run: Run, next_run: Run, spool: Spool, reply: Reply, reason: str
) -> None:
    daemon.then(reply, reply)
    run.delivery.deliver(batch("bad"))
    assert (run.sent_and_spooled, run.counts.failures, len(spool.batches())) == ((0, 1), 1, 1)
    spool.put(batch("good"))
    next_run.delivery.send_spooled()
    assert texts(daemon) == [["bad"], ["bad"], ["good"]]
    [aside] = kept(spool.path)
    assert aside.endswith(".jsonl.bad-refused")
    assert (next_run.counts.sent, next_run.counts.failures) == (1, 1)
    [told] = next_run.told
    assert told.startswith(f"error: {aside} was set aside: ") and reason in told


def test_a_malformed_file_is_set_aside_and_the_rest_goes_on(daemon: FakeDaemon, run: Run, spool: Spool) -> None:
    (spool.path / "batch-0.jsonl").write_text("not json\n")
    spool.put(batch("a"))
    run.delivery.send_spooled()
    assert texts(daemon) == [["a"]]
    assert kept(spool.path) == ["batch-0.jsonl.bad-malformed"]
    assert (run.counts.sent, run.counts.failures) == (1, 1)
    assert "batch-0.jsonl.bad-malformed was set aside: line 1" in run.told[0]


def test_what_another_process_is_sending_is_left_to_it(daemon: FakeDaemon, run: Run, spool: Spool) -> None:
    spool.put(batch("theirs"))
    with Spool(spool.path) as other, other.sending():
        run.delivery.send_spooled()
        run.delivery.deliver(batch("ours"))
    assert texts(daemon) == [["ours"]]


def test_what_comes_while_the_spool_is_sent_goes_too(daemon: FakeDaemon, run: Run, spool: Spool) -> None:
    """A hook that finds the spool being sent starts nobody, so whoever sends must look again."""

    def reply(handler: Any) -> None:
        if len(daemon.requests) == 1:
            spool.put(batch("meanwhile"))
        STORED(handler)

    daemon.then(reply)
    spool.put(batch("first"))
    run.delivery.send_spooled()
    assert texts(daemon) == [["first"], ["meanwhile"]]
    assert spool.batches() == []


def test_a_batch_that_another_process_sent_meanwhile_is_no_error(
    daemon: FakeDaemon, run: Run, spool: Spool
) -> None:
    names = [spool.put(batch(text)) for text in "ab"]

    def reply(handler: Any) -> None:
        spool.remove(names[1])
        STORED(handler)

    daemon.then(reply)
    run.delivery.send_spooled()
    assert (texts(daemon), run.counts.failures) == ([["a"]], 0)


def test_an_interruption_while_sending_keeps_the_batch(
    run: Run, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.client, "call", interrupt)
    made = batch("a")
    with pytest.raises(KeyboardInterrupt):
        run.delivery.deliver(made)
    [name] = spool.batches()
    assert spool.read(name) == made


def test_what_nothing_takes_is_told(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.then(UNAVAILABLE)
    with Spool(tmp_path / "small", files_max=0) as spool:
        run = Run(daemon, spool)
        with run.client, pytest.raises(StorageUnavailable, match="2 events weren't kept"):
            run.delivery.deliver(batch("a", "b"))
    assert run.sent_and_spooled == (0, 0)
