"""The store of a data dir for commands that look at it themselves, beside a running daemon too."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from cerememory.cli.options import Options, UsageError
from cerememory.config.settings import Settings
from cerememory.errors import AuditBroken
from cerememory.storage.audit_closed import check_closed
from cerememory.storage.audit_head import check_head
from cerememory.storage.audit_keys import KEY_NAME, read_keys
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_tree import AuditTree
from cerememory.storage.backup import STORE_NAME
from cerememory.storage.contract import Storage
from cerememory.storage.datadir import check_is_there, check_stated_format
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.sealed import KEYRING_KEY, opened_readonly

LOCATED = (
    *("data_dir", "security.audit_log_path", "security.audit_log_enabled", "security.audit_key_path"),
    "security.store_encryption_passphrase",
)
"""The keys that say where things are, and open them: whatever is wrong with others doesn't stand in the way."""


def open_readonly(settings: Settings, path: Path | None = None) -> Storage:
    """The store of the data dir, or the copy of it at `path`, for one thread that only reads.

    Raises `DataDirUnusable` when there is none, or one of another format, `PassphraseRefused` when it is encrypted
    with another.
    """
    if path is None:
        check_stated_format(settings.data_dir)
        if not (settings.data_dir / STORE_NAME).exists():
            check_is_there(settings.data_dir)
    lmdb = LmdbStorage.open_readonly(settings.data_dir / STORE_NAME if path is None else path)
    with ExitStack() as stack:
        stack.callback(lmdb.close)
        storage = opened_readonly(lmdb, settings.security.store_encryption_passphrase)
        stack.pop_all()
    return storage


def is_locked(settings: Settings, path: Path) -> bool:
    """Whether the store at `path` is encrypted, and no passphrase is given."""
    if settings.security.store_encryption_passphrase is not None:
        return False
    with closing(LmdbStorage.open_readonly(path)) as storage, storage.read() as reader:
        return reader.get(KEYRING_KEY) is not None


def check_end(settings: Settings, storage: Storage, log: Path) -> None:
    """Raise `AuditBroken` unless the end of `log` in the store was sealed by an owner, with what follows from it.

    The key is that of the settings; without it nothing can be said, and no daemon starts.
    """
    tree, path = AuditTree(storage, log), settings.security.audit_key_path
    head = tree.head
    if not head.audit_sequence:
        return
    keys = read_keys(path)
    if keys is None:
        raise AuditBroken(f"{path / KEY_NAME}: the key of the audit log is missing; restore it from a backup")
    check_head(head, keys.head_key)
    for closed in StoredOutbox(storage).closed:
        check_closed(closed, keys.head_key)
    tree.check()


def refuse_remote(options: Options) -> None:
    """For commands that need the data dir itself. Raises `UsageError` when another daemon is named."""
    if options.server_url is not None:
        raise UsageError("--server-url: this command works on the data directory itself")
