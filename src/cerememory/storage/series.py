"""Many mutations in one transaction: for what has to be there whole or not at all, and may be larger than memory.

Each mutation is a commit with its own number, its own row of the log and its own audit lines; but nobody sees
any of them before the last, and a crash leaves none. So a follower that reads the log gets it in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from cerememory.domain.audit_chain import GENESIS
from cerememory.failpoints import failpoint
from cerememory.storage.audit_head import check_head
from cerememory.storage.contract import Reader, Storage, Transaction
from cerememory.storage.keys import Address, Table, system_key
from cerememory.storage.ledger import Effects, Finished, Ledger, Mutation
from cerememory.storage.rows import Head, parse_head

R = TypeVar("R")
TOLD_MAX = 2_000  # records; of more than these the followers read themselves

Steps: TypeAlias = Generator[Mutation[Any], Any, R]
"""Yields one mutation after the other, is sent what each answers, and returns the answer of the whole."""

Series: TypeAlias = Callable[[], Steps[R]]
"""Begins the steps; called again when the transaction has to be run again."""


@dataclass(frozen=True, slots=True)
class Committed(Generic[R]):
    """`told` is what each commit did, without its rows; None when that is too much to tell. `dropped` are to leave
    working memory all the same, which reads nothing itself.
    """

    answer: R
    head: Head
    told: tuple[Finished, ...] | None
    dropped: tuple[Address, ...]


def commit_series_alone(
    storage: Storage, series: Series[R], now: int, *, audited: bool, head_key: bytes | None = None
) -> R:
    """Commit `series` in one transaction while no writer runs.

    Raises `AuditBroken` when the head isn't sealed with `head_key`: what it says would be sealed now.
    """
    with storage.read() as reader:
        head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
    if head_key is not None:
        check_head(head, head_key)
    open_ledger = partial(Ledger, now=now, audited=audited, index_applied=0, head_key=head_key)
    return storage.transact(lambda transaction: run_series(transaction, series, head, open_ledger)).answer


def run_series(
    transaction: Transaction, series: Series[R], head: Head, open_ledger: Callable[[Reader, Head], Ledger]
) -> Committed[R]:
    """Write what each step of `series` changes behind `head`. What a step raises ends the whole."""
    steps, telling, answer = series(), _Telling(), None
    try:
        while True:
            mutation = steps.send(answer)
            failpoint("writer.series.step")
            ledger = open_ledger(transaction, head)
            answer = ledger.attempt(mutation)
            finished = ledger.finish()
            if finished is not None:
                transaction.write(finished.changes)
                head = finished.head
                telling.add(finished)
    except StopIteration as end:
        return Committed(end.value, head, telling.told(), tuple(telling.dropped))
    finally:
        steps.close()


class _Telling:
    """Keeps what was done for the followers while that is little."""

    def __init__(self) -> None:
        self.dropped: list[Address] = []
        self._commits: list[Finished] = []
        self._size = 0

    def add(self, finished: Finished) -> None:
        self.dropped += finished.effects.dropped
        self._size += _size_of(finished.effects)
        if self._size <= TOLD_MAX:
            self._commits.append(replace(finished, changes={}))
        else:
            self._commits.clear()

    def told(self) -> tuple[Finished, ...] | None:
        return tuple(self._commits) if self._size <= TOLD_MAX else None


def _size_of(effects: Effects) -> int:
    return max(len(effects.changed), len(effects.vectors))
