"""API keys: each is asked for, compared in constant time; roles, scopes and ends hold; wrong ones are limited."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors.engine import Engine
from cerememory.config.settings import AuthSettings, HttpSettings, Secret
from cerememory.http.exchange import Exchange, Response, json_response
from cerememory.http.gate import Gate
from cerememory.http.keys import WRONG_MAX, Keys
from cerememory.http.routes import Call, Route, Routes
from cerememory.protocol.access import Needs, Role
from cerememory.protocol.operations import OPERATIONS
from cerememory.protocol.values import NANOS, Timestamp
from cerememory.storage import api_keys
from cerememory.storage.api_keys import ApiKey, KeyFile
from cerememory.telemetry.metrics import Metrics
from tests.support.asgi import AsgiClient, Reply
from tests.support.engine import store_body
from tests.support.gated import BARE, KEYS, Gated, bare_gate, gated, with_auth
from tests.support.logged import Logged

TOKEN = "local-token"
NOW = 1_800_000_000 * NANOS
LONG_AGO = 1_000_000_000 * NANOS
HASHED_ONLY = replace(BARE, auth=AuthSettings(enabled=True), http=HttpSettings(metrics_enabled=True))
GENERATED_FORM = "cm_0123456789ab_" + "x" * 43


@pytest.fixture
def gate() -> Gate:
    return bare_gate(with_auth(BARE), TOKEN)


async def ask(gate: Gate, authorization: str | None, peer: str = "127.0.0.1") -> Reply:
    return await AsgiClient(gate, peer).ask("GET", "/nowhere", b"", {"authorization": authorization})


def got_in(reply: Reply) -> bool:
    assert reply.status in (401, 404)
    return reply.status == 404


def made(data_dir: Path, role: Role = Role.READ, namespace: str | None = None, **given: int | None) -> str:
    """The text of a new key in `data_dir`."""
    data_dir.mkdir(exist_ok=True)
    name = f"{role} {namespace} {len(api_keys.read(data_dir))}".replace("None", "all")
    _key, text = api_keys.create(data_dir, name=name, role=role, namespace=namespace, now=NOW, **given)
    return text


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
async def test_every_key_opens_with_the_scheme_in_any_case(gate: Gate, key: str, scheme: str) -> None:
    assert got_in(await ask(gate, scheme + key, "203.0.113.9"))


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer key-on",
        "Bearer key-onee",
        "Bearer KEY-ONE",
        "Basic key-one",
        "key-one",
        "Bearer key-one, Bearer x",
        "Bearer ké",
        f"Bearer {sha256(b'key-one').hexdigest()}",
    ],
)
async def test_anything_else_does_not(gate: Gate, authorization: str | None) -> None:
    assert not got_in(await ask(gate, authorization))


async def test_a_refusal_says_which_scheme_is_asked_for_and_never_what_was_sent(gate: Gate) -> None:
    reply = await ask(gate, "Bearer almost-right")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert b"almost-right" not in reply.body


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.5.5.5", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"])
async def test_the_local_token_opens_from_this_machine(gate: Gate, peer: str) -> None:
    assert got_in(await ask(gate, f"Bearer {TOKEN}", peer))


@pytest.mark.parametrize(
    "peer", ["203.0.113.9", "10.0.0.1", "fe80::1", "", "unix", "::ffff:10.0.0.1", "::127.0.0.1"]
)
async def test_the_local_token_does_not_open_from_elsewhere(gate: Gate, peer: str) -> None:
    assert not got_in(await ask(gate, f"Bearer {TOKEN}", peer))


async def test_a_forwarded_address_makes_nobody_local(gate: Gate) -> None:
    client = AsgiClient(gate, "203.0.113.9", {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"})
    assert not got_in(await client.get("/nowhere", authorization=f"Bearer {TOKEN}"))


@pytest.mark.parametrize("place", ["first plain", "last plain", "first stored", "last stored", "token", "none"])
async def test_what_was_sent_is_compared_in_constant_time_with_every_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    stored = [made(tmp_path / "data") for _ in range(3)]
    gate = bare_gate(with_auth(BARE), TOKEN, KeyFile(tmp_path / "data"))
    sent = {
        "first plain": KEYS[0],
        "last plain": KEYS[-1],
        "first stored": stored[0],
        "last stored": stored[-1],
        "token": TOKEN,
        "none": "wrong",
    }[place]
    compared: list[bytes] = []
    really_compare: Callable[[bytes, bytes], bool] = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        assert other == sha256(sent.encode()).digest()
        return really_compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert got_in(await ask(gate, f"Bearer {sent}")) == (place != "none")
    assert sorted(compared) == sorted(sha256(key.encode()).digest() for key in (*KEYS, *stored, TOKEN))


async def test_without_auth_keys_are_not_asked_for_nor_looked_at(tmp_path: Path) -> None:
    settings = replace(BARE, auth=AuthSettings(enabled=False, api_keys=(Secret("sesame"),)))
    key = made(tmp_path / "data", namespace="work")
    gate = bare_gate(settings, None, KeyFile(tmp_path / "data"))
    for authorization in (None, "Bearer wrong", f"Bearer {key}"):
        assert got_in(await ask(gate, authorization))


# What each role may do, by the table of routes: one request to each of them, with each kind of key.


class Answering(Routes):
    """The routes of the daemon, each of which answers which namespace it would have looked at."""

    def __init__(self) -> None:
        super().__init__(cast(Engine, None), Metrics(()))
        self.table = [replace(route, handler=self._answer) for route in self.table]

    async def _answer(self, call: Call) -> Response:
        return json_response({"namespace": call.exchange.namespace})


ROUTES = [route for route in Answering().table if route.path not in ("/health", "/readiness")]
RANKS = {"read": 0, "write": 1, "admin": 2}


def label(route: Route) -> str:
    return f"{route.method} {route.path}"


async def answer_of(route: Route, key: str | None, data_dir: Path, **headers: str) -> Reply:
    gate = Gate(HASHED_ONLY, Answering(), Metrics(()), None, KeyFile(data_dir))
    path = route.path.replace("{record_id}", "0191aaaa-0000-7000-8000-000000000001")
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    authorization = None if key is None else f"Bearer {key}"
    return await AsgiClient(gate).ask(route.method, path, b"{}", {"authorization": authorization, **sent})


@pytest.mark.parametrize("route", ROUTES, ids=label)
async def test_a_route_answers_those_roles_that_it_needs_and_no_others(tmp_path: Path, route: Route) -> None:
    needed = RANKS[route.needs.role]
    for role in Role:
        reply = await answer_of(route, made(tmp_path / "data", role), tmp_path / "data")
        if RANKS[role] >= needed:
            assert (reply.status, reply.json) == (200, {"namespace": None})
        else:
            assert (reply.status, reply.code) == (403, "UNAUTHORIZED")
            assert f"needs a key with the role {route.needs.role}, this one has {role}" in reply.message
            assert label(route) in reply.message


@pytest.mark.parametrize("route", ROUTES, ids=label)
async def test_no_route_answers_without_a_key_that_is_good(tmp_path: Path, route: Route) -> None:
    data_dir = tmp_path / "data"
    expired = made(data_dir, Role.ADMIN, expires_at=LONG_AGO)
    revoked = made(data_dir, Role.ADMIN)
    api_keys.revoke(data_dir, [api_keys.read(data_dir)[1].id], NOW)
    said = {
        None: "a valid Bearer key is needed",
        GENERATED_FORM: "a valid Bearer key is needed",
        expired: "this key has expired",
        revoked: "this key was revoked",
    }
    for key, reason in said.items():
        reply = await answer_of(route, key, data_dir)
        assert (reply.status, reply.code, reply.message) == (401, "UNAUTHORIZED", f"Authorization: {reason}")


@pytest.mark.parametrize("route", ROUTES, ids=label)
async def test_a_key_for_one_namespace_opens_that_one_alone(tmp_path: Path, route: Route) -> None:
    key = made(tmp_path / "data", Role.ADMIN, "work")
    unnamed = await answer_of(route, key, tmp_path / "data")
    named = await answer_of(route, key, tmp_path / "data", x_cerememory_namespace="work")
    if route.needs.is_global:
        assert {unnamed.status, named.status} == {403}
        assert "needs a key for all namespaces, this one is for 'work' alone" in unnamed.message
    else:
        assert unnamed.json == named.json == {"namespace": "work"}
    for other in ("default", "works", "WORK"):
        reply = await answer_of(route, key, tmp_path / "data", x_cerememory_namespace=other)
        assert (reply.status, reply.code) == (403, "UNAUTHORIZED")


def test_the_roles_are_those_that_the_documents_promise() -> None:
    found = {
        needs: {label(route) for route in ROUTES if route.needs == needs} for needs in {r.needs for r in ROUTES}
    }
    operations = {operation.name: f"{operation.method} {operation.path}" for operation in OPERATIONS}
    reads = {path for name, path in operations.items() if name.startswith(("recall.", "introspect."))}
    admin = (
        *("lifecycle.decay_tick", "lifecycle.set_mode", "lifecycle.export", "lifecycle.import"),
        *("lifecycle.undo_import", "lifecycle.redact"),
    )
    assert reads <= found[Needs(Role.READ)]
    assert not (found[Needs(Role.READ)] - reads) & set(operations.values())
    assert found[Needs(Role.ADMIN)] == {
        *(operations[name] for name in admin),
        "POST /v1/archive",
        "PUT /v1/archive",
    }
    assert found[Needs(Role.ADMIN, is_global=True)] == {
        operations["lifecycle.compact"],
        operations["lifecycle.rotate_audit"],
    }
    assert "GET /metrics" in found[Needs(Role.READ, is_global=True)]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "//v1/encode"),
        ("POST", "http://localhost/v1/encode"),
        ("POST", "HTTP://127.0.0.1:8420/v1/encode/batch"),
        ("PATCH", "/v1/encode/batch"),
        ("PATCH", "/v1/encode/raw"),
        ("PUT", "//v1/archive"),
        ("PUT", "http://localhost/v1/archive"),
        ("HEAD", "//v1/lifecycle/compact"),
        ("DELETE", "http://x/v1/lifecycle/forget"),
    ],
)
async def test_no_way_to_write_a_path_gets_around_the_role(tmp_path: Path, method: str, path: str) -> None:
    """The gate looks for the route, and Quart does: they needn't find the same."""
    read, gate = (
        made(tmp_path / "data"),
        Gate(HASHED_ONLY, Answering(), Metrics(()), None, KeyFile(tmp_path / "data")),
    )
    reply = await AsgiClient(gate).ask(method, path, b"{}", {"authorization": f"Bearer {read}"})
    assert reply.status in (403, 404, 405)


