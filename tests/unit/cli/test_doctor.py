"""`cerememory doctor`: each thing that is wrong is one line, whatever else is, and nothing is changed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cerememory import __version__
from cerememory.cli import doctor, doctor_files, doctor_store
from cerememory.cli.main import run
from cerememory.domain.audit_chain import AuditDraft
from cerememory.storage import fsck_index
from cerememory.storage.audit_keys import open_keys
from cerememory.storage.datadir import DataDir, Owner
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, pack_sequence, state_key, system_key
from cerememory.storage.ledger import commit_alone
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.mutations import NoteAudit
from cerememory.storage.text_index import TextIndex
from tests.support.committing import an_id
from tests.support.fake_daemon import FakeDaemon, answer

DAY_NS = 86_400 * 10**9
ALL = ["version", "config", "data_dir", *doctor.FILES, "store", *doctor.STORE]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data dir with a memory."""
    path = tmp_path_factory.mktemp("doctor") / "data"
    assert run(["store", "kettle", "--data-dir", str(path)]) == 0
    return path


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """No owner will mend the index while it is waited for."""
    monkeypatch.setattr(fsck_index, "PAUSE_S", 0.0)


Examine = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture
def examine(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Examine:
    """Runs the command; status and detail of each check by its name."""

    def examined(*arguments: str) -> dict[str, tuple[str, str]]:
        capsys.readouterr()
        where = [] if "--data-dir" in arguments else ["--data-dir", str(data_dir)]
        code = run(["doctor", "--json", *where, *arguments])
        found = {each["name"]: (each["status"], each["detail"]) for each in json.loads(capsys.readouterr().out)}
        assert code == int("fail" in {status for status, _detail in found.values()})
        return found

    return examined


def not_ok(found: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {name: verdict for name, verdict in found.items() if verdict[0] != "ok"}


def test_a_sound_data_dir_has_a_line_for_each_check(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--data-dir", str(data_dir)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [line.split(" ", 3) for line in out.splitlines()]
    assert [(status, name, dash) for status, name, dash, _detail in lines] == [("ok", name, "-") for name in ALL]


def test_nothing_is_changed(data_dir: Path, examine: Examine) -> None:
    before = contents(data_dir)
    examine()
    assert contents(data_dir) == before


def contents(data_dir: Path) -> dict[str, Any]:
    """Bytes and modes of all but LMDB's table of readers."""
    paths = [path for path in data_dir.rglob("*") if path.name != "lock.mdb"]
    return {str(p): (p.stat().st_mode, p.is_file() and p.read_bytes()) for p in paths}


def test_without_a_data_dir_the_rest_is_looked_at_and_none_is_made(tmp_path: Path, examine: Examine) -> None:
    found = examine("--data-dir", str(tmp_path / "none"))
    assert list(found) == ["version", "config", "data_dir"]
    assert found["data_dir"] == ("warn", f"{tmp_path / 'none'} isn't there; the first start makes it")
    assert not (tmp_path / "none").exists()


def test_a_file_in_its_place_fails(tmp_path: Path, examine: Examine) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert examine("--data-dir", str(tmp_path / "file"))["data_dir"][0] == "fail"


@pytest.mark.parametrize(
    ("toml", "detail"),
    [
        ("[http]\nprot = 3\n", "http.prot: unknown key, did you mean http.port?"),
        ('[http]\nport = "x"\n[log]\nlevel = 3\n', "; log.level"),
        ('[http]\nbind_address = "0.0.0.0"\n', "http.bind_address"),
        ("[http\n", "is not valid TOML"),
    ],
)
def test_a_configuration_that_does_not_start_is_a_finding_among_others(
    tmp_path: Path, examine: Examine, toml: str, detail: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(toml)
    found = examine("--config", str(file))
    assert list(not_ok(found)) == ["config"]
    assert found["config"][0] == "fail"
    assert detail in found["config"][1]
    assert list(found) == ALL


def test_keys_of_the_data_dir_are_keys(tmp_path: Path, data_dir: Path, examine: Examine) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[auth]\nenabled = true\n")
    assert list(not_ok(examine("--config", str(file)))) == ["config"]
    assert run(["key", "create", "laptop", "--role", "read", "--data-dir", str(data_dir)]) == 0
    assert not_ok(examine("--config", str(file))) == {}


def test_a_configuration_that_is_not_there_is_one(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEREMEMORY_CONFIG", "/nowhere/c.toml")
    assert list(not_ok(examine())) == ["config"]


def test_a_place_that_can_not_be_told_is_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEREMEMORY_SECURITY__AUDIT_LOG_ENABLED", "perhaps")
    assert run(["doctor", "--json"]) == 1
    assert [each["name"] for each in json.loads(capsys.readouterr().out) if each["status"] == "fail"] == [
        "config",
        "data_dir",
    ]


@pytest.mark.parametrize(
    ("path", "mode", "status"),
    [
        (".", 0o755, "fail"),
        ("audit.jsonl", 0o644, "warn"),
        ("index", 0o755, "warn"),
    ],
)
def test_what_others_may_read_is_named(
    data_dir: Path, examine: Examine, path: str, mode: int, status: str
) -> None:
    (data_dir / path).chmod(mode)
    found = not_ok(examine())
    assert list(found) == ["permissions"]
    assert found["permissions"][0] == status
    assert str(data_dir / path) in found["permissions"][1]


def test_a_key_that_others_may_read_is_named_and_refused(data_dir: Path, examine: Examine) -> None:
    (data_dir / "keys" / "audit.key").chmod(0o640)
    assert {name: status for name, (status, _detail) in not_ok(examine()).items()} == {
        "permissions": "warn",
        "audit": "fail",
    }


def test_a_file_of_another_user_fails(data_dir: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert examine()["permissions"][0] == "fail"
    monkeypatch.undo()

    class Foreign:
        st_uid, st_mode = mine + 1, 0o600

    monkeypatch.setattr(doctor_files, "_all_in", lambda path: iter([(path / "audit.jsonl", Foreign)]))
    found = examine()["permissions"]
    assert found == ("fail", f"{data_dir / 'audit.jsonl'} belong(s) to another user than the data directory")


@pytest.mark.parametrize(("kind", "status"), [("nfs4", "fail"), ("tmpfs", "warn"), ("ext4", "ok"), ("", "ok")])
def test_a_file_system_is_one_that_syncs(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, kind: str, status: str
) -> None:
    monkeypatch.setattr(doctor_files, "file_system_of", lambda path: kind)
    assert examine()["file_system"][0] == status


@pytest.mark.parametrize(("free_mib", "status"), [(100, "fail"), (300, "warn"), (5_000, "ok")])
def test_free_disk_is_compared_with_what_is_kept_free(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, free_mib: int, status: str
) -> None:
    class Usage:
        free = free_mib << 20

    monkeypatch.setattr("cerememory.cli.doctor_files.shutil.disk_usage", lambda path: Usage)
    assert examine()["disk"][0] == status


def test_a_format_that_is_gone_fails(data_dir: Path, examine: Examine) -> None:
    (data_dir / "format.json").unlink()
    assert {name: status for name, (status, _detail) in not_ok(examine()).items()} == {"format": "fail"}


@pytest.mark.parametrize("content", ["?", '{"format": 99}'])
def test_another_format_fails_and_its_store_is_not_looked_into(
    data_dir: Path, examine: Examine, content: str
) -> None:
    (data_dir / "format.json").write_text(content)
    found = examine()
    assert {name: status for name, (status, _detail) in not_ok(found).items()} == {
        "format": "fail",
        "store": "fail",
    }
    assert not set(doctor.STORE) & found.keys()


def test_what_was_left_behind_is_named(data_dir: Path, examine: Examine) -> None:
    left = [
        data_dir / "format.new",
        data_dir / "index.new",
        data_dir / "store" / "compacting",
        data_dir / "run" / "token",
        data_dir.parent / ".data.torture.x",
    ]
    for path in left:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700)
        [verdict] = not_ok(examine()).items()
        assert verdict[0] == "leftovers"
        assert str(path) in verdict[1][1]
        path.rmdir()


# the daemon


def test_a_command_that_owns_the_data_dir_is_no_daemon(data_dir: Path, examine: Examine) -> None:
    with DataDir.acquire(data_dir) as owned:
        owned.announce("")
        found = examine()
    assert not_ok(found) == {}
    assert found["lock"][1] == f"held by process {os.getpid()}"
    assert "is a command" in found["daemon"][1]


def test_a_daemon_that_gives_no_answer_fails(data_dir: Path, examine: Examine) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    with DataDir.acquire(data_dir) as owned:
        owned.announce(f"127.0.0.1:{port}")
        status, detail = examine()["daemon"]
    assert status == "fail"
    assert "gives no answer" in detail


@pytest.mark.parametrize(
    ("answered", "version", "status", "said"),
    [
        (answer({"status": "ready"}), __version__, "ok", "is ready"),
        (answer({"status": "ready"}), "0.0.1", "warn", "runs version 0.0.1"),
        (answer({"status": "ready"}), "", "warn", "runs version unknown"),
        (
            answer({"status": "not_ready", "reason": "storage unavailable"}, status=503),
            __version__,
            "fail",
            "storage un",
        ),
        (answer([], status=503), __version__, "fail", "doesn't say why"),
    ],
)
def test_a_daemon_is_asked_whether_it_is_ready_and_is_of_this_version(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, answered: Any, version: str, status: str, said: str
) -> None:
    with FakeDaemon(answered) as daemon:
        owner = Owner(os.getpid(), daemon.url.removeprefix("http://"), version)
        monkeypatch.setattr(doctor, "owner_of", lambda path: owner)
        found = examine()["daemon"]
    assert found[0] == status
    assert said in found[1]


def test_limits_are_those_of_the_process_that_owns_the_data_dir(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {resource.RLIMIT_NOFILE: (64, 64), resource.RLIMIT_AS: (resource.RLIM_INFINITY,) * 2}
    asked: list[int] = []

    def prlimit(pid: int, which: int) -> tuple[int, int]:
        asked.append(pid)
        return limits[which]

    monkeypatch.setattr("cerememory.cli.doctor.resource.prlimit", prlimit)
    monkeypatch.setattr(doctor, "owner_of", lambda path: Owner(4711, "", ""))
    assert "64 open files" in examine()["limits"][1]
    assert set(asked) == {4711}
    limits[resource.RLIMIT_NOFILE] = (resource.RLIM_INFINITY,) * 2
    assert examine()["limits"] == ("ok", "unlimited open files")
    limits[resource.RLIMIT_AS] = (1 << 30, 1 << 30)
    assert examine()["limits"][0] == "warn"


# the store


def test_a_store_that_can_not_be_opened_fails_and_ends_the_looking(data_dir: Path, examine: Examine) -> None:
    (data_dir / "store" / "data.mdb").write_bytes(b"?" * 8_192)
    found = examine()
    assert list(not_ok(found)) == ["store"]
    assert found["store"][0] == "fail"
    assert list(found)[-1] == "store"


def test_no_store_yet_is_said(data_dir: Path, examine: Examine) -> None:
    shutil.rmtree(data_dir / "store")
    assert not_ok(examine()) == {"store": ("warn", "there is none yet")}


def test_an_encrypted_store_is_looked_at_with_its_passphrase_alone(
    tmp_path: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE", "correct horse")
    sealed = ["--data-dir", str(tmp_path / "sealed")]
    assert run(["store", "kettle", *sealed]) == 0
    assert not_ok(examine(*sealed)) == {}
    monkeypatch.setenv("CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE", "another")
    assert examine(*sealed)["store"][0] == "fail"
    monkeypatch.delenv("CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE")
    assert examine(*sealed)["store"][0] == "warn"


def test_a_map_that_is_nearly_full_is_named(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bounded by the disk alone" in examine()["map"][1]
    monkeypatch.setenv("CEREMEMORY_STORAGE__MAP_SIZE_MAX_GIB", "1")
    assert examine()["map"][0] == "ok"
    monkeypatch.setattr(LmdbStorage, "used_bytes", lambda storage: 950 << 20)
    assert examine()["map"][0] == "warn"


OPENER = """
import sys, lmdb
environment = lmdb.open(sys.argv[1], readonly=True, max_readers=256)
reading = environment.begin() if sys.argv[2] == "read" else None
print("open", flush=True)
sys.stdin.read()
"""


def opening(data_dir: Path, what: str) -> subprocess.Popen[bytes]:
    """A process that has the store open, and reads or doesn't."""
    opener = subprocess.Popen(
        [sys.executable, "-c", OPENER, str(data_dir / "store"), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert opener.stdout is not None
    assert opener.stdout.readline() == b"open\n"
    return opener


def test_a_reader_that_was_killed_is_named_and_kept(data_dir: Path, examine: Examine) -> None:
    """As long as another process has the store open: the first to open it clears the slots."""
    with opening(data_dir, "nothing") as owner, opening(data_dir, "read") as reader:
        try:
            assert examine()["readers"] == ("ok", "1 process(es) read the store")
            reader.kill()
            reader.wait()
            for _twice in range(2):
                status, detail = examine()["readers"]
                assert status == "warn"
                assert str(reader.pid) in detail
        finally:
            reader.kill()
            owner.kill()
    assert examine()["readers"] == ("ok", "0 process(es) read the store")


@pytest.mark.parametrize("damage", ["gone", "damaged", "of another version", "behind the log"])
def test_an_index_that_will_be_built_again_is_named(data_dir: Path, examine: Examine, damage: str) -> None:
    index = data_dir / "index"
    if damage == "damaged":
        (index / "curated" / "meta.json").write_text("{")
    elif damage == "behind the log":
        with closing(LmdbStorage(data_dir / "store")) as storage:
            storage.commit({system_key(Table.LOG_FLOOR): pack_sequence(99)})
    else:
        shutil.rmtree(index)
    if damage == "of another version":
        index.mkdir(mode=0o700)
        TextIndex.open(index, epoch=1).close()
    [(name, (status, detail))] = not_ok(examine()).items()
    assert (name, status) == ("index", "warn")
    assert "the next start builds it" in detail


def test_an_index_in_memory_is_not_looked_for(
    data_dir: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(data_dir / "index")
    monkeypatch.setenv("CEREMEMORY_SECURITY__PERSIST_SEARCH_INDEXES", "false")
    assert not_ok(examine()) == {}


def test_an_audit_log_that_is_not_the_stores_fails(data_dir: Path, examine: Examine) -> None:
    log = data_dir / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"encode.store", b"encode.stole"))
    assert {name: status for name, (status, _detail) in not_ok(examine()).items()} == {"audit": "fail"}


@pytest.mark.parametrize("key", ["gone", "another"])
def test_a_head_that_was_not_sealed_with_the_key_that_is_there_fails(
    data_dir: Path, examine: Examine, key: str
) -> None:
    shutil.rmtree(data_dir / "keys")
    if key == "another":
        open_keys(data_dir / "keys", may_create=True)
    found = not_ok(examine())
    assert (list(found), found["audit"][0]) == (["audit"], "fail")


def test_an_audit_log_that_is_older_than_its_checkpoint_fails(data_dir: Path, examine: Examine) -> None:
    """Store and log were put back together; the checkpoint beside them wasn't."""
    old = shutil.copytree(data_dir, data_dir.with_name("old"))
    assert run(["store", "teapot", "--data-dir", str(data_dir)]) == 0
    checkpoint = (data_dir / "audit.jsonl.checkpoint").read_bytes()
    shutil.rmtree(data_dir)
    shutil.copytree(old, data_dir)
    (data_dir / "audit.jsonl.checkpoint").write_bytes(checkpoint)
    (data_dir / "audit.jsonl.checkpoint").chmod(0o600)
    assert {name: status for name, (status, _detail) in not_ok(examine()).items()} == {"audit": "fail"}


def test_an_audit_log_that_is_switched_off_is_not_looked_at(
    data_dir: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "audit.jsonl").write_bytes(b"?")
    monkeypatch.setenv("CEREMEMORY_SECURITY__AUDIT_LOG_ENABLED", "false")
    assert "switched off" in examine()["audit"][1]


@pytest.mark.parametrize(("ahead_ns", "status"), [(0, "ok"), (DAY_NS // 2, "warn"), (2 * DAY_NS, "fail")])
@pytest.mark.parametrize("what", ["a memory", "an audit entry"])
def test_a_clock_that_was_set_back_is_noticed(
    data_dir: Path, examine: Examine, what: str, ahead_ns: int, status: str
) -> None:
    at = time.time_ns() + ahead_ns
    with closing(LmdbStorage(data_dir / "store")) as storage:
        if what == "a memory":
            storage.commit({state_key(DEFAULT_NAMESPACE, at, an_id(9)): b""})
        else:
            commit_alone(storage, NoteAudit(DEFAULT_NAMESPACE, AuditDraft(at, "encode.store", (), (), {})), at)
    assert examine()["clock"][0] == status


def test_another_daemon_can_not_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--server-url", "http://127.0.0.1:9"]) == 2
    assert "--server-url" in capsys.readouterr().err


def test_a_process_of_another_user_lives() -> None:
    assert doctor_store._lives(os.getpid())
    assert doctor_store._lives(1)
