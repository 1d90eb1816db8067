"""Each rule that refuses a start: what it refuses, whom it blames, and what it lets pass."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cerememory.config.checks import NOT_BUILT, check, is_loopback
from cerememory.config.keys import BY_NAME, KEYS, Key
from cerememory.config.settings import GrpcSettings, HttpSettings, Settings
from cerememory.config.sources import load
from cerememory.errors import ConfigInvalid

UNBUILT = "this version can't do that yet; leave it out"


def refusals(configured: Mapping[str, object], *, for_serve: bool = False) -> list[str]:
    """What `check` says about these keys, without the lines for what isn't built."""
    return [line for line in all_refusals(configured, for_serve=for_serve) if UNBUILT not in line]


def all_refusals(configured: Mapping[str, object], *, for_serve: bool = False) -> list[str]:
    loaded = load(None, {}, configured)
    try:
        check(loaded.settings, for_serve, loaded.origins)
    except ConfigInvalid as refused:
        return str(refused).splitlines()
    return []


@pytest.mark.parametrize("for_serve", [False, True])
def test_the_defaults_may_start(for_serve: bool) -> None:
    check(Settings(), for_serve)


RANGES = [key for key in KEYS if key.minimum is not None]


@pytest.mark.parametrize("key", RANGES, ids=lambda key: key.dotted)
def test_a_number_out_of_its_range_is_refused(key: Key) -> None:
    assert key.minimum is not None
    assert key.maximum is not None
    for value in (key.kind(key.minimum - 1), key.kind(key.maximum + 1)):
        expected = f"{key.dotted}: expected {key.minimum} to {key.maximum}, got {value} (command line)"
        assert expected in refusals({key.dotted: value})


@pytest.mark.parametrize("key", RANGES, ids=lambda key: key.dotted)
def test_both_ends_of_a_range_are_in_it(key: Key) -> None:
    assert key.minimum is not None
    assert key.maximum is not None
    for value in (key.kind(key.minimum), key.kind(key.maximum)):
        assert refusals({key.dotted: value}) == []


def test_every_number_has_a_range() -> None:
    assert [key.dotted for key in KEYS if key.kind in (int, float) and key not in RANGES] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("http.port", 0),
        ("http.port", 65_536),
        ("grpc.port", 0),
        ("rate_limit.burst", 0),
        ("decay.epsilon", float("nan")),
    ],
)
def test_these_numbers_are_refused(key: str, value: float) -> None:
    (line,) = refusals({key: value})
    assert line.startswith(f"{key}: expected ")


@pytest.mark.parametrize(
    "key",
    [
        "rate_limit.requests_per_second",
        "decay.background_interval_secs",
        "dream.background_interval_secs",
    ],
)
def test_zero_turns_these_off(key: str) -> None:
    assert refusals({key: 0}) == []


TEXTS = [
    key for key in KEYS if not key.choices and (key.kind is str or key.is_secret) and key.dotted not in NOT_BUILT
]


@pytest.mark.parametrize("key", TEXTS, ids=lambda key: key.dotted)
@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_blank_text_is_refused(key: Key, blank: str) -> None:
    what = "hold a blank item" if key.is_list else "be blank"
    value = ["a", blank] if key.is_list else blank
    assert f"{key.dotted}: must not {what} (command line)" in refusals({key.dotted: value})


@pytest.mark.parametrize("cidr", ["10.0.0.0/33", "ten", "10.0.0", "fe80::/129", "10.0.0.0/8/8"])
def test_a_bad_network_is_refused(cidr: str) -> None:
    (line,) = refusals({"http.trusted_proxy_cidrs": ["10.0.0.0/8", cidr]})
    assert line == f"http.trusted_proxy_cidrs: expected networks as 10.0.0.0/8, got '{cidr}' (command line)"


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "10.1.2.3/8", "10.1.2.3", "::1", "fd00::/8"])
def test_networks_and_single_addresses_are_taken(cidr: str) -> None:
    assert refusals({"http.trusted_proxy_cidrs": [cidr]}) == []


NO_KEYS = "auth.api_keys: auth.enabled needs at least one key; cerememory key create makes one"
AUTH: dict[str, object] = {"auth.enabled": True, "auth.api_keys": ["k"]}