async def test_a_head_request_is_one_to_get(tmp_path: Path) -> None:
    key = made(tmp_path / "data", Role.READ, "work")
    gate = Gate(HASHED_ONLY, Answering(), Metrics(()), None, KeyFile(tmp_path / "data"))
    reply = await AsgiClient(gate).ask("HEAD", "/metrics", b"", {"authorization": f"Bearer {key}"})
    assert reply.status == 403


async def test_what_a_role_forbids_is_answered_before_a_byte_of_the_body_is_read(tmp_path: Path) -> None:
    gate = Gate(HASHED_ONLY, Answering(), Metrics(()), None, KeyFile(tmp_path / "data"))
    headers = {"authorization": f"Bearer {made(tmp_path / 'data')}", "content-length": str(65 * 1_048_576)}
    reply = await AsgiClient(gate).ask("POST", "/v1/encode", [b" ", b" "], headers)
    assert reply.status == 403, "not 413, which is what its length would bring"


async def test_sizes_are_shown_to_keys_for_all_namespaces_alone(tmp_path: Path) -> None:
    """They are of the whole daemon: whoever has one namespace learns nothing of the others by them."""
    data_dir, sizes = tmp_path / "keys", {"bytes_by_table", "bytes_measured_at"}
    keys = [made(data_dir, Role.ADMIN, "work"), made(data_dir, Role.READ)]
    async with gated(tmp_path, stored_keys=KeyFile(data_dir), auth=AuthSettings(enabled=True)) as daemon:
        await daemon.running.engine.measure()
        shown = [
            await daemon.client.get("/v1/introspect/stats", authorization=f"Bearer {key}", **named)
            for key in keys
            for named in ({}, {"x_cerememory_namespace": "work"})
        ]
    assert [sizes & set(reply.json) for reply in shown] == [set(), set(), sizes, sizes]
    assert shown[2].json["bytes_by_table"].keys() >= {"content", "history", "raw", "index", "audit"}


