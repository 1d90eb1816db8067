"""An audit loss that is accepted: the log goes on, says so, and nothing that was found is thrown away."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cerememory.domain.audit_chain import GENESIS, AuditEntry, parse_line
from cerememory.errors import AuditBroken
from cerememory.storage.audit_loss import accept_loss
from cerememory.storage.keys import Table, after, system_key
from cerememory.storage.rows import dump_head, parse_head, parse_log_row
from tests.support.engine import NOW, Running, running_engine, to_recall, to_store
from tests.support.memory_storage import MemoryStorage

ENTRIES = 6


async def store(running: Running, text: str = "kettle") -> None:
    await running.engine.encode_store(to_store(text))


class Left:
    """A data dir as an engine left it, with `ENTRIES` entries."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.storage = MemoryStorage()
        self.log = path / "data" / "audit.jsonl"
        self.keys = path / "data" / "keys"

    def lines(self) -> list[bytes]:
        return self.log.read_bytes().splitlines(keepends=True)

    def accept(self) -> str | None:
        return accept_loss(self.storage, self.log, self.keys, NOW)

    def aside(self) -> list[str]:
        return sorted(path.name for path in self.log.parent.glob("*.refused-*"))

    def forget_lines(self) -> None:
        """All but those of the last commit are too old for the store."""
        prefix = system_key(Table.LOG)
        keys = sorted(key for key in self.storage.rows() if key.startswith(prefix))
        self.storage.commit(dict.fromkeys(keys[:-1]))

    async def started(self) -> list[AuditEntry]:
        """The entries once it has started again, stored one more memory, and ended."""
        async with running_engine(self.path, storage=self.storage) as running:
            assert len((await running.engine.recall_query(to_recall("kettle"))).memories) >= 1
            await store(running)
        async with running_engine(self.path, storage=self.storage):
            pass
        return [parse_line(line) for line in self.lines()]


@pytest.fixture
async def left(tmp_path: Path) -> Left:
    made = Left(tmp_path)
    async with running_engine(tmp_path, storage=made.storage) as running:
        for _ in range(ENTRIES):
            await store(running)
    return made


async def refuses_to_start(left: Left) -> None:
    with pytest.raises((ExceptionGroup, AuditBroken)):
        async with running_engine(left.path, storage=left.storage):
            pass


def edit(left: Left) -> None:
    left.log.write_bytes(left.log.read_bytes().replace(b"episodic", b"semantic", 4))


def go_on(left: Left) -> None:
    left.log.write_bytes(left.log.read_bytes() + b"{}\n")


def replace_file(left: Left) -> None:
    left.log.write_bytes((Path(__file__).parents[2] / "fixtures" / "reference" / "audit.jsonl").read_bytes())


def delete(left: Left) -> None:
    left.log.write_bytes(b"".join(left.lines()[1:]))


@pytest.mark.parametrize("tamper", [edit, go_on, replace_file, delete])
async def test_a_file_that_the_store_can_make_whole_loses_nothing(
    left: Left, tamper: Callable[[Left], None]
) -> None:
    whole = left.log.read_bytes()
    tamper(left)
    found = left.log.read_bytes()
    await refuses_to_start(left)
    reason = left.accept()
    assert reason is not None and "audit.jsonl: line " in reason
    [name] = left.aside()
    assert (left.log.parent / name).read_bytes() == found
    entries = await left.started()
    assert left.log.read_bytes().startswith(whole)
    accepted = entries[ENTRIES]
    assert (accepted.operation, accepted.summary["entries"]) == ("audit.loss_accepted", ENTRIES)
    assert (accepted.summary["set_aside"], accepted.summary["reason"]) == (name, reason[:500])


@pytest.mark.parametrize("tamper", [edit, go_on, replace_file, delete, lambda left: left.log.unlink()])
async def test_a_file_that_nobody_can_make_whole_is_followed_by_a_new_log(
    left: Left, tamper: Callable[[Left], None]
) -> None:
    left.forget_lines()
    last = parse_line(left.lines()[-1])
    tamper(left)
    if tamper is go_on:  # whose beginning is whole
        left.log.write_bytes(b"".join(left.lines()[2:]))
    await refuses_to_start(left)
    assert left.accept() is not None
    entries = await left.started()
    assert [entry.operation for entry in entries[:1]] == ["audit.loss_accepted"]
    assert (entries[0].sequence, entries[0].prev_hash) == (1, GENESIS)
    assert entries[0].summary["entries"] == ENTRIES
    assert entries[0].summary["head_hash"] == last.entry_hash


async def test_a_log_that_verifies_is_left_alone(left: Left) -> None:
    before = {path: path.read_bytes() for path in left.log.parent.rglob("*") if path.is_file()}
    rows = left.storage.rows()
    assert left.accept() is None
    assert {path: path.read_bytes() for path in before} == before
    assert (left.storage.rows(), left.aside()) == (rows, [])


async def test_keys_that_are_gone_are_made_anew(left: Left) -> None:
    shutil.rmtree(left.keys)
    await refuses_to_start(left)
    reason = left.accept()
    assert reason is not None and "the key of the audit log is missing" in reason
    entries = await left.started()
    assert entries[ENTRIES].operation == "audit.loss_accepted"
    assert left.aside() == [f"audit.jsonl.checkpoint.refused-{NOW}"], "it was signed with the key that is gone"


async def test_an_older_copy_of_the_log_goes_on_without_the_checkpoint_that_told_of_it(left: Left) -> None:
    rows, log = left.storage.rows(), left.log.read_bytes()
    async with running_engine(left.path, storage=left.storage) as running:
        await store(running)
    left.storage = MemoryStorage()
    left.storage.commit(dict(rows))
    left.log.write_bytes(log)
    await refuses_to_start(left)
    reason = left.accept()
    assert reason is not None and reason.endswith("(replaced by an older copy)")
    assert left.aside() == [f"audit.jsonl.checkpoint.refused-{NOW}"]
    assert (await left.started())[ENTRIES].operation == "audit.loss_accepted"


async def test_a_head_that_was_not_sealed_is_sealed_with_the_entry(left: Left) -> None:
    head_key = system_key(Table.HEAD)
    head = parse_head(left.storage.rows()[head_key], GENESIS)
    left.storage.commit({head_key: dump_head(replace(head, audit_mac=b""))})
    await refuses_to_start(left)
    reason = left.accept()
    assert reason is not None and "wasn't sealed" in reason
    assert (await left.started())[ENTRIES].operation == "audit.loss_accepted"


async def test_a_tree_that_is_another_is_begun_anew_with_the_log(left: Left) -> None:
    head_key = system_key(Table.HEAD)
    head = parse_head(left.storage.rows()[head_key], GENESIS)
    left.storage.commit({head_key: dump_head(replace(head, audit_edge=bytes(64)))})
    assert left.accept() is not None
    assert left.aside() == [f"audit.jsonl.checkpoint.refused-{NOW}", f"audit.jsonl.refused-{NOW}"]
    assert (await left.started())[0].operation == "audit.loss_accepted"


async def test_what_the_index_has_to_follow_stays(left: Left) -> None:
    left.forget_lines()
    prefix = system_key(Table.LOG)
    with left.storage.read() as reader:
        before = [parse_log_row(value).changed for _key, value in reader.scan(prefix, after(prefix))]
    left.log.unlink()
    left.accept()
    with left.storage.read() as reader:
        rows = [parse_log_row(value) for _key, value in reader.scan(prefix, after(prefix))]
    assert [row.changed for row in rows if row.changed] == [changed for changed in before if changed]
    assert [row.first_line for row in rows] == [1] * len(rows)
