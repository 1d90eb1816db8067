"""The data dir: one owner who is named, closed to others, of a format that this version reads."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cerememory import __version__
from cerememory.errors import DataDirLocked, DataDirUnusable
from cerememory.storage import datadir
from cerememory.storage.datadir import FORMAT_VERSION, DataDir, Owner, owner_of, read_token

HOLD = """
import sys
from pathlib import Path
from cerememory.storage.datadir import DataDir
directory = DataDir.acquire(Path(sys.argv[1]))
directory.announce("127.0.0.1:4711")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def test_a_data_dir_is_made_with_its_parents_and_a_format(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with DataDir.acquire(path) as directory:
        assert directory.path == path
        assert json.loads((path / "format.json").read_text()) == {
            "format": FORMAT_VERSION,
            "created_by": __version__,
        }


@pytest.mark.usefixtures("umask")
def test_whatever_the_umask_only_the_owner_gets_in(path: Path) -> None:
    with DataDir.acquire(path) as directory:
        directory.announce("127.0.0.1:8420")
        directory.make_token()
        folders = [path, directory.store_path, directory.index_path, path / "run"]
        assert [mode(folder) for folder in folders] == [0o700] * 4
        files = [path / "lock", path / "format.json", path / "run" / "token"]
        assert [mode(file) for file in files] == [0o600] * 3


def test_what_lies_where(path: Path) -> None:
    with DataDir.acquire(path) as directory:
        assert directory.store_path == path / "store"
        assert directory.index_path == path / "index"


def test_an_empty_folder_that_others_may_read_is_closed(path: Path) -> None:
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    DataDir.acquire(path).release()
    assert mode(path) == 0o700


def test_a_data_dir_of_ours_that_others_may_read_is_closed_again(path: Path) -> None:
    DataDir.acquire(path).release()
    path.chmod(0o750)
    DataDir.acquire(path).release()
    assert mode(path) == 0o700


def test_a_foreign_folder_that_others_may_read_is_refused_and_left_as_it_is(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)
    (path / "thesis.txt").write_text("mine")
    with pytest.raises(DataDirUnusable, match=r"others may read it \(mode 755\); make it 0700"):
        DataDir.acquire(path)
    assert mode(path) == 0o755
    assert [file.name for file in path.iterdir()] == ["thesis.txt"]


def test_a_file_in_its_place_is_refused(path: Path) -> None:
    path.write_text("")
    with pytest.raises(DataDirUnusable, match="is not a directory"):
        DataDir.acquire(path)


def test_a_link_to_nowhere_within_it_is_left_to_whoever_opens_it(path: Path) -> None:
    with DataDir.acquire(path) as directory:
        (path / "index").symlink_to("nowhere")
        assert directory.index_path == path / "index"


def test_a_place_where_none_can_be_made_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirUnusable, match="cannot be created: Not a directory"):
        DataDir.acquire(tmp_path / "file" / "data")


@pytest.mark.parametrize("newer", [FORMAT_VERSION + 1, 99])
def test_a_format_that_this_version_does_not_read_is_refused_and_not_locked(path: Path, newer: int) -> None:
    DataDir.acquire(path).release()
    (path / "format.json").write_text(json.dumps({"format": newer, "created_by": "9.0"}))
    with pytest.raises(
        DataDirUnusable, match=f"has format {newer}, this version .* reads format {FORMAT_VERSION}"
    ):
        DataDir.acquire(path)
    assert owner_of(path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"version": 1}', "\xff"])
