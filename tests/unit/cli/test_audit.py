"""`audit-verify`: what it compares the log with, and what it never needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cerememory.cli.main import run
from cerememory.cli.memory import connect
from cerememory.cli.options import Options
from cerememory.domain.audit_chain import GENESIS
from cerememory.errors import DataDirUnusable
from cerememory.storage.datadir import prepare
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
    with connect(Options(data_dir=path), creates=True) as memory:
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
        "unseen": [],
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


@pytest.fixture
def newer(data_dir: Path) -> Path:
    (data_dir / "format.json").write_text('{"format": 99}')
    return data_dir


def test_a_data_dir_of_a_newer_format_is_refused(newer: Path, capsys: Captured) -> None:
    assert run(["audit-verify", "--data-dir", str(newer)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {newer}: has format 99, this version")


def test_the_log_of_a_newer_format_is_checked_alone_by_its_path(newer: Path, capsys: Captured) -> None:
    assert run(["audit-verify", "--data-dir", str(newer), "--path", str(newer / "audit.jsonl")]) == 0
    shown = capsys.readouterr()
    assert "entries=2" in shown.out
    assert shown.err.startswith(f"note: only the chain was checked: {newer}: has format 99, this version")


def test_the_store_of_a_newer_format_is_not_asked_where_files_end(
    newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_readonly(path: Path) -> LmdbStorage:
        raise AssertionError(f"{path} is of another format")

    monkeypatch.setattr(LmdbStorage, "open_readonly", open_readonly)
    assert run(["audit-verify", "--data-dir", str(newer), "--path", str(newer / "audit.jsonl")]) == 0


@pytest.mark.parametrize("command", [["fsck"], ["key", "create", "k", "--role", "read"]])
def test_others_refuse_a_newer_format_too(newer: Path, capsys: Captured, command: list[str]) -> None:
    assert run([*command, "--data-dir", str(newer)]) == 1
    assert f"error: {newer}: has format 99" in capsys.readouterr().err


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


# What was done to it


def tampered(log: Path, done: str) -> None:
    first, second = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(
        {
            "edited": first + second.replace(b"episodic", b"semantic"),
            "deleted": second,
            "reordered": second + first,
            "duplicated": first + second + second,
            "blank line": first + b"\n" + second,
            "sequence gap": first + second.replace(b'"sequence":2', b'"sequence":3'),
            "cut off": first + second[:40],
            "cut off, or replaced by an older copy": first,
        }[done]
    )


DONE = ("edited", "deleted", "reordered", "duplicated", "blank line", "sequence gap", "cut off")


@pytest.mark.parametrize("done", [*DONE, "cut off, or replaced by an older copy"])
def test_what_was_done_to_the_log_is_named(data_dir: Path, capsys: Captured, done: str) -> None:
    tampered(data_dir / "audit.jsonl", done)
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 1
    assert capsys.readouterr().err.endswith(f" ({done})\n")


@pytest.mark.parametrize("done", DONE)
def test_it_is_named_by_the_chain_alone_too(data_dir: Path, tmp_path: Path, capsys: Captured, done: str) -> None:
    tampered(data_dir / "audit.jsonl", done)
    copied = tmp_path / "copied.jsonl"
    (data_dir / "audit.jsonl").rename(copied)
    assert run(["audit-verify", "--data-dir", str(data_dir), "--path", str(copied)]) == 1
    assert capsys.readouterr().err.endswith(f" ({done})\n")


# Keys and checkpoints


@pytest.fixture
def checkpoint(data_dir: Path, tmp_path: Path) -> Path:
    """Kept outside of the data dir, which has got one more entry since."""
    kept = tmp_path / "kept"
    kept.write_bytes((data_dir / "audit.jsonl.checkpoint").read_bytes())
    with connect(Options(data_dir=data_dir)) as memory:
        memory.call("lifecycle.set_mode", {"mode": "human"})
    return kept


def test_a_log_that_continues_a_checkpoint_says_so(data_dir: Path, checkpoint: Path, capsys: Captured) -> None:
    assert run(["audit-verify", "--data-dir", str(data_dir), "--against", str(checkpoint)]) == 0
    assert capsys.readouterr().err == f"note: the log continues the one of the checkpoint {checkpoint}\n"


def test_a_copied_log_is_held_against_a_checkpoint_with_the_public_key_alone(
    data_dir: Path, checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    log, key = tmp_path / "copied.jsonl", tmp_path / "pub"
    log.write_bytes((data_dir / "audit.jsonl").read_bytes())
    key.write_bytes((data_dir / "keys" / "audit.pub").read_bytes())
    arguments = ["--path", str(log), "--public-key", str(key), "--config", "nowhere.toml"]
    assert run(["audit-verify", *arguments, "--against", str(checkpoint)]) == 0
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    assert run(["audit-verify", *arguments]) == 0, "the chain is whole"
    assert run(["audit-verify", *arguments, "--against", str(checkpoint)]) == 1
    assert "the log has 1 entries, and had 2 when this checkpoint was signed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: data.replace(b"\n2\n", b"\n1\n"), "its signature is not good"),
        (lambda data: data[:40], "isn't a signed note"),
        (lambda data: b"", "isn't a signed note"),
        (lambda data: data.replace(b"cerememory", b"ceremonies"), "isn't signed by this key"),
    ],
)
def test_what_is_no_checkpoint_of_this_log_is_refused(
    data_dir: Path, checkpoint: Path, capsys: Captured, spoil: Callable[[bytes], bytes], told: str
) -> None:
    checkpoint.write_bytes(spoil(checkpoint.read_bytes()))
    assert run(["audit-verify", "--data-dir", str(data_dir), "--against", str(checkpoint)]) == 1
    assert capsys.readouterr() == ("", f"error: {checkpoint}: {told}\n")


def test_a_checkpoint_that_isnt_there_is_an_error(data_dir: Path, capsys: Captured) -> None:
    assert run(["audit-verify", "--data-dir", str(data_dir), "--against", "nowhere"]) == 1
    assert capsys.readouterr().err == "error: nowhere: No such file or directory\n"


def test_an_older_copy_of_log_and_store_is_told_by_the_checkpoint_beside_the_log(
    data_dir: Path, tmp_path: Path, capsys: Captured
) -> None:
    older = tmp_path / "older"
    shutil.copytree(data_dir, older)
    with connect(Options(data_dir=data_dir)) as memory:
        memory.call("lifecycle.set_mode", {"mode": "human"})
    for name in ("store", "audit.jsonl"):
        shutil.rmtree(data_dir / name) if name == "store" else (data_dir / name).unlink()
        (older / name).rename(data_dir / name)
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 1
    assert "had 3 when this checkpoint was signed (replaced by an older copy)" in capsys.readouterr().err


def test_a_store_that_was_written_without_the_key_is_told(
    data_dir: Path, tmp_path: Path, capsys: Captured
) -> None:
    with connect(Options(data_dir=tmp_path / "other"), creates=True) as memory:
        memory.call("lifecycle.set_mode", {"mode": "human"})
    for name in ("store", "audit.jsonl"):
        shutil.rmtree(data_dir / name) if name == "store" else (data_dir / name).unlink()
        (tmp_path / "other" / name).rename(data_dir / name)
    (data_dir / "audit.jsonl.checkpoint").unlink()
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 1
    assert "wasn't sealed with this audit key" in capsys.readouterr().err


def test_a_key_that_is_gone_is_told(data_dir: Path, capsys: Captured) -> None:
    shutil.rmtree(data_dir / "keys")
    (data_dir / "audit.jsonl.checkpoint").unlink()
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 1
    assert "audit.key: the key of the audit log is missing" in capsys.readouterr().err


def test_keys_may_be_kept_apart_from_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    path = tmp_path / "apart"
    monkeypatch.setenv("CEREMEMORY_SECURITY__AUDIT_KEY_PATH", str(tmp_path / "elsewhere"))
    with connect(Options(data_dir=path), creates=True) as memory:
        memory.call("lifecycle.set_mode", {"mode": "human"})
    assert not (path / "keys").exists()
    assert run(["audit-verify", "--data-dir", str(path)]) == 0
    assert capsys.readouterr().err == ""


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


# Rotation


def rotated(data_dir: Path, capsys: Captured) -> dict[str, object]:
    assert run(["audit-rotate", "--data-dir", str(data_dir), "--json"]) == 0
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_a_rotation_says_which_file_it_closed_and_what_that_ends_with(data_dir: Path, capsys: Captured) -> None:
    head = head_of(data_dir / "audit.jsonl")
    assert run(["audit-rotate", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr() == (
        "Audit log rotated:\n"
        "  file=audit.jsonl.000000000001-000000000002\n"
        f"  entries=2\n  last_sequence=2\n  head_hash={head}\n",
        "",
    )
    assert head_of(data_dir / "audit.jsonl.000000000001-000000000002") == head


def test_a_log_without_entries_has_nothing_to_rotate(tmp_path: Path, capsys: Captured) -> None:
    prepare(tmp_path / "new")
    assert run(["audit-rotate", "--data-dir", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == "The audit log has no entries: nothing to rotate\n"


def test_all_files_are_verified_and_what_was_moved_away_is_named(
    data_dir: Path, tmp_path: Path, capsys: Captured
) -> None:
    answer = rotated(data_dir, capsys)
    closed = data_dir / str(answer["file"])
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 0
    shown = capsys.readouterr()
    assert ("entries=3\n  last_sequence=3" in shown.out, shown.err) == (True, "")
    closed.rename(tmp_path / "away")
    assert run(["audit-verify", "--data-dir", str(data_dir)]) == 0
    shown = capsys.readouterr()
    assert "entries=1\n  last_sequence=3" in shown.out
    assert shown.err == (
        f"note: entries 1 to 2 weren't seen: {closed} isn't there; "
        f"the chain is whole from entry 3 on, behind the hash {answer['head_hash']}\n"
    )
    assert run(["audit-verify", "--data-dir", str(data_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unseen"] == [
        {"file": str(closed), "from_sequence": 1, "to_sequence": 2, "head_hash": answer["head_hash"]}
    ]


def test_the_files_put_together_are_one_log(data_dir: Path, tmp_path: Path, capsys: Captured) -> None:
    closed = rotated(data_dir, capsys)["file"]
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes(b"".join((data_dir / str(name)).read_bytes() for name in (closed, "audit.jsonl")))
    assert run(["audit-verify", "--path", str(whole)]) == 0
    assert "entries=3\n" in capsys.readouterr().out


def test_a_file_alone_is_checked_from_a_head(data_dir: Path, tmp_path: Path, capsys: Captured) -> None:
    answer = rotated(data_dir, capsys)
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes((data_dir / "audit.jsonl").read_bytes())
    assert run(["audit-verify", "--path", str(alone)]) == 1
    hint, error = capsys.readouterr().err.splitlines()[-2:]
    assert (
        hint == "note: if it goes on another file: put that beside it, or give --head, the hash of its last entry"
    )
    assert error == f"error: {alone}: line 1: sequence 3, expected 1 (deleted)"
    assert run(["audit-verify", "--path", str(alone), "--head", str(answer["head_hash"]).upper()]) == 0
    shown = capsys.readouterr()
    assert "entries=1\n  last_sequence=3" in shown.out
    assert "note: entries 1 to 2 weren't seen; the chain is whole from entry 3 on" in shown.err
    assert run(["audit-verify", "--path", str(alone), "--head", "0" * 64]) == 1
    assert "line 1: prev_hash is not the entry_hash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--head", "0" * 64], "--head: which file? Name it with --path"),
        (["--head", "0" * 63, "--path", "x"], "expected a hash of 64 hexadecimal digits"),
        (["--head", "g" * 64, "--path", "x"], "expected a hash of 64 hexadecimal digits"),
        (["--head", "0" * 64, "--path", "x", "--against", "y"], "--head and --against exclude each other"),
    ],
)
def test_a_head_goes_with_one_file(capsys: Captured, arguments: list[str], told: str) -> None:
    assert run(["audit-verify", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_the_last_file_of_a_log_is_checked_alone_when_that_is_asked_for(data_dir: Path, capsys: Captured) -> None:
    answer, log = rotated(data_dir, capsys), data_dir / "audit.jsonl"
    arguments = ["audit-verify", "--data-dir", str(data_dir), "--path", str(log)]
    assert run([*arguments, "--head", str(answer["head_hash"])]) == 0
    assert f"note: only the chain was checked: {log} was asked for alone\n" in capsys.readouterr().err
    assert run([*arguments, "--head", "1" * 64]) == 1


def test_without_the_passphrase_the_store_still_says_where_files_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    path = tmp_path / "sealed"
    monkeypatch.setenv("CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE", "correct horse battery staple")
    with connect(Options(data_dir=path), creates=True) as memory:
        for _ in range(2):
            memory.call("lifecycle.set_mode", {"mode": "human"})
            memory.call("lifecycle.rotate_audit", {})
    monkeypatch.delenv("CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE")
    first, second = sorted(path.glob("audit.jsonl.0*"))
    first.unlink()
    assert run(["audit-verify", "--data-dir", str(path)]) == 0
    shown = capsys.readouterr()
    assert "entries=3\n  last_sequence=4" in shown.out
    assert f"note: entries 1 to 1 weren't seen: {first} isn't there" in shown.err
    assert run(["backup", str(tmp_path / "backup"), "--data-dir", str(path)]) == 0
    assert "Backed up 0 memories" in capsys.readouterr().out
    second.chmod(0o600)
    second.write_bytes(second.read_bytes().replace(b"human", b"other"))
    assert run(["audit-verify", "--data-dir", str(path)]) == 1
    assert f"error: {second}: line " in capsys.readouterr().err


def test_a_doctor_names_what_was_moved_away(data_dir: Path, capsys: Captured) -> None:
    closed = data_dir / str(rotated(data_dir, capsys)["file"])
    closed.unlink()
    run(["doctor", "--data-dir", str(data_dir)])
    told = f"ok audit - 1 entries, level with the store's head; entries 1 to 2 weren't seen: {closed} isn't there"
    assert told in capsys.readouterr().out
