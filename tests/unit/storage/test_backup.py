"""A backup: the rows of one moment and the log up to them, under its name whole or not at all."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cerememory import failpoints
from cerememory.domain.audit_chain import GENESIS
from cerememory.errors import CerememoryError, DataDirUnusable, StorageUnavailable
from cerememory.failpoints import InjectedCrash
from cerememory.storage import backup
from cerememory.storage.audit_file import AuditFile, complete, plan_repair
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_rotation import CloseAuditFile
from cerememory.storage.audit_verification import verify_log
from cerememory.storage.backup import AUDIT_NAME, STORE_NAME, Source
from cerememory.storage.datadir import DataDir
from cerememory.storage.keys import DEFAULT_NAMESPACE, KEYS_END, Table, key, system_key
from cerememory.storage.ledger import record_audit_synced
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.rewriting import Pair
from cerememory.storage.rows import parse_head
from tests.support.committing import a_record, an_id, commit, forgetting, storing
from tests.support.engine import NOW

MIB = 1 << 20
COUNT = 20
CANARY = "canary-that-must-not-stay "


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """With `COUNT` memories, and all that there is beside the store."""
    path = tmp_path / "data"
    with DataDir.acquire(path) as directory:
        directory.make_token()
        with closing(LmdbStorage(directory.store_path, map_size_bytes=64 * MIB)) as storage:
            for number in range(COUNT):
                commit(storage, storing(a_record(number, f"kettle {number}")))
            append_to_log(path, storage)
        (path / "index").mkdir()
        (path / "keys" / "old").mkdir(parents=True)
        (path / "keys" / "old" / "audit.key").write_bytes(b"secret")
    return path


def append_to_log(data_dir: Path, storage: LmdbStorage) -> None:
    """What the store has for it."""
    outbox, path = StoredOutbox(storage), data_dir / AUDIT_NAME
    reached = complete(path, plan_repair(path, outbox), outbox)
    record_audit_synced(storage, reached)


def copied(
    data_dir: Path,
    destination: Path,
    *,
    with_keys: bool = True,
    watch: Callable[[Iterator[Pair], int], Iterator[Pair]] = lambda rows, _count: rows,
) -> Path:
    with backup.draft(destination) as folder:
        backup.copy(Source(data_dir, data_dir / AUDIT_NAME, with_keys), folder, LmdbStorage.open_readonly, watch)
    return destination


def made_beside(
    data_dir: Path, destination: Path, storage: LmdbStorage, watch: Callable[[Iterator[Pair], int], Iterator[Pair]]
) -> None:
    """What `copied` does, in the process that has the store open."""
    with backup.draft(destination) as folder:
        store = folder / STORE_NAME
        store.mkdir()
        storage.copy(store, watch)
        backup._copy_audit_log(data_dir / AUDIT_NAME, folder)
        backup._complete_audit_log(folder, LmdbStorage.open_readonly)


def rows(store: Path) -> dict[bytes, bytes]:
    with closing(LmdbStorage.open_readonly(store)) as storage, storage.read() as reader:
        return dict(reader.scan(b"", KEYS_END))


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def verified(folder: Path) -> int:
    """How many entries the log has, which is that of the store and lacks nothing."""
    with closing(LmdbStorage.open_readonly(folder / STORE_NAME)) as storage:
        found = verify_log(folder / AUDIT_NAME, StoredOutbox(storage))
    assert found.pending == 0
    return found.entries


def test_it_has_the_rows_the_log_the_keys_and_nothing_that_is_its_owners(data_dir: Path, tmp_path: Path) -> None:
    made = copied(data_dir, tmp_path / "made")
    assert names(made) == {"audit.jsonl", "format.json", "keys/old/audit.key", "store/data.mdb"}
    assert rows(made / STORE_NAME) == rows(data_dir / STORE_NAME)
    assert verified(made) == COUNT
    assert (made / "keys" / "old" / "audit.key").read_bytes() == b"secret"


def test_it_is_private_to_its_owner(data_dir: Path, tmp_path: Path) -> None:
    made = copied(data_dir, tmp_path / "made")
    for path in (made, *made.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_keys_may_be_left_out(data_dir: Path, tmp_path: Path) -> None:
    assert not (copied(data_dir, tmp_path / "made", with_keys=False) / "keys").exists()


def test_a_data_dir_can_be_made_of_it(data_dir: Path, tmp_path: Path) -> None:
    made = copied(data_dir, tmp_path / "made")
    with DataDir.acquire(made) as directory, closing(LmdbStorage(directory.store_path)) as storage:
        commit(storage, storing(a_record(99)))
        append_to_log(made, storage)
    assert verified(made) == COUNT + 1


def test_what_is_stored_while_it_is_made_is_not_in_it_nor_in_its_log(data_dir: Path, tmp_path: Path) -> None:
    """Rows and log go on while they are copied; the log's file is read when it has more than the copy."""
    before = rows(data_dir / STORE_NAME)
    with closing(LmdbStorage(data_dir / STORE_NAME, map_size_bytes=64 * MIB)) as storage:

        def meanwhile(pairs: Iterator[Pair], count: int) -> Iterator[Pair]:
            assert count == len(before)
            yield next(pairs)
            commit(storage, storing(a_record(77, "too late")), forgetting(1))
            append_to_log(data_dir, storage)
            yield from pairs

        made_beside(data_dir, tmp_path / "made", storage, meanwhile)
    assert rows(tmp_path / "made" / STORE_NAME) == before
    assert verified(tmp_path / "made") == COUNT


