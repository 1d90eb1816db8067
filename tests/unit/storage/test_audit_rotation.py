"""An audit log in several files is one log: checked, completed and proved as if it were in one; what was moved
away is named, and nothing else is taken for that.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cerememory import failpoints
from cerememory.domain.audit_chain import GENESIS, parse_line, verify_lines
from cerememory.domain.audit_diagnosis import Tampering
from cerememory.domain.checkpoint import leaf_of
from cerememory.domain.merkle import root_of
from cerememory.errors import AuditBroken
from cerememory.failpoints import InjectedCrash
from cerememory.storage.audit_closed import close_file, dump_closed
from cerememory.storage.audit_file import AuditFile, plan_repair
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_rotation import CloseAuditFile
from cerememory.storage.audit_verification import Unseen, verify_log
from cerememory.storage.fsck import Tally
from cerememory.storage.fsck_system import check_audit_log
from tests.support.rotated import NOW, RotatedLog, findings, lines_in, open_as_any_user, rewrite, rotated


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> RotatedLog:
    """Entries 1 to 4, 5 to 9, 10 to 12."""
    return rotated(path, 4, 4, 2)


@pytest.fixture(autouse=True)
def disarmed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    open_as_any_user(monkeypatch)
    yield
    failpoints.disarm()


def sequences(file: Path) -> list[int]:
    return [parse_line(line).sequence for line in lines_in(file)]


def test_the_files_in_their_order_are_the_one_log_that_the_reference_verifies(log: RotatedLog) -> None:
    assert [sequences(file) for file in log.files] == [[1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12]]
    assert verify_lines(lines_in(*log.files)).head == log.outbox.head
    assert root_of(leaf_of(line) for line in lines_in(*log.files)) == log.outbox.tree.root
    whole = log.path.with_name("whole.jsonl")
    whole.write_bytes(b"".join(log.bytes()))
    assert verify_log(whole, None).last_sequence == 12


def test_each_file_but_the_first_begins_with_the_entry_about_it(log: RotatedLog) -> None:
    begins = [parse_line(lines_in(file)[0]) for file in log.files[1:]]
    assert [entry.operation for entry in begins] == ["audit.rotated"] * 2
    assert begins[1].summary == {"from_sequence": 5, "to_sequence": 9}


def test_what_was_closed_is_answered(path: Path) -> None:
    log = rotated(path, 3)
    reply = log.rotate()
    assert (reply.file, reply.entries, reply.last_sequence) == ("audit.jsonl.000000000001-000000000003", 3, 3)
    log.project()
    assert reply.size_bytes == log.files[0].stat().st_size
    assert parse_line(lines_in(log.files[1])[0]).prev_hash == reply.head_hash


def test_a_log_without_entries_stays_as_it_is(path: Path) -> None:
    log = RotatedLog(path)
    assert (log.rotate().file, log.rotate().head_hash) == (None, GENESIS)
    assert (log.closed, log.head.audit_sequence) == ([], 0)


def test_two_in_one_commit_close_one_file(path: Path) -> None:
    log = rotated(path, 3)
    first, second = log.commit(CloseAuditFile(path, NOW), CloseAuditFile(path, NOW))
    log.project()
    assert first.reply == second.reply  # type: ignore[attr-defined]
    assert [sequences(file) for file in log.files] == [[1, 2, 3], [4]]


def test_a_whole_log_is_verified_in_all_its_files(log: RotatedLog) -> None:
    verified = log.verify()
    assert (verified.entries, verified.last_sequence, verified.head_hash) == (12, *log.outbox.head)
    assert (verified.pending, verified.unseen) == (0, ())
    assert findings(log) == []


# Files that were moved away


def test_a_file_that_was_moved_away_is_named_and_the_chain_behind_it_is_whole(log: RotatedLog) -> None:
    first, second = log.files[:2]
    first.rename(first.with_suffix(".gz"))
    verified = log.verify()
    assert (verified.entries, verified.last_sequence) == (8, 12)
    assert verified.unseen == (Unseen(first, 1, *log.closed[0].last),)
    second.unlink()
    verified = log.verify()
    assert (verified.entries, [str(unseen) for unseen in verified.unseen]) == (
        3,
        [
            f"entries 1 to 4 weren't seen: {first} isn't there",
            f"entries 5 to 9 weren't seen: {second} isn't there",
        ],
    )


def test_in_front_of_one_that_is_missed_the_others_are_checked_all_the_same(log: RotatedLog) -> None:
    first, second = log.files[:2]
    second.unlink()
    assert log.verify().entries == 7
    rewrite(first, lambda data: data.replace(b'"n":1', b'"n":7'))
    with pytest.raises(AuditBroken, match=f"{first.name}: line 2: "):
        log.verify()


def test_a_start_and_a_check_go_on_without_it_and_the_check_says_so(log: RotatedLog) -> None:
    log.files[0].unlink()
    log.add(1)
    log.project()
    tally = Tally()
    assert list(check_audit_log(log.path, log.storage, tally)) == []
    assert tally.notes == [f"audit entries 1 to 4 weren't looked at: {log.closed[0].path(log.path)} isn't there"]


def test_one_that_was_moved_away_before_the_store_knew_that_it_was_synced_is_not_missed(path: Path) -> None:
    """The entry that the last file begins with says so."""
    log = rotated(path, 4)
    log.add(1)
    log.rotate()
    lines = [line for _sequence, line in log.outbox.lines(5)]
    with AuditFile.open(path) as file:
        file.append(lines[:1])
    close_file(path, log.closed[0])
    with AuditFile.open(path) as file:
        file.append(lines[1:])
    log.forget_lines(4)
    log.files[0].unlink()
    assert (log.outbox.synced, log.closed[0].last.sequence) == (4, 5)
    log.project()
    assert (log.verify().entries, log.verify().last_sequence) == (1, 6)


# What was done to a file


def without(data: bytes, *numbers: int) -> bytes:
    return b"".join(line for i, line in enumerate(data.splitlines(keepends=True), 1) if i not in numbers)


TAMPERED: dict[str, tuple[Callable[[bytes], bytes], int, Tampering]] = {
    "edited": (lambda data: data.replace(b'"n":6', b'"n":5'), 3, Tampering.EDITED),
    "deleted": (lambda data: without(data, 2), 2, Tampering.DELETED),
    "deleted at the beginning": (lambda data: without(data, 1), 1, Tampering.DELETED),
    "cut": (lambda data: data[:-9], 5, Tampering.CUT),
    "cut at a line": (lambda data: without(data, 4, 5), 4, Tampering.CUT_OR_OLDER),
    "emptied": (lambda _data: b"", 1, Tampering.CUT_OR_OLDER),
    "duplicated": (lambda data: data + data.splitlines(keepends=True)[-1], 6, Tampering.DUPLICATED),
    "blank": (lambda data: data + b"\n", 6, Tampering.BLANK),
    "something behind it": (lambda data: data + b"{", 6, Tampering.CUT),
}


@pytest.mark.parametrize(("change", "number", "kind"), TAMPERED.values(), ids=TAMPERED.keys())
def test_what_was_done_to_a_closed_file_is_named_with_the_file_and_the_line(
    log: RotatedLog, change: Callable[[bytes], bytes], number: int, kind: Tampering
) -> None:
    file = log.files[1]
    rewrite(file, change)
    for check in (log.verify, log.project):
        with pytest.raises(AuditBroken) as broken:
            check()
        assert str(broken.value).startswith(f"{file}: line {number}: ")
        assert str(broken.value).endswith(f" ({kind})")
    [finding] = findings(log)
    assert finding.startswith(f"audit: {file}: line {number}: ")


def test_a_line_of_the_last_file_has_its_number_there(log: RotatedLog) -> None:
    rewrite(log.path, lambda data: data.replace(b'"n":10', b'"n":11'))
    for check in (log.verify, log.project):
        with pytest.raises(AuditBroken, match=f"^{log.path}: line 2: .*edited"):
            check()


def test_another_closed_file_in_its_place_is_refused(log: RotatedLog) -> None:
    first, second, _last = log.files
    shutil.copy(first, first.with_name("kept"))
    second.rename(first)
    with pytest.raises(AuditBroken, match=f"^{first}: line 1: "):
        log.verify()


def test_a_file_with_another_chain_of_the_same_length_is_refused(log: RotatedLog, tmp_path: Path) -> None:
    other = rotated(tmp_path / "other.jsonl", 1, 2)
    rewrite(log.files[0], lambda _data: b"".join(other.bytes()))
    with pytest.raises(AuditBroken, match=r"line 4: is not the entry .* closed with \(rebuilt chain"):
        log.verify()


def test_an_old_file_in_the_place_of_the_last_is_completed_only_from_the_store_and_as_a_cut(
    log: RotatedLog,
) -> None:
    """It looks like a rotation that was cut short; what was synced behind it tells that it wasn't."""
    before, first = log.bytes(), log.files[0]
    log.path.unlink()
    first.rename(log.path)
    repair = plan_repair(log.path, log.outbox)
    assert (repair.cut, repair.from_sequence, repair.missing) == (True, 5, 8)
    log.project()
    assert log.bytes() == before
    log.forget_lines(7)
    log.path.unlink()
    log.files[0].rename(log.path)
    with pytest.raises(AuditBroken, match="line 5: is missing, and the store holds no line before"):
        log.project()


