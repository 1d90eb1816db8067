"""The audit log's actor: the file becomes what was committed, once, in order, and says how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory import failpoints
from cerememory.actors.assembly import open_storage
from cerememory.actors.audit import CHECKPOINT_S
from cerememory.config.settings import SecuritySettings
from cerememory.domain.audit_chain import GENESIS, parse_line, verify_lines
from cerememory.domain.checkpoint import Checkpoint, leaf_of
from cerememory.domain.merkle import root_of
from cerememory.errors import AuditBroken, DataDirUnusable
from cerememory.storage.audit_checkpoint import read_checkpoint, write_checkpoint
from cerememory.storage.audit_file import AuditFile
from cerememory.storage.audit_keys import open_keys
from cerememory.storage.datadir import DataDir
from cerememory.storage.keys import Table, system_key
from cerememory.storage.rows import Head, parse_head
from tests.support.engine import Running, running_engine, settings_for, to_recall, to_store
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage


async def store(running: Running, text: str = "kettle") -> None:
    await running.engine.encode_store(to_store(text))


def head(storage: MemoryStorage) -> Head:
    return parse_head(storage.rows().get(system_key(Table.HEAD)), GENESIS)


def check_whole(path: Path, storage: MemoryStorage) -> list[str]:
    """The operations of a log that is exactly what was committed."""
    lines = (path / "data" / "audit.jsonl").read_bytes().splitlines(keepends=True)
    verified = verify_lines(lines)
    assert (verified.last_sequence, verified.head_hash) == (head(storage).audit_sequence, head(storage).audit_hash)
    return [parse_line(line).operation for line in lines]


async def test_every_operation_is_in_the_file_when_the_engine_has_ended(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        for _ in range(3):
            await store(running)
        await running.engine.recall_query(to_recall("kettle"))
    operations = check_whole(tmp_path, storage)
    assert operations == ["encode.store"] * 3 + ["recall.query.reconsolidate"]
    assert head(storage).audit_synced == 4


async def test_lines_are_written_and_synced_soon_without_waiting_for_the_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await store(running)
        await trio.sleep(3)
        assert check_whole(tmp_path, storage) == ["encode.store"]
        assert head(storage).audit_synced == 1


async def test_the_lines_of_many_commits_share_a_sync(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    really_sync = AuditFile.sync

    def sync(self: AuditFile) -> None:
        syncs.append(self.size_bytes)
        really_sync(self)

    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        monkeypatch.setattr(AuditFile, "sync", sync)
        for _ in range(50):
            await store(running)
        await trio.sleep(3)
        assert len(syncs) == 1
    assert len(check_whole(tmp_path, storage)) == 50


async def test_of_commits_that_come_together_only_the_first_wakes_it(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    passed: list[str] = []
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await wait_all_tasks_blocked()
        failpoints.watch(passed.append)
        for _ in range(5):
            await store(running)
            await wait_all_tasks_blocked()
        assert passed.count("actor.audit.received") == passed.count("actor.text_index.received") == 1
        assert "actor.vector_index.received" not in passed
        failpoints.disarm()
        assert len((await running.engine.recall_query(to_recall("kettle"))).memories) == 5
    assert check_whole(tmp_path, storage).count("encode.store") == 5


async def test_the_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    storage = MemoryStorage()
    for _ in range(3):
        async with running_engine(tmp_path, storage=storage) as running:
            await store(running)
    assert check_whole(tmp_path, storage) == ["encode.store"] * 3


@pytest.mark.parametrize("passage", [1, 2, 3])
async def test_a_crash_of_the_actor_writes_no_line_twice_and_none_never(
    tmp_path: Path, autojump_clock: MockClock, passage: int
) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        failpoints.arm("actor.audit.received", passage=passage)
        for _ in range(4):  # of lines that come together only the first wakes the actor
            for _ in range(5):
                await store(running)
            await trio.sleep(3)
        assert running.counted("cerememory_actor_restarts_total", actor="audit") == 1
        assert await running.engine.not_ready() is None
    assert len(check_whole(tmp_path, storage)) == 20


async def test_a_crash_of_the_writer_leaves_no_line_out(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await store(running)
        failpoints.arm("writer.before_reply")
        with pytest.raises(Exception, match="crashed"):
            await store(running)
        await trio.sleep(3)
        await store(running)
    assert check_whole(tmp_path, storage) == ["encode.store"] * 3


class FullDisk:
    """Writes to the audit file fail until `is_full` is taken back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        for name in ("write", "append", "sync"):
            monkeypatch.setattr(AuditFile, name, self._failing(getattr(AuditFile, name)))

    def _failing(self, call: Any) -> Any:
        def tried(file: AuditFile, *given: Any) -> Any:
            if self.is_full:
                raise OSError(28, "No space left on device")
            return call(file, *given)

        return tried