def rotate(data_dir: Path, storage: LmdbStorage) -> None:
    commit(storage, CloseAuditFile(data_dir / AUDIT_NAME, NOW))


def test_every_file_of_the_log_that_is_there_is_in_it(data_dir: Path, tmp_path: Path) -> None:
    with closing(LmdbStorage(data_dir / STORE_NAME, map_size_bytes=64 * MIB)) as storage:
        for number in (70, 71):
            rotate(data_dir, storage)
            commit(storage, storing(a_record(number)))
            append_to_log(data_dir, storage)
    made = copied(data_dir, tmp_path / "made")
    first, second = sorted(made.glob(f"{AUDIT_NAME}.0*"))
    assert (verified(made), first.stat().st_mode & 0o777) == (COUNT + 4, 0o400)
    (data_dir / second.name).unlink()
    assert verified(copied(data_dir, tmp_path / "less")) == COUNT + 2


@pytest.mark.parametrize("is_closed", [False, True], ids=["yet to be closed", "closed"])
def test_a_rotation_while_it_is_made_leaves_the_log_of_its_moment(
    data_dir: Path, tmp_path: Path, is_closed: bool
) -> None:
    with closing(LmdbStorage(data_dir / STORE_NAME, map_size_bytes=64 * MIB)) as storage:

        def meanwhile(pairs: Iterator[Pair], _count: int) -> Iterator[Pair]:
            yield next(pairs)
            commit(storage, storing(a_record(70)))
            rotate(data_dir, storage)
            if is_closed:
                append_to_log(data_dir, storage)
            yield from pairs

        made_beside(data_dir, tmp_path / "made", storage, meanwhile)
    assert verified(tmp_path / "made") == COUNT
    assert len(list(data_dir.glob(f"{AUDIT_NAME}.0*"))) == is_closed


def test_a_file_that_has_yet_to_be_closed_is_closed_in_the_copy(data_dir: Path, tmp_path: Path) -> None:
    with closing(LmdbStorage(data_dir / STORE_NAME, map_size_bytes=64 * MIB)) as storage:
        rotate(data_dir, storage)
    made = copied(data_dir, tmp_path / "made")
    assert (verified(made), len(list(made.glob(f"{AUDIT_NAME}.0*")))) == (COUNT + 1, 1)


def test_what_the_log_has_yet_to_get_is_in_the_copy(data_dir: Path, tmp_path: Path) -> None:
    with closing(LmdbStorage(data_dir / STORE_NAME, map_size_bytes=64 * MIB)) as storage:
        commit(storage, storing(a_record(77)))
        commit(storage, storing(a_record(78)))
    log = data_dir / AUDIT_NAME
    log.write_bytes(log.read_bytes() + b'{"version":1,"seq')  # its writer was at it
    assert verified(copied(data_dir, tmp_path / "made")) == COUNT + 2


def test_a_log_that_was_cut_is_not_mended_by_copying_it(data_dir: Path, tmp_path: Path) -> None:
    log = data_dir / AUDIT_NAME
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:5]))
    made = copied(data_dir, tmp_path / "made")
    assert (made / AUDIT_NAME).read_bytes() == log.read_bytes()


def test_a_log_that_was_changed_is_copied_as_it_is(data_dir: Path, tmp_path: Path) -> None:
    log = data_dir / AUDIT_NAME
    log.write_bytes(log.read_bytes().replace(b"encode.store", b"encode.stole", 1))
    made = copied(data_dir, tmp_path / "made")
    assert (made / AUDIT_NAME).read_bytes() == log.read_bytes()


def test_without_a_log_there_is_none_in_it(data_dir: Path, tmp_path: Path) -> None:
    """An audit log that is switched off: the store's entries aren't made into one."""
    path = tmp_path / "plain"
    with DataDir.acquire(path) as directory, closing(LmdbStorage(directory.store_path)) as storage:
        commit(storage, storing(a_record(1)), audited=False)
    assert names(copied(path, tmp_path / "made")) == {"format.json", "store/data.mdb"}


def test_no_byte_of_what_was_deleted_is_in_it(data_dir: Path, tmp_path: Path) -> None:
    with closing(LmdbStorage(data_dir / STORE_NAME, map_size_bytes=64 * MIB)) as storage:
        gone = {key(DEFAULT_NAMESPACE, Table.PROBE, an_id(n)): CANARY.encode() * 40 for n in range(200)}
        storage.commit(gone)
        storage.commit(dict.fromkeys(gone))
        storage.commit({key(DEFAULT_NAMESPACE, Table.PROBE, an_id(n)): b"v" * 3_000 for n in range(50)})
    assert CANARY.encode() in (data_dir / STORE_NAME / "data.mdb").read_bytes()
    made = copied(data_dir, tmp_path / "made")
    assert CANARY.encode() not in (made / STORE_NAME / "data.mdb").read_bytes()


