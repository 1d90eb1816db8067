"""Memories along time: the buckets of a timeline, and which memories felt alike.

A bucket from a minute to a week is a whole number of its widths from the epoch; a month is that of the
calendar, in UTC. Source: the engine specification, "Recall", timeline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Generic, TypeVar

from cerememory.errors import ValidationFailed
from cerememory.protocol.requests import Granularity
from cerememory.protocol.values import NANOS

T = TypeVar("T")

DAY_NS = 86_400 * NANOS
WIDTHS_NS = {
    Granularity.MINUTE: 60 * NANOS,
    Granularity.HOUR: 3_600 * NANOS,
    Granularity.DAY: DAY_NS,
    Granularity.WEEK: 7 * DAY_NS,
}
BUCKETS_MAX = 50_000  # an answer of more is of no use, and takes memory
ALIKE_MIN = 0.5
_EPOCH_DAY = date(1970, 1, 1).toordinal()


@dataclass(slots=True)
class Bucket(Generic[T]):
    """`start <= created_at < end`, in nanoseconds since the epoch; `count` may be more than `items` holds."""

    start: int
    end: int
    count: int = 0
    items: list[T] = field(default_factory=list)


def span_at(at: int, granularity: Granularity) -> tuple[int, int]:
    """Start and end of the bucket that `at` falls into; all in nanoseconds since the epoch, years 1 to 9998."""
    width_ns = WIDTHS_NS.get(granularity)
    if width_ns is None:
        return _month_at(at)
    start = at - at % width_ns
    return start, start + width_ns


def _month_at(at: int) -> tuple[int, int]:
    first = date.fromordinal(_EPOCH_DAY + at // DAY_NS).replace(day=1)
    following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return _midnight(first), _midnight(following)


def _midnight(day: date) -> int:
    return (day.toordinal() - _EPOCH_DAY) * DAY_NS


class Timeline(Generic[T]):
    """Counts what is added into buckets, and keeps the first `items_max` of it."""

    def __init__(self, granularity: Granularity, items_max: int) -> None:
        self.buckets: list[Bucket[T]] = []
        self.truncated = False
        self._granularity = granularity
        self._room = items_max

    def add(self, item: T, created_at: int) -> None:
        """In ascending order of `created_at`; `ValidationFailed` when the buckets become too many."""
        if not self.buckets or created_at >= self.buckets[-1].end:
            self._open(created_at)
        bucket = self.buckets[-1]
        bucket.count += 1
        if self._room:
            self._room -= 1
            bucket.items.append(item)
        else:
            self.truncated = True

    def _open(self, at: int) -> None:
        if len(self.buckets) >= BUCKETS_MAX:
            raise ValidationFailed(
                f"granularity: more than {BUCKETS_MAX} buckets, take a coarser one or a shorter range"
            )
        self.buckets.append(Bucket(*span_at(at, self._granularity)))


def feels_like(axes: Sequence[float], wanted: Sequence[float]) -> bool:
    """Whether two emotions, float[8] each from 0 to 1, have a cosine over `ALIKE_MIN`; neutral is like none."""
    product = sum(one * other for one, other in zip(axes, wanted, strict=True))
    return product > ALIKE_MIN * math.hypot(*axes) * math.hypot(*wanted)
