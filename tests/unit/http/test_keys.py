"""API keys: each is asked for, compared in constant time; the local token counts from this machine alone."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace

import pytest

from cerememory.config.settings import AuthSettings, Secret
from tests.support.asgi import AsgiClient, Reply
from tests.support.gated import BARE, KEYS, bare_gate, with_auth

TOKEN = "local-token"
GATE = bare_gate(with_auth(BARE), TOKEN)


async def ask(authorization: str | None, peer: str = "127.0.0.1") -> Reply:
    return await AsgiClient(GATE, peer).ask("GET", "/nowhere", b"", {"authorization": authorization})


def got_in(reply: Reply) -> bool:
    assert reply.status in (401, 404)
    return reply.status == 404


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
async def test_every_key_opens_with_the_scheme_in_any_case(key: str, scheme: str) -> None:
    assert got_in(await ask(scheme + key, "203.0.113.9"))


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
    ],
)
async def test_anything_else_does_not(authorization: str | None) -> None:
    assert not got_in(await ask(authorization))


async def test_a_refusal_says_which_scheme_is_asked_for_and_never_what_was_sent() -> None:
    reply = await ask("Bearer almost-right")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert b"almost-right" not in reply.body


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.5.5.5", "::1"])
async def test_the_local_token_opens_from_this_machine(peer: str) -> None:
    assert got_in(await ask(f"Bearer {TOKEN}", peer))


@pytest.mark.parametrize("peer", ["203.0.113.9", "10.0.0.1", "fe80::1", "", "unix"])
async def test_the_local_token_does_not_open_from_elsewhere(peer: str) -> None:
    assert not got_in(await ask(f"Bearer {TOKEN}", peer))


async def test_a_forwarded_address_makes_nobody_local() -> None:
    client = AsgiClient(GATE, "203.0.113.9", {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"})
    assert not got_in(await client.get("/nowhere", authorization=f"Bearer {TOKEN}"))


@pytest.mark.parametrize("sent", [*KEYS, "wrong", "k", TOKEN])
async def test_what_was_sent_is_compared_in_constant_time_with_every_key(
    monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    compared: list[bytes] = []
    really_compare: Callable[[bytes, bytes], bool] = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one if other == sent.encode() else other)
        return really_compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    await ask(f"Bearer {sent}")
    assert sorted(compared) == sorted(key.encode() for key in (*KEYS, TOKEN))


async def test_without_auth_keys_are_not_asked_for_nor_looked_at() -> None:
    settings = replace(BARE, auth=AuthSettings(enabled=False, api_keys=(Secret("sesame"),)))
    client = AsgiClient(bare_gate(settings))
    assert got_in(await client.get("/nowhere"))
    assert got_in(await client.get("/nowhere", authorization="Bearer wrong"))
