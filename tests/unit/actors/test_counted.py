"""A counted provider is the provider, but for the counts and the log."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from cerememory.actors.counted import CountedProvider
from cerememory.providers.contract import Cause, Failure
from cerememory.telemetry.metrics import Metrics
from tests.support.fake_provider import ALL, FakeProvider
from tests.support.logged import Logged


def counts(metrics: Metrics) -> dict[tuple[str, str], float]:
    [family] = [family for family in metrics.registry.collect() if family.name == "cerememory_llm_requests"]
    samples = [sample for sample in family.samples if sample.name.endswith("_total")]
    return {(sample.labels["ability"], sample.labels["outcome"]): sample.value for sample in samples}


def test_it_can_what_the_provider_can() -> None:
    for can in (ALL, ("summarise", "extract_relations")):
        counted = CountedProvider(FakeProvider(*can), Metrics(()))
        assert [ability for ability in ALL if getattr(counted, ability) is not None] == list(can)


async def test_outcomes_are_passed_on_and_counted(logged: Logged) -> None:
    provider, metrics = FakeProvider(), Metrics(())
    counted = CountedProvider(provider, metrics)
    failure = Failure(Cause.BUSY, "status 503")
    provider.then("summarise", failure)
    assert counted.summarise is not None
    assert counted.embed_text is not None
    assert await counted.summarise(["x"], 5) == failure
    assert await counted.summarise(["x"], 5) == "In short: all went well."
    await counted.embed_text("x")
    assert provider.asked[0] == ("summarise", (("x",), 5))
    assert counts(metrics) == {("summarise", "busy"): 1, ("summarise", "ok"): 1, ("embed_text", "ok"): 1}
    [line] = [line for line in logged.lines if line["level"] == "warning"]
    assert (line["event"], line["provider"], line["ability"]) == ("llm request failed", "fake", "summarise")
    assert (line["cause"], line["reason"]) == ("busy", "status 503")


async def test_one_that_nobody_waits_for_is_counted_as_that(autojump_clock: MockClock) -> None:
    metrics = Metrics(())
    counted = CountedProvider(FakeProvider(takes_s=10.0), metrics)
    assert counted.embed_text is not None
    with trio.move_on_after(1.0):
        await counted.embed_text("x")
    assert counts(metrics) == {("embed_text", "cancelled"): 1}
