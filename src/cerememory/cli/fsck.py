"""`cerememory fsck`: says what contradicts in the data dir and changes nothing, beside a running daemon too.

Reads of the configuration only where things are, so that no broken setting stands in the way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from typing import Any

from cerememory.cli.arguments import Common
from cerememory.cli.output import note, pretty
from cerememory.cli.settings import load
from cerememory.config.settings import SecuritySettings, Settings
from cerememory.storage.fsck import Finding, Tally, check
from cerememory.storage.lmdb import LmdbStorage

KEYS = ("data_dir", "security.audit_log_path", "security.audit_log_enabled", "security.persist_search_indexes")
FINDINGS_MAX = 10_000  # what is that broken needs no longer list
BROKEN = 1


def fsck(*, options: Common) -> int:
    """Check that what is stored adds up; changes nothing. Exit code 1 when something doesn't.

    Rows are compared with those that say the same, counters with counts, the audit log with its chain, the text
    index with the rows.
    """
    settings, tally = load(options, only=KEYS).settings, Tally()
    with closing(LmdbStorage.open_readonly(settings.data_dir / "store")) as storage:
        findings = islice(_findings(settings, storage, tally), FINDINGS_MAX)
        found = _listed(findings, tally) if options.json else _printed(findings, tally)
    if found == FINDINGS_MAX:
        note(f"there may be more: the list ends at {FINDINGS_MAX}")
    return BROKEN if found else 0


def _findings(settings: Settings, storage: LmdbStorage, tally: Tally) -> Iterator[Finding]:
    security: SecuritySettings = settings.security
    return check(
        storage,
        index_path=settings.data_dir / "index" if security.persist_search_indexes else None,
        audit_path=security.audit_log_path if security.audit_log_enabled else None,
        now=time.time_ns(),
        tally=tally,
    )


def _listed(findings: Iterator[Finding], tally: Tally) -> int:
    answer: dict[str, Any] = {"findings": [asdict(finding) for finding in findings], **asdict(tally)}
    print(pretty(answer))
    return len(answer["findings"])


def _printed(findings: Iterator[Finding], tally: Tally) -> int:
    """Each as soon as it is found."""
    count = 0
    for finding in findings:
        count += 1
        print(finding, flush=True)
    for said in tally.notes:
        note(said)
    print(f"{count} finding(s) in" if count else "Nothing is wrong with", _counted(tally))
    return count


def _counted(tally: Tally) -> str:
    return (
        f"{tally.memories} memories, {tally.archived} archived, {tally.raw_entries} raw entries"
        f" in {tally.namespaces} namespaces; {tally.dangling_edges} edges lead to what isn't stored"
    )
