"""How a memory fades: in closed form, from its base alone.

F(t) = clamp(F0 · (1 + t/S)^(-d/E)) and N(t) = clamp(N0 + r · √t · (1 - F)), with t from `base_at` in the time unit
(a day, unless the operator says otherwise) and E = 1 + 0.5 · intensity. So fidelity doesn't depend on how often
it is looked at: ticks only write down what it is, for statistics, and there may be any number of them, or none.
An emotion holds back by dividing the exponent, so no score ever rises by itself.

The base moves at a recall and an import, and when S, d or E change. The exponents of a store change at the
beginning of an epoch, and its memories learn it when they are next looked at: they are then faded up to there by
the exponent they had, and from there by the new one.

Source: the engine specification, section 4 ("Ours"). Every formula stands twice here, for one state and for rows
of them; the tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from cerememory.domain import columns
from cerememory.domain.columns import Flags, Floats, Rows, ages_ns
from cerememory.domain.curve import Curve, Ticked, TickedRows, age_at, further_ahead
from cerememory.domain.fidelity import (
    DYNAMICS,
    State,
    emotional_factor,
    usable_decay_rate,
    usable_stability,
    within,
)
from cerememory.protocol.records import STORES, Store
from cerememory.protocol.values import NANOS, TIMESTAMP_MAX


class Epoch(msgspec.Struct, frozen=True, array_like=True):
    """From virtual time `since` on, the exponents of a store are `multiplier` times what they were at first."""

    since: int
    multiplier: float


FIRST_EPOCH = Epoch(0, 1.0)


@dataclass(frozen=True, slots=True)
class ClosedForm(Curve):
    """The standard curve. `epochs` in their order, by which states number them; at least one.

    What is below the prune threshold is pruned unless the rules say never.
    """

    epochs: tuple[Epoch, ...] = (FIRST_EPOCH,)

    @property
    def epoch(self) -> int:
        return len(self.epochs) - 1

    @property
    def faint_threshold(self) -> float:
        return self.rules.faint_threshold

    @property
    def prunes(self) -> bool:
        return self.rules.prune != "never"

    @property
    def time_unit_ns(self) -> int:
        return self.rules.time_unit_secs * NANOS

    def advanced(self, duration_s: int) -> ClosedForm:
        return replace(self, ahead_ns=further_ahead(self.ahead_ns, duration_s))

    def current(self, state: State, now: int) -> State:
        at = self.virtual(now)
        state = self._in_epoch_of(at, state)
        score, noise = self._faded(state, at)
        return msgspec.structs.replace(state, score=score, noise_level=noise)

    def score(self, state: State, now: int) -> float:
        at = self.virtual(now)
        return self._faded(self._in_epoch_of(at, state), at)[0]

    def ticked(self, state: State, now: int) -> Ticked:
        here = self.current(state, now)
        if abs(here.score - state.score) > self.rules.epsilon:
            anchor = emotional_factor(state.intensity)
            state = msgspec.structs.replace(here, emotional_anchor=anchor, last_decay_tick_at=now)
        is_below = here.score < self.dynamics.prune_threshold
        return Ticked(state, is_below, is_below and self.prunes)

    def ticked_rows(self, rows: Rows, now: int) -> TickedRows:
        at = self.virtual(now)
        bases = _bases(rows)
        self._all_into_epoch_of(at, bases)
        scores, noise = self._all_faded(bases, at)
        ticked = _with_bases(rows, bases)
        ticked["score"], ticked["noise_level"] = scores, noise
        ticked["emotional_anchor"], ticked["last_decay_tick_at"] = bases.factors, now
        is_moved = np.abs(scores - rows["score"]) > self.rules.epsilon
        ticked[~is_moved] = rows[~is_moved]
        is_below = scores < self.dynamics.prune_threshold
        return TickedRows(ticked, scores, is_moved, is_below, is_below & self.prunes)

    def _in_epoch_of(self, at: int, state: State) -> State:
        if state.epoch + 1 == len(self.epochs):  # nearly always
            return state
        for number in range(state.epoch + 1, len(self.epochs)):
            if self.epochs[number].since > at:
                break
            state = self._entering(number, state)
        return state

    def _all_into_epoch_of(self, at: int, bases: _Bases) -> None:
        for number in range(1, len(self.epochs)):
            if self.epochs[number].since > at:
                break
            is_before = bases.epochs < number
            if is_before.any():
                self._all_entering(number, bases, is_before)

    def _entering(self, number: int, state: State) -> State:
        """`state`, of the epoch before, as it begins epoch `number`."""
        since = self.epochs[number].since
        score, noise = self._faded(state, since)
        return msgspec.structs.replace(
            state,
            base_score=score,
            base_noise=noise,
            base_at=max(state.base_at, since),
            decay_rate=usable_decay_rate(state.decay_rate) * self._change(number),
            epoch=number,
        )

    def _all_entering(self, number: int, bases: _Bases, is_before: Flags) -> None:
        since = self.epochs[number].since
        scores, noise = self._all_faded(bases, since)
        np.copyto(bases.scores, scores, where=is_before)
        np.copyto(bases.noise, noise, where=is_before)
        np.maximum(bases.since, since, out=bases.since, where=is_before)
        rates = columns.usable_decay_rates(bases.decay_rates) * self._change(number)
        np.copyto(bases.decay_rates, rates, where=is_before)
        bases.epochs[is_before] = number

    def _change(self, number: int) -> float:
        """What the exponents are multiplied by at the beginning of epoch `number`."""
        return self.epochs[number].multiplier / self.epochs[number - 1].multiplier

    def _faded(self, state: State, at: int) -> tuple[float, float]:
        """Score and noise at virtual time `at`, while the state's epoch lasts."""
        elapsed = at - state.base_at
        age = elapsed / (self.rules.time_unit_secs * NANOS) if elapsed > 0 else 0.0
        growth = math.log1p(age / usable_stability(state.stability))
        score = state.base_score * math.exp(-_exponent(state) * growth)
        noise = state.base_noise + self.dynamics.interference * math.sqrt(age) * (1.0 - score)
        return score, noise if 0.0 <= noise <= 1.0 else within(noise, 0.0, 1.0)

    def _all_faded(self, bases: _Bases, at: int) -> tuple[Floats, Floats]:
        ages = ages_ns(bases.since, at) / self.time_unit_ns
        growths = np.log1p(ages / bases.stabilities)
        exponents = columns.usable_decay_rates(bases.decay_rates) / bases.factors
        scores = bases.scores * np.exp(-exponents * growths)
        noise = bases.noise + self.dynamics.interference * np.sqrt(ages) * (1.0 - scores)
        return scores, columns.within(noise, 0.0, 1.0)

    def _score_at(self, state: State, at: int) -> float:
        return self.current(state, at).score

    def _faint_at(self, state: State) -> int | None:
        """In the first epoch that lasts long enough for it."""
        for following in self.epochs[state.epoch + 1 :]:
            reached = self._reaches_faint(state)
            if reached is not None and reached < following.since:
                break
            state = self._entering(state.epoch + 1, state)
        reached = self._reaches_faint(state)
        return None if reached is None else reached - self.ahead_ns

    def _reaches_faint(self, state: State) -> int | None:
        """The virtual time at which `state` is faint, if its epoch lasts."""
        stability = usable_stability(state.stability)
        age = age_at(self.faint_threshold, state.base_score, stability, _exponent(state))
        age_ns = age * self.time_unit_ns
        return state.base_at + round(age_ns) if age_ns < TIMESTAMP_MAX else None