async def test_memories_of_a_scoped_key_are_those_of_its_namespace(tmp_path: Path) -> None:
    """With the header or without it; a key for all finds them where they are."""
    data_dir = tmp_path / "keys"
    work, everywhere = made(data_dir, Role.WRITE, "work"), made(data_dir, Role.WRITE)
    settings = AuthSettings(enabled=True)
    async with gated(tmp_path, stored_keys=KeyFile(data_dir), auth=settings) as daemon:
        mine = {"authorization": f"Bearer {work}"}
        theirs = {"authorization": f"Bearer {everywhere}"}
        assert (await daemon.client.post("/v1/encode", store_body("kettle"), **mine)).status == 200
        assert (await total(daemon, **mine)) == 1
        assert (await total(daemon, **theirs)) == 0
        assert (await total(daemon, **theirs, x_cerememory_namespace="work")) == 1


async def total(daemon: Gated, **headers: str) -> int:
    return int((await daemon.client.get("/v1/introspect/stats", **headers)).json["total_records"])


async def test_an_idempotency_key_is_each_caller_s_own(tmp_path: Path) -> None:
    data_dir = tmp_path / "keys"
    one, other = made(data_dir, Role.WRITE), made(data_dir, Role.WRITE)
    async with gated(tmp_path, stored_keys=KeyFile(data_dir), auth=AuthSettings(enabled=True)) as daemon:
        for key, text in ((one, "kettle"), (other, "teapot"), (one, "kettle")):
            headers = {"authorization": f"Bearer {key}", "idempotency_key": "same"}
            assert (await daemon.client.post("/v1/encode", store_body(text), **headers)).status == 200
        assert await total(daemon, authorization=f"Bearer {one}") == 2


