"""Mutations in a process that is killed, and what a data dir must be like afterwards.

A `Subject` is a scenario that was played once undisturbed, so that the states which its mutation goes through are
known, row by row: before it, and behind each of its commits. Whatever kills it, the data dir has to be in one of
these, in the last one when somebody was told that it is done, and in the last one when it is done once more.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from cerememory.domain.audit_chain import GENESIS
from cerememory.errors import CerememoryError
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_verification import verify_log
from cerememory.storage.contract import Storage
from cerememory.storage.fsck import Tally, check
from cerememory.storage.keys import (
    KEYS_END,
    NAMESPACE_BYTES,
    SYSTEM_NAMESPACE,
    Table,
    after,
    namespace_in,
    pack_sequence,
    parse_addresses,
    system_key,
)
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.rows import dump_head, parse_head, parse_log_row
from cerememory.storage.sealed import KEYRING_KEY, SEALS_KEY, opened_readonly
from cerememory.storage.text_index import TextIndex
from tests.support.daemon import NO_ENV, clean_environment
from tests.support.mutating import Order, Told
from tests.support.scenarios import BASE, BY_NAME, PASSPHRASE, Scenario

ROOT = Path(__file__).parents[2]
WAIT_S = 30.0  # how long a test waits for a process that must say something
AFTER_COMMIT = "storage.commit.after_fsync"
AGAIN = 2  # the series of ids that a mutation gets when it is done again
AUDIT, INDEX, STORE = "audit.jsonl", "index", "store"
COPY = "copy-"

Rows = Mapping[bytes, bytes]


@dataclass(slots=True)
class Ran:
    """How an order ended."""

    acknowledged: bool = False
    killed: bool = False
    passed: list[str] = field(default_factory=list)
    failure: str = ""


class Mutator:
    """The process of `tests.support.mutating`; a context manager that ends it."""

    def __init__(self, env: Mapping[str, str] = NO_ENV) -> None:
        self._env = clean_environment(env)
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.mutating"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._env,
            cwd=ROOT,
            process_group=0,  # so that its children end with it
        )
        self._told = b""

    def _end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, order: Order, at_begin: Callable[[], Any] | None = None) -> Ran:
        """Play `order` to its end; when its child waits, call `at_begin` and let it go on.

        A child that hangs is a failure, and ended.
        """
        ran = Ran()
        try:
            self._follow(order, at_begin, ran)
        except TimeoutError as error:
            ran.failure += str(error)
            self._end()
            self._start()
        return ran

    def _follow(self, order: Order, at_begin: Callable[[], Any] | None, ran: Ran) -> None:
        self._send(msgspec.json.encode(order))
        while True:
            told = msgspec.json.decode(self._line(), type=Told)
            if told.ready and at_begin is not None:
                at_begin()
            if told.ready:
                self._send(b"go")
            ran.acknowledged |= told.acknowledged
            ran.passed += told.passed
            ran.failure += told.failure
            if told.status is not None:
                ran.killed = os.WIFSIGNALED(told.status) and os.WTERMSIG(told.status) == signal.SIGKILL
                if not ran.killed and told.status:
                    ran.failure += f"wait status {told.status}"
                return

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def _line(self) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        deadline = time.monotonic() + WAIT_S
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._told:
                if not selector.select(deadline - time.monotonic()):
                    raise TimeoutError(f"nothing was said within {WAIT_S:.0f} s")
                part = os.read(pipe.fileno(), 65_536)
                if not part:
                    raise EOFError("the process of the scenarios is gone")
                self._told += part
        line, _, self._told = self._told.partition(b"\n")
        return line


def make_base(mutator: Mutator, data_dir: Path) -> Path:
    ran = mutator.run(Order(data_dir=str(data_dir), scenario=BASE.name, series=0))
    assert ran.acknowledged and not ran.failure, ran.failure
    problems = [*contradictions(data_dir), *lags(data_dir)]
    assert not problems, problems
    return data_dir


@dataclass(frozen=True, slots=True)
class Subject:
    """`states` are the rows before the mutation, and behind each of its commits; `passed` its failpoints."""

    mutator: Mutator
    scenario: Scenario
    base: Path
    states: tuple[Rows, ...]
    passed: tuple[str, ...]

    def order(self, data_dir: Path, **given: Any) -> Order:
        return Order(data_dir=str(data_dir), scenario=self.scenario.name, **given)

    def copy(self, folder: Path) -> Path:
        """A fresh copy of the base in `folder`, in place of the last one.

        Under another name: tantivy may still write its lock file into an index that was read a moment ago.
        """
        for last in folder.glob(f"{COPY}*"):
            shutil.rmtree(last, ignore_errors=True)
        return Path(shutil.copytree(self.base, Path(tempfile.mkdtemp(prefix=COPY, dir=folder)) / "data"))

    def problems(self, data_dir: Path, ran: Ran) -> list[str]:
        """What is wrong with what a killed child left in `data_dir`, and after it was started again.

        Does the mutation again, with the same idempotency key and other ids.
        """
        if ran.failure:
            return [ran.failure]
        try:
            return list(self._problems(data_dir, ran))
        except CerememoryError as error:
            return [f"{type(error).__name__}: {error}"]

    def _problems(self, data_dir: Path, ran: Ran) -> Iterator[str]:
        rows = rows_in(data_dir)
        state = next((number for number, known in enumerate(self.states) if known == rows), None)
        last = len(self.states) - 1
        if state is None:
            yield f"rows: neither state of {last + 1}: {difference(rows, self.states)}"
        elif ran.acknowledged and state < last:
            yield f"rows: acknowledged, and found in state {state} of {last}"
        yield from contradictions(data_dir, with_index=False)
        again = self.mutator.run(self.order(data_dir, series=AGAIN))
        if again.failure or not again.acknowledged:
            yield f"started again: {again.failure or 'not acknowledged'}"
            return
        yield from contradictions(data_dir)
        yield from lags(data_dir)
        yield from self.scenario.check(data_dir)
        yield from self._problems_of_repetition(rows_in(data_dir), was_done=state == last)

    def _problems_of_repetition(self, rows: Rows, *, was_done: bool) -> Iterator[str]:
        expected = self.states[-1]
        if not self.scenario.has_key:
            rows, expected = without_log(rows), without_log(expected)
        if was_done and rows != expected:
            yield f"done again: {difference(rows, [expected])}"
        if counted(rows) != counted(expected):
            yield f"done again: {counted(rows)}, expected {counted(expected)}"


def crashed_behind(mutator: Mutator, base: Path, folder: Path) -> Path:
    """What a batch leaves that was killed when it was committed: neither audit file nor text index know of it."""
    subject = Subject(mutator, BY_NAME["encode.batch"], base, (), ())
    whole = mutator.run(subject.order(subject.copy(folder)))
    data_dir = subject.copy(folder)
    ran = mutator.run(subject.order(data_dir, kill_at=1 + whole.passed.index(AFTER_COMMIT)))
    assert ran.killed
    return data_dir.rename(folder / "crashed")


def study(mutator: Mutator, scenario: Scenario, base: Path, folder: Path) -> Subject:
    """Play `scenario` undisturbed on a copy of `base` in `folder`, and again up to each of its commits."""
    before = rows_in(base)
    subject = Subject(mutator, scenario, base, (before,), ())
    data_dir = subject.copy(folder)
    whole = mutator.run(subject.order(data_dir))
    assert whole.acknowledged and not whole.failure, whole.failure
    problems = [*contradictions(data_dir), *lags(data_dir), *scenario.check(data_dir)]
    assert not problems, problems
    assert scenario.has_key or list(scenario.check(base))
    assert operations_behind(base, data_dir) == scenario.operations
    after_all, states = rows_in(data_dir), [before]
    for passage, name in enumerate(whole.passed, 1):
        if name == AFTER_COMMIT:
            cut_short = subject.copy(folder)
            ran = mutator.run(subject.order(cut_short, kill_at=passage))
            assert ran.killed
            rows = rows_in(cut_short)
            if rows != states[-1]:
                states.append(rows)
    assert states[-1] == after_all, difference(after_all, states[-1:])
    return replace(subject, states=tuple(states), passed=tuple(whole.passed))


def rows_of(storage: Storage) -> Rows:
    """All rows, decrypted, but for what says how far the audit file is, the probe, and the keys."""
    with storage.read() as reader:
        rows = dict(reader.scan(b"", KEYS_END))
    for own in (system_key(Table.PROBE), KEYRING_KEY, SEALS_KEY):
        rows.pop(own, None)
    head = system_key(Table.HEAD)
    rows[head] = dump_head(replace(parse_head(rows.get(head), GENESIS), audit_synced=0))
    return rows


def rows_in(data_dir: Path) -> Rows:
    with opened(data_dir) as storage:
        return rows_of(storage)


@contextmanager
def opened(data_dir: Path) -> Iterator[Storage]:
    """The store, to be read."""
    with closing(LmdbStorage.open_readonly(data_dir / STORE)) as lmdb:
        yield opened_readonly(lmdb, PASSPHRASE)


def without_log(rows: Rows) -> Rows:
    """What was stored, without what the system keeps for itself."""
    return {key: value for key, value in rows.items() if namespace_in(key) != SYSTEM_NAMESPACE}


def counted(rows: Rows) -> Counter[bytes]:
    """How many rows there are of each table of each namespace."""
    return Counter(row_key[: NAMESPACE_BYTES + 1] for row_key in rows)


def difference(rows: Rows, states: Any) -> str:
    """In how many rows of which tables `rows` differ from each of `states`."""
    tables = [
        dict(counted({key: b"" for key in rows.keys() | state.keys() if rows.get(key) != state.get(key)}))
        for state in states
    ]
    return f"differs from them in {tables}"


def contradictions(data_dir: Path, *, with_index: bool = True) -> Iterator[str]:
    """What fsck finds."""
    index_path = data_dir / INDEX if with_index else None
    with opened(data_dir) as storage:
        found = check(
            storage, index_path=index_path, audit_path=data_dir / AUDIT, now=time.time_ns(), tally=Tally()
        )
        yield from (f"fsck: {finding}" for finding in found)


def lags(data_dir: Path) -> Iterator[str]:
    """What isn't level with the rows after an orderly end."""
    with opened(data_dir) as storage:
        verified = verify_log(data_dir / AUDIT, StoredOutbox(storage))
        if verified.pending or verified.unseen:
            yield f"the audit log lacks {verified.pending} entries, and {verified.unseen}"
        if not (data_dir / INDEX).exists():  # it is in memory
            return
        with closing(TextIndex.open_existing(data_dir / INDEX)) as index, storage.read() as reader:
            prefix = system_key(Table.LOG)
            behind = reader.scan(prefix + pack_sequence(index.applied_sequence() + 1), after(prefix))
            changed = [address for _key, row in behind for address in parse_addresses(parse_log_row(row).changed)]
        if changed:
            yield f"the text index lacks {len(changed)} changes"


def operations_behind(base: Path, data_dir: Path) -> tuple[str, ...]:
    """Those of the entries that the audit log of `data_dir` has behind that of `base`."""
    before = len((base / AUDIT).read_bytes().splitlines())
    files = [*sorted(data_dir.glob(f"{AUDIT}.0*")), data_dir / AUDIT]
    lines = b"".join(file.read_bytes() for file in files).splitlines()[before:]
    return tuple(msgspec.json.decode(line)["operation"] for line in lines)
