"""What memories fade by: the operator's rules, the store's dynamics, the namespace's clock.

A `Curve` stands for all three, for one store of one namespace, and answers what time and recalls do to a `State`.
Everything is arithmetic on what is handed in. `ClosedForm` (`domain.decay`) is the standard curve, `Compounding`
(`domain.reference_decay`) the one of the reference; which of them, with which parameters in force, is told by
`domain.evolution`. When ticks run, and what becomes of a pruned memory, is decided by those who call.

`now` and all `_at` are nanoseconds since the Unix epoch, by the wall clock. Memories age by the clock of their
namespace, which is ahead of it by what ticks have added. `State.base_at` and `Epoch.since` are times on that
clock, called virtual here. An age is never negative, wherever the wall clock was set.

Source: the engine specification, section 4.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from cerememory.domain.columns import Flags, Floats, Rows
from cerememory.domain.fidelity import Dynamics, State, reinforced
from cerememory.protocol.records import FidelityState, MemoryRecord
from cerememory.protocol.values import NANOS, TIMESTAMP_MAX

AHEAD_NS_MAX = 2**62  # 146 years; with it, the clock of a namespace still fits 64 bits
FORECAST_NS_MAX = 87_660 * 3_600 * NANOS  # ten years of 365.25 days
GROWTH_MAX = 700.0  # e to the power of 710 is no double

Prune: TypeAlias = Literal["never", "archive", "delete"]
Profile: TypeAlias = Literal["standard", "reference"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator chose, named as the keys of the section `decay` are."""

    profile: Profile = "standard"
    time_unit_secs: int = 86_400
    prune: Prune = "never"
    epsilon: float = 0.001
    faint_threshold: float = 0.1


@dataclass(frozen=True, slots=True)
class Ticked:
    """What a tick does to a memory: `state` is the very same one when there is nothing to write.

    `is_below`: under the prune threshold; `is_pruned`: to be taken away for that.
    """

    state: State
    is_below: bool
    is_pruned: bool


@dataclass(frozen=True, slots=True)
class TickedRows:
    """`Ticked` of n rows. Only those that moved need writing; `scores` are those of now, written or not."""

    rows: Rows
    scores: Floats
    is_moved: Flags
    is_below: Flags
    is_pruned: Flags


@dataclass(frozen=True, slots=True)
class Outlook:
    """Scores of now and of the day asked for; `faint_at` None: faint already, or not within ten years."""

    current: float
    forecasted: float
    faint_at: int | None


@dataclass(frozen=True, slots=True)
class Curve(ABC):
    """How the memories of one store fade, in one namespace; `dynamics` as they are in force.

    The clock of the namespace is `ahead_ns` ahead.
    """

    dynamics: Dynamics
    rules: Rules = Rules()
    ahead_ns: int = 0

    @property
    @abstractmethod
    def epoch(self) -> int:
        """The epoch that the exponent of a new memory is of."""

    @property
    @abstractmethod
    def faint_threshold(self) -> float:
        """The score at which a memory counts as faint."""

    @abstractmethod
    def advanced(self, duration_s: int) -> Curve:
        """The curve of a tick that puts the clock forward; its `ahead_ns` is the namespace's from then on."""

    @abstractmethod
    def current(self, state: State, now: int) -> State:
        """`state` with the score and the noise that it has at `now`, in the epoch of `now`."""

    def score(self, state: State, now: int) -> float:
        """That of `current`."""
        return self.current(state, now).score

    @abstractmethod
    def ticked(self, state: State, now: int) -> Ticked:
        """What a tick at `now` makes of `state`."""

    @abstractmethod
    def ticked_rows(self, rows: Rows, now: int) -> TickedRows:
        """`ticked`, of n states of this store at once; `rows` stay as they are."""

    @abstractmethod
    def _score_at(self, state: State, at: int) -> float:
        """The score foretold for `at`."""

    @abstractmethod
    def _faint_at(self, state: State) -> int | None:
        """When a memory that isn't faint will be; None: never, as far as a clock goes."""

    def virtual(self, now: int) -> int:
        at = now + self.ahead_ns
        return at if at < TIMESTAMP_MAX else TIMESTAMP_MAX

    def fresh(self, now: int, intensity: float = 0.0) -> State:
        """The state of a memory made at `now`, with an emotion of that intensity."""
        return State(
            base_score=1.0,
            base_noise=0.0,
            base_at=self.virtual(now),
            score=1.0,
            noise_level=0.0,
            decay_rate=self.dynamics.decay_rate,
            intensity=intensity,
            emotional_anchor=1.0,
            stability=1.0,
            access_count=0,
            reinforcement_count=0,
            last_accessed_at=now,
            last_decay_tick_at=now,
            epoch=self.epoch,
        )

    def imported(self, record: MemoryRecord, now: int) -> State:
        """The state of a memory that comes in as `record`, and fades from `now` on.

        Its numbers are kept; those that JSON can't write are replaced by what stands for none given.
        """
        given, default = record.fidelity, FidelityState()
        return State(
            base_score=given.score,
            base_noise=given.noise_level,
            base_at=self.virtual(now),
            score=given.score,
            noise_level=given.noise_level,
            decay_rate=_finite(given.decay_rate, default.decay_rate),
            intensity=record.emotion.intensity,
            emotional_anchor=_finite(given.emotional_anchor, default.emotional_anchor),
            stability=_finite(given.stability, default.stability),
            access_count=record.access_count,
            reinforcement_count=given.reinforcement_count,
            last_accessed_at=_given(record.last_accessed_at, now),
            last_decay_tick_at=_given(given.last_decay_tick, now),
            epoch=self.epoch,
        )

    def rebased(self, state: State, now: int, **changes: float) -> State:
        """`state` fading from `now` on, with `changes` of its stability, decay_rate or intensity."""
        here = self.current(state, now)
        base = {"base_score": here.score, "base_noise": here.noise_level, "base_at": self.virtual(now)}
        return msgspec.structs.replace(here, **base, **changes)

    def retrieved(self, state: State, now: int) -> State:
        """`state` after one more recall at `now`: counted, harder to forget, fading from then on."""
        return self.recalled(self.current(state, now), now)

    def recalled(self, here: State, now: int) -> State:
        """`retrieved`, of a state that is `current` at `now`."""
        score, noise = here.score, here.noise_level
        fading = msgspec.structs.replace(here, base_score=score, base_noise=noise, base_at=self.virtual(now))
        return reinforced(fading, self.dynamics.retrieval_boost, now)

    def forecast(self, state: State, now: int, forecast_at: int) -> Outlook:
        """A `forecast_at` in the past is now."""
        here = self.current(state, now).score
        then = self._score_at(state, forecast_at) if forecast_at > now else here
        faint_at = self._faint_at(state) if here > self.faint_threshold else None
        if faint_at is not None and faint_at > now + FORECAST_NS_MAX:
            faint_at = None
        return Outlook(here, then, faint_at)


def age_at(threshold: float, score: float, stability: float, rate: float) -> float:
    """The age at which what began with `score` is down at `threshold`: S · ((F0 / threshold)^(1/d) - 1)."""
    if threshold <= 0.0 or rate == 0.0:
        return math.inf
    growth = math.log(score / threshold) / rate
    return stability * math.expm1(growth) if growth < GROWTH_MAX else math.inf


def further_ahead(ahead_ns: int, duration_s: int) -> int:
    return min(ahead_ns + duration_s * NANOS, AHEAD_NS_MAX)


def _given(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise
