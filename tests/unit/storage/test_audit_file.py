"""The audit log's file: appends that fail, crashes that are completed, tampering that is refused."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.audit_chain import (
    GENESIS,
    LINE_BYTES_READ_MAX,
    START,
    AuditDraft,
    ChainHead,
    chain_line,
    parse_line,
)
from cerememory.domain.audit_diagnosis import Tampering
from cerememory.domain.checkpoint import Checkpoint, leaf_of
from cerememory.domain.merkle import CompactRange, root_of
from cerememory.errors import AuditBroken
from cerememory.storage import audit_file
from cerememory.storage.audit_closed import ClosedFile
from cerememory.storage.audit_file import (
    AuditFile,
    Outbox,
    Repair,
    complete,
    plan_repair,
)
from cerememory.storage.audit_verification import KeptCheckpoint, Verification, verify_log

FIXTURE = Path(__file__).parents[2] / "fixtures" / "reference" / "audit.jsonl"
LOG = FIXTURE.read_bytes()
LINES = tuple(LOG.splitlines(keepends=True))
LAST = len(LINES)


class HeldLines:
    """The store's side of the log: all `lines` were committed, those before `oldest` have been dropped.

    It never fails; what a test wants to be wrong is put into the file.
    """

    def __init__(self, lines: tuple[bytes, ...] = LINES, synced: int = LAST, oldest: int = 1) -> None:
        self.committed = list(lines)
        self.fsynced = synced
        self.oldest_sequence = oldest
        self.closed: list[ClosedFile] = []

    @property
    def synced(self) -> int:
        return self.fsynced

    @property
    def head(self) -> ChainHead:
        if not self.committed:
            return START
        return ChainHead(len(self.committed), parse_line(self.committed[-1]).entry_hash)

    @property
    def tree(self) -> CompactRange:
        tree = CompactRange()
        for line in self.committed:
            tree.append(leaf_of(line))
        return tree

    def lines(self, from_sequence: int) -> Iterator[tuple[int, bytes]]:
        first = max(from_sequence, self.oldest_sequence)
        yield from enumerate(self.committed[first - 1 :], first)


class GrowingLines(HeldLines):
    """A daemon's store, seen from beside it: an entry is committed and appended before the file is read,
    another is committed while it is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(LINES[:10], synced=10)
        self.path = path

    @property
    def synced(self) -> int:
        before = self.fsynced
        self.committed.append(LINES[10])
        self.path.write_bytes(whole(*self.committed))
        self.fsynced = len(self.committed)
        return before

    @property
    def head(self) -> ChainHead:
        self.committed.append(LINES[11])
        return super().head


def whole(*lines: bytes) -> bytes:
    return b"".join(lines)


def another_log(entries: int = LAST, after: int = 0) -> tuple[bytes, ...]:
    """The reference's lines up to `after`, continued by other entries."""
    lines = list(LINES[:after])
    head = ChainHead(after, parse_line(LINES[after - 1]).entry_hash) if after else START
    for _ in range(entries - after):
        line = chain_line(AuditDraft(0, "lifecycle.set_mode", (), (), {}), head.sequence + 1, head.entry_hash)
        head = line.head
        lines.append(line.data)
    return tuple(lines)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def reconcile(path: Path, outbox: Outbox) -> Repair:
    """What the audit log does when it is loaded; the answer is what was missing."""
    repair = plan_repair(path, outbox)
    complete(path, repair, outbox)
    return repair


def broken_line(error: pytest.ExceptionInfo[AuditBroken], path: Path) -> int:
    assert error.value.details is not None
    number = error.value.details["line"]
    assert str(error.value).startswith(f"{path}: line {number}: ")
    return int(number)


def test_a_new_file_is_readable_by_its_owner_only(path: Path) -> None:
    umask = os.umask(0)
    try:
        AuditFile.open(path).close()
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600


def test_appended_groups_stand_in_the_file_in_their_order(path: Path) -> None:
    with AuditFile.open(path) as file:
        file.append(LINES[:5])
        file.append(LINES[5:])
        assert file.size_bytes == len(LOG)
    assert path.read_bytes() == LOG


