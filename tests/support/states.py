"""States for tests of how memories fade: drawn at random, as rows, and as a wire record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from cerememory.domain.columns import Rows
from cerememory.domain.decay import FIRST_EPOCH, Epoch
from cerememory.domain.fidelity import State
from cerememory.protocol.values import NANOS
from cerememory.storage.rows import dump_state_row, parse_state_rows

NOW = 1_800_000_000_123_456_789
DAY_S = 86_400
DAY_NS = DAY_S * NANOS
YEAR_NS = 365 * DAY_NS

UNITS = st.floats(0, 1)
AGES_NS = st.one_of(st.integers(0, 10 * NANOS), st.integers(0, 20 * YEAR_NS))
TIMES = AGES_NS.map(lambda age: NOW - age)
ANY_FLOATS = st.floats()  # not numbers and infinite ones, too


def states(
    **given: st.SearchStrategy[Any],
) -> st.SearchStrategy[State]:
    """Sensible ones of the first epoch, but for the fields that are `given`."""
    parts: dict[str, st.SearchStrategy[Any]] = {
        "base_score": UNITS,
        "base_noise": UNITS,
        "base_at": TIMES,
        "score": UNITS,
        "noise_level": UNITS,
        "decay_rate": st.floats(0, 1.5),
        "intensity": UNITS,
        "emotional_anchor": st.just(1.0),
        "stability": st.floats(0.01, 1e4),
        "access_count": st.integers(0, 9),
        "reinforcement_count": st.integers(0, 9),
        "last_accessed_at": TIMES,
        "last_decay_tick_at": TIMES,
        "epoch": st.just(0),
    }
    return st.builds(State, **(parts | given))


def epoch_lists(epochs_max: int = 8) -> st.SearchStrategy[tuple[Epoch, ...]]:
    """The first epoch, and others that begin up to twenty years ago or after `NOW`."""
    beginnings = st.lists(st.integers(-20 * YEAR_NS, 5 * YEAR_NS), max_size=epochs_max - 1).map(sorted)
    return beginnings.flatmap(
        lambda at: st.tuples(*(st.builds(Epoch, st.just(NOW + ns), st.floats(0.5, 1.5)) for ns in at))
    ).map(lambda later: (FIRST_EPOCH, *later))


def rows_of(states: Sequence[State]) -> Rows:
    return parse_state_rows([dump_state_row(0, state) for state in states])
