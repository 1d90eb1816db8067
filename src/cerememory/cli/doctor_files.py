"""What `doctor` looks at of a data dir as files: whose they are, where they lie, what was left behind."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from cerememory.cli.verdicts import Patient, Verdict, fail, ok, warn
from cerememory.storage.backup import KEYS_NAME, STORE_NAME
from cerememory.storage.datadir import FORMAT_VERSION, NETWORK_FILE_SYSTEMS, check_format, file_system_of
from cerememory.storage.lmdb import DRAFT_NAME
from cerememory.storage.repair import FRESH_NAME

MIB = 1 << 20
OTHERS = 0o077  # the bits of a mode that are for others than the owner
SHOWN_MAX = 3
SCARCE = 4  # times what is kept free
DRAFTS = ("format.new", FRESH_NAME)
TORTURED = ".torture."  # in the name of a copy that `torture` works on


def check_permissions(patient: Patient) -> Verdict:
    """The folder is its owner's alone, and all in it is that owner's, too."""
    path = patient.settings.data_dir
    found = path.stat()
    if found.st_uid != os.geteuid():
        return fail(f"{path} belongs to user {found.st_uid}, this is user {os.geteuid()}: run it as that user")
    if found.st_mode & OTHERS:
        return fail(f"{path}: others may use it (mode {stat.S_IMODE(found.st_mode):o}); make it 0700")
    foreign = [each for each, info in _all_in(path) if info.st_uid != found.st_uid]
    if foreign:
        return fail(f"{_shown(foreign)} belong(s) to another user than the data directory")
    open_to_others = [each for each, info in _guarded(path) if info.st_mode & OTHERS]
    if open_to_others:
        return warn(
            f"{_shown(open_to_others)} could be read by others if the data directory were; take that mode away"
        )
    return ok("the data directory is its owner's alone")


def _guarded(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What has a mode of its own to keep others out: all in a private folder needs none, but keys."""
    return (
        (each, info) for each, info in _all_in(path) if each.parent == path or (path / KEYS_NAME) in each.parents
    )


def _all_in(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What is there now; its owner may take it away meanwhile."""
    for each in path.rglob("*"):
        try:
            yield each, each.lstat()
        except FileNotFoundError:
            continue


def _shown(paths: list[Path]) -> str:
    more = len(paths) - SHOWN_MAX
    return ", ".join(map(str, paths[:SHOWN_MAX])) + (f" and {more} more" if more > 0 else "")


def check_file_system(patient: Patient) -> Verdict:
    kind = file_system_of(patient.settings.data_dir)
    if kind in NETWORK_FILE_SYSTEMS:
        return fail(f"{kind} is a network file system, on which locks and syncs don't hold; use a local disk")
    if kind in ("tmpfs", "ramfs"):
        return warn(f"{kind} is memory: nothing survives the machine")
    return ok(kind or "not told by this system")


def check_format_version(patient: Patient) -> Verdict:
    check_format(patient.settings.data_dir)
    return ok(f"version {FORMAT_VERSION}")


def check_disk(patient: Patient) -> Verdict:
    free = shutil.disk_usage(patient.settings.data_dir).free // MIB
    kept = patient.settings.storage.min_free_disk_mib
    said = f"{free} MiB free, {kept} MiB are kept free (storage.min_free_disk_mib)"
    if free < kept:
        return fail(f"{said}: writes are refused")
    return warn(f"{said}: writes will soon be refused") if free < SCARCE * kept else ok(said)


def check_leftovers(patient: Patient) -> Verdict:
    """What commands and daemons that were killed have left; beside an owner it may be at work on them."""
    path = patient.settings.data_dir
    found = [path / name for name in DRAFTS if (path / name).exists()]
    if patient.owner is None:
        found += [each for each in (path / STORE_NAME / DRAFT_NAME, path / "run" / "token") if each.exists()]
    found += path.absolute().parent.glob(f".{path.absolute().name}{TORTURED}*")
    if found:
        return warn(f"{_shown(found)}: left by what was broken off, unless it is still at work; may be removed")
    return ok("none")
