"""`cerememory export`, `import` and `import undo`: archives to and from files, with their progress on a terminal.

An archive is written under another name beside its file, which it replaces when it is whole and synced: an export
that is broken off leaves the old one as it was. A link stays, as the file is the one that it leads to. All but age
files are streams.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from cyclopts import App

from cerememory.cli import age
from cerememory.cli.app import OWN
from cerememory.cli.arguments import (
    Common,
    FormatName,
    ImportStrategyName,
    RecordIdText,
    ResolutionName,
    StoreNames,
)
from cerememory.cli.bodies import given
from cerememory.cli.memory import connect
from cerememory.cli.output import note, show
from cerememory.cli.passphrases import passphrase
from cerememory.cli.progress import measured
from cerememory.errors import ImportConflict, ValidationFailed
from cerememory.protocol.codec import plain
from cerememory.storage.datadir import sync_directory

CHUNK_BYTES = 262_144
AGE = "age"

app = App(name="import", group_parameters=OWN)


def export(
    *,
    output: Path = Path("./backup.cma"),
    format: FormatName = "cma",
    stores: StoreNames | None = None,
    include_raw_journal: bool = False,
    encrypt: bool = False,
    encryption_key: str | None = None,
    encryption_key_stdin: bool = False,
    encryption_key_file: Path | None = None,
    options: Common,
) -> None:
    """Write all memories into an archive; a file that is there is replaced.

    Args:
        output: The file.
        format: cma and jsonl stand for the same; age is for the program age, under a passphrase.
        stores: Only these stores, as episodic,semantic; working memory comes only by its name.
        include_raw_journal: The raw journal, too.
        encrypt: Encrypt the archive; needs one of the keys.
        encryption_key: The passphrase; other users of the machine can see it.
        encryption_key_stdin: Read the passphrase from stdin, or ask for it.
        encryption_key_file: Read the passphrase from this file; without it, CEREMEMORY_ENCRYPTION_KEY has it.
    """
    target = _target(output)
    is_age = format == AGE
    asked_by = "--format age" if is_age else "--encrypt"
    key = _encryption_key(encrypt or is_age, encryption_key, encryption_key_stdin, encryption_key_file, asked_by)
    body = given(
        {
            "format": "cma" if is_age else format,
            "stores": stores,
            "include_raw_journal": include_raw_journal,
            "encrypt": encrypt and not is_age,
            "encryption_key": None if is_age else key,
        }
    )
    with connect(options) as memory, memory.export_archive(body) as archive, _replacement(target) as file:
        chunks: Iterable[bytes] = measured(archive.chunks, archive.size_bytes, "Exporting")
        if is_age:
            chunks = _as_age(chunks, archive.size_bytes, key or "")
        size_bytes = sum(map(file.write, chunks))
    show({**archive.described(), "size_bytes": size_bytes, "path": str(output)}, options, _exported_line)


def _as_age(chunks: Iterable[bytes], size_bytes: int, key: str) -> list[bytes]:
    return [age.encrypted(chunks, size_bytes, key)]


def _encryption_key(
    encrypt: bool, given: str | None, from_stdin: bool, file: Path | None, asked_by: str = "--encrypt"
) -> str | None:
    if not encrypt and given is None and file is None and not from_stdin:
        return None  # what may be in the environment is for those that are encrypted
    key = passphrase("--encryption-key", given, from_stdin, file)
    if not encrypt:
        raise ValidationFailed("--encryption-key: needs --encrypt")
    if key is None:
        raise ValidationFailed(f"{asked_by}: needs --encryption-key-stdin or another key")
    return key


def _exported_line(answer: dict[str, Any]) -> str:
    return (
        f"Exported {answer['record_count']} records to {answer['path']} ({answer['size_bytes']} bytes,"
        f" archive_id={answer['archive_id']}, checksum={answer['checksum']})"
    )


@app.default
def import_(
    path: Path,
    /,
    *,
    strategy: ImportStrategyName = "merge",
    decryption_key: str | None = None,
    decryption_key_stdin: bool = False,
    decryption_key_file: Path | None = None,
    conflict_resolution: ResolutionName = "keep_newer",
    dry_run: bool = False,
    options: Common,
) -> None:
    """Read an archive back in: all of it, or nothing when anything is wrong.

    Args:
        path: The file.
        strategy: merge adds to what is stored, replace deletes that first.
        decryption_key: The passphrase of an encrypted archive; other users of the machine can see it.
        decryption_key_stdin: Read the passphrase from stdin, or ask for it.
        decryption_key_file: Read the passphrase from this file; without it, CEREMEMORY_DECRYPTION_KEY has it.
        conflict_resolution: What stays of a memory that is stored already.
        dry_run: Only count what would change.
    """
    key = passphrase("--decryption-key", decryption_key, decryption_key_stdin, decryption_key_file)
    opened = _archive_at(path, key)
    with _told_of(path, key), opened as archive, connect(options, creates=not dry_run) as memory:
        terms = given(
            {
                "archive_id": path.name,
                "strategy": strategy,
                "conflict_resolution": conflict_resolution,
                "decryption_key": archive.key,
                "dry_run": dry_run,
            }
        )
        chunks = measured(_chunks_of(archive.file), archive.size_bytes, "Importing")
        imported = plain(memory.import_archive(chunks, archive.size_bytes, terms))
    show({**imported, "path": str(path)}, options, _planned_line if dry_run else _imported_line)
    if not (dry_run or options.json):
        _tell_how_to_undo(imported)


def _tell_how_to_undo(imported: dict[str, Any]) -> None:
    """On stderr: what is on stdout is for scripts."""
    if "batch_id" in imported:
        note(f"cerememory import undo {imported['batch_id']} takes it back")
    elif imported["records_imported"]:
        note("this import can't be taken back: what it replaced is too much to be kept")


@app.command
def undo(batch: RecordIdText, /, *, keep_changed: bool = False, dry_run: bool = False, options: Common) -> None:
    """Take an import back: what it added goes, what it replaced or deleted comes back.

    Args:
        batch: The id that the import was answered with.
        keep_changed: Leave what was changed since as it is; without this, such an import isn't undone.
        dry_run: Only count what would change.
    """
    with connect(options) as memory:
        body = {"batch_id": batch, "keep_changed": keep_changed, "dry_run": dry_run}
        undone = memory.call("lifecycle.undo_import", body)
    show(undone, options, _would_undo_line if dry_run else _undone_line)


def _undone_line(answer: dict[str, Any]) -> str:
    return f"Undid the import of {answer['archive_id']}{_undone_counts(answer)}"


def _would_undo_line(answer: dict[str, Any]) -> str:
    return f"Would undo the import of {answer['archive_id']}{_undone_counts(answer)}"


def _undone_counts(answer: dict[str, Any]) -> str:
    return (
        f" (removed={answer['records_removed']}, restored={answer['records_restored']},"
        f" left={answer['records_left']})"
    )


def _imported_line(answer: dict[str, Any]) -> str:
    return f"Imported {answer['records_imported']} records from {answer['path']}"


def _planned_line(answer: dict[str, Any]) -> str:
    return (
        f"Would import {answer['records_imported']} records from {answer['path']}"
        f" (new={answer['records_added']}, replaced={answer['records_replaced']}, kept={answer['records_kept']})"
    )


class _Archive(NamedTuple):
    """What is sent: `key` goes with what the daemon is to decrypt."""

    file: BinaryIO
    size_bytes: int
    key: str | None


@contextmanager
def _told_of(path: Path, key: str | None) -> Iterator[None]:
    """An archive's error says in which file it is, and what an encrypted one needs."""
    try:
        yield
    except ImportConflict as error:
        error.add_note(f"in {path}")
        if key is None and "line" not in (error.details or {}):  # no line of it was read
            error.add_note("an encrypted archive needs --decryption-key-stdin or another key")
        raise


