"""The README's commands, run as a reader would in an empty folder, print what the README says they print.

Ids, hashes and rates differ from run to run and are compared as such; everything else is compared to the letter.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cerememory.storage.audit_file import verify_file
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.lmdb import LmdbStorage
from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import WAIT_S, Daemon, clean_environment

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```console\n(.*?)```", re.S)
PORT = "8420"
DIFFERENT = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"(head_hash|checksum)=[0-9a-f]{64}"), r"\1=HASH"),
    (re.compile(r"cm_[0-9a-f]{12}_[\w-]{43}"), "KEY"),
    (re.compile(r"\bid=[0-9a-f]{12}\b"), "id=ID"),
    (re.compile(r"\d+ bytes"), "N bytes"),
    (re.compile(r"\d+ records/s"), "N records/s"),
)


def conversation() -> list[tuple[str, str]]:
    """Every command of the README, in its order, with what it prints."""
    text = "".join(BLOCK.findall((ROOT / "README.md").read_text()))
    parts = re.split(r"^\$ ", text, flags=re.M)[1:]
    return [_split(part) for part in parts]


def _split(part: str) -> tuple[str, str]:
    """A command, which goes on after a backslash, and its output."""
    lines = part.splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if not line.endswith("\\\n")) + 1
    return "".join(lines[:end]), "".join(lines[end:])


def same(text: str) -> str:
    for pattern, name in DIFFERENT:
        text = pattern.sub(name, text)
    return text.strip()


def test_the_readme_shows_what_happens(tmp_path: Path) -> None:
    for name in ("examples", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    with Daemon(tmp_path / "data", env=UNLIMITED) as daemon:
        recalls = 0
        for command, printed in conversation():
            daemon.wait_until_searchable()
            wait_until_audited(daemon, recalls)
            recalls += " recall " in command and "--namespace" not in command and "Found 0" not in printed
            ran = run(command.replace(PORT, daemon.address.rpartition(":")[2]), daemon, tmp_path)
            assert same(ran.stdout) == same(printed), f"{command}{ran.stderr}"


def wait_until_audited(daemon: Daemon, recalls: int) -> None:
    """A recall is answered before its audit entry is committed: until those of all are in the file.

    `recalls` are those in the default namespace, whose statistics count them, that found something.
    """
    with Caller(daemon.address) as caller:
        caller.until(lambda asked: asked.stats()["total_recall_count"] == recalls)
        caller.until(lambda _asked: not pending(daemon.data_dir))


def pending(data_dir: Path) -> int:
    """How many entries the file has yet to get."""
    storage = LmdbStorage.open_readonly(data_dir / "store")
    try:
        return verify_file(data_dir / "audit.jsonl", StoredOutbox(storage)).pending
    finally:
        storage.close()


def run(command: str, daemon: Daemon, folder: Path) -> subprocess.CompletedProcess[str]:
    if "load_conversation" in command:
        command = f"{command.strip()} --server-url {shlex.quote(daemon.url)}"
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=folder,
        env=clean_environment(),
        timeout=WAIT_S,
        check=False,
    )


def test_the_readme_has_commands_to_run() -> None:
    assert len(conversation()) >= 5


@pytest.mark.parametrize(
    "needed", ["store", "recall", "load_conversation.py", "audit-verify", "curl", "dream-tick", "export", "forget"]
)
def test_the_readme_shows_each_way_in(needed: str) -> None:
    assert any(needed in command for command, _ in conversation())
