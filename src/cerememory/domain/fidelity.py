"""The state of a memory that changes while its content stays, and the parameters that it changes by.

How a state fades with time, and what a recall does to it, is told by a curve (`domain.curve`).

Source of the constants: the engine specification, sections 1 and 4 ("Stores", "Decay").
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cerememory.protocol.records import FidelityState, Store
from cerememory.protocol.values import UINT32_MAX, Timestamp

STABILITY_EXPONENT = -0.2
STABILITY_MIN = 0.001  # an imported stability may be anything; what is used is within these
STABILITY_MAX = 1e15
RATE_MAX = 1e300  # a product with it is still finite
EMOTION_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Dynamics:
    """How memories of one store fade: decay exponent, retrieval boost, interference, prune threshold."""

    decay_rate: float
    retrieval_boost: float
    interference: float
    prune_threshold: float


DYNAMICS: dict[Store, Dynamics] = {
    Store.EPISODIC: Dynamics(0.3, 1.5, 0.1, 0.01),
    Store.SEMANTIC: Dynamics(0.15, 2.0, 0.05, 0.005),
    Store.PROCEDURAL: Dynamics(0.1, 2.5, 0.02, 0.001),
    Store.EMOTIONAL: Dynamics(0.2, 1.8, 0.08, 0.01),
    Store.WORKING: Dynamics(0.8, 1.0, 0.3, 0.1),
}


class State(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a memory beside its content.

    It had `base_score` and `base_noise` at `base_at`, and fades from there; `base_at` is on the clock of its
    namespace, which may run ahead (`domain.curve`). `score` and `noise_level` are those that were last written,
    which statistics sum up. `decay_rate` is the exponent that holds in `epoch`, a position in the store's list.
    `intensity` is that of its emotion; `emotional_anchor` is only shown. Other `_at` are nanoseconds since the
    Unix epoch. Imported numbers are kept as they came, and brought into their range where they are used.
    """

    base_score: float
    base_noise: float
    base_at: int
    score: float
    noise_level: float
    decay_rate: float
    intensity: float
    emotional_anchor: float
    stability: float
    access_count: int
    reinforcement_count: int
    last_accessed_at: int
    last_decay_tick_at: int
    epoch: int

    def fidelity(self) -> FidelityState:
        return FidelityState(
            score=self.score,
            noise_level=self.noise_level,
            decay_rate=self.decay_rate,
            emotional_anchor=self.emotional_anchor,
            reinforcement_count=self.reinforcement_count,
            stability=self.stability,
            last_decay_tick=Timestamp(self.last_decay_tick_at),
        )


def within(value: float, low: float, high: float) -> float:
    """`value` brought into its range; what is no number becomes `low`."""
    if value > high:
        return high
    return value if value > low else low


def usable_stability(stability: float) -> float:
    if STABILITY_MIN <= stability <= STABILITY_MAX:  # as nearly always, and this is asked often
        return stability
    return within(stability, STABILITY_MIN, STABILITY_MAX)


def usable_decay_rate(decay_rate: float) -> float:
    return decay_rate if 0.0 <= decay_rate <= RATE_MAX else within(decay_rate, 0.0, RATE_MAX)


def emotional_factor(intensity: float) -> float:
    """E = 1 + 0.5 · intensity: 1 to 1.5."""
    return 1.0 + EMOTION_WEIGHT * within(intensity, 0.0, 1.0) if intensity else 1.0


def reinforced(state: State, boost: float, now: int) -> State:
    """`state` counted as recalled at `now`, and harder to forget: S' = S · (1 + boost · S^-0.2)."""
    stability = usable_stability(state.stability)
    grown = stability * (1.0 + boost * stability**STABILITY_EXPONENT)
    accesses, reinforcements = state.access_count, state.reinforcement_count
    return msgspec.structs.replace(
        state,
        stability=grown if grown < STABILITY_MAX else STABILITY_MAX,
        access_count=accesses + 1 if accesses < UINT32_MAX else accesses,
        reinforcement_count=reinforcements + 1 if reinforcements < UINT32_MAX else reinforcements,
        last_accessed_at=now,
    )