@contextmanager
def _archive_at(path: Path, key: str | None) -> Iterator[_Archive]:
    """The archive in a file; one in an age file is decrypted whole before."""
    with path.open("rb") as file:
        size_bytes = _size_of(file, path)
        beginning = file.read(age.BEGINNING_BYTES)
        file.seek(0)
        if not age.is_age(beginning):
            yield _Archive(file, size_bytes, key)
            return
        if key is None:
            raise ValidationFailed(f"{path}: is an age file, which needs --decryption-key-stdin or another key")
        data = age.decrypted(file.read(age.AGE_BYTES_MAX + 1), key)
    yield _Archive(BytesIO(data), len(data), None)


def _size_of(file: BinaryIO, path: Path) -> int:
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise ValidationFailed(f"{path}: must be a file, whose size is known")
    return found.st_size


def _chunks_of(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _target(output: Path) -> Path:
    """The file that is to be replaced, or made. Any other thing in its place, as a device, is somebody's."""
    target = Path(os.path.realpath(output)) if output.is_symlink() else output
    try:
        is_other = (output.exists() and not output.is_file()) or target.is_symlink()  # which leads back to itself
    except OSError as error:
        raise ValidationFailed(f"--output: {output} can't be looked at: {error.strerror}") from error
    if is_other:
        raise ValidationFailed(f"--output: {output} is there, and isn't a file")
    return target


@contextmanager
def _replacement(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well; only its owner may read it."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ValidationFailed(f"{path}: can't be written: {error.strerror}") from error
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise ValidationFailed(f"{path}: can't be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