def test_auth_without_keys_is_refused() -> None:
    assert refusals({"auth.enabled": True}) == [f"{NO_KEYS} (default)"]
    assert refusals(AUTH) == []


def test_keys_of_the_data_dir_are_keys_too_but_no_others_problems_less() -> None:
    loaded = load(None, {}, {"auth.enabled": True, "http.port": 0})
    with pytest.raises(ConfigInvalid) as refused:
        check(loaded.settings, True, loaded.origins, has_stored_keys=True)
    assert str(refused.value) == "http.port: expected 1 to 65535, got 0 (command line)"


@pytest.mark.parametrize("key", ["sesame hunter2", "hunter2\n", "hünter2", "hunter2\x00", " hunter2"])
def test_a_key_that_no_header_carries_is_refused_by_its_place(key: str) -> None:
    unsendable = "must be visible ASCII characters, without spaces"
    assert refusals({"auth.enabled": True, "auth.api_keys": ["k", key, "k-2", key]}) == [
        f"auth.api_keys: key 2 {unsendable} (command line)",
        f"auth.api_keys: key 4 {unsendable} (command line)",
    ]


def test_keys_without_auth_are_taken() -> None:
    assert refusals({"auth.api_keys": ["k"]}) == []


def test_every_origin_together_with_auth_is_refused() -> None:
    (line,) = refusals(AUTH | {"http.cors_origins": ["https://a.example", "*"]})
    assert line.startswith('http.cors_origins: "*" is not allowed with auth.enabled')
    assert refusals({"http.cors_origins": ["*"]}) == []
    assert refusals(AUTH | {"http.cors_origins": ["https://a.example"]}) == []


def test_one_port_for_http_and_grpc_is_refused() -> None:
    assert refusals({"grpc.port": 8420}) == ["grpc.port: must differ from http.port, both are 8420 (command line)"]
    assert refusals({"grpc.port": 8421}) == []


@pytest.mark.parametrize("provider", ["openai", "claude", "gemini", "anthropic", "google"])
def test_a_remote_provider_needs_a_key(provider: str) -> None:
    (line,) = refusals({"llm.provider": provider})
    assert line.startswith("llm.api_key: llm.provider ")
    assert refusals({"llm.provider": provider, "llm.api_key": "k"}) == []


@pytest.mark.parametrize("provider", ["none", "local"])
def test_no_provider_and_the_local_one_need_no_key(provider: str) -> None:
    assert refusals({"llm.provider": provider}) == []


@pytest.mark.parametrize("address", ["example.com", "[::1]", "127.0.0.1:80", "LOCALHOST", "127.1"])
def test_a_bind_address_is_an_ip_address_or_localhost(address: str) -> None:
    (line,) = refusals({"http.bind_address": address}, for_serve=True)
    assert line == f"http.bind_address: expected an IP address or localhost, got {address!r} (command line)"
    assert refusals({"http.bind_address": address}, for_serve=False) == []


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.2", "fe80::1", "::ffff:10.0.0.1"])
def test_an_address_open_to_others_needs_auth(address: str) -> None:
    (line,) = refusals({"http.bind_address": address}, for_serve=True)
    assert line.startswith(f"http.bind_address: {address} is reachable from other machines")
    assert refusals(AUTH | {"http.bind_address": address}, for_serve=True) == []
    assert refusals({"http.bind_address": address}, for_serve=False) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "localhost"])
def test_loopback_needs_no_auth(address: str) -> None:
    assert is_loopback(address)
    assert refusals({"http.bind_address": address}, for_serve=True) == []


@pytest.mark.parametrize(
    ("given_half", "missing_half"),
    [("grpc.tls_cert_path", "grpc.tls_key_path"), ("grpc.tls_key_path", "grpc.tls_cert_path")],
)
def test_half_of_tls_is_refused_by_serve(given_half: str, missing_half: str) -> None:
    (line,) = refusals({given_half: "/x.pem", "grpc.port": 1}, for_serve=True)
    assert line.startswith(f"{missing_half}: grpc.tls_cert_path and grpc.tls_key_path need each other")
    assert refusals({given_half: "/x.pem", "grpc.port": 1}, for_serve=False) == []


