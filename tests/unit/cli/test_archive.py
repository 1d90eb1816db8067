"""What `export` and `import` ask for, how keys come in, and what becomes of the file."""

from __future__ import annotations

import getpass
import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, get_args

import pytest

from cerememory.cli import archive
from cerememory.cli.arguments import FormatName, ImportStrategyName, ResolutionName
from cerememory.cli.main import run
from cerememory.client.archives import ArchiveStream
from cerememory.errors import CerememoryError, DaemonUnreachable, ImportConflict
from cerememory.protocol.requests import EXPORT_FORMATS, ConflictResolution, ImportStrategy

CHUNKS = [b"abc" * 100_000, b"", b"end"]
DESCRIBED = {"archive_id": "a-1", "size_bytes": 300_003, "record_count": 7, "checksum": "ab"}
BATCH = "0191aaaa-0000-7000-8000-000000000009"
IMPORTED = {"records_imported": 5, "batch_id": BATCH}
UNDO = f"note: cerememory import undo {BATCH} takes it back\n"
UNDONE = {
    "batch_id": BATCH,
    "archive_id": "a.cma",
    "records_removed": 3,
    "records_restored": 2,
    "records_left": 1,
    "left_ids": [BATCH],
}
PLANNED = {"records_imported": 5, "records_added": 3, "records_replaced": 2, "records_kept": 1}