def test_a_last_file_that_is_gone_is_completed_or_refused(log: RotatedLog) -> None:
    before = log.bytes()
    log.path.unlink()
    with pytest.raises(AuditBroken, match="line 1: is missing, as all up to line 3"):
        log.verify()
    log.project()
    assert log.bytes() == before
    log.files[0].unlink()
    log.path.write_bytes(b"")
    log.project()
    assert log.bytes() == before[1:], "what was moved away isn't made anew, though the store could"
    log.path.unlink()
    log.forget_lines(12)
    with pytest.raises(AuditBroken, match="line 1: is missing, and the store holds no line before 4"):
        log.project()


def test_a_file_that_goes_on_past_its_end_before_it_is_closed_is_refused(path: Path) -> None:
    log = rotated(path, 4)
    log.rotate()
    log.add(1)
    with AuditFile.open(path) as file:
        file.append([line for _sequence, line in log.outbox.lines(5)])
    with pytest.raises(AuditBroken, match=r"line 4: goes on past, or isn't, the entry"):
        log.project()


def test_a_store_that_says_another_end_of_a_file_is_found_out(log: RotatedLog, path: Path) -> None:
    """By the tree, even without the key."""
    first, closed = log.files[0], log.closed[0]
    log.storage.commit(dict([dump_closed(replace(closed, hashes=(bytes(32),)))]))
    with pytest.raises(AuditBroken, match=f"^{first}: the store has another tree over the entries up to 4$"):
        log.verify()
    first.unlink()
    with pytest.raises(AuditBroken, match="the store has another tree over"):
        log.verify()


