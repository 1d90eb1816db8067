"""The state of a memory that changes while its content stays: fidelity, access and reinforcement.

Source of the constants and of the retrieval formula: the engine specification, "Stores" and "Decay".
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cerememory.protocol.records import FidelityState, Store
from cerememory.protocol.values import Timestamp

STABILITY_EXPONENT = -0.2
UINT32_MAX = 2**32 - 1


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
    """`score` and `noise_level` are those at `base_at`; all `_at` are nanoseconds since the epoch."""

    score: float
    noise_level: float
    base_at: int
    decay_rate: float
    emotional_anchor: float
    stability: float
    access_count: int
    reinforcement_count: int
    last_accessed_at: int
    last_decay_tick_at: int

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


def fresh(store: Store, now: int) -> State:
    """The state of a memory made at `now`."""
    return State(1.0, 0.0, now, DYNAMICS[store].decay_rate, 1.0, 1.0, 0, 0, now, now)


def retrieved(state: State, store: Store, now: int) -> State:
    """`state` after one more retrieval: counted, and harder to forget (S' = S · (1 + boost · S^-0.2))."""
    boost = DYNAMICS[store].retrieval_boost
    return State(
        score=state.score,
        noise_level=state.noise_level,
        base_at=now,
        decay_rate=state.decay_rate,
        emotional_anchor=state.emotional_anchor,
        stability=state.stability * (1.0 + boost * state.stability**STABILITY_EXPONENT),
        access_count=min(state.access_count + 1, UINT32_MAX),
        reinforcement_count=min(state.reinforcement_count + 1, UINT32_MAX),
        last_accessed_at=now,
        last_decay_tick_at=state.last_decay_tick_at,
    )
