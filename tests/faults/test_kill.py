"""The daemon is killed (SIGKILL) under load, again and again: nothing that was acknowledged is lost.

What is stored while a round runs has words of its own, so that each record can be asked for. The seed of the
rounds is printed; CEREMEMORY_TEST_SEED repeats one, CEREMEMORY_TEST_SWEEP=full runs all rounds.
"""

from __future__ import annotations

import random
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cerememory.failpoints import VARIABLE as FAILPOINTS
from tests.support.calls import UNLIMITED, Caller, NoAnswer, store_body
from tests.support.daemon import COMMAND, WAIT_S, Daemon
from tests.support.reports import Report, report
from tests.support.stored import Stored, stored_in
from tests.support.sweep import IS_FULL, run_seed

ROUNDS = 20 if IS_FULL else 2
THREADS = 6
BATCH = 5
ACKNOWLEDGED_MIN, ACKNOWLEDGED_MAX = 20, 120  # records after which a round is killed


@dataclass
class Load:
    """Clients that store until nobody answers any more.

    `memories` and `entries` hold what was acknowledged: by record id, the words of which one is its text. There
    are two while an update is under way. `batches` holds the words of every batch that was sent.
    """

    address: str
    seed: int
    memories: dict[str, set[str]] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._words = 0
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]

    def run_until(self, acknowledged: int) -> None:
        """Start, and return when so many records were acknowledged; the clients go on."""
        for thread in self._threads:
            thread.start()
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self.memories) >= acknowledged, WAIT_S)
        assert enough

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        rng = random.Random(self.seed * THREADS + number)
        with Caller(self.address) as caller:
            try:
                while True:
                    rng.choice((self._store, self._store, self._batch, self._raw, self._update))(caller)
            except NoAnswer:
                return

    def _word(self) -> str:
        with self._changed:
            self._words += 1
            return f"word{self.seed}x{self._words}"

    def _acknowledge(self, record_id: str, word: str) -> None:
        with self._changed:
            self.memories[record_id] = {word}
            self._changed.notify_all()

    def _store(self, caller: Caller) -> None:
        word = self._word()
        self._acknowledge(caller.store(word, key=word).json["record_id"], word)

    def _batch(self, caller: Caller) -> None:
        words = [self._word() for _ in range(BATCH)]
        self.batches.append(words)
        results = caller.store_batch(words).json["results"]
        for word, result in zip(words, results, strict=True):
            self._acknowledge(result["record_id"], word)

    def _raw(self, caller: Caller) -> None:
        word = self._word()
        self.entries[caller.store_raw(word).json["record_id"]] = word

    def _update(self, caller: Caller) -> None:
        """Of a memory that only this client knows."""
        first, second = self._word(), self._word()
        record_id = caller.store(first).json["record_id"]
        with self._changed:
            self.memories[record_id] = {first, second}
        answer = caller.ask("PATCH", f"/v1/encode/{record_id}", store_body(second))
        assert answer.status == 204
        self._acknowledge(record_id, second)


def check_rows(load: Load, stored: Stored) -> None:
    """Everything acknowledged is in the store, every batch there whole or not at all."""
    assert [i for i, words in load.memories.items() if stored.texts.get(i) not in words] == []
    assert [i for i, word in load.entries.items() if stored.raw_texts.get(i) != word] == []
    present = set(stored.texts.values())
    assert {len(present.intersection(words)) for words in load.batches} <= {0, BATCH}


def check_answers(load: Load, caller: Caller) -> None:
    """Everything acknowledged is answered by id, and found by its word."""
    caller.until_indexed()
    for record_id, words in load.memories.items():
        assert caller.record(record_id).status == 200
        assert any(caller.found(word) == [record_id] for word in words)
    for record_id, word in load.entries.items():
        assert [record["id"] for record in caller.recall_raw(word).json["records"]] == [record_id]


def verify_audit_log(data_dir: Path) -> None:
    command = [str(COMMAND), "audit-verify", "--data-dir", str(data_dir)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout.splitlines()[:1]) == (0, ["Audit log verified:"]), verified.stderr


def test_a_killed_daemon_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    """The clients' connections break. After each restart every record that was acknowledged is answered by id
    and found by its word. On disk: counters that add up, whole batches, an audit log without gaps whose file
    never has more than the store.
    """
    seed = run_seed()
    rng = random.Random(seed)
    data_dir = tmp_path / "data"
    loads: list[Load] = []
    with Daemon(data_dir, env=UNLIMITED) as daemon:
        for number in range(ROUNDS):
            load = Load(daemon.address, seed + number)
            load.run_until(rng.randint(ACKNOWLEDGED_MIN, ACKNOWLEDGED_MAX))
            daemon.kill()
            load.wait()
            loads.append(load)
            stored = stored_in(data_dir)
            for each in loads:
                check_rows(each, stored)
            verify_audit_log(data_dir)
            daemon.start()
            with Caller(daemon.address) as caller:
                check_answers(load, caller)
                counted = caller.stats()
            assert counted["total_records"] == len(stored.texts)
            assert counted["raw_journal_records"] == len(stored.raw_texts)
        with Caller(daemon.address) as caller:
            for load in loads:
                check_answers(load, caller)
        assert daemon.stop() == 0
    stored = stored_in(data_dir)
    assert stored.audit_lines_in_file == stored.head.audit_sequence == stored.head.audit_synced
    verify_audit_log(data_dir)
    acknowledged = sum(len(load.memories) + len(load.entries) for load in loads)
    details = {"records acknowledged": acknowledged}
    what = "SIGKILL of a daemon under the load of six clients"
    report("daemon under load", Report(what=what, runs=ROUNDS, points=ROUNDS, losses=0, details=details))


@pytest.mark.parametrize("failpoint", ["writer.before_reply", "http.before_answer"])
def test_a_retry_after_a_kill_between_commit_and_answer_stores_nothing_twice(
    tmp_path: Path, failpoint: str
) -> None:
    """The client gets no answer; its retry with the same Idempotency-Key gets the record that was stored then.
    On disk: one record, one audit entry.
    """
    data_dir = tmp_path / "data"
    killed = {**UNLIMITED, FAILPOINTS: f"{failpoint}=kill"}
    with Daemon(data_dir, env=killed) as daemon, Caller(daemon.address) as caller:
        with pytest.raises(NoAnswer):
            caller.store("once", key="the key")
        daemon.wait()
    [record_id] = stored_in(data_dir).record_ids
    with Daemon(data_dir, env=UNLIMITED) as daemon, Caller(daemon.address) as caller:
        for _ in range(2):
            again = caller.store("once", key="the key")
            assert (again.status, again.json["record_id"]) == (200, record_id)
        assert caller.found("once") == [record_id]
        assert daemon.stop() == 0
    stored = stored_in(data_dir)
    assert stored.record_ids == {record_id}
    assert stored.head.audit_sequence == stored.audit_lines_in_file == 1
