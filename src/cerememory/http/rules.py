"""From where somebody may ask, and how often: what the gate checks on a request's head."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from cerememory.config.checks import plain_address
from cerememory.config.settings import Settings
from cerememory.errors import Forbidden, HeadTooLarge, RateLimited
from cerememory.http.exchange import FORWARDED_FOR, Exchange, Headers

OPEN_ROUTES = frozenset({"/health", "/readiness"})  # never limited, never behind a key, on any host name
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MCP_PATH = "/mcp"  # whose specification has the origin of every request checked
HEAD_BYTES_MAX = 32_768
HEAD_FIELDS_MAX = 100
ADDRESSES_MAX = 10_000
MAPPED_BITS = 96  # in front of the IPv4 address in an IPv6 one
SITE_BITS = 64  # of an IPv6 address are its network's; the rest anybody there chooses, at will
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
EXPOSED = b"X-Request-Id, Retry-After, X-Cerememory-Sequence"
METHODS = b"GET, POST, PUT, PATCH, DELETE"


def check_head(exchange: Exchange, headers: Sequence[tuple[bytes, bytes]]) -> None:
    if len(headers) > HEAD_FIELDS_MAX:
        raise HeadTooLarge(f"head: {len(headers)} fields, at most {HEAD_FIELDS_MAX} are allowed")
    size = len(exchange.path) + len(exchange.query) + sum(len(name) + len(value) for name, value in headers)
    if size > HEAD_BYTES_MAX:
        raise HeadTooLarge(f"head: {size} bytes, at most {HEAD_BYTES_MAX} are allowed")


class Origins:
    """The Host header against DNS rebinding, and browsers' origins (CORS)."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = frozenset(settings.http.cors_origins)
        self._hosts = LOOPBACK_NAMES | {
            _bracketed(settings.http.bind_address),
            *(host.lower() for host in settings.http.allowed_hosts),
        }

    def check(self, exchange: Exchange) -> None:
        """Raise `Forbidden` for a host that isn't ours, and for a write from an origin that isn't allowed.

        On `MCP_PATH` every method counts as a write.
        """
        host = exchange.header(b"host")
        if host is not None and _host_name(host) not in self._hosts and host.lower() not in self._hosts:
            raise Forbidden("Host: this name isn't served here (http.allowed_hosts)")
        origin = exchange.header(b"origin")
        if origin is None or (exchange.method in SAFE_METHODS and exchange.path != MCP_PATH):
            return
        if not self._admits(origin) and not _same_origin(origin, host):
            raise Forbidden("Origin: this origin may not write here (http.cors_origins)")

    def _admits(self, origin: str) -> bool:
        return "*" in self._allowed or origin in self._allowed

    def headers(self, exchange: Exchange) -> Headers:
        """What a browser needs to read the answer; nothing at all when no origin is allowed."""
        if not self._allowed:
            return []
        vary = (b"vary", b"Origin")  # also where the answer is that this origin may not
        origin = exchange.headers.get(b"origin")
        if origin is None or not self._admits(origin.decode("latin-1")):
            return [vary]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", EXPOSED),
            vary,
        ]

    def is_preflight(self, exchange: Exchange) -> bool:
        return (
            exchange.method == "OPTIONS"
            and bool(self._allowed)
            and b"origin" in exchange.headers
            and b"access-control-request-method" in exchange.headers
        )

    def preflight_headers(self, exchange: Exchange) -> Headers:
        """What the origin may do; nothing for one that isn't allowed."""
        if not self._admits(exchange.header(b"origin") or ""):
            return []
        asked = exchange.headers.get(b"access-control-request-headers", b"*")
        return [
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", b"600"),
        ]


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address.lower()


def _host_name(host: str) -> str:
    """`host` without its port, lower case; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        return host[: host.find("]") + 1].lower()
    return host.partition(":")[0].lower()


def _same_origin(origin: str, host: str | None) -> bool:
    return host is not None and origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


class Addresses:
    """Which address a request counts against: the peer's, or what trusted proxies say."""

    def __init__(self, cidrs: Sequence[str]) -> None:
        self._trusted = [_plain_network(cidr) for cidr in cidrs]

    def client(self, exchange: Exchange) -> str:
        if not self._trusted or not self._trusts(exchange.peer):
            return exchange.peer
        parts = (exchange.header(FORWARDED_FOR) or "").split(",")
        forwarded = [plain_address(part.strip()) for part in parts]
        for address in reversed(forwarded):
            if not _is_address(address):
                break  # what stands before it may be the client's invention
            if not self._trusts(address):
                return address
        real = plain_address((exchange.header(b"x-real-ip") or "").strip())
        return real if _is_address(real) else exchange.peer

    def _trusts(self, address: str) -> bool:
        return _is_address(address) and any(ip_address(address) in network for network in self._trusted)


def _plain_network(cidr: str) -> IPv4Network | IPv6Network:
    """IPv4 that is written as IPv6 as itself: so are the addresses that are looked for in it."""
    network = ip_network(cidr, strict=False)
    if isinstance(network, IPv6Network) and network.prefixlen >= MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - MAPPED_BITS))
    return network


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """A token bucket for each address: `per_second` tokens (0: no limit) up to `burst`. An IPv6 network is one.

    A bucket that has filled up again is forgotten; at most `ADDRESSES_MAX` are kept, the longest unused go first.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def change(self, per_second: float, burst: int) -> None:
        """From now on; what was taken stays taken."""
        self._per_second = per_second
        self._burst = burst

    def check(self, address: str, now: float) -> None:
        """Take a token or raise `RateLimited`; `now` is on any steady clock, in seconds."""
        if not self._per_second:
            return
        address = _site(address)
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = _Bucket(float(self._burst), now)
            self._forget(now)
        self._buckets.move_to_end(address)
        bucket.tokens = self._tokens(bucket, now)
        bucket.at = now
        if bucket.tokens < 1.0:
            wait_s = (1.0 - bucket.tokens) / self._per_second
            raise RateLimited("too many requests from this address", retry_after_s=math.ceil(wait_s))
        bucket.tokens -= 1.0

    def left(self, address: str, now: float) -> float:
        """The tokens that `address` has; none is taken, and nothing kept."""
        bucket = self._buckets.get(_site(address))
        return self._burst if bucket is None else self._tokens(bucket, now)

    def _tokens(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.tokens + (now - bucket.at) * self._per_second)

    def _forget(self, now: float) -> None:
        """Drop the longest unused while they are full or too many; each new address drops some."""
        while self._buckets:
            address, oldest = next(iter(self._buckets.items()))
            full = self._tokens(oldest, now) >= self._burst
            if len(self._buckets) <= ADDRESSES_MAX and not (full and oldest.at < now):
                return
            del self._buckets[address]

    def __len__(self) -> int:
        return len(self._buckets)


def _site(address: str) -> str:
    """What is counted together with `address`: its network, when that has more addresses than a table has rows."""
    if ":" not in address:
        return address
    try:
        network = IPv6Network((int(IPv6Address(address)), SITE_BITS), strict=False)
    except ValueError:
        return address
    return str(network.network_address)
