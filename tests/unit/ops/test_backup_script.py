"""The backup script with a command that only pretends: what it deletes, and when it doesn't."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "ops" / "backup" / "cerememory-backup"
OLD = ("20200101T000000Z", "20200102T000000Z", "20200103T000000Z")
RUN_S = 60.0
# Exports 7 records a namespace; an import has what IMPORTED says. What it was asked is in the folder's `asked`.
COMMAND = """#!/bin/sh
echo "$*" >>"{asked}"
[ "$1" != "{broken}" ] || exit 1
case $1 in
namespaces) printf '%s\\n' default work ;;
export)
	while [ "$1" != --output ]; do shift; done
	echo archive >"$2"
	printf '{{\\n  "record_count": 7,\\n  "path": "%s"\\n}}\\n' "$2" ;;
import)
	[ -z "$CEREMEMORY_DATA_DIR" ] || exit 1
	printf '{{\\n  "records_imported": {imported},\\n  "path": "x"\\n}}\\n' ;;
esac
"""


class Backup:
    """The script on a folder with older backups, and with others' things in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "backups"
        self.key = folder / "key"
        self.key.write_text("a passphrase")
        self.asked = folder / "asked"
        self.command = folder / "cerememory"
        for name in (*OLD, "mine", ".20191231T000000Z.draft"):
            (self.folder / name).mkdir(parents=True)
        self.pretend()

    def pretend(self, broken: str = "nothing", imported: str = "7") -> None:
        self.command.write_text(COMMAND.format(asked=self.asked, broken=broken, imported=imported))
        self.command.chmod(0o755)

    def run(self, keep: str = "2") -> subprocess.CompletedProcess[str]:
        arguments = [self.command, self.folder, self.key, keep, "--data-dir", "/d"]
        environ = {"PATH": "/usr/bin:/bin", "CEREMEMORY_DATA_DIR": "/elsewhere"}
        command = ["sh", str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_S, env=environ)

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def backup(tmp_path: Path) -> Backup:
    return Backup(tmp_path)


def test_the_newest_stay_and_only_backups_go(backup: Backup) -> None:
    ran = backup.run(keep="2")
    assert ran.returncode == 0, ran.stderr
    [new] = set(backup.names) - {*OLD, "mine"}
    assert backup.names == [OLD[-1], new, "mine"]
    assert sorted(path.name for path in (backup.folder / new).iterdir()) == ["default.cma", "work.cma"]
    assert ran.stdout == f"Backed up 14 records to {backup.folder / new}\n"
    assert {path.stat().st_mode & 0o077 for path in (backup.folder / new).rglob("*")} == {0}


def test_each_namespace_is_exported_encrypted_and_proved(backup: Backup) -> None:
    backup.run()
    asked = backup.asked.read_text().splitlines()
    assert [line.split()[0] for line in asked] == ["namespaces", "export", "import", "export", "import"]
    exports = [line for line in asked if line.startswith("export")]
    assert all(
        "--data-dir /d" in line and f"--encrypt --encryption-key-file {backup.key}" in line for line in exports
    )
    assert all("--include-raw-journal" in line for line in exports)
    imports = [line for line in asked if line.startswith("import")]
    assert not any("--data-dir" in line for line in imports), "never into what was exported"
    assert all("--json" in line for line in imports), "or it says how to take back what is thrown away"
    assert ["--namespace default" in imports[0], "--namespace work" in imports[1]] == [True, True]


@pytest.mark.parametrize(
    "pretended",
    [
        {"broken": "namespaces"},
        {"broken": "export"},
        {"broken": "import"},
        {"imported": "6"},
        {"imported": "null"},
    ],
    ids=str,
)
def test_nothing_is_deleted_for_a_backup_that_is_not_proved(backup: Backup, pretended: dict[str, str]) -> None:
    backup.pretend(**pretended)
    ran = backup.run(keep="1")
    assert ran.returncode != 0
    assert backup.names == [*OLD, "mine"], "what a killed one had left is gone, too"


@pytest.mark.parametrize("keep", ["0", "", "-1", "some", "01"])
def test_a_number_that_keeps_nothing_is_refused(backup: Backup, keep: str) -> None:
    assert backup.run(keep=keep).returncode == 1
    assert not backup.asked.exists()


def test_an_empty_passphrase_is_refused(backup: Backup) -> None:
    backup.key.write_text("")
    ran = backup.run()
    assert ran.stderr == f"cerememory-backup: {backup.key}: there is no passphrase in it\n"
    assert not backup.asked.exists()
