"""`connect`: shows or writes what an MCP host is told, and loses nothing of what its file was."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from cerememory.cli.connect import FILE_BYTES_MAX, HostName
from cerememory.cli.main import run
from cerememory.mcp.hosts import HOSTS
from tests.support.nobody import no_home

Captured = pytest.CaptureFixture[str]
KEY = "CEREMEMORY_SERVER_API_KEY"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, and home inside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_hosts_are_those_that_are_known() -> None:
    assert get_args(HostName) == tuple(HOSTS)


@pytest.mark.parametrize("host", HOSTS)
def test_without_apply_it_is_shown_and_nothing_written(folder: Path, capsys: Captured, host: str) -> None:
    assert run(["connect", host, "--namespace", "work"]) == 0
    shown = capsys.readouterr().out
    for word in (HOSTS[host].title, "--server-url", "http://127.0.0.1:8420", "--namespace", "work"):
        assert word in shown
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("host", [name for name, host in HOSTS.items() if host.file is not None])
def test_applied_it_is_in_the_hosts_file(folder: Path, capsys: Captured, host: str) -> None:
    assert run(["connect", host, "--apply", "--server-url", "http://127.0.0.1:9000"]) == 0
    file = HOSTS[host].file
    assert file is not None
    path = (folder / "home" if HOSTS[host].is_users else folder) / file
    held = tomllib.loads(path.read_text()) if path.suffix == ".toml" else json.loads(path.read_text())
    server = held[HOSTS[host].key]["cerememory"]
    assert server["args"] == ["mcp", "--server-url", "http://127.0.0.1:9000"]
    assert Path(server["command"]).is_absolute()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert capsys.readouterr().out == f"Wrote {path}\n"
    assert run(["connect", host, "--apply", "--server-url", "http://127.0.0.1:9000"]) == 0
    assert "says so already" in capsys.readouterr().out
    assert [each.name for each in path.parent.iterdir() if each.is_file()] == [path.name]


def test_another_entry_stays_without_force_and_is_kept_with_it(folder: Path, capsys: Captured) -> None:
    path = folder / ".mcp.json"
    for port in (1, 2, 3):
        told = ["connect", "claude-code", "--apply", "--server-url", f"http://127.0.0.1:{port}"]
        before = path.read_text() if path.exists() else None
        if before is not None:
            assert run(told) == 1
            assert "--force replaces it; nothing was written" in capsys.readouterr().err
            assert path.read_text() == before
            assert run([*told, "--force"]) == 0
            backup = folder / (".mcp.json.bak" if port == 2 else ".mcp.json.bak-1")
            assert f"what it was is in {backup}" in capsys.readouterr().out
            assert backup.read_text() == before
            assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        else:
            assert run(told) == 0


def test_a_file_keeps_its_mode_and_the_servers_in_it(folder: Path) -> None:
    path = folder / ".mcp.json"
    path.write_text('{"mcpServers": {"other": {"command": "x"}}, "more": 1}')
    path.chmod(0o644)
    assert run(["connect", "claude-code", "--apply", "--target-dir", str(folder)]) == 0
    held = json.loads(path.read_text())
    assert (held["more"], held["mcpServers"]["other"]) == (1, {"command": "x"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert (folder / ".mcp.json.bak").exists()


def test_no_key_is_written_but_where_it_comes_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv(KEY, "sesame-sesame-sesame")
    assert run(["connect", "cursor", "--apply", "--with-key"]) == 0
    text = (folder / ".cursor" / "mcp.json").read_text()
    assert "sesame" not in text + capsys.readouterr().out
    assert json.loads(text)["mcpServers"]["cerememory"]["env"] == {KEY: f"${{env:{KEY}}}"}


def test_over_http_the_daemons_address_is_written_and_no_command(folder: Path) -> None:
    told = ["--transport", "http", "--with-key", "--server-url", "https://memory.example/cere"]
    assert run(["connect", "claude-code", "--apply", *told]) == 0
    server = json.loads((folder / ".mcp.json").read_text())["mcpServers"]["cerememory"]
    assert server == {
        "type": "http",
        "url": "https://memory.example/cere/mcp",
        "headers": {"Authorization": f"Bearer ${{{KEY}:-}}"},
    }


def test_json_says_the_same(capsys: Captured) -> None:
    assert run(["connect", "codex", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["host"] == "Codex"
    assert answer["path"].endswith("/home/.codex/config.toml")
    assert "[mcp_servers.cerememory]" in answer["entry"]


def test_what_is_no_host_of_ours_is_a_mistake_of_usage(capsys: Captured) -> None:
    assert run(["connect", "emacs"]) == 2
    assert "emacs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cline", "--apply"], "Cline: has no file that could be written"),
        (["claude-code", "--apply", "--target-dir", "typo"], "--target-dir: typo is not a directory"),
        (["zed", "--with-key"], "Zed can't refer to its environment"),
        (["zed", "--with-key", "--transport", "http"], "Zed can't refer to its environment"),
        (["cline", "--transport", "http"], "Cline: isn't known to speak HTTP"),
        (
            ["cursor", "--with-key", "--transport", "http", "--server-url", "http://memory.example"],
            "api_key: would go to memory.example unencrypted",
        ),
        (["cursor", "--server-url", "ftp://x"], "server_url"),
        (["cursor", "--namespace", "no name"], "namespace"),
    ],
)
def test_what_cant_be_done_is_refused(folder: Path, capsys: Captured, arguments: list[str], message: str) -> None:
    assert run(["connect", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def a_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def a_folder(path: Path) -> None:
    path.mkdir()


def latin_1(path: Path) -> None:
    path.write_bytes(b'{"a": "\xfc"}')


def too_large(path: Path) -> None:
    path.write_bytes(b" " * (FILE_BYTES_MAX + 1))


@pytest.mark.parametrize("made", [a_link, a_folder, latin_1, too_large])
def test_a_file_that_isnt_a_plain_one_is_left_alone(folder: Path, capsys: Captured, made: object) -> None:
    path = folder / ".mcp.json"
    assert callable(made)
    made(path)
    assert run(["connect", "claude-code", "--apply", "--force"]) == 1
    assert f"{path}: " in (told := capsys.readouterr().err)
    assert "nothing was written" in told
    assert [each.name for each in folder.iterdir()] == [".mcp.json"]


def test_without_a_home_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    no_home(monkeypatch)
    assert run(["connect", "codex"]) == 1
    assert "Codex's file needs HOME to be set" in capsys.readouterr().err
    assert run(["connect", "claude-code"]) == 0