# Crashes


POINTS = [f"audit.file.{point}" for point in ("written", "synced", "closing", "renamed", "closed")]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("passage", [1, 2, 3, 4])
@pytest.mark.parametrize("written", [0, 2, 4])
def test_wherever_it_crashes_the_next_start_makes_the_same_files(
    path: Path, point: str, passage: int, written: int
) -> None:
    """Two rotations were decided while the file, which may have been made, had only some of its lines."""
    log = RotatedLog(path)
    log.add(4)
    AuditFile.open(path).close()
    with AuditFile.open(path) as file:
        file.append([line for _sequence, line in log.outbox.lines(1)][:written])
    for _ in range(2):
        log.rotate()
        log.add(2)
    lines = [line for _sequence, line in log.outbox.lines(1)]
    failpoints.arm(point, passage=passage)
    try:
        log.project()
    except InjectedCrash:
        assert log.verify().last_sequence <= log.head.audit_sequence, "and before it, it verifies"
        log.project()
    failpoints.disarm()
    assert [sequences(file) for file in log.files] == [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10]]
    assert lines_in(*log.files) == lines
    assert (log.verify().pending, log.verify().unseen) == (0, ())


def test_a_rotation_before_the_file_has_any_line_loses_none(path: Path) -> None:
    log = RotatedLog(path)
    log.add(3)
    log.rotate()
    for exists in (False, True):
        if exists:
            path.touch()
        assert [each.first for each in plan_repair(path, log.outbox).closing] == [1]
    log.project()
    assert [sequences(file) for file in log.files] == [[1, 2, 3], [4]]


