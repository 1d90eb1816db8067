"""Where settings come from: what each source may say, and the order of the four."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.cli.passphrases import variable
from cerememory.config.keys import BY_NAME, KEYS, Key
from cerememory.config.settings import Secret, Settings
from cerememory.config.shown import toml_value
from cerememory.config.sources import Loaded, load

DEFAULTS: dict[str, object] = {
    "data_dir": Path("./data"),
    "http.port": 8420,
    "http.bind_address": "127.0.0.1",
    "http.cors_origins": (),
    "http.trusted_proxy_cidrs": (),
    "http.metrics_enabled": False,
    "http.allowed_hosts": (),
    "http.max_connections": 512,
    "http.max_inflight_bytes": 268_435_456,
    "http.read_timeout_secs": 30,
    "http.ui_enabled": True,
    "grpc.port": None,
    "grpc.tls_cert_path": None,
    "grpc.tls_key_path": None,
    "auth.enabled": False,
    "auth.api_keys": (),
    "security.store_encryption_passphrase": None,
    "security.persist_search_indexes": True,
    "security.audit_log_enabled": True,
    "security.audit_log_path": Path("data/audit.jsonl"),
    "security.audit_key_path": Path("data/keys"),
    "llm.provider": "none",
    "llm.api_key": None,
    "llm.model": None,
    "llm.base_url": None,
    "decay.background_interval_secs": 3600,
    "decay.time_unit_secs": 86_400,
    "decay.prune": "never",
    "decay.archive_days": 90,
    "decay.profile": "standard",
    "decay.epsilon": 0.001,
    "decay.faint_threshold": 0.1,
    "dream.background_interval_secs": 86_400,
    "evolution.enabled": True,
    "rate_limit.requests_per_second": 100,
    "rate_limit.burst": 50,
    "storage.map_size_gib": 64,
    "storage.map_size_max_gib": 0,
    "storage.group_commit_ms": 2,
    "storage.history_versions": 100,
    "storage.min_free_disk_mib": 256,
    "storage.backend": "lmdb",
    "storage.dsn": None,
    "index.analyzer": "auto",
    "index.vector_cache_mib": 256,
    "log.level": "info",
    "log.format": "pretty",
}


def from_environment(**variables: str) -> Loaded:
    return load(None, variables, {})


def test_without_any_source_every_key_has_its_documented_default() -> None:
    loaded = load(None, {}, {})
    assert {key.dotted: key.value_of(loaded.settings) for key in KEYS} == DEFAULTS
    assert dict(loaded.origins) == dict.fromkeys(DEFAULTS, "default")
    assert loaded.settings == Settings()
    assert loaded.config_path is None


def test_a_file_is_read_and_named_as_the_origin(toml: Callable[[str], Path]) -> None:
    path = toml('data_dir = "/srv/memory"\n[http]\nport = 9000\n[auth]\nenabled = true\napi_keys = ["k"]\n')
    loaded = load(path, {}, {})
    assert loaded.settings.data_dir == Path("/srv/memory")
    assert loaded.settings.http.port == 9000
    assert loaded.settings.auth.api_keys == ("k",)
    assert loaded.origins["http.port"] == str(path)
    assert loaded.origins["log.level"] == "default"
    assert loaded.config_path == path


def test_a_file_may_begin_with_a_byte_order_mark(toml: Callable[[str], Path]) -> None:
    assert load(toml("\ufeff[http]\nport = 1"), {}, {}).settings.http.port == 1


def test_dotted_keys_of_toml_are_sections(toml: Callable[[str], Path]) -> None:
    assert load(toml("http.port = 9000"), {}, {}).settings.http.port == 9000


def test_the_environment_may_name_the_file(toml: Callable[[str], Path]) -> None:
    path = toml('log.level = "debug"')
    loaded = from_environment(CEREMEMORY_CONFIG=str(path))
    assert loaded.settings.log.level == "debug"
    assert loaded.config_path == path


def test_a_file_on_the_command_line_hides_the_one_in_the_environment(toml: Callable[[str], Path]) -> None:
    loaded = load(toml('log.level = "debug"'), {"CEREMEMORY_CONFIG": "/no/such/file"}, {})
    assert loaded.settings.log.level == "debug"


def test_the_environment_is_read_and_named_as_the_origin() -> None:
    loaded = from_environment(
        CEREMEMORY_DATA_DIR="/srv/memory",
        CEREMEMORY_HTTP__METRICS_ENABLED="true",
        CEREMEMORY_RATE_LIMIT__REQUESTS_PER_SECOND="7",
        CEREMEMORY_DECAY__EPSILON="0.5",
        CEREMEMORY_LOG__FORMAT="json",
    )
    settings = loaded.settings
    assert settings.data_dir == Path("/srv/memory")
    assert settings.http.metrics_enabled is True
    assert settings.rate_limit.requests_per_second == 7
    assert settings.decay.epsilon == 0.5
    assert settings.log.format == "json"
    assert loaded.origins["decay.epsilon"] == "environment CEREMEMORY_DECAY__EPSILON"


def test_variables_without_the_prefix_are_nobodys_business() -> None:
    assert from_environment(HTTP__PORT="1", PATH="/bin", cerememory_http__port="2").settings == Settings()


@pytest.mark.parametrize(
    "name",
    [
        "CEREMEMORY_SERVER_API_KEY",
        *(variable(option) for option in ("--encryption-key", "--decryption-key", "--new-passphrase")),
        "CEREMEMORY_RECORDER_SPOOL_DIR",
        "CEREMEMORY_TEST_SWEEP",
    ],
)
def test_variables_of_clients_recorder_and_tests_are_let_pass(name: str) -> None:
    assert from_environment(**{name: "anything"}).settings == Settings()


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('["a","b"]', ("a", "b")),
        ('["a, b"]', ("a, b",)),
        ("[a,b]", ("a", "b")),
        ("[ 1, 2 ]", ("1", "2")),
        ("a,b", ("a", "b")),
        (" a , b ", ("a", "b")),
        ("a", ("a",)),
        ("", ()),
        ("[]", ()),
        ("a,,b", ("a", "", "b")),
    ],
)
def test_a_list_has_three_forms_in_the_environment(text: str, items: tuple[str, ...]) -> None:
    assert from_environment(CEREMEMORY_HTTP__CORS_ORIGINS=text).settings.http.cors_origins == items


@pytest.mark.parametrize(
    ("special", "ordinary", "key"),
    [
        ("CEREMEMORY_AUTH_API_KEYS", "CEREMEMORY_AUTH__API_KEYS", "auth.api_keys"),
        (
            "CEREMEMORY_HTTP_TRUSTED_PROXY_CIDRS",
            "CEREMEMORY_HTTP__TRUSTED_PROXY_CIDRS",
            "http.trusted_proxy_cidrs",
        ),
    ],
)
def test_the_special_names_win_over_the_ordinary_ones(special: str, ordinary: str, key: str) -> None:
    loaded = from_environment(**{special: "10.0.0.0/8,::1", ordinary: "[other]"})
    assert BY_NAME[key].value_of(loaded.settings) == ("10.0.0.0/8", "::1")
    assert loaded.origins[key] == f"environment {special}"


def test_the_command_line_is_read_and_what_it_leaves_out_is_none() -> None:
    loaded = load(None, {}, {"data_dir": Path("/srv"), "http.port": 1234, "grpc.port": None})
    assert (loaded.settings.data_dir, loaded.settings.http.port) == (Path("/srv"), 1234)
    assert loaded.origins["data_dir"] == "command line"
    assert loaded.origins["grpc.port"] == "default"


SOURCES = ("file", "environment", "command line")


@pytest.mark.parametrize(
    "given_by",
    [(), *((each,) for each in SOURCES), SOURCES[:2], SOURCES[1:], (SOURCES[0], SOURCES[2]), SOURCES],
)
def test_the_last_of_file_environment_and_command_line_wins(
    toml: Callable[[str], Path], given_by: tuple[str, ...]
) -> None:
    path = toml("http.port = 1" if "file" in given_by else "")
    loaded = load(
        path,
        {"CEREMEMORY_HTTP__PORT": "2"} if "environment" in given_by else {},
        {"http.port": 3} if "command line" in given_by else {},
    )
    ports = {"file": 1, "environment": 2, "command line": 3}
    assert loaded.settings.http.port == (ports[given_by[-1]] if given_by else 8420)


@pytest.mark.parametrize("key", ["data_dir", "security.audit_log_path", "grpc.tls_cert_path"])
def test_a_tilde_stands_for_the_home_of_the_environment(key: str) -> None:
    loaded = load(None, {"HOME": "/home/ada"}, {key: "~/memory"})
    assert BY_NAME[key].value_of(loaded.settings) == Path("/home/ada/memory")


def test_a_whole_number_may_stand_for_a_fraction(toml: Callable[[str], Path]) -> None:
    epsilon = load(toml("decay.epsilon = 1"), {}, {}).settings.decay.epsilon
    assert (epsilon, type(epsilon)) == (1.0, float)


def test_audit_paths_follow_the_data_dir() -> None:
    settings = load(None, {}, {"data_dir": "/srv"}).settings
    assert settings.security.audit_log_path == Path("/srv/audit.jsonl")
    assert settings.security.audit_key_path == Path("/srv/keys")


@pytest.mark.parametrize(
    ("configured", "on_disk"), [({}, False), ({"security.persist_search_indexes": True}, True)]
)
def test_with_encryption_search_indexes_stay_off_the_disk_unless_asked_for(
    configured: dict[str, object], on_disk: bool
) -> None:
    loaded = load(None, {}, {"security.store_encryption_passphrase": "p", **configured})
    assert loaded.settings.security.persist_search_indexes is on_disk


@pytest.mark.parametrize(("written", "meant"), [("anthropic", "claude"), ("google", "gemini")])
def test_providers_may_be_named_by_their_makers(written: str, meant: str) -> None:
    assert load(None, {}, {"llm.provider": written}).settings.llm.provider == meant


def test_secrets_are_not_in_the_repr_of_settings() -> None:
    settings = load(None, {}, {"auth.api_keys": ["hunter2"], "llm.api_key": "hunter2"}).settings
    assert "hunter2" not in repr(settings)
    assert settings.auth.api_keys[0] == "hunter2"
    assert isinstance(settings.llm.api_key, Secret)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


def values_of(key: Key) -> st.SearchStrategy[object]:
    """What may stand in a file for `key`, read back as it is."""
    if key.is_list:
        return st.lists(TEXT, max_size=4).map(tuple)
    if key.choices:
        return st.sampled_from(key.choices)
    if key.kind is Path:
        return TEXT.filter(str.strip).map("/{}".format).map(Path)
    low, high = key.minimum or 0, key.maximum or 0
    by_kind: dict[type, st.SearchStrategy[object]] = {
        bool: st.booleans(),
        int: st.integers(int(low), int(high)),
        float: st.floats(low, high),
    }
    return by_kind.get(key.kind, TEXT)


def environment_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, tuple | bool) else str(value)


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, tuple[str, object]]:
    """Any subset of the keys, each with the source that gives it and a value."""
    names = draw(st.sets(st.sampled_from(sorted(BY_NAME))))
    return {name: (draw(st.sampled_from(SOURCES)), draw(values_of(BY_NAME[name]))) for name in names}


@given(configured=configurations())
def test_any_subset_of_keys_is_read_back_from_any_source(
    tmp_path_factory: pytest.TempPathFactory, configured: dict[str, tuple[str, object]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    given_by = {
        source: {name: value for name, (origin, value) in configured.items() if origin == source}
        for source in SOURCES
    }
    lines = [f"{name} = {toml_value(value)}\n" for name, value in given_by["file"].items()]
    path.write_text("".join(lines), encoding="utf-8")
    environ = {BY_NAME[name].env_name: environment_text(v) for name, v in given_by["environment"].items()}
    loaded = load(path, environ, given_by["command line"])
    for name, (origin, value) in configured.items():
        assert BY_NAME[name].value_of(loaded.settings) == value
        assert loaded.origins[name] == {
            "file": str(path),
            "environment": f"environment {BY_NAME[name].env_name}",
        }.get(origin, origin)
    untouched = [name for name, origin in loaded.origins.items() if origin == "default"]
    assert set(untouched) == set(BY_NAME) - set(configured)
