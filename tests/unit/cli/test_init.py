"""`init` and `config init`: a file that a daemon starts with and nobody else reads, and what clients are told."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path

import pytest

from cerememory.cli.main import run
from cerememory.config.checks import check
from cerememory.config.keys import KEYS
from cerememory.config.sources import Loaded, load

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(path: Path) -> Loaded:
    return load(path, {}, {})


def test_the_file_has_a_key_that_is_shown_once_and_nobody_else_reads(folder: Path, capsys: Captured) -> None:
    assert run(["init"]) == 0
    path = folder / "cerememory.toml"
    settings = loaded(path).settings
    check(settings, True)
    [key] = settings.auth.api_keys
    assert settings.auth.enabled
    assert len(key) >= 43
    assert settings.data_dir == folder / "data"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = capsys.readouterr().out
    assert f"Wrote {path}" in shown
    assert f"cerememory serve --config {path}" in shown
    assert all(key.dotted.split(".")[-1] in path.read_text() for key in KEYS), "every setting is explained"


def test_every_file_has_a_key_of_its_own(folder: Path) -> None:
    run(["init", "a.toml"])
    run(["init", "b.toml"])
    assert loaded(folder / "a.toml").settings.auth.api_keys != loaded(folder / "b.toml").settings.auth.api_keys


def test_the_snippets_are_what_clients_read(folder: Path, capsys: Captured) -> None:
    run(["init"])
    shown = capsys.readouterr().out
    start = shown.index("{")
    servers, end = json.JSONDecoder().raw_decode(shown[start:])
    server = servers["mcpServers"]["cerememory"]
    codex = tomllib.loads(shown[shown.index("[mcp_servers.cerememory]") :])
    assert codex["mcp_servers"]["cerememory"] == server
    assert server["args"] == ["mcp", "--server-url", "http://127.0.0.1:8420"]
    [key] = loaded(folder / "cerememory.toml").settings.auth.api_keys
    assert server["env"] == {"CEREMEMORY_SERVER_API_KEY": key}
    assert Path(server["command"]).is_absolute()
    assert end > 0


def test_json_says_the_same(folder: Path, capsys: Captured) -> None:
    run(["init", "--json", "--data-dir", "elsewhere"])
    answer = json.loads(capsys.readouterr().out)
    settings = loaded(folder / "cerememory.toml").settings
    assert answer["api_key"] == settings.auth.api_keys[0]
    assert answer["path"] == str(folder / "cerememory.toml")
    assert settings.data_dir == folder / "elsewhere"


def test_a_port_of_the_environment_goes_into_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("CEREMEMORY_HTTP__PORT", "9000")
    run(["init"])
    assert loaded(folder / "cerememory.toml").settings.http.port == 9000
    assert "http://127.0.0.1:9000" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["init"], ["config", "init"]])
def test_a_file_that_is_there_stays_as_it_is(folder: Path, capsys: Captured, command: list[str]) -> None:
    (folder / "cerememory.toml").write_text("mine")
    assert run(command) == 1
    assert "cerememory.toml: is there already" in capsys.readouterr().err
    assert (folder / "cerememory.toml").read_text() == "mine"


def test_a_folder_that_is_not_there_is_named(capsys: Captured) -> None:
    assert run(["init", "nowhere/x.toml"]) == 1
    assert capsys.readouterr().err == "error: nowhere/x.toml: can't be written: No such file or directory\n"


def test_init_reads_no_configuration(capsys: Captured) -> None:
    assert run(["init", "--config", "x.toml"]) == 2
    assert "name the file behind it" in capsys.readouterr().err


def test_config_init_writes_defaults_alone(folder: Path, capsys: Captured) -> None:
    assert run(["config", "init", "c.toml"]) == 0
    assert capsys.readouterr().out == f"Wrote {folder / 'c.toml'}\n"
    assert set(loaded(folder / "c.toml").origins.values()) == {"default"}
    assert stat.S_IMODE((folder / "c.toml").stat().st_mode) == 0o600


def test_config_init_prints_the_file(folder: Path, capsys: Captured) -> None:
    assert run(["config", "init", "-"]) == 0
    printed = capsys.readouterr().out
    run(["config", "init"])
    assert printed == (folder / "cerememory.toml").read_text()
