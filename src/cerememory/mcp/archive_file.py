"""The file that the `export` tool writes: always a new one, readable by its owner alone.

A model names the path, so nothing that is there already is touched: no existing file, no symbolic link, no
folder made on the way, no climbing with `..`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cerememory.errors import ExportFailed, ValidationFailed

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # O_EXCL doesn't follow a link, not even a dangling one
_OWNER_ONLY = 0o600


def check_new_file(output_path: str) -> Path:
    """`output_path`, if a new file can be made there; else `ValidationFailed`."""
    if "\0" in output_path:
        raise ValidationFailed("output_path: must not contain a NUL character")
    path = Path(output_path)
    if ".." in path.parts:
        raise ValidationFailed("output_path: must not contain ..")
    if path.is_symlink():
        raise ValidationFailed(f"output_path: {path} is a symbolic link")
    if path.exists():
        raise ValidationFailed(f"output_path: {path} exists already, name a new file")
    if not path.parent.is_dir():
        raise ValidationFailed(f"output_path: {path.parent} is no directory")
    return path


def write_new_file(path: Path, chunks: Iterable[bytes]) -> None:
    """What `chunks` are in all, on disk and synced; when they or the disk fail, nothing is left there."""
    try:
        descriptor = os.open(path, _NEW_FILE, _OWNER_ONLY)
    except FileExistsError:  # it came between the check and now
        raise ValidationFailed(f"output_path: {path} exists already, name a new file") from None
    except OSError as error:
        raise ExportFailed(f"{path} can't be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ExportFailed(f"{path} can't be written: {error.strerror}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
