"""How much of a sweep a test does: all of it with CEREMEMORY_TEST_SWEEP=full, a sample drawn by a seed otherwise.

A test that is one of a sweep says how many of its cases make a sample: `@pytest.mark.sample(3)`. A run has one
seed, which is printed when a test fails; CEREMEMORY_TEST_SEED repeats it.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")

IS_FULL = os.environ.get("CEREMEMORY_TEST_SWEEP") == "full"
SEED = "CEREMEMORY_TEST_SEED"


def choose_seed() -> None:
    """Before the workers start, which take it over and must draw the same."""
    os.environ.setdefault(SEED, str(random.randrange(10**6)))


def run_seed() -> int:
    seed = int(os.environ[SEED])
    print(f"{SEED}={seed}")  # noqa: T201 - shown when the test fails
    return seed


def seeded() -> random.Random:
    return random.Random(run_seed())


def swept(rng: random.Random, items: Sequence[T], sample_size: int) -> list[T]:
    """All of `items`, or so many of them, in their order."""
    if IS_FULL or sample_size >= len(items):
        return list(items)
    return [items[i] for i in sorted(rng.sample(range(len(items)), sample_size))]


def left_out(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The cases that the samples of their tests go without. A case that was asked for by its name is in."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample") is not None:
            cases[item.nodeid.partition("[")[0]].append(item)
    return [item for name, group in cases.items() for item in _left_out(name, group)]


def _left_out(name: str, group: list[pytest.Item]) -> list[pytest.Item]:
    marker = group[0].get_closest_marker("sample")
    assert marker is not None
    drawn = swept(random.Random(f"{os.environ[SEED]} {name}"), group, marker.args[0])
    return [item for item in group if item not in drawn]
