"""`cerememory fsck`: says what contradicts in the data dir and changes nothing, beside a running daemon too.

With `--repair` it first mends what follows from other rows, and needs the data dir for itself. Reads of the
configuration only where things are, so that no broken setting stands in the way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerememory.cli.arguments import Common
from cerememory.cli.output import note, pretty
from cerememory.cli.settings import load
from cerememory.cli.stores import LOCATED, open_readonly, refuse_remote
from cerememory.cli.turns import take
from cerememory.config.settings import SecuritySettings, Settings
from cerememory.domain.visible import visible
from cerememory.errors import StorageDamaged
from cerememory.storage.audit_keys import open_keys
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.contract import Storage
from cerememory.storage.datadir import DataDir, check_format
from cerememory.storage.fsck import Finding, Tally, check, damage

if TYPE_CHECKING:
    from cerememory.storage.repair import Repair

KEYS = (*LOCATED, "security.persist_search_indexes")
REPAIR_KEYS = (*KEYS, "storage.map_size_gib", "storage.map_size_max_gib", "storage.min_free_disk_mib")
FINDINGS_MAX = 10_000  # what is that broken needs no longer list
BROKEN = 1


def fsck(*, repair: bool = False, options: Common) -> int:
    """Check that what is stored adds up; changes nothing unless told to. Exit code 1 when something doesn't.

    Rows are compared with those that say the same, counters with counts, the audit log with its chain, the text
    index with the rows.

    Args:
        repair: First mend indexes and counters, from the memories, which stay as they are; no daemon may run.
    """
    refuse_remote(options)
    settings, tally = load(options, only=REPAIR_KEYS if repair else KEYS).settings, Tally()
    repaired = _repaired(settings) if repair else None
    findings = islice(_findings(settings, tally), FINDINGS_MAX)
    found = _listed(findings, tally, repaired) if options.json else _printed(findings, tally, repaired)
    if found == FINDINGS_MAX:
        note(f"there may be more: the list ends at {FINDINGS_MAX}")
    return BROKEN if found else 0


def _repaired(settings: Settings) -> Repair:
    with owned(settings) as (directory, storage):
        index = index_path(settings)
        repaired = mended(settings, directory, storage, index)
    note_aside(index, repaired.aside)
    return repaired


def note_aside(index: Path | None, aside: Path | None) -> None:
    if aside is not None:
        note(f"{index} was no directory, and is {aside} now")


@contextmanager
def owned(settings: Settings) -> Iterator[tuple[DataDir, Storage]]:
    """A data dir and its store. Raises `DataDirLocked` naming a daemon that owns the data dir."""
    from cerememory.actors.assembly import open_storage  # here, for it loads the whole daemon

    check_format(settings.data_dir)  # a data dir that isn't there isn't made
    with take(settings.data_dir, note) as directory, closing(open_storage(settings, directory)) as storage:
        directory.announce("")
        yield directory, storage


def mended(settings: Settings, directory: DataDir, storage: Storage, index: Path | None) -> Repair:
    """What was mended of the rows, and of the text index in `index`."""
    from cerememory.storage.repair import repair

    head_key = _head_key(settings.security, storage)
    return repair(
        storage,
        index_path=index,
        spool_path=directory.path,
        now=time.time_ns(),
        audited=head_key is not None,
        head_key=head_key,
    )


def _head_key(security: SecuritySettings, storage: Storage) -> bytes | None:
    """What the audit log's head is sealed with; None when it is switched off."""
    if not security.audit_log_enabled:
        return None
    head = StoredOutbox(storage).head
    return open_keys(security.audit_key_path, may_create=not head.sequence).head_key


def index_path(settings: Settings) -> Path | None:
    """Where the text index is; None when it is in memory."""
    return settings.data_dir / "index" if settings.security.persist_search_indexes else None


def _findings(settings: Settings, tally: Tally) -> Iterator[Finding]:
    security: SecuritySettings = settings.security
    try:
        storage = open_readonly(settings)
    except StorageDamaged as error:
        yield damage(error, tally)
        return
    with closing(storage):
        yield from check(
            storage,
            index_path=index_path(settings),
            audit_path=security.audit_log_path if security.audit_log_enabled else None,
            now=time.time_ns(),
            tally=tally,
        )


def _listed(findings: Iterator[Finding], tally: Tally, repaired: Repair | None) -> int:
    answer: dict[str, Any] = {} if repaired is None else {"repaired": repaired.summary}
    answer |= {"findings": [finding.described() for finding in findings], **asdict(tally)}
    print(pretty(answer))
    return len(answer["findings"])


def _printed(findings: Iterator[Finding], tally: Tally, repaired: Repair | None) -> int:
    """Each as soon as it is found."""
    if repaired is not None:
        print(_mended(repaired))
    count = 0
    for finding in findings:
        count += 1
        print(visible(str(finding)), flush=True)
    for said in tally.notes:
        note(said)
    print(f"{count} finding(s) in" if count else "Nothing is wrong with", _counted(tally))
    return count


def _mended(repaired: Repair) -> str:
    parts = [f"{count} row(s) of {part}" for part, count in sorted(repaired.rows.items())]
    return "Repaired: " + (", ".join([*parts, *["the text index"] * repaired.index]) or "nothing")


def _counted(tally: Tally) -> str:
    return (
        f"{tally.memories} memories, {tally.archived} archived, {tally.raw_entries} raw entries"
        f" in {tally.namespaces} namespaces; {tally.dangling_edges} edges lead to what isn't stored"
    )