async def test_while_the_file_cannot_be_written_nothing_is_lost_and_the_daemon_is_not_ready(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await store(running)
        await trio.sleep(3)
        disk = FullDisk(monkeypatch)
        for _ in range(5):
            await store(running)
        await trio.sleep(5)
        assert await running.engine.not_ready() == "storage unavailable"
        assert (await running.engine.introspect_stats()).total_records == 6, "writes and reads go on"
        disk.is_full = False
        await trio.sleep(3)
        assert await running.engine.not_ready() is None
        assert len(check_whole(tmp_path, storage)) == 6
    assert "audit log can't be written" in logged.events()
    assert running.counted("cerememory_actor_restarts_total", actor="audit") == 0


async def test_a_file_that_was_cut_is_completed_and_that_is_recorded(tmp_path: Path, logged: Logged) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        for _ in range(3):
            await store(running)
    file = tmp_path / "data" / "audit.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:1]))
    async with running_engine(tmp_path, storage=storage) as running:
        assert running.counted("cerememory_audit_repairs_total") == 1
    operations = check_whole(tmp_path, storage)
    assert operations == ["encode.store"] * 3 + ["audit.repaired"]
    last = parse_line(file.read_bytes().splitlines(keepends=True)[-1])
    assert last.summary == {"from_sequence": 2, "to_sequence": 3}
    assert any("had been cut" in event for event in logged.events("warning"))


async def test_a_file_that_was_changed_stops_the_start(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await store(running)
    file = tmp_path / "data" / "audit.jsonl"
    file.write_bytes(file.read_bytes().replace(b"episodic", b"semantic"))
    with pytest.raises(ExceptionGroup) as raised:
        async with running_engine(tmp_path, storage=storage):
            pass
    assert raised.group_contains(AuditBroken, match="line 1")


async def test_a_place_where_no_file_can_be_stops_the_start(tmp_path: Path) -> None:
    security = SecuritySettings(persist_search_indexes=False, audit_log_path=tmp_path / "nowhere" / "audit.jsonl")
    with pytest.raises(ExceptionGroup) as raised:
        async with running_engine(tmp_path, settings=settings_for(tmp_path, security=security)):
            pass
    assert raised.group_contains(DataDirUnusable, match="can't be opened")


@pytest.mark.parametrize("is_linked", [False, True])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_stops_the_start_before_there_is_a_store(
    tmp_path: Path, make: Callable[[Path], None], is_linked: bool
) -> None:
    log = tmp_path / "log"
    make(log)
    if is_linked:
        log = tmp_path / "link"
        log.symlink_to("log")
    settings = settings_for(tmp_path, security=SecuritySettings(audit_log_path=log))
    with DataDir.acquire(settings.data_dir) as directory:
        with pytest.raises(DataDirUnusable, match="isn't a file, which the audit log must be"):
            open_storage(settings, directory)
        assert not any(directory.store_path.iterdir())


def test_what_is_no_file_is_no_matter_without_an_audit_log(tmp_path: Path) -> None:
    security = SecuritySettings(audit_log_path=tmp_path, audit_log_enabled=False)
    settings = settings_for(tmp_path, security=security)
    with DataDir.acquire(settings.data_dir) as directory, closing(open_storage(settings, directory)):
        assert any(directory.store_path.iterdir())


def test_a_link_to_a_file_may_be_the_log(tmp_path: Path) -> None:
    log = tmp_path / "link"
    log.symlink_to("log")
    settings = settings_for(tmp_path, security=SecuritySettings(audit_log_path=log))
    with DataDir.acquire(settings.data_dir) as directory:
        for _ in ("not there yet", "there"):
            open_storage(settings, directory).close()
            log.touch()


async def test_without_an_audit_log_there_is_no_file_and_everything_else_works(tmp_path: Path) -> None:
    security = SecuritySettings(persist_search_indexes=False, audit_log_enabled=False)
    storage = MemoryStorage()
    async with running_engine(
        tmp_path, storage=storage, settings=settings_for(tmp_path, security=security)
    ) as running:
        await store(running)
        assert await running.engine.not_ready() is None
        assert len((await running.engine.recall_query(to_recall("kettle"))).memories) == 1
    assert not (tmp_path / "data" / "audit.jsonl").exists()
    assert head(storage).audit_sequence == 0


# Checkpoints, and what a start holds the log against


def checkpoint_in(path: Path) -> Checkpoint:
    keys = open_keys(path / "data" / "keys", may_create=False)
    return read_checkpoint(path / "data" / "audit.jsonl.checkpoint", keys.signer.verifier)


def root_of_log(path: Path, size: int) -> bytes:
    lines = (path / "data" / "audit.jsonl").read_bytes().splitlines(keepends=True)
    return root_of(leaf_of(line) for line in lines[:size])


async def test_a_checkpoint_of_the_log_is_left_beside_it(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        for _ in range(3):
            await store(running)
    kept = checkpoint_in(tmp_path)
    assert (kept.size, kept.root) == (3, root_of_log(tmp_path, 3))
    assert (tmp_path / "data" / "audit.jsonl.checkpoint").stat().st_mode & 0o777 == 0o600


async def test_checkpoints_are_written_while_the_log_grows_and_not_at_each_entry(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []

    def write(path: Path, note: bytes) -> None:
        written.append(trio.current_time())
        write_checkpoint(path, note)

    monkeypatch.setattr("cerememory.actors.audit.write_checkpoint", write)
    async with running_engine(tmp_path) as running:
        for _ in range(100):
            await store(running)
            await trio.sleep(0.5)
        await trio.sleep(60)
        assert checkpoint_in(tmp_path).size == 100
        assert 3 <= len(written) <= 6
        assert all(later - earlier >= CHECKPOINT_S for earlier, later in pairwise(written))
        await trio.sleep(600)
        assert len(written) <= 6, "none without entries"
    assert len(written) <= 6


async def test_a_checkpoint_that_cannot_be_written_stops_nothing(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    def refused(path: Path, note: bytes) -> None:
        raise OSError(28, "No space left on device")

    storage = MemoryStorage()
    with monkeypatch.context() as patch:
        patch.setattr("cerememory.actors.audit.write_checkpoint", refused)
        async with running_engine(tmp_path, storage=storage) as running:
            await store(running)
            await trio.sleep(30)
            assert await running.engine.not_ready() is None
    assert "audit checkpoint can't be written" in logged.events()
    async with running_engine(tmp_path, storage=storage):
        await trio.sleep(30)
        assert checkpoint_in(tmp_path).size == 1, "the next start makes up for it"


async def refused_start(tmp_path: Path, storage: MemoryStorage) -> str:
    with pytest.raises((ExceptionGroup, AuditBroken)) as raised:
        async with running_engine(tmp_path, storage=storage):
            pass
    error: BaseException = raised.value
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, AuditBroken)
    return str(error)


@pytest.fixture
async def left(tmp_path: Path) -> tuple[Path, MemoryStorage]:
    """A data dir with six entries in its log, and its store."""
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        for _ in range(6):
            await store(running)
    return tmp_path, storage


async def test_untouched_it_starts_again(left: tuple[Path, MemoryStorage]) -> None:
    path, storage = left
    for _ in range(3):
        async with running_engine(path, storage=storage) as running:
            await store(running)
    assert checkpoint_in(path).size == 9


async def test_a_store_and_a_log_put_back_to_an_older_copy_stop_the_start(
    left: tuple[Path, MemoryStorage],
) -> None:
    path, storage = left
    rows, log = dict(storage.rows()), (path / "data" / "audit.jsonl").read_bytes()
    async with running_engine(path, storage=storage) as running:
        await store(running)
    older = MemoryStorage()
    older.commit(rows)
    (path / "data" / "audit.jsonl").write_bytes(log)
    told = await refused_start(path, older)
    assert "had 7 when this checkpoint was signed (replaced by an older copy)" in told


async def test_a_head_that_was_written_without_the_key_stops_the_start(left: tuple[Path, MemoryStorage]) -> None:
    """Somebody rebuilt the log: chain, store and tree fit each other, and nothing else is wrong with them."""
    path, _storage = left
    rebuilt = MemoryStorage()
    async with running_engine(path / "other", storage=rebuilt) as running:
        for _ in range(6):
            await store(running, "something else")
    (path / "data" / "audit.jsonl").write_bytes((path / "other" / "data" / "audit.jsonl").read_bytes())
    assert "wasn't sealed with this audit key" in await refused_start(path, rebuilt)


async def test_a_log_whose_key_is_gone_stops_the_start(left: tuple[Path, MemoryStorage]) -> None:
    path, storage = left
    (path / "data" / "keys" / "audit.key").unlink()
    assert "the key of the audit log is missing" in await refused_start(path, storage)


async def test_a_checkpoint_that_was_changed_stops_the_start(left: tuple[Path, MemoryStorage]) -> None:
    path, storage = left
    file = path / "data" / "audit.jsonl.checkpoint"
    file.write_bytes(file.read_bytes().replace(b"\n6\n", b"\n5\n"))
    assert f"{file}: its signature is not good" in await refused_start(path, storage)


async def test_without_the_checkpoint_it_starts_and_makes_another(left: tuple[Path, MemoryStorage]) -> None:
    path, storage = left
    (path / "data" / "audit.jsonl.checkpoint").unlink()
    async with running_engine(path, storage=storage):
        pass
    assert checkpoint_in(path).size == 6