def test_an_opened_file_goes_on_at_its_end(path: Path) -> None:
    path.write_bytes(whole(*LINES[:5]))
    with AuditFile.open(path) as file:
        file.append(LINES[5:])
    assert verify_log(path, HeldLines()).entries == LAST


def test_a_missing_directory_is_an_os_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AuditFile.open(path / "audit.jsonl")


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond `size_bytes`: a write is cut short there, the next fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, len(LINES[5]), len(LINES[5]) + 1, len(whole(*LINES[5:])) - 1])
def test_an_append_that_is_cut_short_leaves_the_file_as_it_was(path: Path, room: int) -> None:
    before = whole(*LINES[:5])
    path.write_bytes(before)
    with AuditFile.open(path) as file:
        with file_size_limit(len(before) + room), pytest.raises(OSError, match="File too large") as error:
            file.append(LINES[5:])
        assert error.value.errno == errno.EFBIG
        assert path.read_bytes() == before
        file.append(LINES[5:])
        assert file.size_bytes == len(LOG)
    assert path.read_bytes() == LOG


def test_a_full_disk_is_reported_and_nothing_goes_behind_what_could_not_be_taken_back(path: Path) -> None:
    path.symlink_to("/dev/full")
    with AuditFile.open(path) as file:
        with pytest.raises(OSError, match="No space left") as error:
            file.append(LINES)
        assert error.value.errno == errno.ENOSPC
        assert file.size_bytes == 0
        with pytest.raises(OSError, match="Invalid argument") as error:
            file.append(LINES)  # a device can't be truncated: it isn't even written to
        assert error.value.errno == errno.EINVAL


def test_a_failed_fsync_is_reported_and_its_lines_do_not_count(path: Path) -> None:
    os.mkfifo(path)  # takes writes and refuses fsync
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with AuditFile.open(path) as file:
        with pytest.raises(OSError, match="Invalid argument"):
            file.append(LINES[:1])
        assert file.size_bytes == 0
    assert os.read(reader, 2 * len(LINES[0])) == LINES[0]
    os.close(reader)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 4), max_size=6))
