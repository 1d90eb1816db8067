"""Why a start is refused: one small function a rule, over settings that were read without a problem.

A rule yields the key it blames and a reason. `check` runs them all and raises one `ConfigInvalid` with a
line for each. The rules of `SERVE_RULES` matter to a daemon that listens, so `serve` alone asks for them.
What can only be seen on the disk (permissions and file system of data_dir) is storage's to check.

`NOT_BUILT` names the keys whose feature isn't there yet: they are refused instead of accepted and ignored, and
nothing else is asked of them. Who builds the feature takes the key out of the tuple.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from cerememory.config.keys import BY_NAME, KEYS, Key
from cerememory.config.settings import Settings
from cerememory.errors import ConfigInvalid
from cerememory.protocol.base_url import is_header_text, parse_base_url

NOT_BUILT: tuple[str, ...] = (
    "http.ui_enabled",
    "storage.backend",
    "storage.dsn",
    "index.analyzer",
)
UNSENDABLE = "must be visible ASCII characters, without spaces"
NOT_YET = "this version can't do that yet; leave it out"
PROVIDERS_WITH_KEY = ("openai", "claude", "gemini")
NO_ORIGINS: Mapping[str, str] = MappingProxyType({})


class Problem(NamedTuple):
    key: str
    reason: str


Rule = Callable[[Settings], Iterable[Problem]]


def check(
    settings: Settings, for_serve: bool, origins: Mapping[str, str] = NO_ORIGINS, *, has_stored_keys: bool = False
) -> None:
    """Raise `ConfigInvalid`, one line a problem, unless a command may start with these settings.

    `origins` (of `Loaded`) puts the source behind each key; without it, setting a key that isn't built to
    its default goes unseen. `has_stored_keys`: the data dir has keys, so the settings needn't.
    """
    rules = RULES + SERVE_RULES if for_serve else RULES
    rules = tuple(rule for rule in rules if not (has_stored_keys and rule is _auth_without_keys))
    unbuilt = {problem.key: problem for problem in _not_built(settings, origins)}
    problems = [problem for rule in rules for problem in rule(settings) if problem.key not in unbuilt]
    problems += unbuilt.values()
    if problems:
        raise ConfigInvalid("\n".join(_line(problem, origins) for problem in problems))


def _line(problem: Problem, origins: Mapping[str, str]) -> str:
    origin = origins.get(problem.key)
    return f"{problem.key}: {problem.reason}" + (f" ({origin})" if origin else "")


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches `address`; False for what is no IP address and not "localhost"."""
    plain = plain_address(address)
    return address == "localhost" or (_is_ip_address(plain) and ipaddress.ip_address(plain).is_loopback)


def plain_address(text: str) -> str:
    """An IPv4 address that is written as an IPv6 one (::ffff:10.0.0.1) as itself, any other text as it is.

    That is how a socket which listens on :: names those who come by IPv4.
    """
    if ":" not in text:
        return text
    try:
        mapped = ipaddress.IPv6Address(text).ipv4_mapped
    except ValueError:
        return text
    return text if mapped is None else str(mapped)


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _out_of_range(settings: Settings) -> Iterator[Problem]:
    for key in KEYS:
        value = key.value_of(settings)
        if key.minimum is None or key.maximum is None or value is None:
            continue
        if not key.minimum <= value <= key.maximum:  # so written that nan is refused
            yield Problem(key.dotted, f"expected {key.minimum} to {key.maximum}, got {str(value)[:64]}")


def _blank_text(settings: Settings) -> Iterator[Problem]:
    for key in KEYS:
        value = key.value_of(settings)
        texts = value if key.is_list else (value,)
        if any(isinstance(text, str) and not text.strip() for text in texts):
            yield Problem(key.dotted, "must not hold a blank item" if key.is_list else "must not be blank")


def _cidr_unreadable(settings: Settings) -> Iterator[Problem]:
    for cidr in settings.http.trusted_proxy_cidrs:
        try:
            ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            yield Problem("http.trusted_proxy_cidrs", f"expected networks as 10.0.0.0/8, got {cidr[:64]!r}")


def _any_origin_with_auth(settings: Settings) -> Iterator[Problem]:
    if settings.auth.enabled and "*" in settings.http.cors_origins:
        yield Problem("http.cors_origins", '"*" is not allowed with auth.enabled; name the origins')


