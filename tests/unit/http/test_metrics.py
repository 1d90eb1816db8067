"""Metrics: the documented series are there from the start, count what they say, and no id becomes a label."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cerememory import __version__
from tests.support.asgi import AsgiClient
from tests.support.engine import raw_body, settings_for, store_body
from tests.support.gated import BARE, KEYS, UNLIMITED, Gated, bare, gated, with_auth

HTTP = replace(BARE.http, metrics_enabled=True)
ID = "0191aaaa-0000-7000-8000-00000000ffff"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Gated]:
    async with gated(tmp_path, http=HTTP) as opened:
        yield opened


async def scraped(client: AsgiClient) -> Samples:
    reply = await client.get("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(reply.body.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


async def test_the_documented_series_are_there_before_anything_happened(daemon: Gated) -> None:
    samples = await scraped(daemon.client)
    assert value(samples, "cerememory_decay_panics_total") == 0
    assert value(samples, "cerememory_recall_total") == 0
    assert value(samples, "cerememory_recall_duration_seconds_count") == 0
    for store in ("episodic", "semantic", "procedural", "emotional", "working"):
        assert value(samples, "cerememory_encode_total", store=store) == 0
    assert value(samples, "cerememory_build_info", version=__version__) == 1
    assert value(samples, "cerememory_lmdb_oldest_reader_seconds") == 0
    assert value(samples, "cerememory_decay_tick_duration_seconds_count") == 0


async def test_requests_are_counted_by_method_route_and_status(daemon: Gated) -> None:
    client = daemon.client
    await client.get("/health")
    await client.post("/v1/encode", store_body("x"))
    await client.post("/v1/encode", {})
    await client.get(f"/v1/introspect/record/{ID}")
    samples = await scraped(client)
    for method, path, status in (
        ("GET", "/health", "200"),
        ("POST", "/v1/encode", "200"),
        ("POST", "/v1/encode", "400"),
        ("GET", "/v1/introspect/record/{record_id}", "404"),
    ):
        labels = {"method": method, "path": path, "status": status}
        assert value(samples, "cerememory_http_requests_total", **labels) == 1
        assert value(samples, "cerememory_http_request_duration_seconds_count", **labels) == 1


async def test_a_second_scrape_counts_the_first(daemon: Gated) -> None:
    await scraped(daemon.client)
    samples = await scraped(daemon.client)
    assert value(samples, "cerememory_http_requests_total", method="GET", path="/metrics", status="200") == 1


async def test_encodes_are_counted_when_they_succeed_and_timed_when_they_fail_too(daemon: Gated) -> None:
    client = daemon.client
    await client.post("/v1/encode", store_body("x", summary="s"))
    batch = [store_body("x"), store_body("y"), store_body("z", store="working")]
    await client.post("/v1/encode/batch", {"records": batch})
    await client.post("/v1/encode", {"content": {"blocks": []}})
    await client.post("/v1/encode/raw", raw_body("x"))
    samples = await scraped(client)
    counts = {"semantic": 1, "episodic": 2, "working": 1, "procedural": 0, "emotional": 0}
    assert {store: value(samples, "cerememory_encode_total", store=store) for store in counts} == counts
    assert value(samples, "cerememory_encode_duration_seconds_count", store="episodic") == 3
    assert value(samples, "cerememory_encode_duration_seconds_count", store="semantic") == 1


async def test_only_recall_query_counts_as_a_recall(daemon: Gated) -> None:
    client = daemon.client
    await client.post("/v1/recall/query", {"cue": {}})
    await client.post("/v1/recall/query", {"cue": {"text": "x"}, "reconsolidate": False})
    await client.post("/v1/recall/raw", {})
    samples = await scraped(client)
    assert value(samples, "cerememory_recall_total") == 2
    assert value(samples, "cerememory_recall_duration_seconds_count") == 2


async def test_the_buckets_are_those_of_the_specification(daemon: Gated) -> None:
    samples = await scraped(daemon.client)
    edges = {
        float(dict(labels)["le"])
        for name, labels in samples
        if name == "cerememory_recall_duration_seconds_bucket"
    }
    milliseconds = [1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000]
    assert sorted(edges)[:-1] == pytest.approx([ms / 1_000 for ms in milliseconds])


async def test_gauges_show_what_is_stored(daemon: Gated) -> None:
    client = daemon.client
    for store in ("episodic", "episodic", "working"):
        await client.post("/v1/encode", store_body("x", store=store))
    await client.post("/v1/encode/raw", raw_body("x"))
    samples = await scraped(client)
    assert value(samples, "cerememory_records", store="episodic") == 2
    assert value(samples, "cerememory_records", store="working") == 1
    assert value(samples, "cerememory_raw_journal_records") == 1
    assert value(samples, "cerememory_audit_sequence") == 4
    assert value(samples, "cerememory_commit_batch_size_count") == 4
    assert value(samples, "cerememory_commit_duration_seconds_count") == 4
    assert value(samples, "cerememory_actor_mailbox_depth", actor="writer") == 0
    assert (value(samples, "cerememory_lmdb_map_used_bytes") or 0) > 0
    assert value(samples, "cerememory_index_lag_seconds") is not None


async def test_decay_ticks_are_timed(daemon: Gated) -> None:
    await daemon.client.post("/v1/lifecycle/decay-tick", {})
    samples = await scraped(daemon.client)
    assert value(samples, "cerememory_decay_tick_duration_seconds_count") == 1


async def test_no_id_and_nothing_that_clients_invent_becomes_a_label(daemon: Gated) -> None:
    client = daemon.client
    for path in (
        f"/v1/introspect/record/{ID}",
        f"/v1/encode/{ID}",
        f"/v1/recall/associate/{ID}",
        f"/{ID}",
        "/a/b",
    ):
        for method in ("GET", "PATCH", "BREW", "X" * 30):
            await client.ask(method, path, b"", {"x-request-id": ID, "host": "localhost"})
    await client.ask("GET", f"/v1/introspect/record/{ID}", query=f"q={ID}")
    text = (await client.get("/metrics")).body.decode()
    assert ID not in text
    assert "BREW" not in text
    assert "XXX" not in text
    paths = {dict(labels).get("path", "unknown") for _name, labels in await scraped(client)}
    assert paths <= {
        "unknown",
        "/metrics",
        "/v1/encode/{record_id}",
        "/v1/introspect/record/{record_id}",
        "/v1/recall/associate/{record_id}",
    }


async def test_what_is_refused_on_its_head_is_counted_under_its_route(tmp_path: Path) -> None:
    settings = with_auth(settings_for(tmp_path, http=HTTP, rate_limit=UNLIMITED))
    async with gated(tmp_path, settings=settings) as daemon:
        await daemon.client.get(f"/v1/introspect/record/{ID}")
        await daemon.client.get("/v1/introspect/record/")
        samples = await scraped(daemon.from_peer("127.0.0.1", {"authorization": f"Bearer {KEYS[0]}"}))
    template = "/v1/introspect/record/{record_id}"
    for path in (template, "unknown"):
        assert value(samples, "cerememory_http_requests_total", method="GET", path=path, status="401") == 1


async def test_metrics_need_a_key_when_auth_is_on() -> None:
    client = bare(replace(with_auth(BARE), http=HTTP))
    assert (await client.get("/metrics")).status == 401


async def test_metrics_that_are_off_are_no_route() -> None:
    assert (await bare().get("/metrics")).status == 404
