"""`cerememory migrate-store-encryption`, `change-passphrase` and `rotate-key`: they own the data dir meanwhile.

What they replace stays on the disk in pages that are free until the store is compacted, so each ends with that,
after its entry in the audit log.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cerememory.actors.assembly import open_storage, opened_on
from cerememory.cli.arguments import Common
from cerememory.cli.groups import ungrouped
from cerememory.cli.offline import without_timers
from cerememory.cli.options import Options
from cerememory.cli.output import note, show
from cerememory.cli.passphrases import passphrase
from cerememory.cli.progress import Advance, counting
from cerememory.cli.settings import check_start, load
from cerememory.cli.stores import refuse_remote
from cerememory.cli.turns import take
from cerememory.config.settings import Settings
from cerememory.domain.audit_chain import AuditDraft
from cerememory.errors import ConfigInvalid
from cerememory.protocol.records import DURABLE_STORES, STORES
from cerememory.protocol.requests import Compact
from cerememory.storage import resealing
from cerememory.storage.datadir import DataDir, check_format
from cerememory.storage.keyring import SETTING, Wrapping
from cerememory.storage.resealing import Resealed
from cerememory.storage.sealed import SealedStorage
from cerememory.telemetry import logs
from cerememory.telemetry.metrics import Metrics

QUESTION = "Encrypt all that is stored under the passphrase? Whoever loses it loses the memories. [y/N] "


def migrate_store_encryption(*, confirm: bool = False, options: Common) -> None:
    """Encrypt what was stored before there was a passphrase. No daemon may run meanwhile.

    A run that was cut short is taken up by the next.

    Args:
        confirm: Don't ask.
    """
    if not confirm:
        _ask()
    with _owned(options) as owned:
        with owned.progress() as progress:
            resealed = resealing.migrate(owned.storage, progress)
        owned.finish("security.migrate_store_encryption", _sections(resealed, "records_"))
    show(_sections(resealed), options, lambda answer: _lines("Store encryption migration completed:", answer))


def _ask() -> None:
    """Raises `ConfigInvalid` unless somebody at a terminal says yes."""
    if not sys.stdin.isatty():
        raise ConfigInvalid("migrate-store-encryption: rewrites all that is stored; give --confirm")
    print(QUESTION, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigInvalid("nothing was encrypted")


def rotate_key(*, options: Common) -> None:
    """Encrypt all that is stored under new keys, and drop the old ones. No daemon may run meanwhile.

    The passphrase stays. A run that was cut short leaves everything readable, and is done anew by the next.
    """
    with _owned(options) as owned:
        with owned.progress() as progress:
            resealed = resealing.rotate(owned.storage, progress)
        owned.finish("security.rotate_key", _sections(resealed, "records_"))
    show(_sections(resealed), options, lambda answer: _lines("Store keys rotated:", answer))


def change_passphrase(
    *, new_passphrase_stdin: bool = False, new_passphrase_file: Path | None = None, options: Common
) -> None:
    """Put the store's keys under another passphrase; what is stored stays as it is. No daemon may run meanwhile.

    The configured passphrase must be that of now. Configure the new one afterwards.

    Args:
        new_passphrase_stdin: Read the new passphrase from stdin, or ask for it.
        new_passphrase_file: Read the new passphrase from this file; without it, CEREMEMORY_NEW_PASSPHRASE has it.
    """
    new = passphrase("--new-passphrase", None, new_passphrase_stdin, new_passphrase_file, twice=True)
    if new is None and sys.stdin.isatty():
        new = passphrase("--new-passphrase", None, True, None, twice=True)
    if new is None or not new.strip():
        raise ConfigInvalid(
            "change-passphrase: needs --new-passphrase-stdin, --new-passphrase-file or CEREMEMORY_NEW_PASSPHRASE"
        )
    with _owned(options) as owned:
        owned.storage.rewrap(Wrapping.new(new))
        owned.finish("security.change_passphrase", {})
    note(f"configure the new passphrase ({SETTING})")
    show({"changed": True}, options, lambda _answer: "Passphrase changed")


class _Owned:
    """A data dir that this command owns, and its encrypted store."""

    def __init__(self, settings: Settings, directory: DataDir, storage: SealedStorage) -> None:
        self.storage = storage
        self._settings = without_timers(settings)
        self._directory = directory

    def progress(self) -> AbstractContextManager[Advance]:
        """To be told how many more rows were looked at."""
        return counting("Encrypting", "rows", partial(resealing.row_count, self.storage))

    def finish(self, operation: str, summary: dict[str, Any]) -> None:
        """Note in the audit log what was done, and rid the disk of what it replaced."""
        stores = () if not summary else tuple(store.value for store in DURABLE_STORES)
        trio.run(self._finish, AuditDraft(time.time_ns(), operation, (), stores, summary))

    async def _finish(self, audit: AuditDraft) -> None:
        metrics = Metrics([store.value for store in STORES])
        async with opened_on(self.storage, self._settings, self._directory, metrics) as engine:
            await engine.note(audit)
            await engine.lifecycle_compact(Compact())


@contextmanager
def _owned(options: Options) -> Iterator[_Owned]:
    """Raises `ConfigInvalid` without a passphrase, `DataDirLocked` while a daemon runs."""
    refuse_remote(options)
    loaded = load(options)
    settings = loaded.settings
    check_start(loaded, for_serve=False)
    if settings.security.store_encryption_passphrase is None:
        raise ConfigInvalid(f"{SETTING}: is needed")
    check_format(settings.data_dir)  # a data dir that isn't there isn't made
    logs.configure("warn", settings.log.format)
    with (
        ungrouped(),
        take(settings.data_dir, note) as directory,
        closing(open_storage(settings, directory)) as storage,
    ):
        directory.announce("")
        assert isinstance(storage, SealedStorage)  # for it has a passphrase
        yield _Owned(settings, directory, storage)


def _sections(resealed: Resealed, prefix: str = "") -> dict[str, dict[str, int]]:
    """The counts of each section, under the names of the answer, or with `prefix` those of the audit entry."""
    return {
        name: {
            f"{prefix}total": section.total,
            f"{prefix}migrated": section.migrated,
            f"{prefix}already_encrypted": section.already_encrypted,
        }
        for name, section in resealed.sections.items()
    }


def _lines(title: str, answer: dict[str, dict[str, int]]) -> str:
    sections = (
        f"  {name}: " + ", ".join(f"{what}={count}" for what, count in counts.items())
        for name, counts in answer.items()
    )
    return "\n".join([title, *sections])
