"""Every file of a data dir has the mode that SECURITY.md says, whatever the umask is."""

from __future__ import annotations

import re
import stat
from fnmatch import fnmatch
from pathlib import Path

import pytest

from cerememory.client import Client
from tests.support.calls import Caller, store_body
from tests.support.daemon import Daemon, cerememory

DOCUMENT = (Path(__file__).parents[2] / "SECURITY.md").read_text()
ROW = re.compile(r"^\| (?P<files>`[^|]*`) \| (?P<mode>0[67]00) \|", re.MULTILINE)
OPEN_HANDED = ("sh", "-c", 'umask 022; exec "$@"', "sh")
KEY = "a-key-of-the-configuration"


def described() -> dict[str, int]:
    """The mode of each pattern in the table; `*` stands for a part of one name."""
    return {
        pattern: int(row["mode"], 8)
        for row in ROW.finditer(DOCUMENT)
        for pattern in re.findall(r"`([^`]+)`", row["files"])
    }


def pattern_of(path: str) -> str | None:
    """The row that `path` belongs to."""
    parts = path.split("/")
    for pattern in described():
        steps = pattern.split("/")
        if len(steps) == len(parts) and all(map(fnmatch, parts, steps)):
            return pattern
    return None


def modes(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode)
        for path in (root, *sorted(root.rglob("*")))
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Every file that there was while the daemon ran or when it had stopped."""
    root = tmp_path_factory.mktemp("modes") / "a" / "data"
    env = {"CEREMEMORY_AUTH__ENABLED": "true", "CEREMEMORY_AUTH_API_KEYS": KEY}
    with Daemon(root, env=env, launcher=OPEN_HANDED) as daemon:
        assert cerememory("key", "create", "laptop", "--role", "read", "--data-dir", root).returncode == 0
        with Client(daemon.url, KEY) as client:
            client.call("encode.store", store_body("kept"))
            client.call("encode.store_raw", {"session_id": "s", **store_body("said")})
            client.call("lifecycle.dream_tick", {})
            client.call("lifecycle.compact", {})
        daemon.wait_until_searchable()
        running = modes(root)
        assert daemon.stop() == 0
    return modes(root) | running


def test_each_file_has_the_mode_of_its_row(found: dict[str, int]) -> None:
    table = described()
    wrong = {path: oct(mode) for path, mode in found.items() if table.get(pattern_of(path) or "") != mode}
    assert wrong == {}


def test_each_row_has_files(found: dict[str, int]) -> None:
    assert {pattern_of(path) for path in found} == described().keys()


def test_what_commands_write_elsewhere_is_their_users_alone(tmp_path: Path) -> None:
    data, archive, backup = tmp_path / "data", tmp_path / "a.cma", tmp_path / "backup"
    with Daemon(data) as daemon, Caller(daemon.address) as caller:
        caller.store("kept")
        assert cerememory("export", "--output", archive, "--data-dir", data).returncode == 0
        assert cerememory("backup", backup, "--data-dir", data).returncode == 0
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert {mode for path, mode in modes(backup).items() if (backup / path).is_dir()} == {0o700}
    assert {mode for path, mode in modes(backup).items() if (backup / path).is_file()} == {0o600}
