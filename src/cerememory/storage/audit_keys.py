"""The keys of the audit log: one secret, from which the store's head is sealed and checkpoints are signed.

    keys/          0700
      audit.key    0600, the Ed25519 key that signs checkpoints
      audit.pub    its public half, for whoever verifies them

The key that seals the head is derived from the other (HMAC as a pseudo-random function), so there is one file to
keep, and it is made whole or not at all. Each data dir has its own: its name is a random one, and the origin of
the log's checkpoints.

Beside the log the keys prove nothing against who can read and write the whole data dir; in a directory that this
one can't read, they do.
"""

from __future__ import annotations

import hmac
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from cerememory.domain.checkpoint import NotACheckpoint, VerifierKey, parse_verifier_key
from cerememory.domain.note_signatures import SEED_BYTES, Signer, parse_signer
from cerememory.errors import AuditBroken, DataDirUnusable
from cerememory.storage.datadir import PRIVATE_DIR, sync_directory, write_durably

KEY_NAME, PUBLIC_NAME = "audit.key", "audit.pub"
NAME_BYTES = 8
KEY_FILE_BYTES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class AuditKeys:
    """`head_key` seals the head, `signer` signs checkpoints."""

    head_key: bytes
    signer: Signer


def open_keys(path: Path, *, may_create: bool) -> AuditKeys:
    """The keys in the directory `path`; made, when there are none and `may_create`.

    Raises `AuditBroken` when they are missing, `DataDirUnusable` when they can't be used.
    """
    try:
        signer = _read(path / KEY_NAME)
        if signer is None:
            if not may_create:
                raise AuditBroken(
                    f"{path / KEY_NAME}: the key of the audit log is missing; restore it from a backup"
                )
            signer = _create(path)
        _publish(path / PUBLIC_NAME, signer)
    except OSError as error:
        raise DataDirUnusable(f"{error.filename or path}: {error.strerror}") from error
    return _keys(signer)


def read_keys(path: Path) -> AuditKeys | None:
    """The keys in `path`; None when there are none. Raises as `open_keys` does."""
    try:
        signer = _read(path / KEY_NAME)
    except OSError as error:
        raise DataDirUnusable(f"{error.filename or path}: {error.strerror}") from error
    return None if signer is None else _keys(signer)


def read_public_key(path: Path) -> VerifierKey:
    """Raises `DataDirUnusable` when it can't be read, or is no such key."""
    try:
        with path.open("rb") as file:
            return parse_verifier_key(file.read(KEY_FILE_BYTES_MAX).decode("utf-8", "replace"))
    except OSError as error:
        raise DataDirUnusable(f"{path}: {error.strerror}") from error
    except NotACheckpoint as error:
        raise DataDirUnusable(f"{path}: {error}") from None


def _keys(signer: Signer) -> AuditKeys:
    return AuditKeys(hmac.digest(signer.seed, b"cerememory audit head key", "sha256"), signer)


def _read(file: Path) -> Signer | None:
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    if mode & 0o077:
        raise DataDirUnusable(f"{file}: others may read it (mode {mode:o}); make it 0600, and think of new keys")
    try:
        return parse_signer(text.strip())
    except ValueError as error:
        raise DataDirUnusable(f"{file}: {error}") from None


def _create(path: Path) -> Signer:
    if not path.exists():
        path.mkdir(mode=PRIVATE_DIR, parents=True)
        sync_directory(path.parent)
    name = f"cerememory/audit/{secrets.token_hex(NAME_BYTES)}"
    signer = Signer(name, secrets.token_bytes(SEED_BYTES))
    write_durably(path / KEY_NAME, f"{signer.dump()}\n".encode())
    return signer


def _publish(file: Path, signer: Signer) -> None:
    """Beside the secret, made again from it when it isn't there."""
    if not file.exists():
        write_durably(file, f"{signer.verifier}\n".encode())
