"""Which events make which batches, and what becomes of lines that are none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from cerememory.errors import StorageUnavailable
from cerememory.recorder import ingest as ingest_module
from cerememory.recorder.batches import Batch
from cerememory.recorder.counts import Counts
from cerememory.recorder.ingest import WINDOW, Ingest, Terms
from cerememory.recorder.lines import LineReader

EVENT = {"session_id": "s", "event_type": "user_message"}


def event(content: Any, **fields: Any) -> bytes:
    return json.dumps({**EVENT, "content": content, **fields}).encode()


class Run:
    """An ingest whose input a test writes; `batches` are the texts of what it delivered."""

    def __init__(self, records_max: int = 50, flush_s: float = 1.0) -> None:
        self.batches: list[list[str]] = []
        self.counts = Counts()
        self.told: list[str] = []
        self.now = 0.0
        terms = Terms(records_max, flush_s)
        self.ingest = Ingest(self.deliver, self.counts, self.told.append, terms, "/work", lambda: self.now)

    def deliver(self, batch: Batch) -> None:
        records = [json.loads(bytes(entry.record)) for entry in batch.entries]
        self.batches.append([record["content"]["blocks"][0]["text"] for record in records])

    def read(self, *lines: bytes, line_bytes_max: int = 262_144) -> None:
        """The whole input at once."""
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as input, os.fdopen(writer, "wb") as output:
            output.write(b"".join(line + b"\n" for line in lines))
            output.close()
            self.ingest.run(LineReader(input.fileno(), line_bytes_max))


@pytest.fixture
def run() -> Iterator[Run]:
    yield Run()


def test_a_batch_is_full_at_its_number_of_records() -> None:
    run = Run(records_max=2)
    run.read(*[event(str(i)) for i in range(5)])
    assert run.batches == [["0", "1"], ["2", "3"], ["4"]]
    assert run.counts.accepted == 5


def test_a_batch_is_full_at_its_bytes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "BATCH_BYTES_MAX", 1_500)
    run.read(*[event("x" * 400) for _ in range(4)])
    assert [len(batch) for batch in run.batches] == [2, 2]


class Scripted(LineReader):
    """Gives lines as a test says: bytes, or how many seconds pass without any."""

    def __init__(self, run: Run, *steps: bytes | float) -> None:
        self.waits: list[float | None] = []
        self._run, self._steps = run, list(steps)

    @property
    def has_ended(self) -> bool:
        return not self._steps

    def next(self, timeout_s: float | None) -> bytes | None:
        self.waits.append(timeout_s)
        step = self._steps.pop(0)
        if isinstance(step, bytes):
            return step
        self._run.now += step
        return None


def test_an_event_waits_for_others_only_so_long() -> None:
    run = Run(flush_s=1.0)
    lines = Scripted(run, event("a"), 0.5, event("b"), 0.25, 0.25, event("c"), 5.0)
    run.ingest.run(lines)
    assert run.batches == [["a", "b"], ["c"]]
    waits = [None if wait is None else round(wait, 3) for wait in lines.waits]
    assert waits == [None, 1.0, 0.5, 0.5, 0.25, None, 1.0]  # for nothing, as long as nothing is pending


def test_a_steady_stream_is_flushed_in_time_too() -> None:
    run = Run(flush_s=1.0)
    run.ingest.run(Scripted(run, event("a"), 0.9, event("b"), 0.2, event("c")))
    assert run.batches == [["a", "b"], ["c"]]


def test_lines_that_are_refused_are_told_and_passed_over(run: Run) -> None:
    run.read(b"nope", event("a"), b"", event(" "), event("x" * 200), b"  ", event("b"), line_bytes_max=150)
    assert run.batches == [["a", "b"]]
    assert (run.counts.accepted, run.counts.failures) == (2, 3)
    assert [line.partition(":")[0] + line.partition(":")[2][:7] for line in run.told] == [
        "error line 1",
        "error line 4",
        "error line 5",
    ]
    assert run.told[2] == "error: line 5: longer than 150 bytes"


def test_the_same_event_again_is_dropped(run: Run) -> None:
    same = event("a", turn_id="1")
    run.read(same, event("a", turn_id="2"), same, event("b", turn_id="1"), same)
    assert run.batches == [["a", "a", "b"]]
    assert (run.counts.accepted, run.counts.duplicate) == (3, 2)


def test_the_same_words_again_are_no_duplicate(run: Run) -> None:
    run.read(event("yes"), event("yes"), event("yes", topic_id="t"), event("yes", topic_id="t"))
    assert run.batches == [["yes"] * 4]


@pytest.mark.parametrize(("between", "dropped"), [(WINDOW - 1, 1), (WINDOW, 0)])
def test_only_the_last_events_are_remembered(between: int, dropped: int) -> None:
    run = Run(records_max=1_000)
    run.read(event("a", action_id="1"), *[event(str(i)) for i in range(between)], event("a", action_id="1"))
    assert run.counts.duplicate == dropped


def test_a_refused_event_doesnt_make_a_later_one_a_duplicate(run: Run) -> None:
    run.read(event("a", turn_id="1", meta={"confidence": 7}), event("a", turn_id="1"))
    assert run.batches == [["a"]]


def test_whatever_ends_the_input_what_is_pending_is_delivered() -> None:
    run = Run()

    class Interrupted(Scripted):
        def next(self, timeout_s: float | None) -> bytes | None:
            if len(self._steps) == 1:
                raise KeyboardInterrupt
            return super().next(timeout_s)

    with pytest.raises(KeyboardInterrupt):
        run.ingest.run(Interrupted(run, event("a"), event("b"), event("never")))
    assert run.batches == [["a", "b"]]


def test_a_batch_that_nothing_takes_ends_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(batch: Batch) -> None:
        raise StorageUnavailable("full")

    run = Run(records_max=1)
    monkeypatch.setattr(run.ingest, "_deliver", refuse)
    with pytest.raises(StorageUnavailable):
        run.read(event("a"), event("b"))
    assert run.counts.accepted == 1  # the rest stays with whoever has it