def test_a_format_that_cannot_be_read_is_refused(path: Path, content: str) -> None:
    DataDir.acquire(path).release()
    (path / "format.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataDirUnusable, match=r"format\.json: can't be read"):
        DataDir.acquire(path)


def test_a_folder_with_other_files_is_left_alone(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "letters.txt").write_text("dear")
    with pytest.raises(DataDirUnusable, match=r"not empty \(letters.txt\)"):
        DataDir.acquire(path)
    assert not (path / "format.json").exists()


def test_a_store_without_a_format_is_refused(path: Path) -> None:
    with DataDir.acquire(path) as directory:
        assert directory.store_path.is_dir()
    (path / "format.json").unlink()
    with pytest.raises(DataDirUnusable, match="is missing though there is a store"):
        DataDir.acquire(path)


def test_a_second_owner_in_this_process_is_refused(path: Path) -> None:
    with DataDir.acquire(path):
        with pytest.raises(DataDirLocked):
            DataDir.acquire(path)
        with pytest.raises(DataDirLocked):
            DataDir.acquire(path)
    DataDir.acquire(path).release()


def test_a_second_owner_is_refused_naming_the_first(path: Path) -> None:
    with held_by_another_process(path) as holder:
        with pytest.raises(DataDirLocked, match=f"in use by process {holder.pid} at 127.0.0.1:4711"):
            DataDir.acquire(path)
        assert owner_of(path) == Owner(holder.pid, "127.0.0.1:4711", __version__)


def test_an_owner_who_has_not_said_who_it_is_yet_is_another_process(path: Path) -> None:
    with DataDir.acquire(path):
        assert owner_of(path) is None
        with pytest.raises(DataDirLocked, match="in use by another process"):
            DataDir.acquire(path)


def test_an_offline_command_is_named_by_its_pid_alone(path: Path) -> None:
    with DataDir.acquire(path) as directory:
        directory.announce("")
        with pytest.raises(DataDirLocked, match=f"in use by process {os.getpid()};"):
            DataDir.acquire(path)


def test_a_longer_announcement_is_replaced_whole_by_a_shorter_one(path: Path) -> None:
    with DataDir.acquire(path) as directory:
        directory.announce("a-long-host-name.example:65535")
        directory.announce("h:1")
        assert owner_of(path) == Owner(os.getpid(), "h:1", __version__)


def test_the_lock_goes_with_its_block_and_leaves_nobody_named(path: Path) -> None:
    with DataDir.acquire(path) as directory:
        directory.announce("127.0.0.1:8420")
    assert owner_of(path) is None
    assert (path / "lock").read_bytes() == b""
    DataDir.acquire(path).release()


def test_the_lock_of_a_killed_process_is_free(path: Path) -> None:
    with held_by_another_process(path) as holder:
        holder.kill()
        holder.wait()
        assert owner_of(path) is None
        DataDir.acquire(path).release()


def test_the_next_owner_of_a_killed_ones_data_dir_is_not_taken_for_it(path: Path) -> None:
    with held_by_another_process(path) as holder:
        holder.kill()
        holder.wait()
    with DataDir.acquire(path):
        assert owner_of(path) is None
        with pytest.raises(DataDirLocked, match="in use by another process"):
            DataDir.acquire(path)


def test_a_child_process_does_not_keep_the_lock(path: Path) -> None:
    directory = DataDir.acquire(path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    directory.release()
    assert owner_of(path) is None
    DataDir.acquire(path).release()
    child.communicate(b"\n")


def test_nobody_owns_what_is_not_there(path: Path) -> None:
    assert owner_of(path) is None
    path.mkdir()
    assert owner_of(path) is None


def test_a_token_is_random_readable_while_it_lives_and_gone_afterwards(path: Path) -> None:
    with DataDir.acquire(path) as directory:
        first = directory.make_token()
        assert read_token(path) == first
        second = directory.make_token()
        assert read_token(path) == second != first
        assert len(first) >= 32
    assert read_token(path) is None


def test_a_token_replaces_what_a_killed_owner_left_even_a_link(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    with DataDir.acquire(path) as directory:
        (path / "run").mkdir(mode=0o700)
        (path / "run" / "token").symlink_to(elsewhere)
        token = directory.make_token()
        assert read_token(path) == token
    assert elsewhere.read_text() == "untouched"


MOUNTS = """\
rootfs / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/local ext4 rw 0 0
//nas/share /mnt/my\\040share cifs rw 0 0
tmpfs /home/localhost tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/cerememory", "ext4"),
        ("/home/me/data", "nfs4"),
        ("/home/local/data", "ext4"),
        ("/home/localhost/data", "tmpfs"),
        ("/homes/data", "ext4"),
        ("/mnt/my share/data", "cifs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_deepest_mount_above_it(path: str, kind: str) -> None:
    assert datadir._file_system_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs"])
def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def of_this_kind(*_: Any) -> str:
        return kind

    monkeypatch.setattr(datadir, "_file_system_of", of_this_kind)
    with pytest.raises(DataDirUnusable, match=rf"lies on a network file system \({kind}\)"):
        DataDir.acquire(path)
