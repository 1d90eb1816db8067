"""Rotating the audit log of a running engine: what is committed meanwhile goes on, and nothing of it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cerememory import failpoints
from cerememory.actors.engine import Idempotency
from cerememory.config.settings import SecuritySettings
from cerememory.domain.audit_chain import GENESIS, parse_line, verify_lines
from cerememory.errors import ActorBusy, AuditBroken, AuditEntriesAway, CerememoryError, NoRoute
from cerememory.protocol import codec
from cerememory.protocol.replies import AuditRotated, IntrospectedRecord
from cerememory.protocol.requests import AuditProof, RotateAudit
from cerememory.protocol.values import RecordId
from cerememory.storage.audit_closed import dump_closed, sealed_anew
from cerememory.storage.audit_loss import accept_loss
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_verification import verify_log
from cerememory.storage.keys import Table, after, system_key
from tests.support.engine import NOW, Running, running_engine, settings_for, to_introspect, to_store
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage
from tests.support.rotated import open_as_any_user

ONCE = Idempotency("", "this once", b"the same body")


@pytest.fixture(autouse=True)
def disarmed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    open_as_any_user(monkeypatch)
    yield
    failpoints.disarm()


async def store(running: Running, text: str = "kettle") -> RecordId:
    return (await running.engine.encode_store(to_store(text))).reply.record_id


async def rotate(running: Running, once: Idempotency | None = None) -> AuditRotated:
    return (await running.engine.lifecycle_rotate_audit(RotateAudit(), once)).reply


def files(path: Path) -> list[Path]:
    log = path / "data" / "audit.jsonl"
    return [*sorted(log.parent.glob("audit.jsonl.0*")), log]


def operations(path: Path) -> list[list[str]]:
    """Of the entries of each file; together they are one whole log."""
    lines = [file.read_bytes().splitlines(keepends=True) for file in files(path)]
    verify_lines(chain.from_iterable(lines))
    return [[parse_line(line).operation for line in group] for group in lines]


def check_whole(path: Path, storage: MemoryStorage) -> int:
    """That nothing is missing; how many entries there are."""
    verified = verify_log(files(path)[-1], StoredOutbox(storage))
    assert (verified.pending, verified.unseen, verified.entries) == (0, (), verified.last_sequence)
    return verified.entries


def forget_lines(storage: MemoryStorage, kept: int = 0) -> None:
    """All but those of the last commits, as the store does when 10,000 entries have come since."""
    log = system_key(Table.LOG)
    with storage.read() as reader:
        keys = [key for key, _value in reader.scan(log, after(log))]
    storage.commit(dict.fromkeys(keys[: len(keys) - kept]))


async def test_what_was_committed_before_is_in_the_closed_file_when_it_is_answered(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        for _ in range(3):
            await store(running)
        reply = await rotate(running)
        closed, _log = files(tmp_path)
        assert (closed.name, closed.stat().st_mode & 0o777) == (reply.file, 0o400)
        assert (reply.entries, reply.last_sequence, reply.size_bytes) == (3, 3, closed.stat().st_size)
        assert operations(tmp_path)[1] == ["audit.rotated"], "so the new one says behind which file it comes"
        await store(running)
    assert operations(tmp_path) == [["encode.store"] * 3, ["audit.rotated", "encode.store"]]
    assert check_whole(tmp_path, storage) == 5


async def test_writes_and_rotations_at_once_lose_and_repeat_no_entry(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        for i in range(40):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store, running, f"memory {i}")
                if i % 8 == 7:
                    nursery.start_soon(rotate, running)
        await trio.sleep(3)
        assert running.counted("cerememory_actor_restarts_total", actor="audit") == 0
    assert len(files(tmp_path)) == 6
    assert list(chain.from_iterable(operations(tmp_path))).count("encode.store") == 40
    assert check_whole(tmp_path, storage) == 45


async def test_a_key_that_came_before_rotates_nothing_again(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        await store(running)
        first = await rotate(running, ONCE)
        await store(running)
        assert await rotate(running, ONCE) == first
        assert (await rotate(running)).entries == 2
    assert len(files(tmp_path)) == 3


async def test_a_log_without_entries_is_left_alone(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        assert await rotate(running) == AuditRotated(
            file=None, entries=0, last_sequence=0, head_hash=GENESIS, size_bytes=0
        )
    assert files(tmp_path) == [tmp_path / "data" / "audit.jsonl"]


async def test_without_an_audit_log_there_is_nothing_to_rotate(tmp_path: Path) -> None:
    security = SecuritySettings(persist_search_indexes=False, audit_log_enabled=False)
    async with running_engine(tmp_path, settings=settings_for(tmp_path, security=security)) as running:
        with pytest.raises(NoRoute, match="switched off"):
            await rotate(running)


async def test_a_disk_that_refuses_is_told_and_the_file_is_closed_when_it_works(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    storage = MemoryStorage()

    def refused(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    async with running_engine(tmp_path, storage=storage) as running:
        await store(running)
        with monkeypatch.context() as patch:
            patch.setattr("cerememory.storage.audit_closed.Path.rename", refused)
            with pytest.raises(ActorBusy, match="audit is busy, try again"):
                await rotate(running, ONCE)
            await store(running)
            await trio.sleep(5)
            assert len(files(tmp_path)) == 1
        await trio.sleep(3)
        assert await running.engine.not_ready() is None
        assert (await rotate(running, ONCE)).entries == 1
    assert operations(tmp_path) == [["encode.store"], ["audit.rotated", "encode.store"]]
    assert check_whole(tmp_path, storage) == 3
    assert "audit log can't be written" in logged.events()


@pytest.mark.parametrize("point", ["actor.audit.received", *(f"audit.file.{at}" for at in ("closing", "renamed"))])
async def test_a_crash_of_the_actor_on_its_way_is_made_up_for(
    tmp_path: Path, autojump_clock: MockClock, point: str
) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await store(running)
        await trio.sleep(3)
        failpoints.arm(point)
        with suppress(CerememoryError):  # the actor that the engine asks may be the next one
            await rotate(running)
        await trio.sleep(5)
        await store(running)
        assert running.counted("cerememory_actor_restarts_total", actor="audit") == 1
    assert operations(tmp_path) == [["encode.store"], ["audit.rotated", "encode.store"]]
    assert check_whole(tmp_path, storage) == 3


async def test_a_crash_of_the_writer_behind_the_commit_is_made_up_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await store(running)
        failpoints.arm("writer.before_reply")
        with pytest.raises(Exception, match="crashed"):
            await rotate(running)
        await trio.sleep(3)
        await store(running)
    assert operations(tmp_path) == [["encode.store"], ["audit.rotated", "encode.store"]]


async def test_the_history_of_a_record_goes_through_all_files_that_are_there(tmp_path: Path) -> None:
    async def history(running: Running) -> list[int]:
        request = to_introspect(record_id, include_history=True)
        record = codec.parse(codec.dump(await running.engine.introspect_record(request)), IntrospectedRecord)
        return [entry.sequence for entry in record.history or ()]

    async with running_engine(tmp_path) as running:
        await store(running, "other")
        record_id = await store(running)
        await rotate(running)
        await rotate(running)
        assert await history(running) == [2]
        files(tmp_path)[0].unlink()
        assert await history(running) == []


async def test_a_file_may_be_moved_away_as_soon_as_it_is_closed(tmp_path: Path) -> None:
    """What is beside the log is a checkpoint of its end, and later ones need nothing of it."""
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        for _ in range(3):
            await store(running)
        await rotate(running)
        files(tmp_path)[0].unlink()
        checkpoint = tmp_path / "data" / "audit.jsonl.checkpoint"
        assert checkpoint.read_bytes().splitlines()[1] == b"3"
        await store(running)
    async with running_engine(tmp_path, storage=storage) as running:
        assert (await running.engine.audit_proof(AuditProof(entry=5, size=5))).hashes


async def test_a_proof_about_what_was_moved_away_names_the_file(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        for _ in range(257):
            await store(running)
        closed = (await rotate(running)).file
    files(tmp_path)[0].unlink()
    forget_lines(storage, kept=2)
    async with running_engine(tmp_path, storage=storage) as running:
        with pytest.raises(AuditEntriesAway, match=f"entries 1 to 257 .* {closed} isn't there"):
            await running.engine.audit_proof(AuditProof(entry=7, size=257))


# Starts


@pytest.fixture
async def left(tmp_path: Path) -> MemoryStorage:
    """Of a data dir in `tmp_path` whose log has two closed files, of 1 and 2 entries, and 2 in the last one."""
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        for _ in range(2):
            await store(running)
            await rotate(running)
        await store(running)
    return storage


async def refused_start(path: Path, storage: MemoryStorage) -> str:
    with pytest.raises((ExceptionGroup, AuditBroken)) as raised:
        async with running_engine(path, storage=storage):
            pass
    error: BaseException = raised.value
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, AuditBroken)
    return str(error)


async def test_it_starts_and_goes_on_with_all_files_or_with_the_last(
    tmp_path: Path, left: MemoryStorage, logged: Logged
) -> None:
    for _ in range(3):
        async with running_engine(tmp_path, storage=left) as running:
            await store(running)
        for file in files(tmp_path)[:-1]:
            file.unlink()
    verified = verify_log(files(tmp_path)[-1], StoredOutbox(left))
    assert (verified.entries, verified.last_sequence, len(verified.unseen)) == (5, 8, 2)
    assert logged.events("info").count("audit entries are in a file that isn't there") == 4


def spoil(file: Path) -> None:
    file.chmod(0o600)
    file.write_bytes(file.read_bytes().replace(b"episodic", b"semantic"))


async def test_a_closed_file_that_was_changed_stops_the_start(tmp_path: Path, left: MemoryStorage) -> None:
    first = files(tmp_path)[0]
    spoil(first)
    assert f"{first}: line 1: " in await refused_start(tmp_path, left)


async def test_a_file_that_was_closed_without_the_key_stops_the_start(tmp_path: Path, left: MemoryStorage) -> None:
    left.commit(dict([dump_closed(sealed_anew(StoredOutbox(left).closed[0], bytes(32)))]))
    assert "closed at entry 1 wasn't sealed with this audit key" in await refused_start(tmp_path, left)


def accept(path: Path, storage: MemoryStorage) -> str | None:
    return accept_loss(storage, path / "data" / "audit.jsonl", path / "data" / "keys", NOW)


async def test_the_loss_of_a_closed_file_is_accepted_and_only_that_is_set_aside(
    tmp_path: Path, left: MemoryStorage
) -> None:
    first, second, log = files(tmp_path)
    spoil(second)
    before = log.read_bytes()
    assert f"{second}: line 2: " in (accept(tmp_path, left) or "")
    async with running_engine(tmp_path, storage=left) as running:
        await store(running)
    assert accept(tmp_path, left) is None
    assert [file.name.partition(".refused")[0] for file in files(tmp_path)] == [first.name, second.name, log.name]
    assert log.read_bytes().startswith(before)
    verified = verify_log(log, StoredOutbox(left))
    assert ([unseen.path for unseen in verified.unseen], verified.last_sequence) == ([second], 7)


async def test_keys_that_are_gone_seal_the_closed_files_anew(tmp_path: Path, left: MemoryStorage) -> None:
    (tmp_path / "data" / "keys" / "audit.key").unlink()
    assert "the key of the audit log is missing" in (accept(tmp_path, left) or "")
    async with running_engine(tmp_path, storage=left):
        pass
    assert check_whole(tmp_path, left) == 6


async def test_a_last_file_that_nobody_can_make_whole_is_followed_by_a_log_without_closed_files(
    tmp_path: Path, left: MemoryStorage
) -> None:
    forget_lines(left)
    spoil(files(tmp_path)[-1])
    assert accept(tmp_path, left) is not None
    async with running_engine(tmp_path, storage=left) as running:
        await store(running)
    verified = verify_log(files(tmp_path)[-1], StoredOutbox(left))
    assert (verified.entries, verified.unseen, StoredOutbox(left).closed) == (2, (), [])
