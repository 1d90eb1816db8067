"""Who may ask: how often an address may, whose key a request comes with, what that allows, and where.

One `Admission` stands behind all services of a daemon: an address has one allowance, whatever it speaks, and the
bytes in flight are those of all bodies.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import trio

from cerememory.config.settings import Settings
from cerememory.http.bodies import Inflight
from cerememory.http.exchange import Exchange
from cerememory.http.keys import Keys
from cerememory.http.routes import asked_namespace
from cerememory.http.rules import Addresses, RateLimit
from cerememory.protocol.access import Grant
from cerememory.storage.api_keys import KeyFile
from cerememory.telemetry.metrics import Metrics


class Admission:
    """Raises `DataDirUnusable` when the keys of the data dir can't be read."""

    def __init__(
        self, settings: Settings, metrics: Metrics, local_token: str | None, stored_keys: KeyFile | None
    ) -> None:
        self.inflight = Inflight(settings.http.max_inflight_bytes)
        self._addresses = Addresses(settings.http.trusted_proxy_cidrs)
        self._rate_limit = RateLimit(settings.rate_limit.requests_per_second, settings.rate_limit.burst)
        self._keys = Keys(settings.auth, metrics, local_token, stored_keys)

    def change(self, settings: Settings) -> None:
        """Take over what may change while the daemon runs: the rate limit, and the keys of `auth.api_keys`."""
        self._rate_limit.change(settings.rate_limit.requests_per_second, settings.rate_limit.burst)
        self._keys.change(settings.auth)

    def charge(self, exchange: Exchange) -> None:
        """Count one more request of this client, or raise `RateLimited`."""
        self._rate_limit.check(self._addresses.client(exchange), trio.current_time())

    def reserved(self, body_bytes: int) -> AbstractContextManager[object]:
        """Room for a body of `body_bytes` among the bytes in flight; `TooManyBytes`."""
        return self.inflight.reserved(body_bytes)

    def admit(self, exchange: Exchange, check: Callable[[Grant], None] | None) -> None:
        """Note whose request it is and which namespace it is about, or raise why it isn't answered.

        `check` is what is asked for, which its grant has to allow; None when there is no such thing.
        """
        address, now = self._addresses.client(exchange), trio.current_time()
        self._rate_limit.check(address, now)
        exchange.grant = self._keys.grant(exchange, address, now)
        asked = asked_namespace(exchange)
        if check is not None:
            check(exchange.grant)
        exchange.namespace = exchange.grant.namespace_for(asked)
