"""`cerememory reindex`: builds anew what follows from the memories, which stay as they are.

`fsck --repair` builds the search index again when something is wrong with it; this does in any case. It owns the
data dir meanwhile; beside a daemon, `compact` builds the index again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerememory.cli.arguments import Common
from cerememory.cli.fsck import REPAIR_KEYS, index_path, mended, note_aside, owned
from cerememory.cli.output import note, show
from cerememory.cli.progress import counting
from cerememory.cli.settings import load
from cerememory.cli.stores import refuse_remote
from cerememory.errors import ConfigInvalid, DataDirLocked

if TYPE_CHECKING:
    from cerememory.storage.contract import Storage


def reindex(*, embeddings: bool = False, options: Common) -> None:
    """Build the search index anew from the memories, and mend what else follows from them. No daemon may run.

    The memories stay as they are. While a daemon runs, compact builds the search index anew.

    Args:
        embeddings: Ask the LLM provider for the embeddings of older memories.
    """
    if embeddings:
        raise ConfigInvalid("--embeddings: this version can't do that yet; leave it out")
    refuse_remote(options)
    settings = load(options, only=REPAIR_KEYS).settings
    index = index_path(settings)
    try:
        with owned(settings) as (directory, storage):
            repaired = mended(settings, directory, storage, index=None)
            indexed = 0 if index is None else _rebuilt(index, storage)
    except DataDirLocked as error:
        error.add_note("beside a daemon, compact builds the search index anew")
        raise
    if index is None:
        note("the search index is kept in memory, and built anew at each start")
    show({"records_indexed": indexed, "repaired": dict(repaired.rows)}, options, _told)


def _rebuilt(path: Path, storage: Storage) -> int:
    """How many records the new index has."""
    from cerememory.storage.reindex import record_count  # here, as all that loads the daemon
    from cerememory.storage.repair import rebuild_index

    with counting("Indexing", "records", lambda: record_count(storage)) as progress:
        rebuilt = rebuild_index(path, storage, progress)
    note_aside(path, rebuilt.aside)
    return rebuilt.records


def _told(answer: dict[str, Any]) -> str:
    mended = "".join(f", mended {count} row(s) of {part}" for part, count in sorted(answer["repaired"].items()))
    return f"Reindexed {answer['records_indexed']} records{mended}"
