"""Alerts and dashboard ask for what /metrics has, and the alerts fire when they should, and only then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.alerts import Alert, firing, seconds, series_of
from tests.support.engine import raw_body, store_body
from tests.support.gated import BARE, Gated, gated
from tests.support.promql import Labels, Samples, parse

OPS = Path(__file__).parents[3] / "ops"
PROMETHEUS = OPS / "prometheus"
RULES_FILE, TESTS_FILE = PROMETHEUS / "cerememory.rules.yml", PROMETHEUS / "cerememory.rules.test.yml"
OF_PROMETHEUS = {"up"}  # what it adds itself
OF_TARGET = {"job", "instance"}
NOW_S, STEP_S = 600.0, 300.0
LATER = {
    "cerememory_actor_restarts",
    "cerememory_llm_requests",
}  # families whose labels come with their first event

Scraped = dict[tuple[str, Labels], float]


def rules() -> dict[str, dict[str, Any]]:
    document = yaml.safe_load(RULES_FILE.read_text())
    return {rule["alert"]: rule for group in document["groups"] for rule in group["rules"]}


def rule_tests() -> Iterator[Any]:
    document = yaml.safe_load(TESTS_FILE.read_text())
    assert document["rule_files"] == [RULES_FILE.name]
    for test in document["tests"]:
        for expected in test["alert_rule_test"]:
            name = f"{test['name']}: {expected['alertname']} at {expected['eval_time']}"
            yield pytest.param(test, expected, id=name)


def queries() -> list[tuple[str, str]]:
    """Name and text of every query of rules and dashboard, as a dashboard asks when nothing is chosen."""
    dashboard = json.loads((OPS / "grafana" / "cerememory.json").read_text())
    panels = [
        (panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())
    ]
    chosen = {"$__rate_interval": "5m", "$job": "cerememory", "$instance": ".*"}
    for variable, value in chosen.items():
        panels = [(title, text.replace(variable, value)) for title, text in panels]
    return [*panels, *((name, rule["expr"]) for name, rule in rules().items())]


async def scraped(daemon: Gated) -> Scraped:
    text = (await daemon.client.get("/metrics")).body.decode()
    target = {("job", "cerememory"), ("instance", "127.0.0.1:8420")}
    found: Scraped = {("up", frozenset(target)): 1.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, frozenset({*sample.labels.items(), *target})] = sample.value
        if family.name in LATER:
            found.setdefault((f"{family.name}_total", frozenset(target)), 0.0)
    return found


@pytest.fixture
async def metrics(tmp_path: Path) -> Scraped:
    """What a daemon says after a bit of everything."""
    async with gated(tmp_path, http=replace(BARE.http, metrics_enabled=True)) as daemon:
        await daemon.client.post("/v1/encode", store_body("x"))
        await daemon.client.post("/v1/encode/raw", raw_body("x"))
        await daemon.client.post("/v1/recall/query", {"cue": {"text": "x"}})
        await daemon.client.post("/v1/lifecycle/decay-tick", {})
        await daemon.running.engine._disk_use.measure()
        return await scraped(daemon)


async def test_every_query_finds_what_it_asks_for(metrics: Scraped) -> None:
    series: dict[tuple[str, Labels], Samples] = {
        key: [(NOW_S - STEP_S + 1, value), (NOW_S, value)] for key, value in metrics.items()
    }
    for title, text in queries():
        query = parse(text)
        for selector in query.selectors:
            found = [labels for name, labels in metrics if name == selector.name]
            assert found, f"{title}: there is no {selector.name}"
            known = {label for labels in found for label, _value in labels}
            later = {"actor", "ability", "outcome"} if selector.name.removesuffix("_total") in LATER else set()
            asked = {label for label, _how, _text in selector.matchers} | query.grouped
            assert asked <= known | later, f"{title}: {selector.name} has no {asked - known}"
        found_at = query.at(series, NOW_S)
        assert found_at or any(sign in text for sign in "<>="), f"{title}: {text} finds nothing"


def test_the_dashboard_shows_every_series_but_none_twice() -> None:
    panels = json.loads((OPS / "grafana" / "cerememory.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


async def test_whatever_is_counted_is_shown(metrics: Scraped) -> None:
    """A series that nobody looks at is one too many."""
    asked = {selector.name for _title, text in queries() for selector in parse(text).selectors}
    families = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name, _ in metrics}
    shown = {name.removesuffix("_bucket") for name in asked}
    assert {name for name in families if not name.endswith("_created")} - shown == set()


async def test_no_alert_fires_for_a_daemon_that_is_well(metrics: Scraped) -> None:
    series: dict[tuple[str, Labels], Samples] = {
        key: [(i * 60.0, value) for i in range(60)] for key, value in metrics.items()
    }
    for name, rule in rules().items():
        assert firing(rule, series, 3_540, 60) == set(), name


@pytest.mark.parametrize(("test", "expected"), list(rule_tests()))
def test_rules_do_what_their_tests_say(test: dict[str, Any], expected: dict[str, Any]) -> None:
    interval_s = seconds(test["interval"])
    series = series_of(test["input_series"], interval_s)
    wanted = {
        Alert(frozenset(alert["exp_labels"].items()), frozenset(alert["exp_annotations"].items()))
        for alert in expected.get("exp_alerts", ())
    }
    assert firing(rules()[expected["alertname"]], series, seconds(expected["eval_time"]), interval_s) == wanted


def test_every_rule_is_seen_to_fire_and_not_to() -> None:
    outcomes = {(param.values[1]["alertname"], "exp_alerts" in param.values[1]) for param in rule_tests()}
    assert outcomes == {(name, fires) for name in rules() for fires in (True, False)}


def test_what_is_scraped_is_judged_by_the_rules() -> None:
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert scrape["rule_files"] == [RULES_FILE.name]
    [job] = scrape["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("cerememory", "/metrics")
