"""How much of a sweep a test does: all of it with CEREMEMORY_TEST_SWEEP=full, a sample drawn by a seed otherwise.

The seed is printed when a test fails; CEREMEMORY_TEST_SEED repeats it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

IS_FULL = os.environ.get("CEREMEMORY_TEST_SWEEP") == "full"


def seeded() -> random.Random:
    seed = int(os.environ.get("CEREMEMORY_TEST_SEED") or random.randrange(10**6))
    print(f"CEREMEMORY_TEST_SEED={seed}")  # noqa: T201 - shown when the test fails
    return random.Random(seed)


def swept(rng: random.Random, items: Sequence[T], sample_size: int) -> list[T]:
    """All of `items`, or so many of them, in their order."""
    if IS_FULL or sample_size >= len(items):
        return list(items)
    return [items[i] for i in sorted(rng.sample(range(len(items)), sample_size))]
