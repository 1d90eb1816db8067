"""Buckets of a timeline: each moment in exactly one, counts exact; and emotions that are alike."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain import timeline
from cerememory.domain.timeline import DAY_NS, Timeline, feels_like, span_at
from cerememory.errors import ValidationFailed
from cerememory.protocol.requests import Granularity
from cerememory.protocol.values import (
    NANOS,
    TIMESTAMP_MAX,
    TIMESTAMP_MIN,
    format_timestamp,
    parse_timestamp,
)

MOMENT = st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX)
ANY = st.sampled_from(list(Granularity))
AXES = st.lists(st.floats(0, 1), min_size=8, max_size=8)
JOY, FEAR, NEUTRAL = (1.0, *[0.0] * 7), (0.0, 0.0, 1.0, *[0.0] * 5), (0.0,) * 8


@pytest.mark.parametrize(
    ("granularity", "start", "end"),
    [
        (Granularity.MINUTE, "2026-11-24T03:29:00Z", "2026-11-24T03:30:00Z"),
        (Granularity.HOUR, "2026-11-24T03:00:00Z", "2026-11-24T04:00:00Z"),
        (Granularity.DAY, "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z"),
        (Granularity.WEEK, "2026-11-19T00:00:00Z", "2026-11-26T00:00:00Z"),  # the epoch began on a Thursday
        (Granularity.MONTH, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
    ],
)
def test_a_moment_falls_into_the_bucket_around_it(granularity: Granularity, start: str, end: str) -> None:
    at = parse_timestamp("2026-11-24T03:29:33.884527856Z")
    assert tuple(map(format_timestamp, span_at(at, granularity))) == (start, end)


@given(at=MOMENT, granularity=ANY)
def test_each_moment_is_in_its_bucket_and_the_next_bucket_begins_where_it_ends(
    at: int, granularity: Granularity
) -> None:
    start, end = span_at(at, granularity)
    assert start <= at < end
    assert span_at(start, granularity) == span_at(end - 1, granularity) == (start, end)
    assert span_at(end, granularity)[0] == end
    assert span_at(start - 1, granularity)[1] == start


@given(at=MOMENT)
def test_a_month_is_that_of_the_calendar(at: int) -> None:
    start, _end = span_at(at, Granularity.MONTH)
    first, moment = (datetime.fromtimestamp(when // NANOS, UTC) for when in (start, at))
    assert first == datetime(moment.year, moment.month, 1, tzinfo=UTC)


@given(at=MOMENT, granularity=ANY.filter(lambda granularity: granularity is not Granularity.MONTH))
def test_other_buckets_are_whole_widths_from_the_epoch(at: int, granularity: Granularity) -> None:
    start, end = span_at(at, granularity)
    assert start % (end - start) == 0
    assert end - start == span_at(0, granularity)[1]


@given(times=st.lists(st.integers(0, 400 * DAY_NS), max_size=30), granularity=ANY, kept=st.integers(0, 35))
def test_buckets_part_what_was_added_and_count_what_they_do_not_keep(
    times: list[int], granularity: Granularity, kept: int
) -> None:
    times.sort()
    found: Timeline[int] = Timeline(granularity, kept)
    for at in times:
        found.add(at, at)
    for bucket in found.buckets:
        assert bucket.count == sum(bucket.start <= at < bucket.end for at in times) > 0
        assert span_at(bucket.start, granularity) == (bucket.start, bucket.end)
        assert all(bucket.start <= at < bucket.end for at in bucket.items)
    assert sum(bucket.count for bucket in found.buckets) == len(times)
    assert [at for bucket in found.buckets for at in bucket.items] == times[:kept]
    assert found.truncated == (len(times) > kept)
    starts = [bucket.start for bucket in found.buckets]
    assert starts == sorted(set(starts))


def test_too_many_buckets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "BUCKETS_MAX", 2)
    found: Timeline[None] = Timeline(Granularity.DAY, 0)
    for at in (0, 1, DAY_NS):
        found.add(None, at)
    with pytest.raises(ValidationFailed, match="granularity: more than 2 buckets"):
        found.add(None, 2 * DAY_NS)


@given(axes=AXES, wanted=AXES)
def test_emotions_are_alike_when_their_cosine_is_over_one_half(axes: list[float], wanted: list[float]) -> None:
    lengths = math.hypot(*axes) * math.hypot(*wanted)
    cosine = math.fsum(a * b for a, b in zip(axes, wanted, strict=True)) / lengths if lengths else 0.0
    if abs(cosine - 0.5) > 1e-9:
        assert feels_like(axes, wanted) == (cosine > 0.5)


def test_strength_does_not_count() -> None:
    assert feels_like([axis * 0.01 for axis in JOY], JOY)


def test_half_way_is_not_alike() -> None:
    assert not feels_like((0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0), JOY)


@pytest.mark.parametrize(("axes", "wanted"), [(NEUTRAL, JOY), (JOY, NEUTRAL), (NEUTRAL, NEUTRAL), (JOY, FEAR)])
def test_neutral_is_like_nothing_and_one_axis_not_like_another(
    axes: tuple[float, ...], wanted: tuple[float, ...]
) -> None:
    assert not feels_like(axes, wanted)
