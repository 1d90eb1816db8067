"""The series of /metrics, from the registry itself, and what watches them, from the alert rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from docs.generate.markdown import code, codes, sentence, table
from prometheus_client import Metric

from cerememory.telemetry.metrics import Metrics

RULES = Path(__file__).resolve().parents[2] / "ops" / "prometheus" / "cerememory.rules.yml"


def series() -> str:
    registry = Metrics([]).registry
    heads = ("series", "type", "labels", "meaning", "watched by")
    # prometheus_client tells the labels of what was counted, but not of what was only declared
    declared: dict[str, Any] = dict(registry._names_to_collectors)
    return table(heads, (_series(family, declared[family.name]._labelnames) for family in registry.collect()))


def alerts() -> str:
    return table(("alert", "severity", "fires when", "what it means"), map(_alert, _rules()))


def name_of(family: Metric) -> str:
    """As a query has it."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def _series(family: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
    name = name_of(family)
    watching = [rule["alert"] for rule in _rules() if re.search(rf"\b{name}(?:_bucket)?\b", rule["expr"])]
    return (code(name), family.type, codes(labels), family.documentation, codes(watching))


def _rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def _alert(rule: dict[str, Any]) -> tuple[str, ...]:
    held = f", for {rule['for']}" if "for" in rule else ""
    expression = code(sentence(rule["expr"])) + held
    return (code(rule["alert"]), rule["labels"]["severity"], expression, rule["annotations"]["description"])
