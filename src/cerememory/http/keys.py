"""Whose key a request comes with, and what that allows; and how often an address may be wrong about it.

There are three kinds: those of `auth.api_keys` (admin), those of the data dir (`storage.api_keys`), each with its
role and scope, and the token for this machine's own commands, which counts from loopback alone. What is sent is
hashed, and compared in constant time with every one.

An address that was wrong too often has to wait. A key that was made here can't be guessed, so it is taken even
then: whoever sends wrong ones can't lock out those who share the address with him.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import structlog

from cerememory.config.checks import is_loopback
from cerememory.config.settings import AuthSettings
from cerememory.errors import DataDirUnusable, RateLimited, Unauthorized
from cerememory.http.exchange import Exchange
from cerememory.http.rules import RateLimit
from cerememory.protocol.access import EVERYTHING, Grant, Role
from cerememory.storage.api_keys import ApiKey, KeyFile, key_id
from cerememory.telemetry.metrics import Metrics

WRONG_MAX = 10  # at once from one address
WRONG_PER_S = 1 / 6

MISSING, UNKNOWN, BARRED = "missing", "unknown", "barred"
SAID = {
    MISSING: "a valid Bearer key is needed",
    UNKNOWN: "a valid Bearer key is needed",
    "expired": "this key has expired",
    "revoked": "this key was revoked",
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """A key that may come. `stored` is its row, when it has one."""

    digest: bytes
    grant: Grant
    is_local: bool = False
    stored: ApiKey | None = None

    @property
    def is_guessable(self) -> bool:
        """Somebody may have thought it up."""
        return self.stored is None and not self.is_local

    def refusal(self, now: int) -> str | None:
        return None if self.stored is None else self.stored.refusal(now)


class Keys:
    """`now` gives nanoseconds since the epoch, by which keys expire. Raises `DataDirUnusable`."""

    def __init__(
        self,
        auth: AuthSettings,
        metrics: Metrics,
        local_token: str | None = None,
        stored: KeyFile | None = None,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._is_enabled = auth.enabled
        self._metrics = metrics
        self._now = now
        self._wrong = RateLimit(WRONG_PER_S, WRONG_MAX)
        self._local = [] if local_token is None else [_local(local_token)]
        self._plain = _plain(auth)
        self._stored = stored
        self._rows: tuple[ApiKey, ...] = () if stored is None or not auth.enabled else stored.current()
        self._known = self._all()

    def change(self, auth: AuthSettings) -> None:
        """Take the keys of `auth` for those from before; whether any is asked for stays as it is."""
        self._plain = _plain(auth)
        self._known = self._all()

    def _all(self) -> list[_Known]:
        return [*self._plain, *map(_of_row, self._rows), *self._local]

    def grant(self, exchange: Exchange, address: str, at: float) -> Grant:
        """What the sender of a request from `address` may do; `at` is on any steady clock, in seconds.

        Raises `Unauthorized`, and `RateLimited` after too many wrong keys.
        """
        if not self._is_enabled:
            return EVERYTHING
        sent = _bearer(exchange)
        if not sent:
            raise self._refused(MISSING)
        known = self._find(sha256(sent).digest(), exchange.peer)
        if known is None or known.is_guessable:
            self._check_not_barred(address, at)
        reason = UNKNOWN if known is None else known.refusal(self._now())
        if known is not None and reason is None:
            return known.grant
        self._note_wrong(sent, reason or UNKNOWN, address, at)
        raise self._refused(reason or UNKNOWN)

    def _find(self, digest: bytes, peer: str) -> _Known | None:
        """Looks at every key, wherever the right one stands."""
        self._look_for_changes()
        found: _Known | None = None
        for known in self._known:
            if hmac.compare_digest(known.digest, digest):
                found = known
        return None if found is not None and found.is_local and not is_loopback(peer) else found

    def _look_for_changes(self) -> None:
        """A file that has become unreadable takes nobody's key away, nor gives one."""
        if self._stored is None:
            return
        try:
            rows = self._stored.current()
        except DataDirUnusable as error:
            log.error("keys not reloaded, those from before count", reason=str(error))
            return
        if rows is not self._rows:
            self._rows = rows
            self._known = self._all()

    def _check_not_barred(self, address: str, at: float) -> None:
        left = self._wrong.left(address, at)
        if left < 1.0:
            self._metrics.auth_failures.labels(BARRED).inc()
            raise RateLimited(
                "too many wrong keys from this address", retry_after_s=math.ceil((1.0 - left) / WRONG_PER_S)
            )

    def _note_wrong(self, sent: bytes, reason: str, address: str, at: float) -> None:
        """One line at the first of a burst, without the key."""
        if self._wrong.left(address, at) >= WRONG_MAX:
            log.warning("wrong key", reason=reason, address=address, key_id=key_id(sent))
        if self._wrong.left(address, at) >= 1.0:
            self._wrong.check(address, at)

    def _refused(self, reason: str) -> Unauthorized:
        self._metrics.auth_failures.labels(reason).inc()
        return Unauthorized(f"Authorization: {SAID[reason]}")


def _bearer(exchange: Exchange) -> bytes:
    """The key that was sent, empty when none was."""
    scheme, _, sent = exchange.headers.get(b"authorization", b"").partition(b" ")
    return sent.strip() if scheme.lower() == b"bearer" else b""


def _admin(digest: bytes) -> Grant:
    return Grant(Role.ADMIN, None, digest.hex())


def _plain(auth: AuthSettings) -> list[_Known]:
    digests = [sha256(key.encode()).digest() for key in auth.api_keys]
    return [_Known(digest, _admin(digest)) for digest in digests]


def _local(token: str) -> _Known:
    digest = sha256(token.encode()).digest()
    return _Known(digest, _admin(digest), is_local=True)


def _of_row(row: ApiKey) -> _Known:
    return _Known(bytes.fromhex(row.sha256), Grant(row.role, row.namespace, row.sha256), stored=row)
