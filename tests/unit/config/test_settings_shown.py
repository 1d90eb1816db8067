"""Settings as people see them: `config check`'s rows, masked secrets, the commented file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.config.checks import check
from cerememory.config.keys import BY_NAME, BY_VARIABLE, KEYS, SECTIONS
from cerememory.config.settings import Settings
from cerememory.config.shown import commented_toml, describe, mask_password, toml_value
from cerememory.config.sources import load


def shown(**configured: object) -> dict[str, tuple[str, str]]:
    return {name: (value, origin) for name, value, origin in describe(load(None, {}, configured))}


def test_every_key_is_shown_once_in_its_order() -> None:
    assert [name for name, _, _ in describe(load(None, {}, {}))] == [key.dotted for key in KEYS]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("http.port", 9000, "9000"),
        ("http.metrics_enabled", True, "true"),
        ("http.cors_origins", ["https://a", 'b"c'], r'["https://a", "b\"c"]'),
        ("data_dir", "/srv/memory", '"/srv/memory"'),
        ("decay.epsilon", 0.25, "0.25"),
        ("auth.api_keys", ["hunter2", "hunter3"], "**** (2)"),
        ("auth.api_keys", [], "[]"),
        ("security.store_encryption_passphrase", "hunter2", "****"),
        ("llm.api_key", "hunter2", "****"),
        ("storage.dsn", "postgres://ada:hunter2@db/memory", '"postgres://ada:****@db/memory"'),
    ],
)
def test_a_value_is_shown_with_its_source_and_without_its_secret(key: str, value: object, text: str) -> None:
    assert shown(**{key: value})[key] == (text, "command line")


def test_a_key_without_a_value_is_shown_as_none() -> None:
    assert shown()["grpc.port"] == ("none", "default")


def test_derived_defaults_are_shown_as_they_take_effect() -> None:
    rows = shown(**{"data_dir": "/srv", "security.store_encryption_passphrase": "p"})
    assert rows["security.audit_log_path"] == ('"/srv/audit.jsonl"', "default")
    assert rows["security.persist_search_indexes"] == ("false", "default")


@pytest.mark.parametrize(
    ("dsn", "masked"),
    [
        ("postgres://db/memory", "postgres://db/memory"),
        ("postgres://ada@db/memory", "postgres://ada@db/memory"),
        ("postgres://ada:p@ss:w@db:5432/memory", "postgres://ada:****@db:5432/memory"),
        ("postgres://:pw@db", "postgres://:****@db"),
        ("postgres://db/memory?user=ada&password=pw&sslmode=require", "postgres://db/memory?user=ada&password=****&sslmode=require"),
        ("host=db password=pw user=ada", "host=db password=**** user=ada"),
        (r"host=db PASSWORD = 'p w\' x' user=ada", "host=db PASSWORD = **** user=ada"),
        ("host=db password='never closed", "host=db password=****"),
        ("host=db sslpassword=pw", "host=db sslpassword=****"),
    ],
)  # fmt: skip
def test_a_connection_string_is_shown_without_its_password(dsn: str, masked: str) -> None:
    assert mask_password(dsn) == masked


@given(password=st.text(min_size=1).map("§{}§".format))
def test_no_password_of_a_url_survives_the_mask(password: str) -> None:
    assert "§" not in mask_password(f"postgres://ada:{password}@db/memory")


@given(value=st.text(st.characters(codec="utf-8")))
def test_any_text_is_written_as_toml_reads_it(value: str) -> None:
    assert tomllib.loads(f"value = {toml_value((value,))}") == {"value": [value]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cerememory.toml"


def test_the_commented_file_loads_as_the_defaults(path: Path) -> None:
    path.write_text(commented_toml())
    loaded = load(path, {}, {})
    check(loaded.settings, True, loaded.origins)
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}


def test_its_comments_are_the_defaults_when_their_marks_are_taken_away(path: Path) -> None:
    path.write_text(re.sub(r"^#(\w+ = .+)$", r"\1", commented_toml(), flags=re.MULTILINE))
    loaded = load(path, {}, {})
    assert loaded.settings == Settings()
    written = {name for name, origin in loaded.origins.items() if origin == str(path)}
    assert written == {key.dotted for key in KEYS if key.default is not None}


def test_it_names_every_section_key_and_variable() -> None:
    text = commented_toml()
    assert re.findall(r"^\[(\w+)\]$", text, re.MULTILINE) == list(SECTIONS)
    assert re.findall(r"^#(\w+) =", text, re.MULTILINE) == [key.name for key in KEYS]
    assert re.findall(r"^# (CEREMEMORY_\w+)$", text, re.MULTILINE) == [key.env_name for key in KEYS]


def test_it_says_which_keys_are_not_there_yet() -> None:
    (about,) = re.findall(r"(?:^# .+\n)+#ui_enabled = true$", commented_toml(), re.MULTILINE)
    assert "Not in this version yet" in about


def test_chosen_keys_stand_in_the_file_without_a_mark(path: Path) -> None:
    chosen = {"auth.enabled": True, "auth.api_keys": ("k1", "k2"), "llm.api_key": "secret"}
    path.write_text(commented_toml(chosen))
    loaded = load(path, {}, {})
    assert {name for name, origin in loaded.origins.items() if origin == str(path)} == set(chosen)
    assert loaded.settings.auth.api_keys == ("k1", "k2")


def test_a_chosen_name_that_is_no_key_is_an_error() -> None:
    with pytest.raises(KeyError):
        commented_toml({"auth.enabeld": True})


def test_every_key_has_one_line_that_describes_it() -> None:
    for key in KEYS:
        assert key.description.endswith(".")
        assert "\n" not in key.description


def test_a_key_is_found_by_its_name_and_by_its_variable() -> None:
    key = BY_NAME["rate_limit.requests_per_second"]
    assert key.env_name == "CEREMEMORY_RATE_LIMIT__REQUESTS_PER_SECOND"
    assert BY_VARIABLE[key.env_name] is key
    assert BY_NAME["data_dir"].env_name == "CEREMEMORY_DATA_DIR"
