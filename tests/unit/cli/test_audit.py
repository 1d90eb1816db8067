"""`audit-verify`: what it compares the log with, and what it never needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cerememory.cli.main import run
from cerememory.cli.memory import connect
from cerememory.cli.options import Options
from cerememory.domain.audit_chain import GENESIS
from cerememory.errors import DataDirUnusable
from cerememory.storage.lmdb import LmdbStorage

MIB = 1 << 20
Captured = pytest.CaptureFixture[str]
REFERENCE = Path(__file__).parents[2] / "fixtures" / "reference" / "audit.jsonl"


@pytest.fixture(autouse=True)
def nothing_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("CEREMEMORY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """With two entries."""
    path = tmp_path / "data"
    with connect(Options(data_dir=path)) as memory:
        for text in ("a", "b"):
            block = {"modality": "text", "format": "text/plain", "text": text}
            memory.call("encode.store", {"content": {"blocks": [block]}})
    return path


def head_of(log: Path) -> str:
    return str(json.loads(log.read_text().splitlines()[-1])["entry_hash"])


def test_a_whole_log_is_verified(data_dir: Path, capsys: Captured) -> None:
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 0
    log = data_dir / "audit.jsonl"
    assert capsys.readouterr() == (
        f"Audit log verified:\n  path={log}\n  entries=2\n  last_sequence=2\n  head_hash={head_of(log)}\n",
        "",
    )


def test_json_has_the_same_fields(data_dir: Path, capsys: Captured) -> None:
    log = data_dir / "audit.jsonl"
    assert run(["audit-verify", "--data-dir", str(data_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(log),
        "entries": 2,
        "last_sequence": 2,
        "head_hash": head_of(log),
        "pending": 0,
    }


def test_a_log_that_was_cut_is_refused(data_dir: Path, capsys: Captured) -> None:
    log = data_dir / "audit.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {log}: line 2")


def test_a_missing_log_of_a_store_is_refused(data_dir: Path, capsys: Captured) -> None:
    (data_dir / "audit.jsonl").unlink()
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 1
    assert "line 1" in capsys.readouterr().err


def test_nothing_is_changed(data_dir: Path) -> None:
    before = {
        path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file() and path.name != "lock.mdb"
    }
    run(["audit-verify", "--data-dir", str(data_dir)])
    assert {path: path.read_bytes() for path in before} == before


def test_the_log_of_the_data_dir_is_compared_by_whatever_name(data_dir: Path, capsys: Captured) -> None:
    assert run(["audit-verify", "--data-dir", str(data_dir), "--path", "data/../data/audit.jsonl"]) == 0
    assert capsys.readouterr().err == ""


def test_of_another_log_the_chain_alone_is_checked(data_dir: Path, capsys: Captured) -> None:
    assert run(["audit-verify", "--data-dir", str(data_dir), "--path", str(REFERENCE)]) == 0
    shown = capsys.readouterr()
    assert shown.err == f"note: only the chain was checked: {REFERENCE} isn't the log of the data dir\n"
    assert f"entries={len(REFERENCE.read_text().splitlines())}" in shown.out


def test_a_log_needs_no_configuration_that_starts(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("CEREMEMORY_HTTP__PORT", "none")
    assert run(["audit-verify", "--path", str(REFERENCE), "--config", "nowhere.toml"]) == 0
    assert "Audit log verified:" in capsys.readouterr().out


def test_a_data_dir_needs_no_configuration_that_starts(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("CEREMEMORY_HTTP__PORT", "none")
    monkeypatch.setenv("CEREMEMORY_GRPC__PORT", "1")
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 0


def test_a_log_without_its_store_is_checked_alone(data_dir: Path, capsys: Captured) -> None:
    (data_dir / "store" / "data.mdb").unlink()
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().err.startswith(
        f"note: only the chain was checked: {data_dir}/store: cannot be opened"
    )


def test_a_log_that_isnt_there_is_said_to_be_empty(capsys: Captured) -> None:
    assert run(["audit-verify", "--path", "nowhere.jsonl"]) == 0
    shown = capsys.readouterr()
    assert "note: nowhere.jsonl isn't there: an empty log\n" in shown.err
    assert f"  entries=0\n  last_sequence=0\n  head_hash={GENESIS}\n" in shown.out


def test_a_log_that_is_switched_off_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("CEREMEMORY_SECURITY__AUDIT_LOG_ENABLED", "false")
    assert run(["audit-verify"]) == 1
    assert capsys.readouterr() == (
        "",
        "error: security.audit_log_enabled: the audit log is switched off; name one with --path\n",
    )
    assert run(["audit-verify", "--path", str(REFERENCE)]) == 0


def test_there_is_no_store_to_read_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataDirUnusable, match="cannot be opened"):
        LmdbStorage.open_readonly(tmp_path / "store")


READER = """
import sys
from pathlib import Path
from cerememory.storage.lmdb import LmdbStorage

storage = LmdbStorage(Path(sys.argv[1]), map_size_bytes=16 << 20, is_readonly=True)
for line in sys.stdin:
    with storage.read() as reader:
        print(len(reader.get(line.strip().encode()) or b""), flush=True)
"""


def test_a_reader_follows_a_store_that_its_owner_makes_larger(tmp_path: Path) -> None:
    owner = LmdbStorage(tmp_path, map_size_bytes=16 * MIB)
    owner.commit({b"small": b"x"})
    with subprocess.Popen(
        [sys.executable, "-c", READER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def size_of(key: str) -> int:
            print(key, file=process.stdin, flush=True)
            assert process.stdout is not None
            return int(process.stdout.readline())

        assert size_of("small") == 1
        for i in range(5):
            owner.commit({b"large%d" % i: bytes(8 * MIB)})
        assert owner.map_size_bytes > 16 * MIB
        assert size_of("large4") == 8 * MIB
        process.stdin.close()
    assert process.returncode == 0
    owner.close()
