"""As much of PromQL as our alerts and dashboard use, so that their queries are run where no Prometheus is.

    parse('rate(x_total{a="b"}[5m]) > 1')  ->  a query with `selectors` and `at(series, t)`

Model: instant selectors look back 5 minutes; `rate` and `increase` take the difference between the first and the
last sample in the window, with resets, without Prometheus' extrapolation to its edges. Whatever else there is in
PromQL is refused by `ValueError`. Source: prometheus.io's description of the language.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

Labels: TypeAlias = frozenset[tuple[str, str]]
Samples: TypeAlias = list[tuple[float, float]]  # time in seconds, value; ascending
Series: TypeAlias = Mapping[tuple[str, Labels], Samples]
Vector: TypeAlias = dict[Labels, float]
Value: TypeAlias = Vector | float

LOOKBACK_S = 300.0
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
TOKEN = re.compile(
    r"""\s*(?:(?P<duration>\[\d+[smhd]\])|(?P<number>\d+(?:\.\d+)?)|(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<sign>=~|!~|!=|==|>=|<=|[(){},=<>+*/-]))""",
    re.X,
)
COMPARED: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
COMPUTED: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a / b if b else math.nan,
}
GATHERED: dict[str, Callable[[Iterable[float]], float]] = {"sum": math.fsum, "max": max, "min": min}
LEVELS = (tuple(COMPARED), ("+", "-"), ("*", "/"))
Evaluate = Callable[[Series, float], Value]


@dataclass(frozen=True)
class Selector:
    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def matches(self, name: str, labels: Labels) -> bool:
        given = dict(labels)
        return name == self.name and all(
            _matches(given.get(key, ""), how, text) for key, how, text in self.matchers
        )


def _matches(value: str, how: str, text: str) -> bool:
    if how in ("=", "!="):
        return (value == text) == (how == "=")
    return (re.fullmatch(text, value) is not None) == (how == "=~")


@dataclass
class Query:
    """`grouped` has the labels that it names behind `by`."""

    evaluate: Evaluate
    selectors: list[Selector] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)

    def at(self, series: Series, time_s: float) -> Vector:
        value = self.evaluate(series, time_s)
        return value if isinstance(value, dict) else {frozenset(): value}


def parse(text: str) -> Query:
    """Raises `ValueError` for what isn't understood."""
    parser = _Parser(text)
    query = Query(parser.level(0), parser.selectors, parser.grouped)
    if parser.token is not None:
        raise ValueError(f"{text!r}: {parser.token!r} isn't expected")
    return query


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self.token: str | None = next(self._tokens, None)
        self.selectors: list[Selector] = []
        self.grouped: set[str] = set()

    def take(self, expected: str | None = None) -> str:
        token = self.token
        if token is None or (expected is not None and token != expected):
            raise ValueError(f"expected {expected or 'more'}, found {token!r}")
        self.token = next(self._tokens, None)
        return token

    def level(self, depth: int) -> Evaluate:
        """Operators of one precedence, from the left."""
        if depth == len(LEVELS):
            return self.factor()
        left = self.level(depth + 1)
        while self.token in LEVELS[depth]:
            sign = self.take()
            left = _binary(sign, left, self.level(depth + 1))
        return left

    def factor(self) -> Evaluate:
        token = self.take()
        if token == "(":
            inner = self.level(0)
            self.take(")")
            return inner
        if token[0].isdigit():
            number = float(token)
            return lambda series, time_s: number
        if token in GATHERED:
            return self.gathered(token)
        if token in ("rate", "increase"):
            self.take("(")
            selector, window_s = self.selector(self.take()), self.duration()
            self.take(")")
            return _increase(selector, window_s, per_s=token == "rate")
        if token == "histogram_quantile":
            return self.quantile()
        return _instant(self.selector(token))

    def gathered(self, name: str) -> Evaluate:
        by = self.labels() if self.token == "by" else []
        self.take("(")
        inner = self.level(0)
        self.take(")")
        by = by or (self.labels() if self.token == "by" else [])
        self.grouped |= set(by)
        return _gathered(GATHERED[name], by, inner)

    def labels(self) -> list[str]:
        self.take("by")
        self.take("(")
        names = [self.take()]
        while self.token == ",":
            self.take()
            names.append(self.take())
        self.take(")")
        return names

    def quantile(self) -> Evaluate:
        self.take("(")
        q = float(self.take())
        self.take(",")
        inner = self.level(0)
        self.take(")")
        return _quantile(q, inner)

    def selector(self, name: str) -> Selector:
        matchers: list[tuple[str, str, str]] = []
        if self.token == "{":
            self.take()
            while self.token != "}":
                key, how, text = self.take(), self.take(), self.take()
                if how not in ("=", "!=", "=~", "!~") or text[0] != '"':
                    raise ValueError(f"{name}: {key}{how}{text} is no matcher")
                matchers.append((key, how, text[1:-1]))
                if self.token == ",":
                    self.take()
            self.take("}")
        made = Selector(name, tuple(matchers))
        self.selectors.append(made)
        return made

    def duration(self) -> float:
        token = self.take()
        if token[0] != "[":
            raise ValueError(f"expected a window as [5m], found {token!r}")
        return float(token[1:-2]) * UNITS[token[-2]]


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at:]!r} can't be read")
        at = match.end()
        yield match[0].strip()


