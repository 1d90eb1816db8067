"""`cerememory export` and `import`: archives to and from files, as streams, with their progress on a terminal.

An archive is written under another name beside its file, which it replaces when it is whole and synced: an export
that is broken off leaves the old one as it was.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from cerememory.cli.arguments import Common, FormatName, ImportStrategyName, ResolutionName, StoreNames
from cerememory.cli.bodies import given
from cerememory.cli.memory import connect
from cerememory.cli.output import show
from cerememory.cli.passphrases import passphrase
from cerememory.errors import ValidationFailed
from cerememory.storage.datadir import sync_directory

CHUNK_BYTES = 262_144


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
        format: Both names stand for the same.
        stores: Only these stores, as episodic,semantic; working memory comes only by its name.
        include_raw_journal: The raw journal, too.
        encrypt: Encrypt the archive; needs one of the keys.
        encryption_key: The passphrase; other users of the machine can see it.
        encryption_key_stdin: Read the passphrase from stdin, or ask for it.
        encryption_key_file: Read the passphrase from this file.
    """
    key = passphrase("--encryption-key", encryption_key, encryption_key_stdin, encryption_key_file)
    if encrypt and key is None:
        raise ValidationFailed("--encrypt: needs --encryption-key-stdin or another key")
    if key is not None and not encrypt:
        raise ValidationFailed("--encryption-key: needs --encrypt")
    body = given(
        {
            "format": format,
            "stores": stores,
            "include_raw_journal": include_raw_journal,
            "encrypt": encrypt,
            "encryption_key": key,
        }
    )
    with connect(options) as memory, memory.export_archive(body) as archive, _replacement(output) as file:
        for chunk in _shown(archive.chunks, archive.size_bytes, "Exporting"):
            file.write(chunk)
    show({**archive.described(), "path": str(output)}, options, _exported_line)


def _exported_line(answer: dict[str, Any]) -> str:
    return (
        f"Exported {answer['record_count']} records to {answer['path']} ({answer['size_bytes']} bytes,"
        f" archive_id={answer['archive_id']}, checksum={answer['checksum']})"
    )


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
        decryption_key_file: Read the passphrase from this file.
        conflict_resolution: What stays of a memory that is stored already.
        dry_run: Only count what would change.
    """
    terms = given(
        {
            "archive_id": path.name,
            "strategy": strategy,
            "conflict_resolution": conflict_resolution,
            "decryption_key": passphrase(
                "--decryption-key", decryption_key, decryption_key_stdin, decryption_key_file
            ),
            "dry_run": dry_run,
        }
    )
    with path.open("rb") as file, connect(options) as memory:
        size_bytes = _size_of(file, path)
        chunks = _shown(_chunks_of(file), size_bytes, "Importing")
        imported = memory.import_archive(chunks, size_bytes, terms)
    show({**imported, "path": str(path)}, options, _planned_line if dry_run else _imported_line)


def _imported_line(answer: dict[str, Any]) -> str:
    return f"Imported {answer['records_imported']} records from {answer['path']}"


def _planned_line(answer: dict[str, Any]) -> str:
    return (
        f"Would import {answer['records_imported']} records from {answer['path']}"
        f" (new={answer['records_added']}, replaced={answer['records_replaced']}, kept={answer['records_kept']})"
    )


def _size_of(file: BinaryIO, path: Path) -> int:
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise ValidationFailed(f"{path}: must be a file, whose size is known")
    return found.st_size


def _chunks_of(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


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


def _shown(chunks: Iterable[bytes], size_bytes: int, what: str) -> Iterator[bytes]:
    """`chunks`, with a bar on stderr that says how far they are, when somebody looks at it."""
    if not sys.stderr.isatty():
        yield from chunks
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=size_bytes)
        for chunk in chunks:
            yield chunk
            progress.advance(task, len(chunk))
