"""The disks of the simulation: what was synced stays, and what wasn't is lost, torn or kept, as luck has it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerememory.errors import StorageUnavailable
from cerememory.storage.audit_file import AuditFile
from tests.simulation import disk
from tests.simulation.disk import FakeFiles, FakeStore
from tests.simulation.world import Power

TRIES = 100  # so that luck has it every way


class Machine:
    """One folder, one store and one run of them; `points` until the power goes."""

    def __init__(self, root: Path, seed: int) -> None:
        rng = random.Random(seed)
        self.path = root / "audit.jsonl"
        self.files = FakeFiles(root, rng)
        self.store = FakeStore(rng)
        self.start()

    def start(self, points: int | None = None) -> None:
        power = Power() if points is None else Power(points)
        self.power = power
        self.files.start(power)
        self.store.start(power)

    def cut(self) -> None:
        while self.power.is_on:
            self.power.point()
        self.files.lose_unsynced()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def machines(root: Path, content: bytes) -> Iterator[Machine]:
    """Many, one after the other, each with a synced file and its luck."""
    for seed in range(TRIES):
        (root / "audit.jsonl").write_bytes(content)
        machine = Machine(root, seed)
        machine.start(1_000)
        with machine.files.in_place():
            yield machine


def test_what_was_synced_stays_and_of_the_rest_a_beginning(root: Path) -> None:
    left = set()
    for machine in machines(root, b"synced\n"):
        with AuditFile.open(machine.path) as file:
            file.append([b"line\n"])
            file.write([b"more\n"])
        machine.cut()
        left.add(machine.path.read_bytes())
    assert {content[:12] for content in left} == {b"synced\nline\n"}
    assert {content[12:].rstrip(b"\0") for content in left} == {b"more\n"[:size] for size in range(6)}
    assert any(b"\0" in content for content in left)


def test_a_file_that_was_cut_short_may_be_as_it_was(root: Path) -> None:
    left = set()
    for machine in machines(root, b"synced\ntorn"):
        with AuditFile.open(machine.path) as file:
            file.truncate(7)
        machine.cut()
        left.add(machine.path.read_bytes())
    assert left == {b"synced\n", b"synced\ntorn"}


def test_a_name_is_new_or_old_until_its_directory_was_synced(root: Path) -> None:
    left = set()
    for machine in machines(root, b"old"):
        draft = root / "draft"
        draft.write_bytes(b"new")
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.rename(machine.path)
        machine.cut()
        left.add(machine.path.read_bytes())
        draft.unlink(missing_ok=True)
    assert left == {b"old", b"new"}


@pytest.mark.parametrize(("mend", "left"), [(True, b"synced\nline\n"), (False, b"synced\n" + bytes(5))])
def test_what_a_failed_sync_was_to_write_is_written_anew_or_lost(
    root: Path, mend: bool, left: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "FAILURES", 1.0)
    machine = next(machines(root, b"synced\n"))
    with machine.files.in_place(), machine.path.open("ab", buffering=0) as file:
        file.write(b"line\n")
        machine.files.may_fail = True
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(file.fileno())
        machine.files.may_fail = False
        if mend:
            os.ftruncate(file.fileno(), 7)
            file.write(b"line\n")
        os.fsync(file.fileno())
    machine.cut()
    assert machine.path.read_bytes() == left


def test_a_commit_under_way_is_there_whole_or_not_at_all(root: Path) -> None:
    found = []
    for seed in range(TRIES):
        machine = Machine(root, seed)
        machine.store.commit({b"a": b"1"})
        machine.start(1)
        with pytest.raises(StorageUnavailable, match="the power went"):
            machine.store.commit({b"b": b"2", b"c": b"3"})
        with pytest.raises(StorageUnavailable, match="no power"):
            machine.store.commit({b"d": b"4"})
        machine.start()
        found.append(sorted(machine.store.rows()))
    assert {tuple(keys) for keys in found} == {(b"a",), (b"a", b"b", b"c")}


def test_a_commit_that_failed_leaves_nothing_and_reads_go_on(root: Path) -> None:
    machine = Machine(root, 0)
    machine.store.may_fail = True
    committed = []
    for number in range(TRIES * 5):
        try:
            machine.store.commit({b"%d" % number: b""})
            committed.append(b"%d" % number)
        except StorageUnavailable:
            assert machine.store.rows().keys() == set(committed)
    assert 0 < len(committed) < TRIES * 5
    machine.start()
    assert machine.store.rows().keys() == set(committed)
