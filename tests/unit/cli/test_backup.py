"""`cerememory backup`: what it prints, and what it says of a data dir that doesn't add up."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from cerememory.cli.main import run
from cerememory.storage.audit_keys import open_keys
from cerememory.storage.keys import DEFAULT_NAMESPACE, counters_key
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.rows import Counters, dump_counters

PASSPHRASE = "CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE"
SECRET = "zyxquivongabluth"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data dir with two memories and an entry of the journal."""
    path = tmp_path_factory.mktemp("backup") / "data"
    for command in (["store", "kettle"], ["store", "teapot"], ["store-raw", "said", "--session-id", "s"]):
        assert run([*command, "--data-dir", str(path)]) == 0
    return path


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "copy"


def backup(data_dir: Path, destination: Path, *more: str) -> int:
    return run(["backup", str(destination), "--data-dir", str(data_dir), *more])


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_it_says_what_it_holds_and_where_its_audit_log_ends(
    data_dir: Path, destination: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert backup(data_dir, destination) == 0
    out, err = capsys.readouterr()
    said = re.fullmatch(
        r"Backed up 2 memories, 1 raw entries \((\d+) bytes\) to (\S+), audit head 3 (\w{64})\n", out
    )
    assert said is not None
    assert (said[1], said[2], err) == (str(size_of(destination)), str(destination), "")
    assert said[3] in (data_dir / "audit.jsonl").read_text().splitlines()[-1]


def test_as_json_it_is_one_object(data_dir: Path, destination: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert backup(data_dir, destination, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.pop("audit_head") in (data_dir / "audit.jsonl").read_text().splitlines()[-1]
    assert answer == {
        "path": str(destination),
        "size_bytes": size_of(destination),
        "audit_sequence": 3,
        "memories": 2,
        "archived": 0,
        "raw_entries": 1,
        "dangling_edges": 0,
        "namespaces": 1,
        "notes": [],
        "findings": [],
    }


def test_keys_are_in_it_unless_they_are_left_out(data_dir: Path, tmp_path: Path) -> None:
    assert backup(data_dir, tmp_path / "with") == 0
    assert (tmp_path / "with" / "keys" / "audit.key").read_bytes() == (
        data_dir / "keys" / "audit.key"
    ).read_bytes()
    assert backup(data_dir, tmp_path / "without", "--without-keys") == 0
    assert not (tmp_path / "without" / "keys").exists()


def test_one_without_keys_needs_them_to_start(
    data_dir: Path, destination: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backup(data_dir, destination, "--without-keys") == 0
    recall = ["recall", "kettle", "--data-dir", str(destination)]
    assert run(recall) == 1
    assert "restore it from a backup" in capsys.readouterr().err
    shutil.copytree(data_dir / "keys", destination / "keys")
    assert run(recall) == 0


def test_a_log_that_is_kept_elsewhere_is_in_it_too(
    data_dir: Path, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = data_dir.parent / "log.jsonl"
    (data_dir / "audit.jsonl").rename(elsewhere)
    monkeypatch.setenv("CEREMEMORY_SECURITY__AUDIT_LOG_PATH", str(elsewhere))
    assert backup(data_dir, destination) == 0
    assert (destination / "audit.jsonl").read_bytes() == elsewhere.read_bytes()


def test_what_does_not_add_up_is_backed_up_and_named(
    data_dir: Path, destination: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(LmdbStorage(data_dir / "store")) as storage:
        storage.commit({counters_key(DEFAULT_NAMESPACE): dump_counters(Counters.empty())})
    log = data_dir / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"encode.store", b"encode.stole", 1))
    capsys.readouterr()
    assert backup(data_dir, destination) == 1
    out, err = capsys.readouterr()
    assert {line.partition(":")[0] for line in out.splitlines()[:-1]} == {"counters", "audit"}
    assert out.splitlines()[-1].startswith("Backed up 2 memories")
    assert "see fsck" in err
    assert (destination / "audit.jsonl").read_bytes() == log.read_bytes()


def test_a_head_that_somebody_else_sealed_is_named(
    data_dir: Path, destination: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(data_dir / "keys")
    open_keys(data_dir / "keys", may_create=True)
    assert backup(data_dir, destination) == 1
    assert "wasn't sealed with this audit key" in capsys.readouterr().out


def test_an_encrypted_store_stays_encrypted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its passphrase less of the backup is checked; with another one none is made."""
    data_dir = tmp_path / "sealed"
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    assert run(["store", SECRET, "--data-dir", str(data_dir)]) == 0
    assert backup(data_dir, tmp_path / "checked") == 0
    monkeypatch.setenv(PASSPHRASE, "another")
    assert backup(data_dir, tmp_path / "refused") == 1
    monkeypatch.delenv(PASSPHRASE)
    capsys.readouterr()
    assert backup(data_dir, tmp_path / "less") == 0
    out, err = capsys.readouterr()
    assert out.startswith("Backed up 1 memories, 0 raw entries (")
    assert err.startswith("note: checked less: the store is encrypted")
    assert {path.name for path in tmp_path.iterdir()} == {"sealed", "checked", "less"}

    monkeypatch.setenv(PASSPHRASE, "correct horse")
    numbers = ",".join(str(byte) for byte in SECRET.encode()).encode()
    for made in (tmp_path / "checked", tmp_path / "less"):
        written = b"".join(path.read_bytes() for path in made.rglob("*") if path.is_file())
        assert SECRET.encode() not in written
        assert numbers not in written
        assert run(["fsck", "--data-dir", str(made)]) == 0
        assert run(["recall", SECRET, "--data-dir", str(made)]) == 0


def test_of_an_encrypted_store_without_its_passphrase_the_chain_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "sealed"
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    assert run(["store", SECRET, "--data-dir", str(data_dir)]) == 0
    monkeypatch.delenv(PASSPHRASE)
    log = data_dir / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"encode.store", b"encode.stole", 1))
    assert backup(data_dir, tmp_path / "made") == 1
    assert "audit: " in capsys.readouterr().out


@pytest.mark.parametrize("where", [".", "inside", "store/inside"])
def test_one_in_the_data_dir_is_refused(data_dir: Path, capsys: pytest.CaptureFixture[str], where: str) -> None:
    before = sorted(data_dir.rglob("*"))
    assert backup(data_dir, data_dir / where) == 2
    assert "would be lost with it" in capsys.readouterr().err
    assert sorted(data_dir.rglob("*")) == before


def test_what_is_no_data_dir_is_refused_and_nothing_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backup(tmp_path / "none", tmp_path / "made") == 1
    assert f"{tmp_path / 'none'}: no data dir is there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_another_daemon_can_not_be_copied(destination: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["backup", str(destination), "--server-url", "http://127.0.0.1:9"]) == 2
    assert "--server-url" in capsys.readouterr().err


def test_broken_settings_of_others_do_not_stand_in_the_way(
    data_dir: Path, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEREMEMORY_HTTP__PORT", "none")
    assert backup(data_dir, destination) == 0
