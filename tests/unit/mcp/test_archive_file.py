"""The file of an export: a new one, or none."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerememory.errors import DaemonUnreachable, ExportFailed, ValidationFailed
from cerememory.mcp.archive_file import check_new_file, write_new_file


def refusal_of(path: str) -> str:
    with pytest.raises(ValidationFailed) as caught:
        check_new_file(path)
    return str(caught.value)


def test_a_new_file_in_an_existing_folder_is_allowed(tmp_path: Path) -> None:
    assert check_new_file(str(tmp_path / "new.cma")) == tmp_path / "new.cma"


def test_an_existing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.cma").write_bytes(b"kept")
    assert "exists already" in refusal_of(str(tmp_path / "old.cma"))


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    assert "exists already" in refusal_of(str(tmp_path))


@pytest.mark.parametrize("target", ["old.cma", "nothing.cma"])
def test_a_symbolic_link_is_refused_wherever_it_leads(tmp_path: Path, target: str) -> None:
    (tmp_path / "old.cma").write_bytes(b"kept")
    (tmp_path / "link.cma").symlink_to(tmp_path / target)
    assert "is a symbolic link" in refusal_of(str(tmp_path / "link.cma"))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "is no directory" in refusal_of(str(tmp_path / "missing" / "new.cma"))


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "is no directory" in refusal_of(str(tmp_path / "file" / "new.cma"))


@pytest.mark.parametrize("path", ["../new.cma", "a/../../new.cma", "/tmp/../new.cma", ".."])
def test_climbing_is_refused(path: str) -> None:
    assert "must not contain .." in refusal_of(path)


def test_a_nul_character_is_refused() -> None:
    assert "NUL" in refusal_of("a\0b")


def test_two_dots_inside_a_name_are_allowed(tmp_path: Path) -> None:
    assert check_new_file(str(tmp_path / "a..b")).name == "a..b"


def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    write_new_file(tmp_path / "new.cma", [b"arch", b"ive"])
    assert (tmp_path / "new.cma").read_bytes() == b"archive"
    assert stat.S_IMODE((tmp_path / "new.cma").stat().st_mode) == 0o600


def test_a_file_that_came_after_the_check_is_kept(tmp_path: Path) -> None:
    (tmp_path / "new.cma").write_bytes(b"kept")
    with pytest.raises(ValidationFailed, match="exists already"):
        write_new_file(tmp_path / "new.cma", [b"arch", b"ive"])
    assert (tmp_path / "new.cma").read_bytes() == b"kept"


def test_a_link_that_came_after_the_check_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "new.cma").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValidationFailed, match="exists already"):
        write_new_file(tmp_path / "new.cma", [b"arch", b"ive"])
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_went_after_the_check_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="No such file or directory"):
        write_new_file(tmp_path / "gone" / "new.cma", [b"arch", b"ive"])


def test_a_full_disk_leaves_no_part_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ExportFailed, match="No space left on device"):
        write_new_file(tmp_path / "new.cma", [b"arch", b"ive"])
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_breaks_off_leaves_no_part_of_the_file(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"arch"
        raise DaemonUnreachable("broke off")

    with pytest.raises(DaemonUnreachable):
        write_new_file(tmp_path / "new.cma", chunks())
    assert list(tmp_path.iterdir()) == []
