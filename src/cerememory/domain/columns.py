"""States as columns: many rows at once, each a numpy array, with the ranges that `domain.fidelity` sets.

`Rows` are what `storage.rows` reads: a structured array whose fields are those of `State`, and the store's code.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cerememory.domain.fidelity import EMOTION_WEIGHT, RATE_MAX, STABILITY_MAX, STABILITY_MIN

Rows: TypeAlias = NDArray[np.void]  # State[n]
Floats: TypeAlias = NDArray[np.float64]  # float64[n]
Flags: TypeAlias = NDArray[np.bool_]  # bool[n]


def within(values: NDArray[Any], low: float, high: float) -> Floats:
    """`values` brought into their range; what is no number becomes `low`."""
    bounded: Floats = np.fmin(np.fmax(values, low), high)
    return bounded


def usable_stabilities(stabilities: NDArray[Any]) -> Floats:
    return within(stabilities, STABILITY_MIN, STABILITY_MAX)


def usable_decay_rates(decay_rates: NDArray[Any]) -> Floats:
    return within(decay_rates, 0.0, RATE_MAX)


def emotional_factors(intensities: NDArray[Any]) -> Floats:
    return 1.0 + EMOTION_WEIGHT * within(intensities, 0.0, 1.0)


def ages_ns(since: NDArray[np.int64], now: int) -> NDArray[np.uint64]:
    """Nanoseconds from `since` (int64[n]) to `now`, none where that is to come; over 64 bits wide, so unsigned."""
    ages: NDArray[np.uint64] = (np.int64(now) - since).view(np.uint64)
    ages[since > now] = 0
    return ages