STANDARD: Mapping[Store, Curve] = MappingProxyType({store: ClosedForm(DYNAMICS[store]) for store in STORES})


@dataclass(slots=True)
class _Bases:
    """What n states fade from, and by; all but the last two change where an epoch begins."""

    scores: Floats
    noise: Floats
    since: NDArray[np.int64]
    decay_rates: Floats
    epochs: NDArray[np.uint16]
    stabilities: Floats
    factors: Floats


def _bases(rows: Rows) -> _Bases:
    return _Bases(
        scores=rows["base_score"].copy(),
        noise=rows["base_noise"].copy(),
        since=rows["base_at"].copy(),
        decay_rates=rows["decay_rate"].copy(),
        epochs=rows["epoch"].copy(),
        stabilities=columns.usable_stabilities(rows["stability"]),
        factors=columns.emotional_factors(rows["intensity"]),
    )


def _with_bases(rows: Rows, bases: _Bases) -> Rows:
    """A copy of `rows` on other bases."""
    based = rows.copy()
    based["base_score"], based["base_noise"], based["base_at"] = bases.scores, bases.noise, bases.since
    based["decay_rate"], based["epoch"] = bases.decay_rates, bases.epochs
    return based


def _exponent(state: State) -> float:
    return usable_decay_rate(state.decay_rate) / emotional_factor(state.intensity)
