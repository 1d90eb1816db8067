"""Browsers: CORS headers for allowed origins alone, no writes from others, no host name that isn't ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cerememory.config.settings import Settings
from tests.support.asgi import AsgiClient, Reply
from tests.support.gated import BARE, bare, with_auth

LISTED, OTHER = "https://app.example", "https://evil.example"
UNSAFE = ["POST", "PUT", "PATCH", "DELETE"]


def allowing(*origins: str, **given: Any) -> Settings:
    return replace(BARE, http=replace(BARE.http, cors_origins=origins, **given))


NONE, ONE, ANY = (bare(allowing(*origins)) for origins in ((), (LISTED,), ("*",)))
ONE_WITH_AUTH = bare(with_auth(allowing(LISTED)))


def cors(reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name.startswith(("access-control", "vary"))}


async def ask(client: AsgiClient, method: str, origin: str, path: str = "/v1/encode", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.ask(method, path, b"", {"origin": origin, **named})


def is_refused(reply: Reply) -> bool:
    return reply.status == 403 and reply.code == "UNAUTHORIZED"


@pytest.mark.parametrize("path", ["/health", "/v1/encode", "/nowhere"])
async def test_without_allowed_origins_there_are_no_headers_at_all(path: str) -> None:
    assert cors(await ask(NONE, "GET", LISTED, path)) == {}
    assert cors(await ask(NONE, "OPTIONS", LISTED, path, access_control_request_method="POST")) == {}


@pytest.mark.parametrize("path", ["/health", "/v1/encode", "/nowhere"])
async def test_a_listed_origin_may_read_every_answer(path: str) -> None:
    assert cors(await ask(ONE, "GET", LISTED, path)) == {
        "access-control-allow-origin": LISTED,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "X-Request-Id, Retry-After, X-Cerememory-Sequence",
        "vary": "Origin",
    }


async def test_an_origin_that_is_not_listed_may_not() -> None:
    """Nor may a cache give it what was answered to a listed one."""
    assert cors(await ask(ONE, "GET", OTHER, "/health")) == {"vary": "Origin"}
    assert cors(await ONE.get("/health")) == {"vary": "Origin"}


@pytest.mark.parametrize("origin", [LISTED, OTHER, "null"])
async def test_a_star_mirrors_every_origin_with_credentials(origin: str) -> None:
    headers = cors(await ask(ANY, "GET", origin, "/health"))
    assert headers["access-control-allow-origin"] == origin
    assert headers["access-control-allow-credentials"] == "true"


@pytest.mark.parametrize("client", [ONE, ONE_WITH_AUTH], ids=["open", "auth"])
@pytest.mark.parametrize("path", ["/v1/encode", "/nowhere"])
async def test_a_preflight_of_a_listed_origin_is_answered_without_a_key(client: AsgiClient, path: str) -> None:
    reply = await ask(
        client,
        "OPTIONS",
        LISTED,
        path,
        access_control_request_method="PATCH",
        access_control_request_headers="authorization, x-any",
    )
    assert (reply.status, reply.body) == (204, b"")
    headers = cors(reply)
    assert headers["access-control-allow-origin"] == LISTED
    assert {"GET", *UNSAFE} <= {m.strip() for m in headers["access-control-allow-methods"].split(",")}
    assert headers["access-control-allow-headers"] == "authorization, x-any"


async def test_a_preflight_of_another_origin_allows_it_nothing() -> None:
    reply = await ask(ONE, "OPTIONS", OTHER, access_control_request_method="POST")
    assert cors(reply) == {"vary": "Origin"}


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize("client", [NONE, ONE], ids=["none", "one"])
async def test_a_write_of_an_origin_that_is_not_allowed_is_refused(client: AsgiClient, method: str) -> None:
    assert is_refused(await ask(client, method, OTHER))
    assert is_refused(await ask(client, method, "null"))


@pytest.mark.parametrize("method", UNSAFE)
async def test_a_write_of_an_allowed_origin_goes_on(method: str) -> None:
    assert not is_refused(await ask(ONE, method, LISTED))
    assert not is_refused(await ask(ANY, method, OTHER))


@pytest.mark.parametrize("origin", ["http://localhost", "https://localhost", "HTTP://LOCALHOST"])
async def test_a_page_of_the_daemon_itself_may_write(origin: str) -> None:
    assert not is_refused(await ask(NONE, "POST", origin))


@pytest.mark.parametrize("origin", ["http://localhost:8421", "http://localhost.evil.example", "localhost"])
async def test_a_page_of_another_port_or_name_may_not(origin: str) -> None:
    assert is_refused(await ask(NONE, "POST", origin))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_origin_that_is_not_allowed_may_ask_but_not_read(method: str) -> None:
    reply = await ask(ONE, method, OTHER, "/health")
    assert reply.status == 200
    assert cors(reply) == {"vary": "Origin"}


HOSTS = bare(allowing(bind_address="10.1.2.3", allowed_hosts=("Memory.Example", "other.example:8443")))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8420",
        "127.0.0.1",
        "127.0.0.1:9",
        "[::1]:8420",
        "10.1.2.3:8420",
        "memory.example",
        "MEMORY.example:80",
        "other.example:8443",
    ],
)
async def test_a_host_name_of_ours_is_served(host: str) -> None:
    assert not is_refused(await HOSTS.get("/v1/encode", host=host))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:8420",
        "",
        "other.example",
        "[::2]",
        "[::1",
        "127.0.0.1.nip.io",
        "memory.example.",
        "localhost@evil.example",
    ],
)
async def test_another_host_name_is_refused_on_every_route_but_health(host: str) -> None:
    for path in ("/v1/encode", "/metrics", "/nowhere"):
        assert is_refused(await HOSTS.get(path, host=host))
    assert (await HOSTS.get("/health", host=host)).status == 200


async def test_an_ipv6_bind_address_is_served_in_brackets() -> None:
    client = bare(allowing(bind_address="fd00::1"))
    assert not is_refused(await client.get("/v1/encode", host="[fd00::1]:8420"))
    assert is_refused(await client.get("/v1/encode", host="[fd00::2]:8420"))
