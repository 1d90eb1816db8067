"""The PromQL of the tests says what Prometheus would, for the little that it knows."""

from __future__ import annotations

import math

import pytest

from tests.support.promql import Labels, Samples, parse


def labels(**given: str) -> Labels:
    return frozenset(given.items())


SERIES: dict[tuple[str, Labels], Samples] = {
    ("up", labels(job="a")): [(0, 1), (60, 0)],
    ("up", labels(job="b")): [(0, 1), (60, 1)],
    ("hits_total", labels(job="a", code="200")): [(0, 0), (60, 60), (120, 120)],
    ("hits_total", labels(job="a", code="500")): [(0, 5), (60, 2), (120, 8)],
    ("time_bucket", labels(le="1")): [(0, 0), (60, 90)],
    ("time_bucket", labels(le="2")): [(0, 0), (60, 100)],
    ("time_bucket", labels(le="+Inf")): [(0, 0), (60, 100)],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("up", {labels(job="a"): 0, labels(job="b"): 1}),
        ("up == 0", {labels(job="a"): 0}),
        ('up{job=~"b|c"}', {labels(job="b"): 1}),
        ('up{job!="b"} * 2 + 1', {labels(job="a"): 1}),
        ("rate(hits_total[5m])", {labels(job="a", code="200"): 1, labels(job="a", code="500"): 8 / 120}),
        ('increase(hits_total{code="500"}[5m])', {labels(job="a", code="500"): 8}),
        ("sum by (job) (increase(hits_total[5m]))", {labels(job="a"): 128}),
        ("sum(increase(hits_total[5m])) by (job)", {labels(job="a"): 128}),
        ("max(up)", {labels(): 1}),
        ("histogram_quantile(0.95, time_bucket)", {labels(): 1.5}),
        (
            'sum by (job) (rate(hits_total{code=~"5.."}[5m])) / sum by (job) (rate(hits_total[5m])) > 0.05',
            {labels(job="a"): (8 / 120) / (1 + 8 / 120)},
        ),
        ('up{job="nobody"}', {}),
    ],
)
def test_a_query_gives_what_prometheus_would_give(text: str, expected: dict[Labels, float]) -> None:
    assert parse(text).at(SERIES, 120) == {key: pytest.approx(value) for key, value in expected.items()}


def test_what_is_older_than_five_minutes_is_gone() -> None:
    assert parse("up").at(SERIES, 60 + 299)
    assert not parse("up").at(SERIES, 60 + 300)


def test_a_quantile_of_nothing_is_no_number() -> None:
    assert all(
        map(math.isnan, parse("histogram_quantile(0.9, rate(time_bucket[5m]) * 0)").at(SERIES, 60).values())
    )


@pytest.mark.parametrize(
    "text",
    ["", "up >", "sum by job (up)", "rate(up)", "rate(up[5])", "up{job}", "up up", "avg(up)", "up{a=b}", "%"],
)
def test_what_is_no_query_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text).at(SERIES, 60)