@pytest.mark.parametrize("exposed", [AUTH, AUTH | {"http.bind_address": "0.0.0.0"}])
def test_plaintext_grpc_with_auth_or_off_loopback_is_refused_by_serve(exposed: dict[str, object]) -> None:
    (line,) = refusals(exposed | {"grpc.port": 1}, for_serve=True)
    assert line.startswith("grpc.port: gRPC with auth.enabled needs grpc.tls_cert_path")
    assert refusals(exposed | {"grpc.port": 1}, for_serve=False) == []
    tls = {"grpc.tls_cert_path": "/c.pem", "grpc.tls_key_path": "/k.pem"}
    assert refusals(exposed | tls | {"grpc.port": 1}, for_serve=True) == []


def test_plaintext_grpc_off_loopback_is_blamed_beside_the_open_address() -> None:
    lines = refusals({"http.bind_address": "10.0.0.1", "grpc.port": 1}, for_serve=True)
    assert [line.split(":")[0] for line in lines] == ["http.bind_address", "grpc.port"]


def test_plaintext_grpc_on_loopback_without_auth_is_taken() -> None:
    assert refusals({"grpc.port": 1}, for_serve=True) == []


AWAY_FROM_DEFAULT: dict[str, object] = {
    "http.ui_enabled": False,
    "security.store_encryption_passphrase": "p",
    "security.audit_key_path": "/keys",
    "decay.background_interval_secs": 0,
    "decay.time_unit_secs": 1,
    "decay.prune": "delete",
    "decay.archive_days": 1,
    "decay.profile": "reference",
    "decay.epsilon": 0.5,
    "decay.faint_threshold": 0.5,
    "evolution.enabled": False,
    "storage.backend": "postgres",
    "storage.dsn": "postgres://db",
    "index.analyzer": "english",
}


@pytest.mark.parametrize("name", NOT_BUILT)
def test_what_is_not_built_is_refused_in_one_line_that_says_so(name: str) -> None:
    assert all_refusals({name: AWAY_FROM_DEFAULT[name]}) == [f"{name}: {UNBUILT} (command line)"]


@pytest.mark.parametrize(
    "name", [key.dotted for key in KEYS if key.dotted in NOT_BUILT and key.default is not None]
)
def test_the_default_of_what_is_not_built_may_be_set_unless_it_is_a_switch(name: str) -> None:
    key = BY_NAME[name]
    refused = [f"{name}: {UNBUILT} (command line)"] if key.kind is bool else []
    assert all_refusals({name: key.default}) == refused


def test_a_default_that_follows_the_data_dir_is_still_a_default() -> None:
    assert all_refusals({"data_dir": "/srv/memory"}) == []


def test_the_keys_that_are_not_built_are_keys_and_stand_in_their_order() -> None:
    assert list(NOT_BUILT) == [key.dotted for key in KEYS if key.dotted in NOT_BUILT]


def test_nothing_else_is_asked_of_what_is_not_built() -> None:
    """Blank or not: there is no value that would help."""
    assert all_refusals({"index.analyzer": " "}) == [f"index.analyzer: {UNBUILT} (command line)"]


def test_all_problems_are_told_at_once_each_with_its_source() -> None:
    loaded = load(None, {"CEREMEMORY_RATE_LIMIT__BURST": "0"}, {"http.port": 0, "auth.enabled": True})
    with pytest.raises(ConfigInvalid) as refused:
        check(loaded.settings, True, loaded.origins)
    assert str(refused.value).splitlines() == [
        "http.port: expected 1 to 65535, got 0 (command line)",
        "rate_limit.burst: expected 1 to 4294967295, got 0 (environment CEREMEMORY_RATE_LIMIT__BURST)",
        f"{NO_KEYS} (default)",
    ]


def test_settings_made_in_code_are_checked_without_origins() -> None:
    settings = Settings(http=HttpSettings(port=9), grpc=GrpcSettings(port=9))
    with pytest.raises(ConfigInvalid) as refused:
        check(settings, False)
    assert str(refused.value) == "grpc.port: must differ from http.port, both are 9"