def _auth_without_keys(settings: Settings) -> Iterator[Problem]:
    if settings.auth.enabled and not settings.auth.api_keys:
        yield Problem("auth.api_keys", "auth.enabled needs at least one key; cerememory key create makes one")


def _keys_unsendable(settings: Settings) -> Iterator[Problem]:
    """A key says no more of itself than where it stands."""
    for place, key in enumerate(settings.auth.api_keys, 1):
        if key.strip() and not is_header_text(key):
            yield Problem("auth.api_keys", f"key {place} {UNSENDABLE}")


def _same_ports(settings: Settings) -> Iterator[Problem]:
    if settings.grpc.port == settings.http.port:
        yield Problem("grpc.port", f"must differ from http.port, both are {settings.http.port}")


def _provider_without_key(settings: Settings) -> Iterator[Problem]:
    if settings.llm.provider in PROVIDERS_WITH_KEY and settings.llm.api_key is None:
        yield Problem("llm.api_key", f'llm.provider "{settings.llm.provider}" needs a key')


def _local_provider(settings: Settings) -> Iterator[Problem]:
    if settings.llm.provider == "local":
        yield Problem("llm.provider", NOT_YET)


def _provider_key_unsendable(settings: Settings) -> Iterator[Problem]:
    api_key = settings.llm.api_key
    if api_key is not None and api_key.strip() and not is_header_text(api_key):
        yield Problem("llm.api_key", UNSENDABLE)


def _provider_address(settings: Settings) -> Iterator[Problem]:
    """Keys and memories go unencrypted to this machine or its own network only."""
    base_url = settings.llm.base_url
    if base_url is None or not base_url.strip():
        return
    try:
        base = parse_base_url(base_url)
    except ValueError as error:
        yield Problem("llm.base_url", str(error))
        return
    if base.scheme == "http" and not base.is_local:
        yield Problem("llm.base_url", f"http:// would send key and memories to {base.host[:64]} in plain text")


def _bind_address_unreadable(settings: Settings) -> Iterator[Problem]:
    address = settings.http.bind_address
    if address != "localhost" and not _is_ip_address(address):
        yield Problem("http.bind_address", f"expected an IP address or localhost, got {address[:64]!r}")


def _open_to_the_network_without_auth(settings: Settings) -> Iterator[Problem]:
    address = settings.http.bind_address
    if _is_ip_address(address) and not is_loopback(address) and not settings.auth.enabled:
        yield Problem("http.bind_address", f"{address} is reachable from other machines: set auth.enabled")


def _half_of_tls(settings: Settings) -> Iterator[Problem]:
    grpc = settings.grpc
    if (grpc.tls_cert_path is None) != (grpc.tls_key_path is None):
        missing = "tls_cert_path" if grpc.tls_cert_path is None else "tls_key_path"
        yield Problem(f"grpc.{missing}", "grpc.tls_cert_path and grpc.tls_key_path need each other")


def _plaintext_grpc(settings: Settings) -> Iterator[Problem]:
    grpc, local = settings.grpc, is_loopback(settings.http.bind_address)
    plaintext = grpc.port is not None and grpc.tls_cert_path is None and grpc.tls_key_path is None
    if plaintext and (settings.auth.enabled or not local):
        why = "with auth.enabled" if settings.auth.enabled else f"at {settings.http.bind_address[:64]}"
        yield Problem("grpc.port", f"gRPC {why} needs grpc.tls_cert_path and grpc.tls_key_path")


RULES: tuple[Rule, ...] = (
    _out_of_range,
    _blank_text,
    _cidr_unreadable,
    _any_origin_with_auth,
    _auth_without_keys,
    _keys_unsendable,
    _same_ports,
    _provider_without_key,
    _local_provider,
    _provider_key_unsendable,
    _provider_address,
)
SERVE_RULES: tuple[Rule, ...] = (
    _bind_address_unreadable,
    _open_to_the_network_without_auth,
    _half_of_tls,
    _plaintext_grpc,
)


def _not_built(settings: Settings, origins: Mapping[str, str]) -> Iterator[Problem]:
    untouched = Settings(data_dir=settings.data_dir)
    for name in NOT_BUILT:
        key = BY_NAME[name]
        if key.value_of(settings) != key.value_of(untouched) or _switches(key, origins):
            yield Problem(name, NOT_YET)


def _switches(key: Key, origins: Mapping[str, str]) -> bool:
    """Whether someone set a switch, which asks for its feature (or for its absence) either way."""
    return key.kind is bool and origins.get(key.dotted, "default") != "default"
