"""`cerememory fsck`: what it prints, and that it changes nothing."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from cerememory.cli import fsck
from cerememory.cli.main import run
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, counters_key, key
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.rows import Counters, dump_counters


@pytest.fixture
def data_dir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """With two memories and an entry of the journal."""
    path = tmp_path / "data"
    for command in (["store", "kettle"], ["store", "teapot"], ["store-raw", "said", "--session-id", "s"]):
        assert run([*command, "--data-dir", str(path)]) == 0
    capsys.readouterr()
    return path


SOUND = "2 memories, 0 archived, 1 raw entries in 1 namespaces; 0 edges lead to what isn't stored"


def test_a_sound_data_dir_is_said_to_be_sound(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(data_dir)
    assert run(["fsck", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr() == (f"Nothing is wrong with {SOUND}\n", "")
    assert contents(data_dir) == before


def contents(data_dir: Path) -> dict[str, bytes]:
    """Of all files but for LMDB's table of readers."""
    files = [path for path in data_dir.rglob("*") if path.is_file() and path.name != "lock.mdb"]
    return {str(path): path.read_bytes() for path in files}


def broken(data_dir: Path) -> None:
    """The states of all memories are gone, and nothing is counted."""
    with closing(LmdbStorage(data_dir / "store")) as storage:
        prefix = key(DEFAULT_NAMESPACE, Table.STATE)
        with storage.read() as reader:
            states = [row_key for row_key, _value in reader.scan(prefix, after(prefix))]
        counters = dump_counters(Counters.empty())
        storage.commit({**dict.fromkeys(states), counters_key(DEFAULT_NAMESPACE): counters})


def test_each_finding_is_a_line_and_makes_it_fail(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken(data_dir)
    assert run(["fsck", "--data-dir", str(data_dir)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert [line.partition(":")[0] for line in lines[:-1]] == [
        "state",
        "state",
        "counters",
        "counters",
        "counters",
    ]
    assert lines[-1] == f"5 finding(s) in {SOUND}"


def test_as_json_findings_and_counts_are_one_object(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fsck", "--data-dir", str(data_dir), "--json"]) == 0
    counted = {"memories": 2, "archived": 0, "raw_entries": 1, "dangling_edges": 0, "namespaces": 1, "notes": []}
    assert json.loads(capsys.readouterr().out) == {"findings": [], **counted}
    broken(data_dir)
    assert run(["fsck", "--data-dir", str(data_dir), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["findings"]) == 5
    assert answer["findings"][-1] == {
        "part": "counters",
        "what": "raw_pending_dream is 0, counted 1",
        "namespace": DEFAULT_NAMESPACE,
    }


def test_a_list_without_end_is_cut(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsck, "FINDINGS_MAX", 3)
    broken(data_dir)
    assert run(["fsck", "--data-dir", str(data_dir)]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 + 1
    assert err == "note: there may be more: the list ends at 3\n"


def test_what_was_not_looked_at_is_noted(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data_dir / "index").rename(data_dir / "elsewhere")
    assert run(["fsck", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().err == "note: there is no text index on the disk\n"


def test_broken_settings_of_others_do_not_stand_in_the_way(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEREMEMORY_HTTP__PORT", "none")
    monkeypatch.setenv("CEREMEMORY_SECURITY__AUDIT_LOG_ENABLED", "false")
    (data_dir / "audit.jsonl").write_bytes(b"x")
    assert run(["fsck", "--data-dir", str(data_dir)]) == 0


def test_without_a_store_there_is_nothing_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fsck", "--data-dir", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "none").exists()
