"""`cerememory audit-verify`: checks the audit log and changes nothing, beside a running daemon too.

The log of the data dir, in all its files, is compared with what the store says of it, and with the checkpoint
beside it; of any other the chain alone can be checked, from its first entry on or, of one file, from a given head.
Either is held against a checkpoint that was kept elsewhere, when one is given. Reads of the configuration only
where things are, so that no broken setting stands in the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cerememory.cli.arguments import Common, HashText
from cerememory.cli.options import Options, UsageError
from cerememory.cli.output import note, show
from cerememory.cli.settings import load
from cerememory.cli.stores import LOCATED, check_end, open_readonly
from cerememory.config.settings import Settings
from cerememory.domain.audit_diagnosis import Tampering
from cerememory.errors import AuditBroken, ConfigInvalid, DataDirUnusable, PassphraseRefused
from cerememory.storage.audit_checkpoint import checkpoint_path, read_checkpoint
from cerememory.storage.audit_keys import PUBLIC_NAME, read_public_key
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_verification import FileEnds, KeptCheckpoint, Unseen, Verification, verify_log
from cerememory.storage.backup import STORE_NAME
from cerememory.storage.contract import Storage
from cerememory.storage.datadir import check_is_there, check_stated_format
from cerememory.storage.lmdb import LmdbStorage


def audit_verify(
    *,
    path: Path | None = None,
    head: HashText | None = None,
    against: Path | None = None,
    public_key: Path | None = None,
    options: Common,
) -> None:
    """Check the audit log; changes nothing.

    Args:
        path: Another log than the configured one, or one of its files.
        head: Check this one file, which begins behind the entry with this hash; with --path.
        against: A checkpoint that was kept elsewhere, which the log must continue.
        public_key: The key that signs the log's checkpoints; by default audit.pub of the configured keys.
    """
    _check_combination(path, head, against)
    settings = _settings(options, is_needed=path is None or (against is not None and public_key is None))
    log = _configured(settings) if path is None else path
    if path is None and settings is not None:
        check_stated_format(settings.data_dir)  # what it says of the log can't be read; with --path its chain can
        if not log.exists():
            check_is_there(settings.data_dir)
    is_own = settings is not None and log.resolve() == settings.security.audit_log_path.resolve()
    own = settings if is_own and head is None else None
    key_file = _key_file(settings, public_key)
    kept = list(_kept(own, log, against, key_file))
    reason = f"{log} isn't the log of the data dir" if head is None else f"{log} was asked for alone"
    with _stored(own, reason) as storage:
        outbox = None if storage is None else StoredOutbox(storage)
        ends = _ends(own) if own is not None and storage is None else None
        with _hinted(is_alone=head is None and outbox is None and ends is None):
            verified = verify_log(log, outbox, kept, behind=head, ends=ends)
        if storage is not None and own is not None:
            check_end(own, storage, log)
    if against is not None:
        note(f"the log continues the one of the checkpoint {against}")
    if not log.exists():
        note(f"{log} isn't there: an empty log")
    for unseen in verified.unseen:
        whole = f"the chain is whole from entry {unseen.last + 1} on, behind the hash {unseen.head_hash}"
        note(f"{unseen}; {whole}")
    if verified.pending:
        note(f"{verified.pending} entries are pending: committed, and yet to be written to the log")
    show(_answer(verified), options, _lines)


def _check_combination(path: Path | None, head: str | None, against: Path | None) -> None:
    if head is None:
        return
    if path is None:
        raise UsageError("--head: which file? Name it with --path")
    if against is not None:
        raise UsageError("--head and --against exclude each other: the checkpoint is of the whole log")


def _settings(options: Options, is_needed: bool) -> Settings | None:
    """None when they can't be read and another log is checked anyway."""
    try:
        return load(options, only=LOCATED).settings
    except ConfigInvalid:
        if is_needed:
            raise
        return None


def _configured(settings: Settings | None) -> Path:
    if settings is None or not settings.security.audit_log_enabled:
        raise ConfigInvalid("security.audit_log_enabled: the audit log is switched off; name one with --path")
    return settings.security.audit_log_path


def _key_file(settings: Settings | None, public_key: Path | None) -> Path | None:
    if public_key is not None or settings is None:
        return public_key
    return settings.security.audit_key_path / PUBLIC_NAME


def _kept(
    own: Settings | None, log: Path, against: Path | None, key_file: Path | None
) -> Iterator[KeptCheckpoint]:
    """The one of `against`, and the one that the daemon left beside its log."""
    beside = checkpoint_path(log)
    wanted = [*([] if against is None else [against]), *([beside] if own is not None and beside.exists() else [])]
    if wanted:
        assert key_file is not None  # there are settings, or it was given
        key = read_public_key(key_file)
        yield from ((path, read_checkpoint(path, key)) for path in wanted)


@contextmanager
def _stored(own: Settings | None, reason: str) -> Iterator[Storage | None]:
    """The store that the log is of; None, with a note that has a reason, when there is none to ask about it."""
    if own is None:
        note(f"only the chain was checked: {reason}")
        yield None
        return
    try:
        storage = open_readonly(own)
    except (DataDirUnusable, PassphraseRefused) as error:
        note(f"only the chain was checked: {error}")
        yield None
        return
    with closing(storage):
        yield storage


@contextmanager
def _hinted(is_alone: bool) -> Iterator[None]:
    """Says what else a log without its first entries may be, when nothing but its chain is looked at."""
    try:
        yield
    except AuditBroken as error:
        found = error.details or {}
        if is_alone and (found.get("line"), found.get("kind")) == (1, Tampering.DELETED):
            note("if it goes on another file: put that beside it, or give --head, the hash of its last entry")
        raise


def _ends(own: Settings) -> FileEnds | None:
    """Where the store says that files end, which is plain in an encrypted one; None when it can't be asked."""
    try:
        check_stated_format(own.data_dir)
        storage = LmdbStorage.open_readonly(own.data_dir / STORE_NAME)
    except DataDirUnusable:
        return None
    with closing(storage):
        outbox = StoredOutbox(storage)
        return FileEnds(outbox.closed, outbox.synced)


def _answer(verified: Verification) -> dict[str, Any]:
    return {
        "path": str(verified.path),
        "entries": verified.entries,
        "last_sequence": verified.last_sequence,
        "head_hash": verified.head_hash,
        "pending": verified.pending,
        "unseen": [_unseen(unseen) for unseen in verified.unseen],
    }


def _unseen(unseen: Unseen) -> dict[str, Any]:
    file = None if unseen.path is None else str(unseen.path)
    return {"file": file, "from_sequence": unseen.first, "to_sequence": unseen.last, "head_hash": unseen.head_hash}


def _lines(answer: dict[str, Any]) -> str:
    names = ("path", "entries", "last_sequence", "head_hash")
    return "\n".join(["Audit log verified:", *(f"  {name}={answer[name]}" for name in names)])
