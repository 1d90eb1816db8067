"""Log rotation: what was renamed is opened anew under its old name, with its mode; what wasn't stays as it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cerememory.storage.audit_file import AuditFile
from cerememory.telemetry.log_files import LogFiles


@contextmanager
def opened(path: Path, mode: int = 0o640) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def test_after_a_rotation_lines_go_into_a_new_file_of_the_old_name(tmp_path: Path) -> None:
    path, rotated = tmp_path / "log", tmp_path / "log.1"
    before = os.umask(0o022)
    try:
        with opened(path) as fd:
            files = LogFiles([fd])
            os.write(fd, b"first\n")
            path.rename(rotated)
            os.write(fd, b"second\n")
            files.reopen()
            os.write(fd, b"third\n")
    finally:
        os.umask(before)
    assert (rotated.read_bytes(), path.read_bytes()) == (b"first\nsecond\n", b"third\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_that_the_rotation_has_made_is_written_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as fd:
        files = LogFiles([fd])
        path.rename(tmp_path / "log.1")
        path.write_bytes(b"made by newsyslog\n")
        files.reopen()
        os.write(fd, b"line\n")
        files.reopen()
        os.write(fd, b"line\n")
    assert path.read_bytes() == b"made by newsyslog\nline\nline\n"


def test_two_descriptors_of_one_file_both_move_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as out, closing(os.fdopen(os.dup(out), "wb", buffering=0)) as error:
        files = LogFiles([out, error.fileno()])
        path.unlink()
        files.reopen()
        os.write(out, b"out\n")
        error.write(b"error\n")
    assert path.read_bytes() == b"out\nerror\n"


def test_what_is_no_file_with_a_name_is_left_alone(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    deleted = tmp_path / "deleted"
    with opened(deleted) as fd:
        deleted.unlink()
        LogFiles([writing, fd, 99_999]).reopen()
    os.write(writing, b"x")
    assert os.read(reading, 2) == b"x"
    assert list(tmp_path.iterdir()) == []
    os.close(reading)
    os.close(writing)


def test_a_folder_that_is_gone_leaves_the_old_file_open(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with opened(folder / "log") as fd:
        files = LogFiles([fd])
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError):
            files.reopen()
        os.write(fd, b"line\n")
    assert (tmp_path / "elsewhere" / "log").read_bytes() == b"line\n"


def test_the_audit_log_beside_it_is_no_log_file(tmp_path: Path) -> None:
    """Whoever moves it with the others loses no line: it is written on in the same file, and no other is made."""
    log, audit = tmp_path / "log", tmp_path / "audit.jsonl"
    with opened(log) as fd, AuditFile.open(audit) as file:
        files = LogFiles([fd])
        for path in (log, audit):
            path.rename(path.with_name(f"{path.name}.1"))
        files.reopen()
        file.append([b"{}\n"])
    assert (tmp_path / "audit.jsonl.1").read_bytes() == b"{}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"log", "log.1", "audit.jsonl.1"}