class FakeArchives:
    """Gives one archive and takes one, or raises a given error; it checks nothing."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.taken: list[tuple[bytes, int, dict[str, Any]]] = []
        self.answer: dict[str, Any] = IMPORTED
        self.calls: list[tuple[str, Any]] = []
        self.error: CerememoryError | None = None

    @contextmanager
    def export_archive(self, body: object) -> Iterator[ArchiveStream]:
        self.bodies.append(body)
        yield ArchiveStream("a-1", 7, "ab", 300_003, self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        for chunk in CHUNKS:
            yield chunk
            if self.error is not None:
                raise self.error

    def call(self, operation_name: str, body: object) -> Any:
        self.calls.append((operation_name, body))
        return UNDONE

    def import_archive(self, chunks: Iterable[bytes], size_bytes: int, terms: Mapping[str, Any]) -> Any:
        self.taken.append((b"".join(chunks), size_bytes, dict(terms)))
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeArchives:
    made = FakeArchives()
    monkeypatch.setattr(archive, "connect", lambda options, **_: nullcontext(made))
    monkeypatch.chdir(tmp_path)
    return made


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (FormatName, (*EXPORT_FORMATS, archive.AGE)),
        (ImportStrategyName, ImportStrategy),
        (ResolutionName, ConflictResolution),
    ],
)
def test_the_names_are_those_of_the_protocol(names: Any, known: Any) -> None:
    assert get_args(names) == tuple(known)


def test_an_export_asks_for_no_more_than_it_was_given(
    memory: FakeArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export"]) == 0
    assert memory.bodies == [{"format": "cma", "include_raw_journal": False, "encrypt": False}]
    assert (tmp_path / "backup.cma").read_bytes() == b"".join(CHUNKS)
    assert capsys.readouterr() == (
        "Exported 7 records to backup.cma (300003 bytes, archive_id=a-1, checksum=ab)\n",
        "",
    )


def test_an_export_takes_all_that_there_is_to_say(
    memory: FakeArchives, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["export", "--output", "a.cma", "--format", "jsonl", "--stores", "episodic,working"]
    assert run([*asked, "--include-raw-journal", "--encrypt", "--encryption-key", "k", "--json"]) == 0
    assert memory.bodies == [
        {
            "format": "jsonl",
            "stores": ("episodic", "working"),
            "include_raw_journal": True,
            "encrypt": True,
            "encryption_key": "k",
        }
    ]
    out, err = capsys.readouterr()
    assert json.loads(out) == {**DESCRIBED, "path": "a.cma"}
    assert err.startswith("warning: --encryption-key: other users of this machine can see it")


def test_the_file_is_its_owners_alone_and_replaces_another(memory: FakeArchives, tmp_path: Path) -> None:
    file = tmp_path / "a.cma"
    file.write_bytes(b"the one before")
    file.chmod(0o644)
    assert run(["export", "--output", str(file)]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == b"".join(CHUNKS)
    assert list(tmp_path.iterdir()) == [file]


def test_an_export_that_is_broken_off_leaves_the_old_file(memory: FakeArchives, tmp_path: Path) -> None:
    file = tmp_path / "a.cma"
    file.write_bytes(b"the one before")
    memory.error = DaemonUnreachable("broke off")
    assert run(["export", "--output", str(file)]) == 1
    assert file.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [file]


def test_an_interrupted_export_leaves_no_file(
    memory: FakeArchives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> Iterator[bytes]:
        yield b"a"
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "_chunks", interrupted)
    assert run(["export"]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(
    memory: FakeArchives, tmp_path: Path, is_there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "far").mkdir()
    file = tmp_path / "far" / "target.cma"
    if is_there:
        file.write_bytes(b"the one before")
    (tmp_path / "second.cma").symlink_to("far/target.cma")
    link = tmp_path / "a.cma"
    link.symlink_to("second.cma")
    assert run(["export", "--output", "a.cma"]) == 0
    assert link.readlink() == Path("second.cma")
    assert not file.is_symlink()
    assert file.read_bytes() == b"".join(CHUNKS)
    assert list(file.parent.iterdir()) == [file]
    assert capsys.readouterr().out.startswith("Exported 7 records to a.cma (")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [_pipe, _link_to_a_pipe, _link_to_itself, Path.mkdir])
def test_what_is_there_and_is_no_file_is_left_alone(
    memory: FakeArchives, tmp_path: Path, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.cma"
    make(output)
    before = {path: path.lstat() for path in tmp_path.iterdir()}
    assert run(["export", "--output", "a.cma"]) == 1
    assert capsys.readouterr().err == "error: --output: a.cma is there, and isn't a file\n"
    assert {path: path.lstat() for path in tmp_path.iterdir()} == before
    assert memory.bodies == []


def test_a_pipe_behind_a_descriptor_is_no_file(memory: FakeArchives, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    try:
        assert run(["export", "--output", f"/proc/self/fd/{writing}"]) == 1
    finally:
        os.close(reading)
        os.close(writing)
    assert "isn't a file" in capsys.readouterr().err
    assert memory.bodies == []


def test_a_folder_that_is_not_there_is_named(memory: FakeArchives, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "--output", "nowhere/a.cma"]) == 1
    assert capsys.readouterr().err == "error: nowhere/a.cma: can't be written: No such file or directory\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encrypt"], "--encrypt: needs --encryption-key-stdin or another key"),
        (["--encryption-key", "k"], "--encryption-key: needs --encrypt"),
        (["--encrypt", "--encryption-key", ""], "--encryption-key: must not be empty"),
        (["--encrypt", "--encryption-key-stdin"], "--encryption-key: must not be empty"),
        (
            ["--encrypt", "--encryption-key", "k", "--encryption-key-stdin"],
            "--encryption-key: give it in one way only",
        ),
        (
            ["--encrypt", "--encryption-key-file", "k", "--encryption-key-stdin"],
            "--encryption-key: give it in one way only",
        ),
    ],
)
def test_a_key_that_means_nothing_is_refused(
    memory: FakeArchives,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    type_in(monkeypatch, b"\n")
    assert run(["export", *options]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"
    assert memory.bodies == []


@pytest.mark.parametrize(
    "typed", [b"correct horse", b"correct horse\n", b"correct horse\r\n", b"correct horse\nnext"]
)
def test_a_key_from_stdin_is_one_line(
    memory: FakeArchives, typed: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, typed)
    assert run(["export", "--encrypt", "--encryption-key-stdin"]) == 0
    assert memory.bodies[0]["encryption_key"] == "correct horse"
    assert capsys.readouterr().err == ""


def test_a_key_comes_from_a_file(memory: FakeArchives, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("合言葉\n")
    assert run(["export", "--encrypt", "--encryption-key-file", "key"]) == 0
    assert memory.bodies[0]["encryption_key"] == "合言葉"


def test_a_key_that_is_no_text_is_refused(
    memory: FakeArchives, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, b"\xff\n")
    assert run(["export", "--encrypt", "--encryption-key-stdin"]) == 1
    assert capsys.readouterr().err == "error: --encryption-key: must be UTF-8\n"


def test_on_a_terminal_a_key_is_asked_for(memory: FakeArchives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: "typed")
    assert run(["export", "--encrypt", "--encryption-key-stdin"]) == 0
    assert memory.bodies[0]["encryption_key"] == "typed"


def test_an_import_sends_the_file_under_its_name(
    memory: FakeArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.cma").write_bytes(b"archive")
    assert run(["import", "a.cma"]) == 0
    terms = {
        "archive_id": "a.cma",
        "strategy": "merge",
        "conflict_resolution": "keep_newer",
        "dry_run": False,
    }
    assert memory.taken == [(b"archive", 7, terms)]
    assert capsys.readouterr() == ("Imported 5 records from a.cma\n", UNDO)


@pytest.mark.parametrize(
    ("count", "told"),
    [(5, "note: this import can't be taken back: what it replaced is too much to be kept\n"), (0, "")],
)
def test_an_import_that_cannot_be_undone_says_so(
    memory: FakeArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, told: str
) -> None:
    (tmp_path / "a.cma").write_bytes(b"archive")
    memory.answer = {"records_imported": count}
    assert run(["import", "a.cma"]) == 0
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("given", "sent", "line"),
    [
        ([], {}, "Undid the import of a.cma (removed=3, restored=2, left=1)\n"),
        (
            ["--keep-changed"],
            {"keep_changed": True},
            "Undid the import of a.cma (removed=3, restored=2, left=1)\n",
        ),
        (["--dry-run"], {"dry_run": True}, "Would undo the import of a.cma (removed=3, restored=2, left=1)\n"),
    ],
)
def test_an_import_is_undone_by_its_batch(
    memory: FakeArchives,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    sent: dict[str, Any],
    line: str,
) -> None:
    assert run(["import", "undo", BATCH.upper(), *given]) == 0
    asked = {"batch_id": BATCH, "keep_changed": False, "dry_run": False, **sent}
    assert memory.calls == [("lifecycle.undo_import", asked)]
    assert capsys.readouterr() == (line, "")


def test_an_undo_needs_the_id_of_an_import(memory: FakeArchives, tmp_path: Path) -> None:
    assert run(["import", "undo"]) == 2
    assert run(["import", "undo", "a.cma"]) == 2
    assert memory.calls == []
    (tmp_path / "undo").write_bytes(b"archive")
    assert run(["import", "./undo"]) == 0
    assert memory.taken[0][0] == b"archive"


def test_an_import_takes_all_that_there_is_to_say(
    memory: FakeArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.cma").write_bytes(b"archive")
    memory.answer = PLANNED
    type_in(monkeypatch, b"k\n")
    asked = ["import", "folder/a.cma", "--strategy", "replace", "--conflict-resolution", "keep_imported"]
    assert run([*asked, "--decryption-key-stdin", "--dry-run"]) == 0
    assert memory.taken[0][2] == {
        "archive_id": "a.cma",
        "strategy": "replace",
        "conflict_resolution": "keep_imported",
        "decryption_key": "k",
        "dry_run": True,
    }
    out = capsys.readouterr().out
    assert out == "Would import 5 records from folder/a.cma (new=3, replaced=2, kept=1)\n"


def test_an_import_as_json(memory: FakeArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.cma").write_bytes(b"archive")
    assert run(["import", "a.cma", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**IMPORTED, "path": "a.cma"}


NEEDED = " (an encrypted archive needs --decryption-key-stdin or another key)"


@pytest.mark.parametrize(
    ("given", "details", "needed"),
    [([], {"line": 3}, ""), ([], None, NEEDED), (["--decryption-key-file", "key"], None, "")],
    ids=["in a line", "without a key", "with a key"],
)
def test_an_import_that_is_refused_says_why_and_what_it_needs(
    memory: FakeArchives,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    details: dict[str, int] | None,
    needed: str,
) -> None:
    (tmp_path / "a.cma").write_bytes(b"archive")
    (tmp_path / "key").write_text("k")
    memory.error = ImportConflict("no", details=details)
    assert run(["import", "a.cma", *given]) == 1
    assert capsys.readouterr().err == f"error: no (in a.cma){needed}\n"


def test_a_file_that_is_not_there_is_named(memory: FakeArchives, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["import", "nowhere.cma"]) == 1
    assert "nowhere.cma" in capsys.readouterr().err
    assert memory.taken == []


def test_a_pipe_is_no_archive(memory: FakeArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    try:
        assert run(["import", f"/dev/fd/{reading}"]) == 1
    finally:
        os.close(reading)
        os.close(writing)
    assert "must be a file, whose size is known" in capsys.readouterr().err
    assert memory.taken == []


def test_strategies_have_names(memory: FakeArchives, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["import", "a.cma", "--strategy", "mix"]) == 2
    assert run(["import"]) == 2
    assert run(["export", "--stores", "attic"]) == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_shows_how_far_it_is(memory: FakeArchives, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", shown)
    assert run(["export"]) == 0
    assert "Exporting" in shown.getvalue()
    assert "300.0/300.0 kB" in shown.getvalue()


def test_elsewhere_there_is_no_bar(memory: FakeArchives, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export"]) == 0
    assert capsys.readouterr().err == ""
