"""`cerememory audit-verify`: checks the audit log and changes nothing, beside a running daemon too.

The log of the data dir is compared with what the store says of it; of any other file the chain alone can be
checked. Reads of the configuration only where the log is, so that no broken setting stands in the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cerememory.actors.audit import StoredOutbox
from cerememory.cli.arguments import Common
from cerememory.cli.options import Options
from cerememory.cli.output import note, show
from cerememory.cli.settings import load
from cerememory.config.settings import Settings
from cerememory.errors import ConfigInvalid, DataDirUnusable
from cerememory.storage.audit_file import Verification, verify_file
from cerememory.storage.lmdb import LmdbStorage

KEYS = ("data_dir", "security.audit_log_path", "security.audit_log_enabled")


def audit_verify(*, path: Path | None = None, options: Common) -> None:
    """Check the audit log; changes nothing.

    Args:
        path: Another log than the configured one.
    """
    settings = _settings(options, is_needed=path is None)
    ...
