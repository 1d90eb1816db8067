"""What is observed of a store, and what follows for it: written in the transaction of what was observed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce

import msgspec
import numpy as np
from numpy.typing import NDArray

from cerememory.domain import evolution
from cerememory.domain.evolution import StoreEvolution
from cerememory.protocol.records import Store
from cerememory.storage.ledger import Ledger
from cerememory.storage.rows import STORE_CODE


def note_hit_rates(ledger: Ledger, observed: Sequence[tuple[Store, float]]) -> None:
    """Of as many recalls, in their order, each put down to a store."""
    after_recall = partial(evolution.after_recall, is_frozen=ledger.evolution_is_frozen)
    for store in dict(observed):
        rates = [rate for of_store, rate in observed if of_store is store]
        _change(ledger, STORE_CODE[store], partial(reduce, after_recall, rates))


def note_fidelities(ledger: Ledger, store_code: int, fidelities: NDArray[np.int64], at: int) -> None:
    """Of all memories of a store, as a tick found them: int64[10]; `at` is virtual time."""
    is_frozen = ledger.evolution_is_frozen
    _change(ledger, store_code, lambda before: evolution.after_tick(before, fidelities, at, is_frozen=is_frozen))


def _change(ledger: Ledger, store_code: int, change: Callable[[StoreEvolution], StoreEvolution]) -> None:
    row = ledger.dynamics()
    evolutions = list(row.evolutions)
    evolutions[store_code] = change(evolutions[store_code])
    if evolutions[store_code] != row.evolutions[store_code]:
        ledger.save_dynamics(msgspec.structs.replace(row, evolutions=tuple(evolutions)))
