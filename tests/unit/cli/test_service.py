"""`service`: shows what it would write, writes it when told to, and takes nothing away that isn't its own."""

from __future__ import annotations

import json
import plistlib
import stat
import sys
from pathlib import Path

import pytest

from cerememory.cli.main import run
from cerememory.cli.options import UsageError
from cerememory.cli.service_files import layout
from tests.support.nobody import no_home

Captured = pytest.CaptureFixture[str]
COMMAND = "/opt/cerememory/bin/cerememory"
UNIT = "etc/systemd/system/cerememory.service"
CONFIG = "etc/cerememory/cerememory.toml"


def service(root: Path, name: str, *arguments: str) -> int:
    return run(["service", name, "--manager", "systemd", "--root", str(root), "--command", COMMAND, *arguments])


def files_in(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_without_apply_nothing_is_written_and_everything_is_shown(tmp_path: Path, capsys: Captured) -> None:
    assert service(tmp_path, "install") == 0
    assert files_in(tmp_path) == {}
    shown = capsys.readouterr().out
    assert f"ExecStart={COMMAND} serve --config /etc/cerememory/cerememory.toml\n" in shown
    assert f"--- {tmp_path / UNIT} (0644, missing)\n" in shown
    assert "Nothing was written. With --apply" in shown


def test_what_is_written_is_what_was_shown(tmp_path: Path, capsys: Captured) -> None:
    service(tmp_path, "install", "--json")
    shown = json.loads(capsys.readouterr().out)["files"]
    assert service(tmp_path, "install", "--apply") == 0
    written = {str(tmp_path / path): text for path, text in files_in(tmp_path).items()}
    assert written == {row["path"]: row["content"] for row in shown}
    modes = {path: f"{stat.S_IMODE(Path(path).stat().st_mode):04o}" for path in written}
    assert modes == {row["path"]: row["mode"] for row in shown}
    assert "systemctl enable --now cerememory.service" in capsys.readouterr().out
    assert not any("/usr/local/bin/cerememory" in text for text in written.values())


def test_who_may_not_write_for_others_leaves_folders_open_to_them(tmp_path: Path) -> None:
    service(tmp_path / "root", "install", "--apply")
    folders = [path for path in (tmp_path / "root").rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o755}


def test_a_configuration_is_never_written_over(tmp_path: Path, capsys: Captured) -> None:
    service(tmp_path, "install", "--apply")
    (tmp_path / CONFIG).write_text("mine")
    assert service(tmp_path, "install", "--apply", "--force") == 0
    assert (tmp_path / CONFIG).read_text() == "mine"
    assert f"Kept {tmp_path / CONFIG}" in capsys.readouterr().out


def test_a_file_that_was_changed_needs_force(tmp_path: Path, capsys: Captured) -> None:
    service(tmp_path, "install", "--apply")
    before = files_in(tmp_path)
    (tmp_path / UNIT).write_text("mine")
    for name in ("install", "uninstall"):
        assert service(tmp_path, name, "--apply") == 1
        assert f"{tmp_path / UNIT}: not as they would be written" in capsys.readouterr().err
    assert files_in(tmp_path) == {**before, UNIT: "mine"}
    assert service(tmp_path, "install", "--apply", "--force") == 0
    assert files_in(tmp_path) == before


def test_uninstall_deletes_what_install_wrote_but_the_configuration(tmp_path: Path, capsys: Captured) -> None:
    service(tmp_path, "install", "--apply")
    before = files_in(tmp_path)
    capsys.readouterr()
    assert service(tmp_path, "uninstall") == 0
    shown = capsys.readouterr().out
    assert f"Would delete {tmp_path / UNIT}" in shown
    assert "systemctl disable --now" in shown
    assert files_in(tmp_path) == before
    assert service(tmp_path, "uninstall", "--apply") == 0
    assert list(files_in(tmp_path)) == [CONFIG]


@pytest.mark.parametrize(
    ("manager", "code", "said"), [("echo active", 0, "active"), ("echo failed; exit 3", 1, "failed")]
)
def test_status_says_what_is_there_and_what_the_manager_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, manager: str, code: int, said: str
) -> None:
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\n[ "$*" = "is-active cerememory.service" ] || exit 9\n{manager}\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:/usr/bin:/bin")
    root = tmp_path / "root"
    assert service(root, "status") == 1, "nothing is there"
    service(root, "install", "--apply")
    capsys.readouterr()
    assert service(root, "status") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"service {said}"
    assert f"same {root / UNIT}" in lines
    assert f"kept {root / CONFIG}" in lines


def test_status_without_a_manager_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert service(tmp_path, "status") == 1
    assert "service unknown: systemctl: No such file or directory" in capsys.readouterr().out


def test_a_service_of_a_user_lies_in_his_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    assert run(["service", "install", "--user", "--manager", "systemd", "--command", COMMAND, "--apply"]) == 0
    assert set(files_in(home)) == {
        ".config/cerememory/cerememory.toml",
        ".config/systemd/user/cerememory.service",
        ".config/systemd/user/cerememory-backup.service",
        ".config/systemd/user/cerememory-backup.timer",
        ".local/lib/cerememory/cerememory-backup",
    }
    assert stat.S_IMODE((home / ".config/cerememory/cerememory.toml").stat().st_mode) == 0o600


def test_an_agent_of_launchd_names_the_folders_of_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    home = tmp_path / "R & D"
    monkeypatch.setenv("HOME", str(home))
    command = "/opt/R & D/cerememory"
    assert run(["service", "install", "--user", "--manager", "launchd", "--command", command, "--apply"]) == 0
    plist = plistlib.loads((home / "Library/LaunchAgents/com.cerememory.plist").read_bytes())
    config = home / "Library/Application Support/cerememory/cerememory.toml"
    assert plist["ProgramArguments"] == [command, "serve", "--config", str(config)]
    assert plist["StandardErrorPath"] == str(home / "Library/Logs/cerememory.error.log")
    assert f'data_dir = "{config.parent}/data"' in config.read_text()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("/home/somebody/bin/cerememory", "the service doesn't see home directories"),
        ("/opt/my tools/cerememory", "such a path can't stand in a unit file"),
        ("/opt/100%/cerememory", "such a path can't stand in a unit file"),
    ],
)
def test_a_command_that_the_service_could_not_run_is_refused(tmp_path: Path, command: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        layout("systemd", Path(command), None, tmp_path)


def test_an_interpreter_that_the_service_could_not_see_is_refused(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to("/home/somebody/.pyenv/python")
    with pytest.raises(UsageError, match=r"^/home/somebody/\.pyenv/python: the service doesn't see"):
        layout("systemd", tmp_path / "cerememory", None, tmp_path)


def test_launchd_as_root_is_refused(capsys: Captured) -> None:
    assert run(["service", "install", "--manager", "launchd", "--command", COMMAND]) == 2
    assert "as root: add --user" in capsys.readouterr().err


def test_the_command_is_that_of_this_installation(tmp_path: Path, capsys: Captured) -> None:
    run(["service", "install", "--user", "--manager", "systemd", "--root", str(tmp_path), "--json"])
    unit = json.loads(capsys.readouterr().out)["files"][0]["content"]
    assert f"ExecStart={Path(sys.executable).with_name('cerememory')} serve" in unit


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "etc").write_text("a file")
    assert service(tmp_path, "install", "--apply") == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/etc")


def test_one_of_a_user_without_a_home_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    no_home(monkeypatch)
    assert run(["service", "install", "--user", "--command", COMMAND]) == 1
    assert capsys.readouterr().err == "error: --user needs HOME to be set\n"