# Keys that change while the daemon runs.


async def test_a_key_opens_as_soon_as_it_is_made_and_no_longer_once_it_is_revoked(tmp_path: Path) -> None:
    gate = bare_gate(HASHED_ONLY, None, KeyFile(tmp_path / "data"))
    assert not got_in(await ask(gate, f"Bearer {GENERATED_FORM}"))
    key = made(tmp_path / "data")
    assert got_in(await ask(gate, f"Bearer {key}"))
    api_keys.revoke(tmp_path / "data", [api_keys.read(tmp_path / "data")[0].id], NOW)
    assert not got_in(await ask(gate, f"Bearer {key}"))


async def test_a_key_ends_at_its_time() -> None:
    class Fixed(KeyFile):
        def current(self) -> tuple[ApiKey, ...]:
            return rows

    now = NOW
    row = ApiKey(
        id="0" * 12,
        name="x",
        role=Role.READ,
        namespace=None,
        created_at=Timestamp(NOW),
        expires_at=Timestamp(NOW + 10),
        revoked_at=None,
        sha256=sha256(b"key").hexdigest(),
    )
    rows = (row,)
    keys = Keys(AuthSettings(enabled=True), Metrics(()), None, Fixed(Path()), lambda: now)
    exchange = exchange_with("Bearer key")
    now = NOW + 9
    assert keys.grant(exchange, "a", 0.0).role is Role.READ
    now = NOW + 10
    with pytest.raises(Exception, match="has expired"):
        keys.grant(exchange, "a", 0.0)


def exchange_with(authorization: str) -> Exchange:
    head = [(b"authorization", authorization.encode())]
    scope = {
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": head,
        "client": None,
        "http_version": "1.1",
    }
    return Exchange.of(scope)


async def test_a_file_that_becomes_unreadable_leaves_the_keys_as_they_were(tmp_path: Path, logged: Logged) -> None:
    gate = bare_gate(HASHED_ONLY, None, KeyFile(tmp_path / "data"))
    key = made(tmp_path / "data")
    assert got_in(await ask(gate, f"Bearer {key}"))
    file = tmp_path / "data" / "keys" / "api_keys.json"
    whole = file.read_bytes()
    file.write_bytes(b'{"version":1,"keys":[')
    for _ in range(3):
        assert got_in(await ask(gate, f"Bearer {key}"))
    assert logged.events("error") == ["keys not reloaded, those from before count"], "said once"
    file.write_bytes(whole)
    newer = made(tmp_path / "data")
    assert got_in(await ask(gate, f"Bearer {newer}"))


