"""How memories fade in the reference, for those who need its numbers (`decay.profile = "reference"`).

Every tick multiplies the score and starts t anew: F' = clamp(F · (1 + t/S)^-d · E) with E = 1 + 0.5 · intensity,
and N' = clamp(N + r · √t · (1 - F')). t is in whole seconds, from the later of last access and last tick to the
later of now and that plus the tick's duration. Between ticks the score stays; E may raise it; what is below the
threshold goes. d is the record's own, 0.3 in a new one; the rest is the same for all stores. A recall is
S' = S · (1 + boost · S^-0.2), with S = 1 at first.

Source: the engine specification, section 4. Two things it doesn't say are read off a recorded forecast: the score
to come counts from the last tick even where the last access is later, and the date of the threshold is a whole
number of seconds after the later of the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from cerememory.domain import columns
from cerememory.domain.columns import Floats, Rows, ages_ns
from cerememory.domain.curve import Curve, Ticked, TickedRows, age_at, further_ahead
from cerememory.domain.fidelity import (
    Dynamics,
    State,
    emotional_factor,
    usable_decay_rate,
    usable_stability,
    within,
)
from cerememory.protocol.values import NANOS, TIMESTAMP_MAX

REFERENCE_DYNAMICS = Dynamics(decay_rate=0.3, retrieval_boost=1.5, interference=0.1, prune_threshold=0.01)


@dataclass(frozen=True, slots=True)
class Compounding(Curve):
    """The curve of the reference. `added_s` is the duration that a tick was asked for.

    A tick always has something to write, for t starts anew.
    """

    dynamics: Dynamics = REFERENCE_DYNAMICS
    added_s: int = 0

    @property
    def epoch(self) -> int:
        return 0

    @property
    def faint_threshold(self) -> float:
        return self.dynamics.prune_threshold

    def advanced(self, duration_s: int) -> Compounding:
        return replace(self, ahead_ns=further_ahead(self.ahead_ns, duration_s), added_s=duration_s)

    def current(self, state: State, now: int) -> State:
        return state

    def ticked(self, state: State, now: int) -> Ticked:
        age_s = max((now - _since(state)) // NANOS, self.added_s)
        score = _faded(state, age_s)
        noise = state.noise_level + self.dynamics.interference * math.sqrt(age_s) * (1.0 - score)
        noise = within(noise, 0.0, 1.0)
        ticked = msgspec.structs.replace(
            state,
            base_score=score,
            base_noise=noise,
            base_at=self.virtual(now),
            score=score,
            noise_level=noise,
            emotional_anchor=emotional_factor(state.intensity),
            last_decay_tick_at=now,
        )
        is_below = score < self.dynamics.prune_threshold
        return Ticked(ticked, is_below, is_below)

    def ticked_rows(self, rows: Rows, now: int) -> TickedRows:
        since = np.maximum(rows["last_accessed_at"], rows["last_decay_tick_at"])
        ages_s = np.maximum(ages_ns(since, now) // NANOS, self.added_s).astype(np.float64)
        scores = _faded_rows(rows, ages_s)
        noise = rows["noise_level"] + self.dynamics.interference * np.sqrt(ages_s) * (1.0 - scores)
        ticked = rows.copy()
        ticked["base_score"] = ticked["score"] = scores
        ticked["base_noise"] = ticked["noise_level"] = columns.within(noise, 0.0, 1.0)
        ticked["base_at"] = self.virtual(now)
        ticked["emotional_anchor"] = columns.emotional_factors(rows["intensity"])
        ticked["last_decay_tick_at"] = now
        is_below = scores < self.dynamics.prune_threshold
        return TickedRows(ticked, scores, np.ones(len(rows), np.bool_), is_below, is_below)

    def _score_at(self, state: State, at: int) -> float:
        return _faded(state, max((at - state.last_decay_tick_at) // NANOS, 0))

    def _faint_at(self, state: State) -> int | None:
        raised = state.score * emotional_factor(state.intensity)
        rate = usable_decay_rate(state.decay_rate)
        age_s = age_at(self.faint_threshold, raised, usable_stability(state.stability), rate)
        return _since(state) + int(age_s) * NANOS if age_s * NANOS < TIMESTAMP_MAX else None


def _since(state: State) -> int:
    return max(state.last_accessed_at, state.last_decay_tick_at)


def _faded(state: State, age_s: int) -> float:
    growth = math.log1p(age_s / usable_stability(state.stability))
    kept = math.exp(-usable_decay_rate(state.decay_rate) * growth)
    return within(state.score * kept * emotional_factor(state.intensity), 0.0, 1.0)


def _faded_rows(rows: Rows, ages_s: Floats) -> Floats:
    growths = np.log1p(ages_s / columns.usable_stabilities(rows["stability"]))
    kept = np.exp(-columns.usable_decay_rates(rows["decay_rate"]) * growths)
    return columns.within(rows["score"] * kept * columns.emotional_factors(rows["intensity"]), 0.0, 1.0)
