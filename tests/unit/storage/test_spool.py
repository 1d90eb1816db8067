"""The spool: what is read is what was written, and the disk never sees it."""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.errors import StorageUnavailable
from cerememory.storage.spool import CHUNK_BYTES, Spool


def read(spool: Spool, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(spool.read(start, stop))


@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
def test_any_part_is_read_as_it_was_written(written: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(written)
    with Spool(Path(tempfile.gettempdir())) as spool:
        for piece in written:
            spool.write(piece)
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, len(whole)))
        assert spool.size_bytes == len(whole)
        assert read(spool) == whole
        assert read(spool, start, stop) == whole[start:stop]
        assert read(spool, start) == whole[start:]


def test_it_is_read_in_chunks(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.write(bytes(CHUNK_BYTES + 1))
        assert [len(chunk) for chunk in spool.read()] == [CHUNK_BYTES, 1]


def test_it_can_be_written_on_after_it_was_read(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.write(b"one ")
        assert read(spool) == b"one "
        spool.write(b"two")
        assert read(spool) == b"one two"


def test_cleared_it_is_empty_and_takes_something_else(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.write(b"the first")
        spool.clear()
        assert read(spool) == b""
        spool.write(b"another")
        assert read(spool) == b"another"


def test_it_has_no_name_and_no_readable_byte(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.write(b"canary" * 100)
        assert list(tmp_path.iterdir()) == []
        descriptor = spool._file.fileno()
        on_disk = os.pread(descriptor, spool.size_bytes, 0)
        assert len(on_disk) == 600
        assert b"canary" not in on_disk
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600


def test_no_two_have_the_same_keystream(tmp_path: Path) -> None:
    found = set()
    for _ in range(2):
        with Spool(tmp_path) as spool:
            spool.write(bytes(64))
            found.add(os.pread(spool._file.fileno(), 64, 0))
            spool.clear()
            spool.write(bytes(64))
            found.add(os.pread(spool._file.fileno(), 64, 0))
    assert len(found) == 4


def test_a_file_that_may_not_grow_is_a_storage_that_is_unavailable(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Spool(tmp_path) as spool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        try:
            with pytest.raises(StorageUnavailable, match="the spool: File too large"):
                spool.write(bytes(2_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="gone: No such file"):
        Spool(tmp_path / "gone")


def test_a_file_that_was_cut_is_noticed(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.write(b"12345678")
        os.truncate(spool._file.fileno(), 4)
        with pytest.raises(StorageUnavailable, match="ends at 4 of 8 bytes"):
            read(spool)
