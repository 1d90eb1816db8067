"""`cerememory consolidate`."""

from __future__ import annotations

from typing import Any

from cerememory.cli.arguments import Common, StrategyName, WholeNumber
from cerememory.cli.memory import connect
from cerememory.cli.output import leaves, rows_table, show


def consolidate(
    *,
    strategy: StrategyName = "incremental",
    min_age_hours: WholeNumber = 0,
    min_access_count: WholeNumber = 0,
    dry_run: bool = False,
    dedup: bool = False,
    options: Common,
) -> None:
    """Merge duplicates, and make knowledge of memories: each gets one copy in the semantic store.

    Without --min-age-hours and --min-access-count these are all episodic memories, new ones too. A memory that has
    its copy gets no second one, however often this runs.

    Args:
        strategy: Incremental looks at what changed since the last time, full at all, selective at what the
            other options say.
        min_age_hours: Copy only memories of this age; 0 also those of this moment.
        min_access_count: Copy only memories that were recalled so often; 0 also those that never were.
        dry_run: Only count what would be done.
        dedup: Take memories with near embeddings for the same, whatever their texts say.
    """
    body = {
        "strategy": strategy,
        "min_age_hours": min_age_hours,
        "min_access_count": min_access_count,
        "dry_run": dry_run,
        "dedup": dedup,
    }
    with connect(options) as memory:
        consolidated = memory.call("lifecycle.consolidate", body)
    show(consolidated, options, _line, lambda answer: rows_table(leaves(answer)))


def _line(consolidated: Any) -> str:
    names = ("processed", "migrated", "compressed", "pruned")
    counts = [f"{name}={consolidated[f'records_{name}']}" for name in names]
    counts.append(f"semantic_nodes_created={consolidated['semantic_nodes_created']}")
    return f"Consolidated: {', '.join(counts)}"
