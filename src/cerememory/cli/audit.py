"""`cerememory audit-verify`: checks the audit log and changes nothing, beside a running daemon too.

The log of the data dir is compared with what the store says of it; of any other file the chain alone can be
checked. Reads of the configuration only where the log is, so that no broken setting stands in the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cerememory.cli.arguments import Common
from cerememory.cli.options import Options
from cerememory.cli.output import note, show
from cerememory.cli.settings import load
from cerememory.cli.stores import LOCATED, open_readonly
from cerememory.config.settings import Settings
from cerememory.errors import ConfigInvalid, DataDirUnusable, PassphraseRefused
from cerememory.storage.audit_file import Verification, verify_file
from cerememory.storage.audit_outbox import StoredOutbox


def audit_verify(*, path: Path | None = None, options: Common) -> None:
    """Check the audit log; changes nothing.

    Args:
        path: Another log than the configured one.
    """
    settings = _settings(options, is_needed=path is None)
    log = _configured(settings) if path is None else path
    with _outbox(settings, log) as outbox:
        verified = verify_file(log, outbox)
    if not log.exists():
        note(f"{log} isn't there: an empty log")
    if verified.pending:
        note(f"{verified.pending} entries are pending: committed, and yet to be written to the log")
    show(_answer(verified), options, _lines)


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


@contextmanager
def _outbox(settings: Settings | None, log: Path) -> Iterator[StoredOutbox | None]:
    """What the store says of `log`; None, with a note, when there is no store to ask about it."""
    if settings is None or log.resolve() != settings.security.audit_log_path.resolve():
        note(f"only the chain was checked: {log} isn't the log of the data dir")
        yield None
        return
    try:
        storage = open_readonly(settings)
    except (DataDirUnusable, PassphraseRefused) as error:
        note(f"only the chain was checked: {error}")
        yield None
        return
    try:
        yield StoredOutbox(storage)
    finally:
        storage.close()


def _answer(verified: Verification) -> dict[str, Any]:
    return {
        "path": str(verified.path),
        "entries": verified.entries,
        "last_sequence": verified.last_sequence,
        "head_hash": verified.head_hash,
        "pending": verified.pending,
    }


def _lines(answer: dict[str, Any]) -> str:
    names = ("path", "entries", "last_sequence", "head_hash")
    return "\n".join(["Audit log verified:", *(f"  {name}={answer[name]}" for name in names)])
