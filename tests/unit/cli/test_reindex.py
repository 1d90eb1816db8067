"""`cerememory reindex`: a new search index, whatever the old one was; the memories stay as they are."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from cerememory.cli.main import run
from cerememory.storage.datadir import DataDir
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, counters_key, key
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.rows import Counters, dump_counters


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With two memories and an entry of the journal."""
    path, lines = tmp_path_factory.mktemp("reindex") / "data", tmp_path_factory.mktemp("lines") / "lines"
    lines.write_text("kettle\nteapot\n")
    assert run(["load", str(lines), "--data-dir", str(path)]) == 0
    assert run(["store-raw", "said", "--session-id", "s", "--data-dir", str(path)]) == 0
    return path


@pytest.fixture
def data_dir(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    capsys.readouterr()
    return Path(shutil.copytree(made, tmp_path / "data"))


def rows(data_dir: Path) -> dict[bytes, bytes]:
    with closing(LmdbStorage.open_readonly(data_dir / "store")) as storage, storage.read() as reader:
        return dict(reader.scan(b"", b"\xff" * 8))


def test_an_index_that_is_lost_is_there_again(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = rows(data_dir)
    shutil.rmtree(data_dir / "index")
    assert run(["reindex", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr() == ("Reindexed 3 records\n", "")
    assert rows(data_dir) == before
    assert run(["fsck", "--data-dir", str(data_dir)]) == 0
    assert "Nothing is wrong" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["reindex"], ["fsck", "--repair"]])
def test_what_is_no_directory_in_its_place_is_set_aside_and_said(
    data_dir: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    index = data_dir / "index"
    shutil.rmtree(index)
    index.write_text("somebody's")
    assert run([*command, "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().err == f"note: {index} was no directory, and is {index}.aside-1 now\n"
    assert (data_dir / "index.aside-1").read_text() == "somebody's"
    assert run(["fsck", "--data-dir", str(data_dir)]) == 0


def test_an_index_without_a_fault_is_built_anew_too(data_dir: Path) -> None:
    before = {path.name for path in (data_dir / "index").rglob("*")}
    assert run(["reindex", "--data-dir", str(data_dir)]) == 0
    assert {path.name for path in (data_dir / "index").rglob("*")} - before


def test_rows_that_follow_from_others_are_mended(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(LmdbStorage(data_dir / "store")) as storage:
        prefix = key(DEFAULT_NAMESPACE, Table.RAW_BY_TIME)
        with storage.read() as reader:
            lost = [row_key for row_key, _value in reader.scan(prefix, after(prefix))]
        storage.commit({**dict.fromkeys(lost), counters_key(DEFAULT_NAMESPACE): dump_counters(Counters.empty())})
    assert run(["reindex", "--data-dir", str(data_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "records_indexed": 3,
        "repaired": {"counters": 1, "raw_by_time": 1},
    }
    assert run(["fsck", "--data-dir", str(data_dir)]) == 0


def test_an_index_in_memory_needs_none(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(data_dir / "index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CEREMEMORY_SECURITY__PERSIST_SEARCH_INDEXES", "false")
        assert run(["reindex", "--data-dir", str(data_dir)]) == 0
    out, err = capsys.readouterr()
    assert out == "Reindexed 0 records\n"
    assert err == "note: the search index is kept in memory, and built anew at each start\n"
    assert not (data_dir / "index").exists()


def test_beside_a_daemon_compact_is_named(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DataDir.acquire(data_dir) as directory:
        directory.announce("127.0.0.1:9")
        assert run(["reindex", "--data-dir", str(data_dir)]) == 1
    err = capsys.readouterr().err
    assert "in use by" in err
    assert "beside a daemon, compact builds the search index anew" in err


def test_what_is_no_data_dir_is_left_alone(tmp_path: Path) -> None:
    assert run(["reindex", "--data-dir", str(tmp_path / "nowhere")]) == 1
    assert run(["reindex", "--server-url", "http://127.0.0.1:9"]) == 2
    assert list(tmp_path.iterdir()) == []
