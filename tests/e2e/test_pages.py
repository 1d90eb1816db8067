"""The commands of README and docs, run as a reader would in an empty folder, print what the pages say they print.

A page's commands run in one shell and, where it starts or asks one, beside one daemon. Ids, hashes, rates differ
from run to run and are compared as such; everything else is compared to the letter.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import pytest

from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_verification import verify_log
from cerememory.storage.lmdb import LmdbStorage
from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import COMMAND, Daemon, clean_environment, free_port
from tests.support.pages import PAGES, ROOT, Command, commands, label
from tests.support.programs import require
from tests.support.shell import Ran, Shell

# What can't run on a plain machine, by how it begins, and why; everything else is run.
NOT_RUN: Mapping[str, str] = MappingProxyType(
    {
        "make test": "is what runs this",
        "cerememory torture": "kills daemons for minutes; tests/e2e/test_torture.py does it",
        "ops/backup/cerememory-backup": "takes as long as a page; tests/e2e/test_backup_script.py does it",
        "sudo ": "changes the system",
        "docker ": "needs Docker, and builds an image for minutes",
    }
)
# From here on a page has its daemon.
SERVES = re.compile(r"make serve|(?:\.venv/bin/)?cerememory serve\b(?P<options>.*)")
PORT, GRPC_PORT = "8420", "8421"
OF_OPERATORS = {"docs/operations.md"}  # pages about a daemon that has been there: something is stored already
STORED_BEFORE = Command('cerememory store "The fuse box is behind the coats"', None)
DIFFERENT = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"(head_hash|checksum)=[0-9a-f]{64}"), r"\1=HASH"),
    (re.compile(r"(?<=audit head )\d+ [0-9a-f]{4,64}…?"), "HEAD"),
    (re.compile(r"cm_[0-9a-f]{12}_[\w-]{43}"), "KEY"),
    (re.compile(r"\bid=[0-9a-f]{12}\b"), "id=ID"),
    (re.compile(r"\d+ bytes"), "N bytes"),
    (re.compile(r"\d+ records/s"), "N records/s"),
)
WITH_COMMANDS = [page for page in PAGES if commands(page)]


class Reader:
    """Somebody who has a page, an empty folder below `home`, and what `make install` gives."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.folder = home / "here"
        self._stack = stack
        self._daemon: Daemon | None = None
        self._recalls = 0  # in the default namespace, whose statistics count them, that found something
        self._elsewhere = {
            "/backups": str(home / "backups"),
            "/home/you": str(self.folder),
            "/var/lib/cerememory": str(self.folder / "data"),
        }
        for folder in (self.folder, home / "backups"):
            folder.mkdir()
        for name in ("examples", "ops"):
            (self.folder / name).symlink_to(ROOT / name)
        (self.folder / ".venv").symlink_to(COMMAND.parents[1])
        path = f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"
        self._shell = stack.enter_context(Shell(self.folder, clean_environment({"HOME": str(home), "PATH": path})))

    def serve(self, options: str = "") -> None:
        assert self._daemon is None, "one daemon a page"
        self._elsewhere[GRPC_PORT] = str(free_port())
        told = Daemon(self.folder / "data", env=UNLIMITED, args=shlex.split(self.here(options), comments=True))
        daemon = self._daemon = self._stack.enter_context(told)
        self._elsewhere |= {
            PORT: str(daemon.port),
            "load_conversation.py": f"load_conversation.py --server-url {daemon.url}",
        }

    def run(self, command: Command) -> Ran:
        if self._daemon is not None:
            self._wait(self._daemon, command.text)
        self._recalls += recalls(command)
        return self._shell.run(self.here(command.text))

    def here(self, text: str) -> str:
        """`text` with the folders and the port of this reader in place of the page's."""
        for there, here in self._elsewhere.items():
            text = text.replace(there, here)
        return text

    def _wait(self, daemon: Daemon, command: str) -> None:
        daemon.wait_until_searchable()
        if "audit-verify" in command:
            wait_until_audited(daemon, self._recalls)


def recalls(command: Command) -> bool:
    """Whether it finds something in the default namespace, and so comes to the log after its answer."""
    text, printed = command.text, command.printed or ""
    return " recall " in text and "--namespace" not in text and "Found 0" not in printed


def wait_until_audited(daemon: Daemon, found: int) -> None:
    """A recall is answered before its audit entry is committed: until those of `found` are in the file."""
    with Caller(daemon.address) as caller:
        caller.until(lambda asked: asked.stats()["total_recall_count"] == found)
        caller.until(lambda _asked: not pending(daemon.data_dir))


def pending(data_dir: Path) -> int:
    """How many entries the file has yet to get."""
    storage = LmdbStorage.open_readonly(data_dir / "store")
    try:
        return verify_log(data_dir / "audit.jsonl", StoredOutbox(storage)).pending
    finally:
        storage.close()


def same(text: str) -> str:
    for pattern, name in DIFFERENT:
        text = pattern.sub(name, text)
    return text.strip()


def why_not(command: str) -> str | None:
    """Why it isn't run here, if it isn't."""
    return next((reason for start, reason in NOT_RUN.items() if command.startswith(start)), None)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=label)
def test_a_page_shows_what_happens(page: Path, tmp_path: Path) -> None:
    told = [command for command in commands(page) if not why_not(command.text)]
    if any("curl" in command.text for command in told):
        require("curl")
    with ExitStack() as stack:
        reader = Reader(tmp_path, stack)
        if label(page) in OF_OPERATORS:
            check(reader, STORED_BEFORE)
        if asks_a_daemon(told):
            reader.serve()
        for command in told:
            if serves := SERVES.match(command.text):
                reader.serve(serves["options"] or "")
            else:
                check(reader, command)


def asks_a_daemon(told: list[Command]) -> bool:
    """Whether a page takes it for granted that one runs."""
    return not any(SERVES.match(command.text) for command in told) and any(PORT in each.text for each in told)


def check(reader: Reader, command: Command) -> None:
    ran = reader.run(command)
    assert ran.code == 0, f"{command.text}\n{ran.stdout}{ran.stderr}"
    if command.printed is not None:
        assert same(ran.stdout) == same(reader.here(command.printed)), f"{command.text}\n{ran.stderr}"


def test_what_isnt_run_stands_somewhere() -> None:
    told = [command.text for page in PAGES for command in commands(page)]
    assert [start for start in NOT_RUN if not any(text.startswith(start) for text in told)] == []


@pytest.mark.parametrize(
    "needed", ["store", "recall", "load_conversation.py", "audit-verify", "curl", "dream-tick", "export", "forget"]
)
def test_the_readme_shows_each_way_in(needed: str) -> None:
    assert any(needed in command.text for command in commands(ROOT / "README.md"))
