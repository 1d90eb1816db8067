"""How the parameters of a store adapt to use: what is observed of it, and what follows.

Owned here: the observations (a histogram of fidelities from ticks, a window of hit rates from recalls), the three
rules, and the curve that comes out of them. A `StoreEvolution` is that of one store in one namespace; whoever
observes keeps the new one, across restarts. Working memory doesn't evolve.

| observed | when | then |
|---|---|---|
| at a tick | more than half of the memories are below 0.3 | decay exponent times 0.9, in a new epoch |
| at a tick | more than half of them are in the lowest of the ten buckets | prune threshold times 0.9 |
| at a recall | of 5 to 100 recalls, the mean hit rate is under 0.2 | retrieval boost times 1.1 |

Each holds again at every tick or recall, as far as half or one and a half times the store's default. The hit rate
of a recall is the share of what it returned that had a score over 0, and is put down to the store of the first.

Source: the engine specification, section 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from cerememory.domain.curve import Curve, Rules
from cerememory.domain.decay import FIRST_EPOCH, ClosedForm, Epoch
from cerememory.domain.fidelity import DYNAMICS, Dynamics
from cerememory.domain.reference_decay import Compounding
from cerememory.protocol.records import Store
from cerememory.protocol.replies import ParameterAdjustment

BUCKETS = 10
FADED_BUCKETS = 3  # fidelities below 0.3
HIT_RATES_MIN = 5
HIT_RATES_MAX = 100
HIT_RATE_LOW = 0.2
LESS = 0.9
MORE = 1.1
FACTOR_MIN = 0.5
FACTOR_MAX = 1.5

FADES_FAST = "the median fidelity was below 0.3"
MOSTLY_FAINT = "more than half of the memories had a fidelity below 0.1"
RARELY_HIT = "the mean hit rate of its recalls was below 0.2"


class StoreEvolution(msgspec.Struct, frozen=True, array_like=True):
    """What was observed of a store, and how far its parameters have moved.

    `fidelities` counts the memories of the last tick in ten buckets, `hit_rates` are the last ones, oldest first.
    `epochs` are the exponents' multipliers since when; the factors multiply the other defaults.
    """

    fidelities: tuple[int, ...] = (0,) * BUCKETS
    hit_rates: tuple[float, ...] = ()
    epochs: tuple[Epoch, ...] = (FIRST_EPOCH,)
    boost_factor: float = 1.0
    threshold_factor: float = 1.0


UNEVOLVED = StoreEvolution()


def histogram(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of `scores` (float64[n], 0 to 1) are in each tenth; int64[10], which add up over parts."""
    buckets = np.minimum((scores * BUCKETS).astype(np.int64), BUCKETS - 1)
    return np.bincount(buckets, minlength=BUCKETS)


def hit_rate(returned: Sequence[tuple[Store, float]]) -> tuple[Store, float] | None:
    """Whom a recall is put down to, and its hit rate; of what it returned in order, store and score each.

    None where there is nobody: it returned nothing, or a working record first.
    """
    if not returned or returned[0][0] is Store.WORKING:
        return None
    hits = sum(score > 0.0 for _store, score in returned)
    return returned[0][0], hits / len(returned)


def after_tick(
    evolution: StoreEvolution, fidelities: NDArray[np.int64], at: int, *, is_frozen: bool
) -> StoreEvolution:
    """With the `fidelities` (`histogram`) of all memories of the store; `at` is virtual time.

    Frozen, it observes and moves nothing; so does `after_recall`.
    """
    observed = msgspec.structs.replace(evolution, fidelities=tuple(fidelities.tolist()))
    if is_frozen:
        return observed
    return msgspec.structs.replace(
        observed, epochs=_next_epochs(observed, at), threshold_factor=_next_threshold_factor(observed)
    )


def after_recall(evolution: StoreEvolution, rate: float, *, is_frozen: bool) -> StoreEvolution:
    """With the `rate` of one more recall (`hit_rate`)."""
    rates = (*evolution.hit_rates, rate)[-HIT_RATES_MAX:]
    observed = msgspec.structs.replace(evolution, hit_rates=rates)
    if is_frozen or len(rates) < HIT_RATES_MIN or sum(rates) / len(rates) >= HIT_RATE_LOW:
        return observed
    return msgspec.structs.replace(observed, boost_factor=min(evolution.boost_factor * MORE, FACTOR_MAX))


def _next_epochs(evolution: StoreEvolution, at: int) -> tuple[Epoch, ...]:
    last = evolution.epochs[-1]
    if not _more_than_half(evolution.fidelities, FADED_BUCKETS) or last.multiplier == FACTOR_MIN:
        return evolution.epochs
    return (*evolution.epochs, Epoch(max(at, last.since), max(last.multiplier * LESS, FACTOR_MIN)))


def _next_threshold_factor(evolution: StoreEvolution) -> float:
    if not _more_than_half(evolution.fidelities, 1):
        return evolution.threshold_factor
    return max(evolution.threshold_factor * LESS, FACTOR_MIN)


def _more_than_half(fidelities: tuple[int, ...], buckets: int) -> bool:
    """Whether more than half of the memories are in the lowest `buckets`."""
    return 2 * sum(fidelities[:buckets]) > sum(fidelities)


def dynamics(store: Store, evolution: StoreEvolution) -> Dynamics:
    """Those in force."""
    default = DYNAMICS[store]
    return Dynamics(
        decay_rate=default.decay_rate * evolution.epochs[-1].multiplier,
        retrieval_boost=default.retrieval_boost * evolution.boost_factor,
        interference=default.interference,
        prune_threshold=default.prune_threshold * evolution.threshold_factor,
    )


def curve(store: Store, evolution: StoreEvolution, rules: Rules, ahead_ns: int) -> Curve:
    """What the memories of `store` fade by, in a namespace whose clock is `ahead_ns` ahead.

    Under the profile of the reference nothing evolves, for its adjustments were never used.
    """
    if rules.profile == "reference":
        return Compounding(rules=rules, ahead_ns=ahead_ns)
    return ClosedForm(dynamics(store, evolution), rules, ahead_ns, evolution.epochs)


def adjustments(store: Store, evolution: StoreEvolution) -> tuple[ParameterAdjustment, ...]:
    """The parameters that aren't what they were at first."""
    default, moved = DYNAMICS[store], dynamics(store, evolution)
    found = (
        ("decay_exponent", default.decay_rate, moved.decay_rate, FADES_FAST),
        ("retrieval_boost", default.retrieval_boost, moved.retrieval_boost, RARELY_HIT),
        ("prune_threshold", default.prune_threshold, moved.prune_threshold, MOSTLY_FAINT),
    )
    return tuple(
        ParameterAdjustment(
            store=store, parameter=parameter, original_value=original, current_value=current, reason=reason
        )
        for parameter, original, current, reason in found
        if current != original
    )