def test_the_original_is_not_changed(data_dir: Path, tmp_path: Path) -> None:
    def contents() -> dict[str, bytes]:
        paths = [path for path in data_dir.rglob("*") if path.is_file() and path.name != "lock.mdb"]
        return {str(path): path.read_bytes() for path in paths}

    before = contents()
    copied(data_dir, tmp_path / "made")
    assert contents() == before


@pytest.mark.parametrize("point", ["backup.rows_copied", "backup.synced"])
def test_one_that_is_broken_off_leaves_nothing(data_dir: Path, tmp_path: Path, point: str) -> None:
    failpoints.arm(point)
    with pytest.raises(InjectedCrash):
        copied(data_dir, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_empty_folder_is_taken_and_any_other_refused(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    copied(data_dir, tmp_path / "empty")
    with pytest.raises(DataDirUnusable, match="isn't empty"):
        copied(data_dir, tmp_path / "empty")
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DataDirUnusable, match="Not a directory"):
        copied(data_dir, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"
    with pytest.raises(DataDirUnusable, match="No such file"):
        copied(data_dir, tmp_path / "none" / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty", "file"]


def test_a_folder_that_gets_something_meanwhile_keeps_it(data_dir: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(StorageUnavailable, match="can't be written"), backup.draft(made):
        made.mkdir()
        (made / "mine").write_bytes(b"mine")
    assert names(made) == {"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "made"]


def test_one_that_has_no_room_is_refused_before_it_is_begun(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 4_096

    monkeypatch.setattr("cerememory.storage.backup.shutil.disk_usage", lambda path: Usage)
    with pytest.raises(StorageUnavailable, match="has 4096 bytes free, the copy needs"):
        copied(data_dir, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("content", [None, b"?", b'{"format": 99}'])
def test_what_is_no_data_dir_of_this_format_is_refused(
    data_dir: Path, tmp_path: Path, content: bytes | None
) -> None:
    (data_dir / "format.json").unlink()
    if content is not None:
        (data_dir / "format.json").write_bytes(content)
    with pytest.raises(DataDirUnusable):
        copied(data_dir, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_of_a_store_that_nobody_here_can_open_the_log_is_cut_and_not_completed(
    data_dir: Path, tmp_path: Path
) -> None:
    with closing(LmdbStorage(data_dir / STORE_NAME, map_size_bytes=64 * MIB)) as storage:
        commit(storage, storing(a_record(77)))
        head = parse_head(rows_in(storage)[system_key(Table.HEAD)], GENESIS)
    with closing(AuditFile.open(data_dir / AUDIT_NAME)) as log:
        log.append([b"{}\n"] * 3)  # of later commits
    with backup.draft(tmp_path / "made") as folder:
        backup.copy(Source(data_dir, data_dir / AUDIT_NAME, True), folder, None)
    lines = (tmp_path / "made" / AUDIT_NAME).read_bytes().splitlines()
    assert len(lines) == head.audit_sequence == COUNT + 1


def rows_in(storage: LmdbStorage) -> dict[bytes, bytes]:
    with storage.read() as reader:
        return dict(reader.scan(b"", KEYS_END))


def test_an_error_of_whoever_fills_it_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(CerememoryError, match="for some reason"), backup.draft(tmp_path / "made"):
        raise CerememoryError("for some reason")
    assert list(tmp_path.iterdir()) == []


OWNER = """
import sys
from pathlib import Path
from cerememory.storage.lmdb import LmdbStorage
storage = LmdbStorage(Path(sys.argv[1]), map_size_bytes=1 << 24)
before = storage.map_size_bytes
print("open", flush=True)
sys.stdin.readline()
for number in range(8):
    storage.commit({b"%d-%d" % (number, part): b"x" * 100_000 for part in range(50)})
print("grown" if storage.map_size_bytes > before else "not grown", flush=True)
if sys.argv[2] == "compact":
    storage.compact()
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("then", ["nothing", "compact"])
def test_its_owner_may_grow_its_map_and_compact_while_it_is_copied(
    data_dir: Path, tmp_path: Path, then: str
) -> None:
    """The copy goes on with the snapshot that it began with."""
    before = rows(data_dir / STORE_NAME)
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir / STORE_NAME), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        stdin, stdout = owner.stdin, owner.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            assert stdout.readline() == "open\n"

            def meanwhile(pairs: Iterator[Pair], _count: int) -> Iterator[Pair]:
                yield next(pairs)
                stdin.write("go on\n")
                stdin.flush()
                assert [stdout.readline(), stdout.readline()] == ["grown\n", "done\n"]
                yield from pairs

            made = copied(data_dir, tmp_path / "made", watch=meanwhile)
        finally:
            owner.kill()
    assert rows(made / STORE_NAME) == before
    assert verified(made) == COUNT