def test_any_groups_of_entries_verify(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    path = tmp_path_factory.mktemp("groups") / "audit.jsonl"
    lines = another_log(sum(sizes))
    rest = iter(lines)
    with AuditFile.open(path) as file:
        for size in sizes:
            file.append([next(rest) for _ in range(size)])
    verification = verify_log(path, HeldLines(lines, synced=len(lines)))
    assert (verification.entries, verification.pending) == (len(lines), 0)


def test_no_file_and_no_entries_need_no_repair(path: Path) -> None:
    repair = reconcile(path, HeldLines((), synced=0))
    assert (repair.last, repair.missing, repair.cut) == (START, 0, False)
    assert not path.exists()


def test_a_whole_file_is_left_alone(path: Path) -> None:
    path.write_bytes(LOG)
    before = path.stat()
    repair = reconcile(path, HeldLines())
    assert (repair.last, repair.missing, repair.cut) == (HeldLines().head, 0, False)
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("synced", [LAST - 1, LAST], ids=["crash", "cut"])
def test_a_last_line_torn_at_any_byte_is_completed(path: Path, synced: int) -> None:
    outbox = HeldLines(synced=synced)
    for length in range(len(LINES[-1])):
        path.write_bytes(LOG[: len(LOG) - len(LINES[-1]) + length])
        repair = reconcile(path, outbox)
        assert path.read_bytes() == LOG
        assert (repair.from_sequence, repair.to_sequence, repair.missing) == (LAST, LAST, 1)
        assert repair.cut is (synced == LAST)


@pytest.mark.parametrize("kept", range(LAST))
@pytest.mark.parametrize("torn_bytes", [0, 1, 200])
def test_a_missing_tail_is_completed_and_it_was_a_crash_when_it_lay_after_the_last_fsync(
    path: Path, kept: int, torn_bytes: int
) -> None:
    path.write_bytes(whole(*LINES[:kept]) + LINES[kept][:torn_bytes])
    repair = reconcile(path, HeldLines(synced=5, oldest=kept + 1))
    assert path.read_bytes() == LOG
    assert (repair.from_sequence, repair.to_sequence) == (kept + 1, LAST)
    assert repair.cut is (kept < 5)
    assert reconcile(path, HeldLines(oldest=kept + 1)).missing == 0


def test_a_torn_line_that_ends_in_zeros_is_completed(path: Path) -> None:
    path.write_bytes(whole(*LINES[:5]) + LINES[5][:100] + bytes(4_096))
    assert reconcile(path, HeldLines(synced=5)).from_sequence == 6
    assert path.read_bytes() == LOG


def test_a_missing_file_is_completed_when_the_store_holds_every_line(path: Path) -> None:
    repair = reconcile(path, HeldLines(synced=3))
    assert path.read_bytes() == LOG
    assert (repair.from_sequence, repair.to_sequence, repair.cut) == (1, LAST, True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_more_lines_than_one_write_takes_are_completed(path: Path) -> None:
    lines = another_log(2 * audit_file.GROUP_LINES + 3)
    path.write_bytes(whole(*lines[:2]))
    assert reconcile(path, HeldLines(lines, synced=2)).missing == 2 * audit_file.GROUP_LINES + 1
    assert path.read_bytes() == whole(*lines)


@pytest.fixture
def fsynced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of all files and directories that were fsynced."""
    inodes: list[int] = []
    fsync = os.fsync

    def recording(fd: int) -> None:
        fsync(fd)
        inodes.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", recording)
    return inodes


def test_a_whole_file_that_was_not_fsynced_is_fsynced(path: Path, fsynced: list[int]) -> None:
    path.write_bytes(LOG)
    assert reconcile(path, HeldLines(synced=LAST - 1)).missing == 0
    assert path.stat().st_ino in fsynced


def test_a_file_made_anew_is_fsynced_with_its_directory(path: Path, fsynced: list[int]) -> None:
    reconcile(path, HeldLines())
    assert {path.stat().st_ino, path.parent.stat().st_ino} <= set(fsynced)


def test_a_repair_can_be_recorded_before_it_is_made(path: Path) -> None:
    path.write_bytes(whole(*LINES[:5]))
    outbox = HeldLines(LINES[:11])
    repair = plan_repair(path, outbox)
    assert path.read_bytes() == whole(*LINES[:5])
    outbox.committed.append(LINES[11])
    complete(path, repair, outbox)
    assert path.read_bytes() == LOG


def test_a_repair_that_finds_no_room_can_be_made_again(path: Path) -> None:
    path.write_bytes(whole(*LINES[:5]))
    with file_size_limit(len(LOG) - 1), pytest.raises(OSError, match="File too large"):
        reconcile(path, HeldLines(synced=5))
    assert reconcile(path, HeldLines(synced=5)).missing == 7
    assert path.read_bytes() == LOG


def test_what_may_not_be_on_the_disk_is_written_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync of it may have failed, and the system then counts it as written."""
    written, write = [], os.write

    def noting(fd: int, data: bytes) -> int:
        written.append(bytes(data))
        return write(fd, data)

    path.write_bytes(whole(*LINES[:8]))
    monkeypatch.setattr(os, "write", noting)
    assert reconcile(path, HeldLines(synced=5)).missing == LAST - 8
    assert whole(*written) == whole(*LINES[5:])
    assert path.read_bytes() == LOG


def test_a_repair_whose_sync_fails_leaves_what_is_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def failing(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    path.write_bytes(whole(*LINES[:8]) + bytes(len(LOG)))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(os, "fsync", failing)
        reconcile(path, HeldLines(synced=5))
    assert path.read_bytes() == whole(*LINES[:5])
    reconcile(path, HeldLines(synced=5))
    assert path.read_bytes() == LOG


TAMPERED: dict[str, tuple[bytes, int, Tampering]] = {
    "edited": (LOG.replace(b"sensitive", b"public"), 5, Tampering.EDITED),
    "edited at the end": (LOG.replace(b"16067", b"16068"), 12, Tampering.EDITED),
    "deleted": (whole(*LINES[:4], *LINES[5:]), 5, Tampering.DELETED),
    "reordered": (whole(*LINES[:4], LINES[5], LINES[4], *LINES[6:]), 5, Tampering.REORDERED),
    "inserted": (whole(*LINES[:4], another_log()[4], *LINES[4:]), 5, Tampering.INSERTED),
    "duplicated": (whole(*LINES[:5], *LINES[4:]), 6, Tampering.DUPLICATED),
    "blank": (whole(*LINES[:4], b"\n", *LINES[4:]), 5, Tampering.BLANK),
    "gap": (LOG.replace(b'"sequence":5', b'"sequence":6'), 5, Tampering.GAP),
    "line ends joined": (LOG.replace(b"}\n", b"}", 1), 1, Tampering.EDITED),
    "past the head": (LOG + another_log(13, after=12)[12], 13, Tampering.INSERTED),
    "past the head, torn": (LOG + b"{", 13, Tampering.INSERTED),
    "past the head, blank": (LOG + b"\n", 13, Tampering.BLANK),
}


@pytest.mark.parametrize("oldest", [1, 4, 13])
@pytest.mark.parametrize(("data", "number", "kind"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_file_is_refused_with_its_line_and_its_name_and_left_as_it_is(
    path: Path, data: bytes, number: int, kind: Tampering, oldest: int
) -> None:
    path.write_bytes(data)
    for check in (reconcile, verify_log):
        with pytest.raises(AuditBroken) as error:
            check(path, HeldLines(synced=0, oldest=oldest))
        assert broken_line(error, path) == number
        assert str(error.value).endswith(f" ({kind})")
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("lines", "oldest", "number"),
    [
        (another_log(), 1, 1),
        (another_log(), 4, 4),
        (another_log(), 13, 12),
        (another_log(after=7), 1, 8),
        (another_log(after=7), 13, 12),
        (another_log(6), 1, 1),
        (another_log(6), 7, 6),
        (another_log(6, after=3), 5, 5),
        (another_log(14), 13, 13),
    ],
)
def test_another_log_is_refused_at_the_first_line_that_can_be_told_apart(
    path: Path, lines: tuple[bytes, ...], oldest: int, number: int
) -> None:
    path.write_bytes(whole(*lines))
    for check in (reconcile, verify_log):
        with pytest.raises(AuditBroken) as error:
            check(path, HeldLines(synced=0, oldest=oldest))
        assert broken_line(error, path) == number
    assert path.read_bytes() == whole(*lines)


@pytest.mark.parametrize(("oldest", "kind"), [(1, Tampering.EDITED), (12, Tampering.EDITED), (13, Tampering.CUT)])
def test_a_torn_line_that_is_not_the_beginning_of_its_entry_is_refused(
    path: Path, oldest: int, kind: Tampering
) -> None:
    """Without the store's line nobody can tell which of it was changed."""
    data = whole(*LINES[:11], LINES[11][:100], b"x")
    path.write_bytes(data)
    for check in (reconcile, verify_log):
        with pytest.raises(AuditBroken) as error:
            check(path, HeldLines(synced=0, oldest=oldest))
        assert broken_line(error, path) == 12
        assert str(error.value).endswith(f" ({kind})")
    assert path.read_bytes() == data


@pytest.mark.parametrize("oldest", [1, 5, 7, 13])
def test_a_rebuilt_chain_has_its_name(path: Path, oldest: int) -> None:
    """It verifies by itself; the store's lines, or its head alone, say that it is another."""
    path.write_bytes(whole(*another_log(after=3)))
    assert verify_log(path, None).entries == LAST
    for check in (reconcile, verify_log):
        with pytest.raises(AuditBroken, match=r" \(rebuilt chain\)$"):
            check(path, HeldLines(oldest=oldest))


@pytest.mark.parametrize(("torn_bytes", "kind"), [(0, "cut off, or replaced by an older copy"), (9, "cut off")])
@pytest.mark.parametrize("entries", [0, 4, LAST - 1])
def test_a_cut_tail_and_an_older_copy_have_their_name(
    path: Path, entries: int, torn_bytes: int, kind: str
) -> None:
    path.write_bytes(whole(*LINES[:entries]) + LINES[entries][:torn_bytes])
    with pytest.raises(AuditBroken) as error:
        verify_log(path, HeldLines())
    assert broken_line(error, path) == entries + 1
    assert str(error.value).endswith(f" ({kind})")


# Checkpoints that were kept


def kept_at(size: int, lines: tuple[bytes, ...] = LINES) -> list[KeptCheckpoint]:
    root = root_of(leaf_of(line) for line in lines[:size])
    return [(Path("kept"), Checkpoint("cerememory/audit/test", size, root))]


@pytest.mark.parametrize("size", range(LAST + 1))
def test_an_untouched_log_continues_any_checkpoint_of_its_own(path: Path, size: int) -> None:
    path.write_bytes(LOG)
    for outbox in (HeldLines(), HeldLines(oldest=13), None):
        assert verify_log(path, outbox, kept_at(size)).entries == LAST


def test_entries_that_are_pending_count_for_a_checkpoint(path: Path) -> None:
    path.write_bytes(whole(*LINES[:9]))
    assert verify_log(path, HeldLines(synced=9), kept_at(11)).pending == 3


@pytest.mark.parametrize("entries", [0, 5, LAST - 1])
def test_a_log_and_a_store_that_were_both_replaced_by_older_copies_are_shorter_than_a_checkpoint(
    path: Path, entries: int
) -> None:
    older = LINES[:entries]
    path.write_bytes(whole(*older))
    for outbox in (HeldLines(older, synced=entries), None):
        assert verify_log(path, outbox).entries == entries
        with pytest.raises(AuditBroken, match=rf"^kept: the log has {entries} entries, and had 12 when") as error:
            verify_log(path, outbox, kept_at(LAST))
        assert str(error.value).endswith(" (replaced by an older copy)")


@pytest.mark.parametrize("after", [0, 3, LAST - 1])
def test_a_log_and_a_store_that_were_both_rebuilt_are_others_than_at_a_checkpoint(path: Path, after: int) -> None:
    rebuilt = another_log(after=after)
    path.write_bytes(whole(*rebuilt))
    for outbox in (HeldLines(rebuilt), None):
        assert verify_log(path, outbox, kept_at(after)).entries == LAST, "the beginning is the same"
        with pytest.raises(
            AuditBroken, match=r"^kept: the log's first 12 entries are others .* \(rebuilt chain\)$"
        ):
            verify_log(path, outbox, kept_at(LAST))


def test_a_store_whose_tree_is_another_does_not_verify(path: Path) -> None:
    class WithAnotherTree(HeldLines):
        @property
        def tree(self) -> CompactRange:
            return CompactRange(LAST, [bytes(32), bytes(32)])

    path.write_bytes(LOG)
    with pytest.raises(AuditBroken, match="has another tree over these 12 entries"):
        verify_log(path, WithAnotherTree())


@pytest.mark.parametrize("kept", [0, 3, 6])
def test_missing_lines_that_the_store_no_longer_holds_are_refused(path: Path, kept: int) -> None:
    path.write_bytes(whole(*LINES[:kept]))
    with pytest.raises(AuditBroken, match="the store holds no line before 8") as error:
        reconcile(path, HeldLines(oldest=8))
    assert broken_line(error, path) == kept + 1
    assert path.read_bytes() == whole(*LINES[:kept])


def test_a_missing_file_that_the_store_cannot_restore_is_refused(path: Path) -> None:
    with pytest.raises(AuditBroken) as error:
        reconcile(path, HeldLines(oldest=2))
    assert broken_line(error, path) == 1
    assert not path.exists()


def test_a_log_without_an_entry_in_the_store_is_refused(path: Path) -> None:
    path.write_bytes(LOG)
    with pytest.raises(AuditBroken, match="past the store's last entry") as error:
        reconcile(path, HeldLines((), synced=0))
    assert broken_line(error, path) == 1


def flipped(offset: int, mask: int) -> bytes:
    data = bytearray(LOG)
    data[offset] ^= mask
    return bytes(data)


flips = st.builds(flipped, st.integers(0, len(LOG) - 1), st.integers(1, 255))


@settings(max_examples=200)
@given(flips, st.integers(1, LAST + 1))
def test_no_byte_can_be_changed_unseen(tmp_path_factory: pytest.TempPathFactory, data: bytes, oldest: int) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.jsonl"
    path.write_bytes(data)
    for outbox in (HeldLines(oldest=oldest), None):
        with pytest.raises(AuditBroken):
            verify_log(path, outbox)
    assert path.read_bytes() == data


@settings(max_examples=200)
@given(flips, st.integers(0, LAST), st.integers(1, LAST + 1))
def test_a_start_refuses_a_changed_file_or_makes_it_what_it_was(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, synced: int, oldest: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "reconciled.jsonl"
    path.write_bytes(data)
    try:
        reconcile(path, HeldLines(synced=synced, oldest=oldest))
    except AuditBroken:
        assert path.read_bytes() == data
    else:
        assert path.read_bytes() == LOG


def test_a_whole_log_verifies_with_and_without_its_store(path: Path) -> None:
    path.write_bytes(LOG)
    for outbox in (HeldLines(), HeldLines(oldest=13), None):
        verification = verify_log(path, outbox)
        assert verification == Verification(path, LAST, *HeldLines().head, pending=0)


@pytest.mark.parametrize("torn_bytes", [0, 100])
def test_entries_that_were_never_fsynced_are_pending_and_stay_so(path: Path, torn_bytes: int) -> None:
    data = whole(*LINES[:9]) + LINES[9][:torn_bytes]
    path.write_bytes(data)
    verification = verify_log(path, HeldLines(synced=9))
    assert (verification.entries, verification.last_sequence, verification.pending) == (9, 9, 3)
    assert verification.head_hash == parse_line(LINES[8]).entry_hash
    assert path.read_bytes() == data


@pytest.mark.parametrize("torn_bytes", [0, 100])
def test_a_cut_log_does_not_verify(path: Path, torn_bytes: int) -> None:
    path.write_bytes(whole(*LINES[:9]) + LINES[9][:torn_bytes])
    with pytest.raises(AuditBroken, match=r"is missing, as all up to line 12 \(cut off") as error:
        verify_log(path, HeldLines(synced=10))
    assert broken_line(error, path) == 10


@pytest.mark.parametrize("synced", [0, LAST])
def test_a_missing_log_does_not_verify(path: Path, synced: int) -> None:
    with pytest.raises(AuditBroken) as error:
        verify_log(path, HeldLines(synced=synced))
    assert broken_line(error, path) == 1
    assert not path.exists()


def test_without_entries_a_missing_log_verifies(path: Path) -> None:
    for outbox in (HeldLines((), synced=0), None):
        verification = verify_log(path, outbox)
        assert verification == Verification(path, 0, 0, GENESIS, pending=0)


def test_a_torn_log_alone_does_not_verify(path: Path) -> None:
    path.write_bytes(LOG[:-1])
    with pytest.raises(AuditBroken, match="has no line end") as error:
        verify_log(path, None)
    assert broken_line(error, path) == LAST


def test_a_line_without_end_is_read_up_to_a_bound(path: Path) -> None:
    path.write_bytes(LINES[0])
    os.truncate(path, 2 * LINE_BYTES_READ_MAX)
    with pytest.raises(AuditBroken, match=f"has no line end in {LINE_BYTES_READ_MAX} bytes") as error:
        verify_log(path, None)
    assert broken_line(error, path) == 2


def test_a_log_verifies_while_a_daemon_appends_to_it(path: Path) -> None:
    path.write_bytes(whole(*LINES[:10]))
    verification = verify_log(path, GrowingLines(path))
    assert (verification.entries, verification.pending) == (11, 1)


def test_a_log_that_cannot_be_read_is_an_os_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        verify_log(path, None)
