"""The whole check of an audit log: its files, the chain through them, the tree over it, and checkpoints of it.

With the store of the log, all is compared as at a start (`audit_file`), and the tree over what the files hold has
to be the store's. What stands in closed files that aren't there can't be seen: the store's record of where each of
them ended takes their place, in the chain and in the tree, and the answer names them. Without the store, the chain
alone is checked; then the log has to be there from its first entry on, or the caller says what it begins behind.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from cerememory.domain.audit_chain import START, ChainHead, verify_lines
from cerememory.domain.audit_diagnosis import Tampering
from cerememory.domain.checkpoint import Checkpoint, leaf_of
from cerememory.domain.merkle import CompactRange
from cerememory.errors import AuditBroken
from cerememory.storage.audit_checkpoint import check_against
from cerememory.storage.audit_closed import ClosedFile, files_before, start_behind
from cerememory.storage.audit_file import (
    Outbox,
    Watch,
    count_done,
    is_good,
    naming,
    of_missing,
    plan_repair,
    refuse,
)
from cerememory.storage.audit_lines import LineReader

KeptCheckpoint: TypeAlias = tuple[Path, Checkpoint]
"""A checkpoint, and the file that it was kept in."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """The entries `first` to `last`, of the file at `path`, which isn't there; None when nobody knows of one.

    What follows them was checked from `head_hash` on, the hash of `last`.
    """

    path: Path | None
    first: int
    last: int
    head_hash: str

    @property
    def entries(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        entries = f"entries {self.first} to {self.last} weren't seen"
        return entries if self.path is None else f"{entries}: {self.path} isn't there"


@dataclass(frozen=True, slots=True)
class Verification:
    """A log found good, in `entries` that were there. `pending` counts those that the store has and the log has
    yet to get. `unseen` aren't there, oldest first.
    """

    path: Path
    entries: int
    last_sequence: int
    head_hash: str
    pending: int
    unseen: tuple[Unseen, ...] = ()


@dataclass(frozen=True, slots=True)
class FileEnds:
    """What a store says of its log without its passphrase: which files were closed, and what was synced."""

    closed: Sequence[ClosedFile]
    synced: int


def verify_log(
    path: Path,
    outbox: Outbox | None,
    kept: Sequence[KeptCheckpoint] = (),
    *,
    behind: str | None = None,
    ends: FileEnds | None = None,
) -> Verification:
    """Check the log at `path`, and change nothing.

    With `outbox`, it is the log of that store and may lack only entries that were never fsynced. Without, the
    chain alone is checked: from the first entry on, through the closed files beside it, or those of `ends` as far
    as they are there; or of this one file, which begins behind the entry with the hash `behind`, and then fits no
    checkpoint. A missing file is an empty log. It must continue the log of each checkpoint in `kept`. Raises
    `AuditBroken` naming the file, the line and the reason, `OSError` for a file that can't be read.
    """
    tree = _WatchedTree(path, {checkpoint.size for _path, checkpoint in kept})
    if outbox is not None:
        verification = _verify_with(outbox, path, tree)
    elif ends is not None:
        verification = _verify_ends(path, tree, ends)
    else:
        verification = _verify_chain(path, tree, behind)
    for kept_in, checkpoint in kept:
        tree.check_seen(kept_in, checkpoint)
        check_against(kept_in, checkpoint, tree.size, tree.root_at)
    return verification


class _WatchedTree(Watch):
    """The tree over the log so far, and its roots at the sizes in `wanted`."""

    def __init__(self, log: Path, wanted: Collection[int]) -> None:
        self.unseen: list[Unseen] = []
        self._log = log
        self._tree = CompactRange()
        self._wanted = wanted
        self._roots: dict[int, bytes] = {}
        self._note()

    @property
    def size(self) -> int:
        return self._tree.size

    def line(self, line: bytes) -> None:
        self._tree.append(leaf_of(line))
        self._note()

    def end(self, path: Path, closed: ClosedFile, *, is_seen: bool) -> None:
        if not is_seen:
            self._skip(Unseen(path, closed.first, *closed.last), closed.tree)
        elif self._tree.root != closed.tree.root:
            raise AuditBroken(f"{path}: the store has another tree over the entries up to {closed.last.sequence}")

    def _skip(self, unseen: Unseen, tree: CompactRange) -> None:
        self.unseen.append(unseen)
        self._tree = tree
        self._note()

    def root_at(self, size: int) -> bytes | None:
        """None for a size that isn't this one and wasn't wanted."""
        return self._tree.root if size == self.size else self._roots.get(size)

    def check_seen(self, kept_in: Path, kept: Checkpoint) -> None:
        """Raise `AuditBroken` when the tree that `kept` is of ends among entries that weren't seen."""
        for unseen in self.unseen:
            if unseen.first <= kept.size <= unseen.last and kept.size not in self._roots:
                raise AuditBroken(
                    f"{kept_in}: the log can't be held against this checkpoint of {kept.size} entries: {unseen}"
                )

    def _note(self) -> None:
        if self._tree.size in self._wanted:
            self._roots[self._tree.size] = self._tree.root


def _verify_with(outbox: Outbox, path: Path, tree: _WatchedTree) -> Verification:
    repair = plan_repair(path, outbox, tree)
    with naming(path, repair.start):
        if repair.cut or (repair.missing and not repair.start.sequence and not path.exists()):
            refuse(repair.first_missing, repair.said_missing(), of_missing(repair.is_torn))
        stored = outbox.tree
        for _sequence, line in islice(outbox.lines(repair.from_sequence), stored.size - tree.size):
            tree.line(line)
        if tree.root_at(stored.size) != stored.root:
            raise AuditBroken(f"the store has another tree over these {stored.size} entries")
    seen = repair.last.sequence - sum(each.entries for each in tree.unseen)
    return Verification(path, seen, *repair.last, pending=repair.missing, unseen=tuple(tree.unseen))


def _verify_ends(path: Path, tree: _WatchedTree, ends: FileEnds) -> Verification:
    done = ends.closed[: count_done(path, _first_in(path), ends.closed, ends.synced)]
    for file in done:
        is_good(path, file, done, tree)
    start = start_behind(done)
    with naming(path, start):
        head = _verify_file(path, start, tree)
    seen = head.sequence - sum(each.entries for each in tree.unseen)
    return Verification(path, seen, *head, pending=0, unseen=tuple(tree.unseen))


def _verify_chain(path: Path, tree: _WatchedTree, behind: str | None) -> Verification:
    files = [*files_before(path, _first_in(path)), path] if behind is None else [path]
    start = head = START if behind is None else ChainHead(_first_in(path) - 1, behind)
    if start.sequence:
        tree.unseen.append(Unseen(None, 1, *start))
    for file in files:
        with naming(file, head):
            head = _verify_file(file, head, tree)
    return Verification(path, head.sequence - start.sequence, *head, pending=0, unseen=tuple(tree.unseen))


def _first_in(file: Path) -> int:
    """The sequence of its first entry; 1 when it has none."""
    with LineReader(file) as reader:
        return reader.first_sequence() or 1


def _verify_file(file: Path, start: ChainHead, tree: _WatchedTree) -> ChainHead:
    """The head behind all its lines."""
    with LineReader(file, tree.line) as reader:
        verified = verify_lines(reader, start)
        if reader.torn:
            refuse(verified.entries + 1, f"has no line end in {len(reader.torn)} bytes", Tampering.CUT)
    return verified.head
