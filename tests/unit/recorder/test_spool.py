"""The spool is private, whole, bounded, and shared by any number of processes."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerememory.errors import DataDirUnusable, StorageUnavailable, ValidationFailed
from cerememory.recorder.batches import Batch, new_entry
from cerememory.recorder.spool import DRAFT_AGE_MAX_S, Spool
from tests.support.recorder import kept


def batch(text: str = "x") -> Batch:
    return Batch((new_entry(f'{{"text":"{text}"}}'.encode(), None),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "spool"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    with Spool(path) as spool:
        yield spool


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directory_and_files_are_private(spool: Spool, path: Path) -> None:
    os.umask(0)  # whatever the user's is
    try:
        name = spool.put(batch())
        with Spool(path.with_name("other")):
            assert mode(path.with_name("other")) == 0o700
    finally:
        os.umask(0o022)
    assert name.startswith("batch-") and name.endswith(".jsonl")
    assert (mode(path), mode(path / name)) == (0o700, 0o600)


def test_what_was_put_is_read_in_its_order_and_removed(spool: Spool) -> None:
    batches = [batch(str(i)) for i in range(12)]
    names = [spool.put(each, durably=i % 2 == 0) for i, each in enumerate(batches)]
    assert spool.batches() == names
    assert [spool.read(name) for name in names] == batches
    spool.remove(names[0])
    spool.remove(names[0])
    assert spool.batches() == names[1:]
    with pytest.raises(FileNotFoundError):
        spool.read(names[0])


@pytest.mark.parametrize("bits", [0o755, 0o770, 0o701])
def test_a_directory_that_others_may_enter_is_refused_and_left_alone(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(bits)
    with pytest.raises(DataDirUnusable, match=f"others may enter it .mode {bits:o}"):
        Spool(path)
    assert mode(path) == bits


def test_a_link_is_refused(tmp_path: Path, path: Path, spool: Spool) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(DataDirUnusable, match="is a symbolic link"):
        Spool(link)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o600)
    with pytest.raises(DataDirUnusable):
        Spool(tmp_path / "file")
    with pytest.raises(DataDirUnusable):
        Spool(tmp_path / "file" / "below")


def test_what_is_set_aside_is_kept_and_never_sent(spool: Spool, path: Path) -> None:
    name = spool.put(batch())
    assert spool.set_aside(name, "refused") == f"{name}.bad-refused"
    assert spool.batches() == []
    assert (path / f"{name}.bad-refused").stat().st_size > 0
    assert str(spool.usage()).startswith("0 batches wait, 1 set aside, ")


@pytest.mark.parametrize("data", [b"", b"not json\n", b'{"key":"x"}\n'])
def test_a_damaged_file_is_no_batch(spool: Spool, path: Path, data: bytes) -> None:
    (path / "batch-1.jsonl").write_bytes(data)
    with pytest.raises(ValidationFailed):
        spool.read("batch-1.jsonl")


def test_a_file_that_is_none_is_no_batch(spool: Spool, path: Path, tmp_path: Path) -> None:
    os.mkfifo(path / "batch-1.jsonl")
    (tmp_path / "elsewhere").write_bytes(batch().dump())
    (path / "batch-2.jsonl").symlink_to(tmp_path / "elsewhere")
    for name in ("batch-1.jsonl", "batch-2.jsonl"):
        with pytest.raises(ValidationFailed):
            spool.read(name)


def test_a_full_spool_takes_nothing_and_says_what_is_lost(path: Path) -> None:
    with Spool(path, files_max=2) as spool:
        spool.set_aside(spool.put(batch()), "refused")  # which counts, too
        spool.put(batch())
        with pytest.raises(
            StorageUnavailable, match=r"is full \(1 batches wait, 1 set aside, .*, 1 events weren't kept"
        ):
            spool.put(batch())
        assert len(kept(path)) == 2
    with Spool(path, bytes_max=300) as spool, pytest.raises(StorageUnavailable, match="is full"):
        spool.put(batch("x" * 200))


def test_a_disk_that_fails_leaves_nothing_behind(
    spool: Spool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageUnavailable, match="No space left on device, 1 events weren't kept"):
        spool.put(batch())
    assert kept(path) == []
    with pytest.raises(StorageUnavailable), monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        spool.check_writable()


def test_a_batch_is_there_only_when_it_is_whole(spool: Spool, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    rename = os.rename

    def watched(*args: object, **kwargs: object) -> None:
        seen.append(spool.batches())
        rename(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", watched)
    name = spool.put(batch())
    assert seen == [[]]
    assert spool.batches() == [name]


def test_one_sends_at_a_time(spool: Spool, path: Path) -> None:
    with Spool(path) as other:
        assert not other.is_being_sent()
        with spool.sending() as is_ours:
            assert is_ours
            assert other.is_being_sent()
            with other.sending() as is_others:
                assert not is_others
            assert other.is_being_sent()
        assert not other.is_being_sent()
        with other.sending() as is_others:
            assert is_others


def test_drafts_of_the_dead_go_and_those_of_the_living_stay(spool: Spool, path: Path) -> None:
    old = time.time() - DRAFT_AGE_MAX_S - 60
    for name in ("draft-old", "draft-new", "batch-1.jsonl.bad-refused"):
        (path / name).touch()
        if name != "draft-new":
            os.utime(path / name, (old, old))
    with spool.sending():
        assert kept(path) == ["batch-1.jsonl.bad-refused", "draft-new"]
