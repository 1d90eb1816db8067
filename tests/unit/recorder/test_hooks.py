"""Installing a hook writes two files of its own and touches nothing else."""

from __future__ import annotations

import json
import runpy
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest

from cerememory.errors import ValidationFailed
from cerememory.recorder.hooks import CLIENTS, HookClient, install

URL = "https://memory.example/base"
clients = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)


def installed(client: HookClient, target: Path, *, force: bool = False) -> tuple[Path, Path]:
    written = install(client, target, URL, '/opt/a "b"/cerememory-recorder', force=force)
    assert written.settings == written.example.read_text()
    return written.script, written.example


def commands(settings: Any) -> set[str]:
    """Every command that is called."""
    if isinstance(settings, dict):
        own = {settings["command"]} if "command" in settings else set()
        return own.union(*map(commands, settings.values()))
    return set().union(*map(commands, settings)) if isinstance(settings, list) else set()


@clients
def test_script_and_example_are_written(tmp_path: Path, client: HookClient) -> None:
    script, example = installed(client, tmp_path)
    folder = tmp_path / client.folder / "hooks"
    assert script == folder / f"cerememory-recorder-{client.name}-hook.py"
    assert example == folder / "cerememory-recorder.example.json"
    assert sorted(path.name for path in folder.iterdir()) == sorted([script.name, example.name])
    constants = runpy.run_path(str(script))
    assert (constants["CLIENT"], constants["SERVER_URL"]) == (client.name, URL)
    assert constants["RECORDER"] == '/opt/a "b"/cerememory-recorder'
    settings = json.loads(example.read_text())
    assert set(settings["hooks"]) == set(client.hooks)
    assert [shlex.split(command) for command in commands(settings)] == [["python3", "-IS", str(script)]]
    assert stat.S_IMODE(script.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("name", ["codex", "claude-code"])
def test_hooks_of_one_shape_have_a_limit(tmp_path: Path, name: str) -> None:
    _script, example = installed(CLIENTS[name], tmp_path)
    [group] = json.loads(example.read_text())["hooks"]["UserPromptSubmit"]
    assert (group["hooks"][0]["type"], group["hooks"][0]["timeout"]) == ("command", 15)


def test_cursor_has_a_version(tmp_path: Path) -> None:
    _script, example = installed(CLIENTS["cursor"], tmp_path)
    assert json.loads(example.read_text())["version"] == 1


@clients
def test_what_is_there_stays_unless_forced(tmp_path: Path, client: HookClient) -> None:
    script, example = installed(client, tmp_path)
    example.unlink()
    script.write_text("mine")
    with pytest.raises(ValidationFailed, match="is there already; --force"):
        installed(client, tmp_path)
    assert (script.read_text(), example.exists()) == ("mine", False)
    installed(client, tmp_path, force=True)
    assert "SERVER_URL" in script.read_text()


@clients
def test_settings_are_never_touched(tmp_path: Path, client: HookClient) -> None:
    settings = tmp_path / client.folder / "hooks.json"
    settings.parent.mkdir()
    settings.write_text("{}")
    installed(client, tmp_path, force=True)
    assert settings.read_text() == "{}"


@pytest.mark.parametrize("which", ["folder", "hooks", "script", "example"])
@pytest.mark.parametrize("force", [False, True])
def test_a_link_is_never_followed(tmp_path: Path, which: str, force: bool) -> None:
    """Not even a dangling one: whoever checks out a project may find one there."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target = tmp_path / "project"
    hooks = target / ".codex" / "hooks"
    link = {
        "folder": hooks.parent,
        "hooks": hooks,
        "script": hooks / "cerememory-recorder-codex-hook.py",
        "example": hooks / "cerememory-recorder.example.json",
    }[which]
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere if which in ("folder", "hooks") else elsewhere / "file")
    with pytest.raises(ValidationFailed, match="is a symbolic link; nothing was written"):
        installed(CLIENTS["codex"], target, force=force)
    assert list(elsewhere.iterdir()) == []


def test_a_target_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match="is not a directory"):
        installed(CLIENTS["codex"], tmp_path / "none")
    with pytest.raises(ValidationFailed, match="is there already"):
        (tmp_path / ".codex/hooks/cerememory-recorder-codex-hook.py").mkdir(parents=True)
        installed(CLIENTS["codex"], tmp_path, force=True)
