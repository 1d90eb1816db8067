"""The log's last checkpoint, in a file beside it: what start and `audit-verify` hold the log against.

Owns the file's name, its bytes, and the question whether a log is that of a checkpoint. Wherever one was kept, the
answer is the same: the log has at least as many entries, and the tree over the first of them has its root.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cerememory.domain.audit_diagnosis import Tampering
from cerememory.domain.checkpoint import NOTE_BYTES_MAX, Checkpoint, NotACheckpoint, VerifierKey
from cerememory.domain.note_signatures import open_note
from cerememory.errors import AuditBroken
from cerememory.storage.datadir import write_durably


def checkpoint_path(log: Path) -> Path:
    return log.with_name(f"{log.name}.checkpoint")


def write_checkpoint(path: Path, note: bytes) -> None:
    """Put `note` in the place of the one before, durably. Raises `OSError`."""
    write_durably(path, note)


def read_checkpoint(path: Path, key: VerifierKey) -> Checkpoint:
    """The checkpoint in the file `path`, signed by `key`.

    Raises `FileNotFoundError`, `AuditBroken` for what isn't such a checkpoint, `OSError`.
    """
    with path.open("rb") as file:
        data = file.read(NOTE_BYTES_MAX + 1)
    try:
        return open_note(data, key).checkpoint
    except NotACheckpoint as error:
        raise AuditBroken(f"{path}: {error}") from None


def check_against(path: Path, kept: Checkpoint, entries: int, root_at: Callable[[int], bytes | None]) -> None:
    """Raise `AuditBroken` unless a log of `entries` continues the one of `kept`, which is in the file `path`.

    `root_at` is asked for the root at `kept.size` alone, when the log has had that size.
    """
    if kept.size > entries:
        had = f"the log has {entries} entries, and had {kept.size} when this checkpoint was signed"
        raise AuditBroken(f"{path}: {had} ({Tampering.OLDER})", details={"kind": Tampering.OLDER.value})
    if root_at(kept.size) != kept.root:
        other = f"the log's first {kept.size} entries are others than when this checkpoint was signed"
        raise AuditBroken(f"{path}: {other} ({Tampering.REBUILT})", details={"kind": Tampering.REBUILT.value})
