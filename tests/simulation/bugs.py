"""Bugs to be planted: each once made by somebody, somewhere, and each has to be found by the lives of some seeds.

A bug takes the place of a part of the product, or of the disk below it, for one life; the product has no switch
for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cerememory.actors import writer as writer_module
from cerememory.domain.audit_chain import AuditDraft
from cerememory.storage.contract import Changes
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key
from cerememory.storage.ledger import Ledger, Mutation
from cerememory.storage.mutations import Once, Stored, StoreRecords, put_memory
from cerememory.storage.prepared import NewRecord
from tests.simulation.disk import FakeStore

CHANCE = 0.1  # that an occasion is taken


@dataclass(frozen=True, slots=True)
class Bug:
    """`store` is the disk of a life that has it, `planted` puts it into the product for the time of a block."""

    store: Callable[[random.Random], FakeStore] = FakeStore
    planted: Callable[[random.Random], AbstractContextManager[None]] = lambda _rng: nullcontext()


class _AnsweringEarly(FakeStore):
    """Now and then a commit returns before it is synced; the next one syncs both."""

    def sync(self) -> None:
        if self._rng.random() >= CHANCE:
            super().sync()


class _Swapping(FakeStore):
    """Now and then a commit reaches the disk behind the one that followed it."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._swaps: list[Changes] = []

    def sync(self) -> None:
        newest = self.commits[-1]
        if not self._swaps and self._rng.random() >= CHANCE:
            super().sync()
        elif len(self._swaps) == 1:
            self._synced = self._synced.changed(newest)
            self._swaps.append({})
        elif self._swaps:
            self._synced = self._synced.changed(self._swaps[0]).changed(newest)
            self._swaps = []
        else:
            self._swaps.append(newest)


class _ForgettingAnswers(FakeStore):
    """Now and then a commit lacks the answers that are kept for idempotency keys."""

    def commit(self, changes: Changes) -> None:
        if self._rng.random() < 3 * CHANCE:
            tables = (Table.IDEMPOTENCY, Table.IDEMPOTENCY_BY_EXPIRY)
            prefixes = tuple(key(DEFAULT_NAMESPACE, table) for table in tables)
            changes = {k: value for k, value in changes.items() if not k.startswith(prefixes)}
        super().commit(changes)


@contextmanager
def _ledger(made: type[Ledger]) -> Iterator[None]:
    """The writer works with ledgers of this class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "Ledger", made)
        yield


def _losing_audit_lines(rng: random.Random) -> AbstractContextManager[None]:
    """Now and then a change has no audit entry."""

    class Losing(Ledger):
        def audit(self, draft: AuditDraft) -> None:
            if rng.random() >= CHANCE:
                super().audit(draft)

    return _ledger(Losing)


@dataclass(frozen=True, slots=True)
class _Half:
    """Of a batch, the first half, and the other one to be stored with a later commit."""

    whole: StoreRecords[Any]
    late: list[_Late]

    @property
    def namespace(self) -> int:
        return self.whole.namespace

    def apply(self, ledger: Ledger) -> Stored[Any]:
        records = self.whole.records
        self.late[:] = [_Late(self.namespace, records[len(records) // 2 :])]
        return replace(self.whole, records=records[: len(records) // 2]).apply(ledger)


@dataclass(frozen=True, slots=True)
class _Late:
    namespace: int
    records: tuple[NewRecord, ...]

    def apply(self, ledger: Ledger) -> None:
        for record in self.records:
            put_memory(ledger, record)


def _halving_batches(_rng: random.Random) -> AbstractContextManager[None]:
    """Of a batch, one half is stored with the commit that acknowledges it, the other with the next."""
    late: list[_Late] = []

    class Halving(Ledger):
        def attempt(self, mutation: Mutation[Any]) -> Any:
            while late:
                super().attempt(late.pop())
            return super().attempt(self._halved(mutation))

        def _halved(self, mutation: Mutation[Any]) -> Mutation[Any]:
            if isinstance(mutation, Once):
                return replace(mutation, mutation=self._halved(mutation.mutation))
            if isinstance(mutation, StoreRecords) and len(mutation.records) > 1:
                return _Half(mutation, late)
            return mutation

    return _ledger(Halving)


NONE = Bug()
BUGS: Mapping[str, Bug] = {
    "answer-before-commit": Bug(store=_AnsweringEarly),
    "lost-audit-line": Bug(planted=_losing_audit_lines),
    "swapped-commits": Bug(store=_Swapping),
    "missing-answer": Bug(store=_ForgettingAnswers),
    "half-a-batch": Bug(planted=_halving_batches),
}
