"""Alert rules and their tests in promtool's format, run over `tests.support.promql`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.promql import UNITS, Labels, Samples, Series, parse

SERIES = re.compile(r"([a-zA-Z_:]\w*)\{(.*)\}")
PAIR = re.compile(r'(\w+)="([^"]*)"')
VALUES = re.compile(r"(-?[\d.]+)(?:([+-][\d.]+))?x(\d+)")
TEMPLATE = re.compile(r"\{\{ \$labels\.(\w+) \}\}")


@dataclass(frozen=True)
class Alert:
    labels: frozenset[tuple[str, str]]
    annotations: frozenset[tuple[str, str]]


def seconds(text: str) -> float:
    return float(text[:-1]) * UNITS[text[-1]]


def series_of(rows: list[dict[str, str]], interval_s: float) -> Series:
    """The samples of a test's `input_series`."""
    series: dict[tuple[str, Labels], Samples] = {}
    for row in rows:
        match = SERIES.fullmatch(row["series"])
        assert match is not None, row
        values = [value for part in row["values"].split() for value in _values(part)]
        series[match[1], frozenset(PAIR.findall(match[2]))] = [(i * interval_s, v) for i, v in enumerate(values)]
    return series


def _values(part: str) -> Iterator[float]:
    match = VALUES.fullmatch(part)
    assert match is not None, part
    start, step, count = float(match[1]), float(match[2] or 0), int(match[3])
    yield from (start + step * i for i in range(count + 1))


def firing(rule: dict[str, Any], series: Series, at_s: float, interval_s: float) -> set[Alert]:
    """The alerts of `rule` at `at_s`, evaluated every `interval_s` from the beginning on."""
    query, wait_s = parse(rule["expr"]), seconds(rule.get("for", "0s"))
    since: dict[Labels, float] = {}
    for step in range(int(at_s / interval_s) + 1):
        now = step * interval_s
        since = {labels: since.get(labels, now) for labels in query.at(series, now)}
    return {_alert(rule, dict(labels)) for labels, start in since.items() if at_s - start >= wait_s}


def _alert(rule: dict[str, Any], labels: dict[str, str]) -> Alert:
    annotations = {
        name: TEMPLATE.sub(lambda match: labels[match[1]], text) for name, text in rule["annotations"].items()
    }
    return Alert(frozenset({**labels, **rule["labels"]}.items()), frozenset(annotations.items()))