async def test_keys_of_the_settings_can_be_changed(gate: Gate) -> None:
    gate.reload(replace(BARE, auth=AuthSettings(enabled=True, api_keys=(Secret("new"),))))
    assert got_in(await ask(gate, "Bearer new"))
    assert not got_in(await ask(gate, f"Bearer {KEYS[0]}"))
    assert got_in(await ask(gate, f"Bearer {TOKEN}"))


# Wrong keys.


async def guess(gate: Gate, times: int, peer: str = "203.0.113.9", key: str = "guess") -> list[int]:
    return [(await ask(gate, f"Bearer {key}{i}", peer)).status for i in range(times)]


async def test_an_address_with_too_many_wrong_keys_has_to_wait(gate: Gate, autojump_clock: MockClock) -> None:
    assert await guess(gate, WRONG_MAX + 2) == [401] * WRONG_MAX + [429] * 2
    refused = await ask(gate, f"Bearer {KEYS[0]}", "203.0.113.9")
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "RATE_LIMITED", "6")
    assert got_in(await ask(gate, f"Bearer {KEYS[0]}", "203.0.113.10")), "others don't"
    await trio.sleep(6.0)
    assert got_in(await ask(gate, f"Bearer {KEYS[0]}", "203.0.113.9")), "a right key takes nothing"
    assert await guess(gate, 2) == [401, 429]


async def test_the_addresses_of_an_ipv6_network_count_together(gate: Gate) -> None:
    statuses = [(await ask(gate, "Bearer guess", f"2001:db8:0:1::{i:x}")).status for i in range(WRONG_MAX + 1)]
    assert statuses == [401] * WRONG_MAX + [429]
    assert got_in(await ask(gate, f"Bearer {KEYS[0]}", "2001:db8:0:2::1"))


async def test_nobody_is_locked_out_of_keys_that_cannot_be_guessed(tmp_path: Path) -> None:
    """Whoever shares the address with who sends wrong keys, as all on this machine do."""
    key = made(tmp_path / "data")
    gate = bare_gate(with_auth(BARE), TOKEN, KeyFile(tmp_path / "data"))
    await guess(gate, WRONG_MAX + 1, "127.0.0.1")
    assert got_in(await ask(gate, f"Bearer {key}"))
    assert got_in(await ask(gate, f"Bearer {TOKEN}"))
    assert (await ask(gate, f"Bearer {KEYS[0]}")).status == 429


async def test_a_request_without_a_key_is_no_wrong_one(gate: Gate) -> None:
    for _ in range(2 * WRONG_MAX):
        assert not got_in(await ask(gate, None))
    assert got_in(await ask(gate, f"Bearer {KEYS[0]}"))


async def test_wrong_keys_are_logged_once_a_burst_and_never_shown(
    gate: Gate, logged: Logged, autojump_clock: MockClock
) -> None:
    await guess(gate, 3, key="my-password")
    await ask(gate, f"Bearer {GENERATED_FORM}", "203.0.113.77")
    lines = [line for line in logged.lines if line["event"] == "wrong key"]
    assert [(line["address"], line["key_id"], line["reason"]) for line in lines] == [
        ("203.0.113.9", None, "unknown"),
        ("203.0.113.77", "0123456789ab", "unknown"),
    ]
    assert {line["level"] for line in lines} == {"warning"}
    await trio.sleep(120.0)
    await guess(gate, 1)
    assert len([line for line in logged.lines if line["event"] == "wrong key"]) == 3
    everything = str(logged.lines)
    assert "my-password" not in everything
    assert "x" * 43 not in everything


async def test_refused_keys_are_counted_by_their_reason(tmp_path: Path) -> None:
    data_dir, metrics = tmp_path / "data", Metrics(())
    expired = made(data_dir, expires_at=LONG_AGO)
    gate = bare_gate(with_auth(BARE), None, KeyFile(data_dir), metrics)
    await ask(gate, None)
    await ask(gate, f"Bearer {expired}")
    await guess(gate, WRONG_MAX + 3, "127.0.0.1")
    series = "cerememory_auth_failures_total"
    reasons = ("missing", "unknown", "expired", "revoked", "barred")
    counted = {reason: metrics.registry.get_sample_value(series, {"reason": reason}) for reason in reasons}
    assert counted == {"missing": 1, "unknown": WRONG_MAX - 1, "expired": 1, "revoked": 0, "barred": 4}