def test_a_disk_that_refuses_the_name_leaves_the_log_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = rotated(path, 3)
    log.rotate()

    def refused(_self: Path, _target: Path) -> Path:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(Path, "rename", refused)
        log.project()
    assert sequences(path) == [1, 2, 3]
    log.project()
    assert [sequences(file) for file in log.files] == [[1, 2, 3], [4]]


class Moving(StoredOutbox):
    """A daemon's store, seen from beside it: when `moment` is asked for, the log's file is closed behind it."""

    def __init__(self, log: RotatedLog, moment: str) -> None:
        super().__init__(log.storage)
        self._log = log
        self._moment = moment

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if not name.startswith("_") and name == self._moment:
            self._moment = ""
            self._log.rotate()
            self._log.project()
        return found


@pytest.mark.parametrize("moment", ["synced", "closed", "oldest_sequence", "head", "tree"])
def test_a_rotation_while_it_is_verified_is_no_fault(path: Path, moment: str) -> None:
    log = rotated(path, 4, 2)
    log.add(1)
    verified = verify_log(path, Moving(log, moment))
    assert (verified.unseen, verified.last_sequence >= 7) == ((), True)
    assert (log.verify().entries, len(log.closed)) == (9, 2)


# The chain alone


@pytest.fixture
def copied(log: RotatedLog, tmp_path: Path) -> Path:
    """The log without its store."""
    (tmp_path / "elsewhere").mkdir()
    for file in log.files:
        shutil.copy(file, tmp_path / "elsewhere")
    return tmp_path / "elsewhere" / "audit.jsonl"


def test_without_the_store_the_chain_goes_through_the_files_beside_it(log: RotatedLog, copied: Path) -> None:
    assert verify_log(copied, None).entries == 12
    second = log.closed[1].path(copied)
    up_to_second = verify_log(second, None)
    assert (up_to_second.entries, up_to_second.last_sequence, up_to_second.head_hash) == (9, *log.closed[1].last)
    rewrite(second, lambda data: without(data, 3))
    with pytest.raises(AuditBroken, match=f"^{second}: line 3: sequence 8, expected 7 "):
        verify_log(copied, None)


def test_without_the_store_one_that_lacks_its_beginning_needs_a_head(log: RotatedLog, copied: Path) -> None:
    first, second, _last = (*(file.path(copied) for file in log.closed), copied)
    first.unlink()
    for file in (second, copied):
        with pytest.raises(AuditBroken, match="line 1: sequence 5, expected 1"):
            verify_log(file, None)
    verified = verify_log(second, None, behind=log.closed[0].last.entry_hash)
    assert (verified.entries, verified.last_sequence) == (5, 9)
    assert [str(unseen) for unseen in verified.unseen] == ["entries 1 to 4 weren't seen"]
    with pytest.raises(AuditBroken, match="line 1: prev_hash is not the entry_hash of the entry before"):
        verify_log(second, None, behind=log.closed[1].last.entry_hash)