def _instant(selector: Selector) -> Evaluate:
    def evaluate(series: Series, time_s: float) -> Vector:
        found: Vector = {}
        for (name, labels), samples in series.items():
            seen = [value for at, value in samples if time_s - LOOKBACK_S < at <= time_s]
            if seen and selector.matches(name, labels):
                found[labels] = seen[-1]
        return found

    return evaluate


def _increase(selector: Selector, window_s: float, *, per_s: bool) -> Evaluate:
    def evaluate(series: Series, time_s: float) -> Vector:
        found: Vector = {}
        for (name, labels), samples in series.items():
            seen = [(at, value) for at, value in samples if time_s - window_s < at <= time_s]
            if len(seen) < 2 or not selector.matches(name, labels):
                continue
            steps = pairwise(seen)
            grown = sum(after - before if after >= before else after for (_, before), (_, after) in steps)
            found[labels] = grown / (seen[-1][0] - seen[0][0]) if per_s else grown
        return found

    return evaluate


def _gathered(gather: Callable[[Iterable[float]], float], by: list[str], inner: Evaluate) -> Evaluate:
    def evaluate(series: Series, time_s: float) -> Vector:
        groups: dict[Labels, list[float]] = {}
        for labels, value in _vector(inner(series, time_s)).items():
            groups.setdefault(frozenset(pair for pair in labels if pair[0] in by), []).append(value)
        return {labels: gather(values) for labels, values in groups.items()}

    return evaluate


def _quantile(q: float, inner: Evaluate) -> Evaluate:
    def evaluate(series: Series, time_s: float) -> Vector:
        buckets: dict[Labels, list[tuple[float, float]]] = {}
        for labels, value in _vector(inner(series, time_s)).items():
            others = frozenset(pair for pair in labels if pair[0] != "le")
            buckets.setdefault(others, []).append((float(dict(labels)["le"]), value))
        return {labels: _quantile_of(q, sorted(found)) for labels, found in buckets.items()}

    return evaluate


def _quantile_of(q: float, buckets: list[tuple[float, float]]) -> float:
    """Linear within the bucket that it falls into; `buckets` are edges and cumulative counts, the last is +Inf."""
    rank = q * buckets[-1][1]
    if not rank:
        return math.nan
    below, edge = 0.0, 0.0
    for upper, count in buckets:
        if count >= rank:
            return edge if math.isinf(upper) else edge + (upper - edge) * (rank - below) / (count - below)
        below, edge = count, upper
    return edge


def _binary(sign: str, left: Evaluate, right: Evaluate) -> Evaluate:
    def evaluate(series: Series, time_s: float) -> Value:
        a, b = left(series, time_s), right(series, time_s)
        if isinstance(a, float):
            raise ValueError("a number on the left isn't understood")
        pairs = {labels: (value, b if isinstance(b, float) else b.get(labels)) for labels, value in a.items()}
        both = {labels: (x, y) for labels, (x, y) in pairs.items() if y is not None}
        if sign in COMPARED:
            return {labels: x for labels, (x, y) in both.items() if COMPARED[sign](x, y)}
        return {labels: COMPUTED[sign](x, y) for labels, (x, y) in both.items()}

    return evaluate


def _vector(value: Value) -> Vector:
    if isinstance(value, float):
        raise ValueError("expected a vector, found a number")
    return value
