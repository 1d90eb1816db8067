"""`cerememory fsck`: what it prints, that it changes nothing, and what `--repair` does."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from cerememory.cli import fsck
from cerememory.cli.main import run
from cerememory.errors import StorageDamaged
from cerememory.storage import fsck_index
from cerememory.storage.datadir import DataDir
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, counters_key, key
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.lmdb_transactions import Snapshot
from cerememory.storage.rows import Counters, dump_counters


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With two memories and an entry of the journal."""
    path = tmp_path_factory.mktemp("fsck") / "data"
    for command in (["store", "kettle"], ["store", "teapot"], ["store-raw", "said", "--session-id", "s"]):
        assert run([*command, "--data-dir", str(path)]) == 0
    return path


@pytest.fixture
def data_dir(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    capsys.readouterr()
    return Path(shutil.copytree(made, tmp_path / "data"))


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


def test_a_store_that_was_cut_off_is_a_finding(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(data_dir / "store" / "data.mdb", 5 * 4_096)
    assert run(["fsck", "--data-dir", str(data_dir)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"store: {data_dir}/store/data.mdb: is cut off at 20480 bytes")
    assert out.splitlines()[-1].startswith("1 finding(s) in 0 memories")
    assert err == "note: the other rows weren't looked at: the store can't be read\n"


def test_a_damaged_page_is_a_finding_and_the_audit_log_is_looked_at(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (data_dir / "audit.jsonl").open("a") as file:
        file.write("more\n")
    with monkeypatch.context() as patched:
        patched.setattr(Snapshot, "scan", lambda *_given: raise_corrupted())
        assert run(["fsck", "--data-dir", str(data_dir)]) == 1
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()[:-1]] == ["store", "audit"]
    assert err == "note: the other rows weren't looked at: the store can't be read\n"


def raise_corrupted() -> NoReturn:
    raise StorageDamaged("data.mdb: is damaged")


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


# --repair


def rows(data_dir: Path, table: Table) -> dict[bytes, bytes]:
    prefix = key(DEFAULT_NAMESPACE, table)
    with closing(LmdbStorage.open_readonly(data_dir / "store")) as storage, storage.read() as reader:
        return dict(reader.scan(prefix, after(prefix)))


def damaged(data_dir: Path) -> None:
    """Nothing is counted, an entry isn't in its session, and the text index can't be read."""
    with closing(LmdbStorage(data_dir / "store")) as storage:
        gone = dict.fromkeys(rows_in(storage, Table.RAW_BY_SESSION))
        storage.commit({**gone, counters_key(DEFAULT_NAMESPACE): dump_counters(Counters.empty())})
    (data_dir / "index" / "curated" / "meta.json").write_text("{")


def rows_in(storage: LmdbStorage, table: Table) -> dict[bytes, bytes]:
    prefix = key(DEFAULT_NAMESPACE, table)
    with storage.read() as reader:
        return dict(reader.scan(prefix, after(prefix)))


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """No owner will mend the index while it is waited for."""
    monkeypatch.setattr(fsck_index, "PAUSE_S", 0.0)


@pytest.mark.usefixtures("no_pause")
def test_what_can_be_mended_is_and_the_rest_is_checked(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged(data_dir)
    own = [rows(data_dir, table) for table in (Table.CONTENT, Table.STATE, Table.RAW, Table.VECTORS)]
    assert run(["fsck", "--repair", "--data-dir", str(data_dir)]) == 0
    out, err = capsys.readouterr()
    repaired = "Repaired: 1 row(s) of counters, 1 row(s) of raw_by_session, the text index"
    assert (out, err) == (f"{repaired}\nNothing is wrong with {SOUND}\n", "")
    assert [rows(data_dir, table) for table in (Table.CONTENT, Table.STATE, Table.RAW, Table.VECTORS)] == own
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 0
    assert run(["recall", "kettle", "--data-dir", str(data_dir)]) == 0
    assert '"operation":"maintenance.repair"' in (data_dir / "audit.jsonl").read_text(), (
        "the next start completes it"
    )
    assert "Found 1 memories" in capsys.readouterr().out


def test_what_can_not_be_mended_is_named_and_makes_it_fail(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(data_dir)
    assert run(["fsck", "--repair", "--json", "--data-dir", str(data_dir)]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["repaired"] == {"counters": 1, "text_index": False}
    assert {finding["part"] for finding in answer["findings"]} == {"state"}


def test_a_sound_data_dir_is_not_written_to(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = (data_dir / "store" / "data.mdb").read_bytes()
    assert run(["fsck", "--repair", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().out.startswith("Repaired: nothing\n")
    assert (data_dir / "store" / "data.mdb").read_bytes() == stored


def test_a_data_dir_that_somebody_owns_is_not_repaired(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken(data_dir)
    with DataDir.acquire(data_dir) as owned:
        owned.announce("127.0.0.1:4711")
        before = contents(data_dir)
        assert run(["fsck", "--repair", "--data-dir", str(data_dir)]) == 1
        assert "in use by process" in (said := capsys.readouterr().err)
        assert "127.0.0.1:4711" in said
        assert contents(data_dir) == before


def test_an_audit_log_that_is_broken_is_left_as_it_is(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken(data_dir)
    log = data_dir / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"encode.store", b"encode.stole", 1))
    before = log.read_bytes()
    assert run(["fsck", "--repair", "--data-dir", str(data_dir)]) == 1
    assert "audit: " in capsys.readouterr().out
    assert log.read_bytes() == before


def test_without_the_audit_logs_key_nothing_is_written(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken(data_dir)
    (data_dir / "keys" / "audit.key").unlink()
    stored = (data_dir / "store" / "data.mdb").read_bytes()
    assert run(["fsck", "--repair", "--data-dir", str(data_dir)]) == 1
    assert "audit.key" in capsys.readouterr().err
    assert (data_dir / "store" / "data.mdb").read_bytes() == stored


def test_nothing_is_made_where_there_is_no_data_dir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fsck", "--repair", "--data-dir", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "none").exists()


def test_an_encrypted_store_is_repaired_with_its_passphrase(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE", "correct horse")
    data_dir = tmp_path / "sealed"
    assert run(["store-raw", "said", "--session-id", "s", "--data-dir", str(data_dir)]) == 0
    with closing(LmdbStorage(data_dir / "store")) as storage:
        storage.commit(dict.fromkeys(rows_in(storage, Table.RAW_PENDING) | rows_in(storage, Table.RAW_BY_SESSION)))
    capsys.readouterr()
    assert run(["fsck", "--repair", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().out.startswith("Repaired: 1 row(s) of raw_by_session, 1 row(s) of raw_pending\n")
