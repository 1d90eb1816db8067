"""What every command prints with `--json` is what its schema says, and every schema says what it means.

The commands run inside the test, on one engine that runs meanwhile in the place of a daemon; then those that own a
data dir, on a copy of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cyclopts import App

from cerememory.cli import answers, completion, meanings, memory
from cerememory.cli.answers import ANSWERS, WITHOUT
from cerememory.cli.commands import COMMANDS
from cerememory.cli.main import run
from cerememory.cli.offline import OfflineMemory, offline
from cerememory.cli.options import Options
from cerememory.cli.settings import load
from cerememory.storage.datadir import DataDir
from tests.support.answers import faults_of
from tests.support.fake_daemon import FakeDaemon, answer

ELSEWHERE = {"torture"}  # it starts a daemon: its answer is looked at where that is tried
PASSPHRASE = "CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE"


def leaves() -> Iterator[str]:
    """The names of all commands that do something."""
    for _group, name, path, _summary in COMMANDS:
        module, _, function = path.partition(":")
        found = getattr(import_module(f"cerememory.cli.{module}"), function)
        if isinstance(found, App):
            yield from [name] * (found.default_command is not None)
            yield from (f"{name} {inner}" for inner in found if not inner.startswith("-"))
            yield from [name] if found.default_command is not None else []
        else:
            yield name


class Said:
    """What commands said, by the command. `codes`: the exit codes that count as an answer."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}

    def ask(self, command: str, *arguments: object, codes: tuple[int, ...] = (0,)) -> Any:
        printed = StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", printed)
            code = run([*command.split(), *map(str, arguments), "--json"])
        assert code in codes, (command, arguments)
        answered = json.loads(printed.getvalue())
        self.answers.setdefault(command, []).append(answered)
        return answered


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Of every command that there is but for those of `ELSEWHERE`, at least one answer."""
    assert [*leaves()], "which loads all modules, so that none keeps what is patched"
    folder, said = tmp_path_factory.mktemp("schemas"), Said()
    settings = load(Options(data_dir=folder / "memories")).settings
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where a command that finds no engine would make a data dir
        with offline(settings, DataDir.acquire(settings.data_dir), None, is_verbose=False) as engine:
            _answer_from(patch, engine)
            _ask_memories(said, folder)
        assert not (folder / "data").exists()
        copy = said.ask("backup", folder / "copy", "--data-dir", settings.data_dir)["path"]
        _ask_data_dir(said, patch, folder, copy)
        _ask_around(said, patch, folder)
    return said.answers


def _answer_from(patch: pytest.MonkeyPatch, engine: OfflineMemory) -> None:
    connect = memory.connect
    for name, module in sys.modules.items():
        if name.startswith("cerememory.cli.") and getattr(module, "connect", None) is connect:
            patch.setattr(module, "connect", lambda options, **_: nullcontext(engine))


def _ask_memories(said: Said, folder: Path) -> None:
    lines, archive = folder / "lines.txt", folder / "all.cma"
    lines.write_text("The teapot is blue\nThe teapot is old\n")
    first = said.ask("store", "The kettle is red", "--embedding", "0.1,0.2", "--emotion", "joy")["record_id"]
    said.ask("store", "at hand", "--store", "working")
    said.ask("update", first, "The kettle is green", "--meta-json", '{"intent": "colours"}')
    said.ask("load", lines)
    for text in ("Careful, it leaks", "It does"):
        said.ask("store-raw", text, "--session-id", "tea", "--topic-id", "kettles")
    said.ask("dream-tick")
    said.ask("recall", "kettle teapot")
    said.ask("recall")
    said.ask("recall-raw", "leaks")
    said.ask("associate", first)
    said.ask("timeline")
    said.ask("inspect", first)
    said.ask("stats")
    said.ask("set-mode", "perfect")
    said.ask("consolidate", "--strategy", "full")
    said.ask("decay-tick")
    said.ask("export", "--output", archive, "--include-raw-journal")
    batch = said.ask("import", archive, "--strategy", "replace")["batch_id"]
    for dry_run in (("--dry-run",), ()):
        said.ask("import undo", batch, *dry_run)
    for option in ("--dry-run", "--compact"):
        said.ask("redact", "--rescan", option)
    said.ask("restore", first)
    said.ask("restore")
    said.ask("forget", first, "--dry-run")
    said.ask("forget", first, "--confirm", "--compact")
    said.ask("compact")
    said.ask("import", archive, "--dry-run")
    said.ask("import undo", said.ask("import", archive)["batch_id"])
    said.ask("redact", "--rescan")
    said.ask("redact", "--rescan", "--compact")
    said.ask("audit-rotate")


def _ask_data_dir(said: Said, patch: pytest.MonkeyPatch, folder: Path, copy: str) -> None:
    here = ("--data-dir", copy)
    said.ask("audit-verify", *here)
    said.ask("fsck", *here)
    said.ask("fsck", "--repair", *here)
    said.ask("reindex", *here)
    said.ask("namespaces", *here)
    said.ask("doctor", *here)
    said.ask("key create", "laptop", "--role", "write", "--days", 3, *here)
    said.ask("key create", "phone", "--role", "read", "--scope", "work", *here)
    said.ask("key list", *here)
    said.ask("key revoke", "laptop", *here)
    new = folder / "new"
    new.write_text("another\n")
    patch.setenv(PASSPHRASE, "correct horse")
    said.ask("migrate-store-encryption", "--confirm", *here)
    said.ask("rotate-key", *here)
    said.ask("change-passphrase", "--new-passphrase-file", new, *here)
    patch.delenv(PASSPHRASE)


def _ask_around(said: Said, patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("HOME", str(folder))
    said.ask("config check")
    said.ask("config init", folder / "all.toml")
    said.ask("init", folder / "own.toml")
    said.ask("connect", "cursor", "--target-dir", folder)
    said.ask("connect", "cursor", "--target-dir", folder, "--apply")
    where = ("--manager", "systemd", "--user", "--command", sys.executable)
    for apply in ((), ("--apply",)):
        said.ask("service install", *where, *apply)
    said.ask("service status", *where, codes=(0, 1))
    for apply in ((), ("--apply",)):
        said.ask("service uninstall", *where, *apply)
    with FakeDaemon(answer({"status": "ok"})) as daemon:
        said.ask("healthcheck", "--server-url", daemon.url)
    patch.setattr(completion, "application", lambda: App(name="cerememory"))
    said.ask("--install-completion", "--shell", "bash", "--output", folder / "script")


def test_every_command_has_a_schema_or_prints_no_json() -> None:
    """A new one belongs into `ANSWERS`, and into what is asked here."""
    assert set(leaves()) == {*ANSWERS, *WITHOUT}


@pytest.mark.parametrize("command", [command for command in ANSWERS if command not in ELSEWHERE])
def test_what_a_command_prints_is_what_its_schema_says(command: str, said: dict[str, list[Any]]) -> None:
    assert [faults_of(command, answered) for answered in said[command]] == [[] for _ in said[command]]


def test_a_field_more_or_less_is_noticed() -> None:
    assert faults_of("update", {"record_id": "0191aaaa-0000-7000-8000-000000000001"}) == []
    assert faults_of("update", {}) != []
    assert faults_of("update", {"record_id": "0191aaaa-0000-7000-8000-000000000001", "more": 1}) != []
    assert faults_of("key list", [{"id": "x"}]) != []


def test_every_type_and_field_of_a_command_says_what_it_means() -> None:
    """A new one belongs into `cli.meanings`."""
    own = {kind for kind in vars(answers).values() if _is_own(kind)}
    fields = {f"{kind.__name__}.{name}" for kind in own for name in kind.__annotations__}
    assert {kind.__name__ for kind in own} == meanings.TYPES.keys()
    assert fields == meanings.FIELDS.keys()


def _is_own(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == answers.__name__


def test_a_schema_stands_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "key", "list"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert printed["title"] == "cerememory key list --json"
    assert printed["items"] == {"$ref": "#/$defs/KeyRow"}
    assert printed["$defs"]["KeyRow"]["properties"]["role"] == {
        "enum": ["admin", "read", "write"],
        "description": "What it may do.",
    }


def test_without_a_command_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    assert capsys.readouterr().out.splitlines() == sorted(ANSWERS)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["serve"], "serve prints no JSON that it answers with"),
        (["recal"], "no command 'recal', did you mean recall?"),
        (["qqqqqqq"], "no command 'qqqqqqq'; cerememory schema lists them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_has_no_schema_is_a_mistake(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schema", *command]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
