"""`cerememory dream-tick`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from cerememory.cli.arguments import Common, SecrecyNames, WholeNumber
from cerememory.cli.bodies import given
from cerememory.cli.memory import connect
from cerememory.cli.output import leaves, pretty, rows_table, show


def dream_tick(
    *,
    session_id: str | None = None,
    dry_run: bool = False,
    max_groups: WholeNumber = 10,
    include_private_scratch: bool = False,
    include_sealed: bool = False,
    promote_semantic: Annotated[bool, Parameter(negative="--no-promote-semantic")] = True,
    secrecy_levels: SecrecyNames | None = None,
    options: Common,
) -> None:
    """Make memories of what the raw journal holds.

    Args:
        session_id: Only entries of this session.
        dry_run: Only count what would be made.
        max_groups: How many groups of entries to take at most.
        include_private_scratch: Also take private scratch entries; of them no word is told.
        include_sealed: Also take sealed entries; of them no word is told.
        promote_semantic: Make knowledge of groups with a topic.
        secrecy_levels: Which secrecy levels to take, as public,sensitive.
    """
    body = {
        "session_id": session_id,
        "dry_run": dry_run,
        "max_groups": max_groups,
        "include_private_scratch": include_private_scratch,
        "include_sealed": include_sealed,
        "promote_semantic": promote_semantic,
        "secrecy_levels": secrecy_levels,
    }
    with connect(options) as memory:
        dreamt = memory.call("lifecycle.dream_tick", given(body))
    show(dreamt, options, pretty, lambda answer: rows_table(leaves(answer)))
