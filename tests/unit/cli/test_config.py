"""`config check`: the values that count, where each comes from, and what stands in the way of a start."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cerememory.cli.main import run
from cerememory.config.keys import KEYS

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nothing_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CEREMEMORY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text('[http]\nport = 9000\n[auth]\nenabled = true\napi_keys = ["sesame"]\n')
    return path


def test_each_value_comes_with_its_source(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, file: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("CEREMEMORY_LOG__LEVEL", "warn")
    assert run(["config", "check", "--config", str(file), "--data-dir", str(tmp_path / "d")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(KEYS)
    assert f'data_dir = "{tmp_path}/d"  # command line' in lines
    assert f"http.port = 9000  # {file}" in lines
    assert 'log.level = "warn"  # environment CEREMEMORY_LOG__LEVEL' in lines
    assert "grpc.port = none  # default" in lines


def test_no_secret_is_shown(capsys: Captured, file: Path) -> None:
    run(["config", "check", "--config", str(file)])
    assert "sesame" not in capsys.readouterr().out


def test_json_has_a_row_a_key(capsys: Captured, file: Path) -> None:
    assert run(["config", "check", "--json", "--config", str(file)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["key"] for row in rows] == [key.dotted for key in KEYS]
    assert {"key": "http.port", "value": "9000", "origin": str(file)} in rows


def test_what_keeps_the_daemon_from_starting_is_said_last(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("CEREMEMORY_HTTP__BIND_ADDRESS", "0.0.0.0")
    monkeypatch.setenv("CEREMEMORY_GRPC__PORT", "8420")
    assert run(["config", "check"]) == 1
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == len(KEYS)
    problems = shown.err.splitlines()
    assert [problem.split(": ")[:2] for problem in problems] == [
        ["error", "grpc.port"],
        ["error", "http.bind_address"],
        ["error", "grpc.port"],
    ]


def test_what_cant_be_read_is_said_alone(capsys: Captured, tmp_path: Path) -> None:
    assert run(["config", "check", "--config", str(tmp_path / "nowhere.toml")]) == 1
    assert capsys.readouterr() == (
        "",
        f"error: {tmp_path}/nowhere.toml: can't be read: No such file or directory (command line)\n",
    )
