"""The application that a daemon serves, in this process: engine and gate, asked through `AsgiClient`.

Model: that of `running_engine` (work off the loop inline, a text index in memory), with the rate limit off
unless a test sets it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from cerememory.actors.engine import Engine
from cerememory.actors.seams import Offload, inline
from cerememory.config.settings import AuthSettings, RateLimitSettings, Secret, Settings
from cerememory.http.gate import Gate
from cerememory.http.routes import Routes
from cerememory.mcp.endpoint import Endpoint
from cerememory.storage.api_keys import KeyFile
from cerememory.storage.contract import Storage
from cerememory.telemetry.metrics import Metrics
from tests.support.asgi import NO_HEADERS, AsgiClient
from tests.support.engine import Running, running_engine, settings_for

KEYS = ("key-one", "key-two", "key-three")
UNLIMITED = RateLimitSettings(requests_per_second=0)
BARE = Settings(rate_limit=UNLIMITED)


@dataclass
class Gated:
    """`client` sends what a test gives; `gate` takes what another client sends."""

    gate: Gate
    client: AsgiClient
    running: Running

    def from_peer(self, peer: str, headers: Mapping[str, str] = NO_HEADERS) -> AsgiClient:
        return AsgiClient(self.gate, peer, headers)


class _Unasked:
    """Stands for an engine that a request must not get to."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the engine was asked to {name}")


def bare(
    settings: Settings = BARE, peer: str = "127.0.0.1", local_token: str | None = None, **headers: str
) -> AsgiClient:
    """A client of a gate without an engine: for what is answered before anything is done."""
    return AsgiClient(bare_gate(settings, local_token), peer, headers)


def bare_gate(
    settings: Settings = BARE,
    local_token: str | None = None,
    stored_keys: KeyFile | None = None,
    metrics: Metrics | None = None,
) -> Gate:
    counted = metrics or Metrics(())
    shown = counted if settings.http.metrics_enabled else None
    unasked = cast(Engine, _Unasked())
    return Gate(settings, Routes(unasked, shown, Endpoint(unasked).answer), counted, local_token, stored_keys)


def with_auth(settings: Settings) -> Settings:
    return replace(settings, auth=AuthSettings(enabled=True, api_keys=tuple(Secret(key) for key in KEYS)))


@asynccontextmanager
async def gated(
    path: Path,
    *,
    settings: Settings | None = None,
    storage: Storage | None = None,
    local_token: str | None = None,
    stored_keys: KeyFile | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
    offload: Offload = inline,
    **sections: Any,
) -> AsyncIterator[Gated]:
    """`sections` are those of the settings, when no `settings` are given."""
    chosen = settings or settings_for(path, **{"rate_limit": UNLIMITED, **sections})
    async with running_engine(path, settings=chosen, storage=storage, offload=offload) as running:
        shown = running.metrics if chosen.http.metrics_enabled else None
        routes = Routes(running.engine, shown, Endpoint(running.engine).answer)
        gate = Gate(chosen, routes, running.metrics, local_token, stored_keys)
        yield Gated(gate, AsgiClient(gate, headers=headers), running)
