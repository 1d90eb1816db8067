"""Namespaces over HTTP: a header says whose memories a request is about, and nothing is seen of the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cerememory.http.rules import OPEN_ROUTES
from cerememory.storage.namespaces import namespace_of
from tests.support.archives import CURATED, ENCRYPTED
from tests.support.asgi import AsgiClient, Reply
from tests.support.engine import raw_body, store_body
from tests.support.gated import Gated, bare, gated
from tests.support.memory_storage import MemoryStorage

UNKNOWN_ID = "0191aaaa-0000-7000-8000-00000000ffff"
STORES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/encode", store_body("kettle", embedding=[1.0], emotion={"joy": 1.0})),
    ("/v1/encode", store_body("kettle", store="working", embedding=[1.0], emotion={"joy": 1.0})),
    ("/v1/encode/batch", {"records": [store_body("kettle", embedding=[1.0]), store_body("kettle")]}),
    ("/v1/encode/raw", raw_body("kettle")),
    ("/v1/encode/raw/batch", {"records": [raw_body("kettle"), raw_body("kettle")]}),
]
RECALLS: list[dict[str, Any]] = [
    {"cue": {}},
    {"cue": {"text": "kettle"}},
    {"cue": {"embedding": [1.0]}},
    {"cue": {"emotion": {"joy": 1.0}}},
    {"cue": {"temporal": {"start": "1970-01-01T00:00:00Z", "end": "2200-01-01T00:00:00Z"}}},
]
READS: list[tuple[str, str, dict[str, Any] | bytes]] = [
    *(("POST", "/v1/recall/query", body) for body in RECALLS),
    ("POST", "/v1/recall/raw", {}),
    ("POST", "/v1/recall/raw", {"query": "kettle"}),
    ("POST", "/v1/recall/raw", {"session_id": "s-1"}),
    ("GET", "/v1/introspect/stats", b""),
]


def named(name: str, **headers: str) -> dict[str, str]:
    return {"x-cerememory-namespace": name, **headers}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Gated]:
    async with gated(tmp_path) as opened:
        yield opened


@pytest.fixture
async def client(daemon: Gated) -> AsgiClient:
    return daemon.client


async def stored(client: AsgiClient, headers: dict[str, str], text: str = "kettle") -> str:
    reply = await client.ask("POST", "/v1/encode", store_body(text), headers)
    assert reply.status == 200, reply.body
    return str(reply.json["record_id"])


async def everything_found(client: AsgiClient, headers: dict[str, str]) -> list[Any]:
    """What every way to look answers."""
    replies = [await client.ask(method, path, body, headers) for method, path, body in READS]
    assert [reply.status for reply in replies] == [200] * len(READS)
    return [reply.json for reply in replies]


def is_empty(answer: dict[str, Any]) -> bool:
    return not (
        answer.get("memories")
        or answer.get("records")
        or answer.get("total_candidates")
        or answer.get("total_records")
        or answer.get("raw_journal_records")
        or answer.get("total_recall_count")
    )


@pytest.mark.parametrize(("path", "body"), STORES)
async def test_what_is_stored_under_a_name_is_found_under_it_alone(
    client: AsgiClient, path: str, body: dict[str, Any]
) -> None:
    assert (await client.ask("POST", path, body, named("work"))).status == 200
    assert not all(map(is_empty, await everything_found(client, named("work"))))
    for headers in ({}, named("default"), named("home"), named("Work"), named("wor")):
        assert all(map(is_empty, await everything_found(client, headers))), headers


@pytest.mark.parametrize(("path", "body"), STORES)
async def test_what_is_stored_under_no_name_is_found_in_the_default_one_alone(
    client: AsgiClient, path: str, body: dict[str, Any]
) -> None:
    assert (await client.ask("POST", path, body)).status == 200
    found = await everything_found(client, named("default"))
    assert not all(map(is_empty, found))
    assert found[-1] == (await client.get("/v1/introspect/stats")).json
    assert all(map(is_empty, await everything_found(client, named("work"))))


async def test_a_record_is_read_and_changed_under_its_own_name_alone(client: AsgiClient) -> None:
    record_id = await stored(client, named("work"))
    await stored(client, named("home"))
    for headers in ({}, named("home"), named("nowhere")):
        assert (await read(client, record_id, headers)).status == 404
        reply = await client.ask("PATCH", f"/v1/encode/{record_id}", {"metadata": {"n": 1}}, headers)
        assert (reply.status, reply.code) == (404, "RECORD_NOT_FOUND")
    assert (await read(client, record_id, named("work"))).json["version"] == 1
    reply = await client.ask("PATCH", f"/v1/encode/{record_id}", {"metadata": {"n": 1}}, named("work"))
    assert reply.status == 204
    assert (await read(client, record_id, named("work"))).json["version"] == 2


async def read(client: AsgiClient, record_id: str, headers: dict[str, str]) -> Reply:
    return await client.ask("GET", f"/v1/introspect/record/{record_id}", b"", headers)


async def test_a_name_that_is_only_read_or_updated_leaves_nothing(daemon: Gated) -> None:
    await everything_found(daemon.client, named("work"))
    await read(daemon.client, UNKNOWN_ID, named("work"))
    await daemon.client.ask("PATCH", f"/v1/encode/{UNKNOWN_ID}", {"metadata": {}}, named("work"))
    await daemon.client.ask("POST", "/v1/encode", b"{", named("work"))
    with daemon.running.storage.read() as reader:
        assert namespace_of(reader, "work") is None
    await stored(daemon.client, named("work"))
    with daemon.running.storage.read() as reader:
        assert namespace_of(reader, "work") == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/v1/archive", b"no archive"),
        ("PUT", "/v1/archive", CURATED[:-100]),
        ("POST", "/v1/lifecycle/import", {"archive_id": "a", "archive_data": list(CURATED[:-100])}),
        ("POST", "/v1/lifecycle/import", {"archive_id": "a", "archive_data": list(ENCRYPTED)}),
    ],
)
async def test_an_archive_that_is_refused_leaves_no_name(
    daemon: Gated, method: str, path: str, body: dict[str, Any] | bytes
) -> None:
    before = rows(daemon)
    refused = await daemon.client.ask(method, path, body, named("work"))
    assert (refused.status, refused.code) == (409, "IMPORT_CONFLICT")
    assert rows(daemon) == before


def rows(daemon: Gated) -> dict[bytes, bytes]:
    assert isinstance(daemon.running.storage, MemoryStorage)
    return daemon.running.storage.rows()


async def test_a_name_that_was_asked_for_before_it_was_there_is_known_from_then_on(client: AsgiClient) -> None:
    """The engine remembers numbers, and must not remember that there was none."""
    assert all(map(is_empty, await everything_found(client, named("work"))))
    record_id = await stored(client, named("work"))
    assert (await read(client, record_id, named("work"))).status == 200


async def test_a_key_for_retries_is_of_one_namespace(client: AsgiClient) -> None:
    retried = {"idempotency-key": "k-1"}
    ids = {await stored(client, {**headers, **retried}) for headers in ({}, named("work"), named("home")) * 2}
    assert len(ids) == 3
    other = await client.ask("POST", "/v1/encode", store_body("other"), named("work", **retried))
    assert (other.status, other.code) == (409, "IMPORT_CONFLICT")


@pytest.mark.parametrize("name", ["", " ", "default ", "a b", "-a", "a/b", "é", "a" * 65])
async def test_what_cannot_be_a_name_is_refused_on_the_head_alone(name: str) -> None:
    for method, path, body in (("POST", "/v1/encode", store_body("x")), *READS):
        reply = await bare().ask(method, path, body, named(name))
        assert (reply.status, reply.code) == (400, "VALIDATION_ERROR")
        assert reply.message.startswith("X-Cerememory-Namespace: expected 1 to 64 ")


@pytest.mark.parametrize("path", sorted(OPEN_ROUTES))
async def test_routes_that_are_about_no_memory_do_not_look_at_it(client: AsgiClient, path: str) -> None:
    assert (await client.ask("GET", path, b"", named("no name"))).status == 200
