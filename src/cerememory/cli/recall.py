"""Commands that read memories: `recall`, `associate`, `recall-raw`, `inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cerememory.cli.arguments import (
    AssociationNames,
    Common,
    MemberTexts,
    ModeName,
    RecordIdText,
    SecrecyNames,
    StoreNames,
    Texts,
    UnitNumber,
    WholeNumber,
)
from cerememory.cli.bodies import given, scope
from cerememory.cli.memory import connect
from cerememory.cli.output import indented, leaves, note, pretty, rows_table, show, text_of
from cerememory.domain.visible import visible

if TYPE_CHECKING:
    from rich.table import Table

FOLDED_WIDTH = 18  # half a UUID; with more, ids, times and speakers have no room in 80 columns


def recall(
    query: str | None = None,
    /,
    *,
    limit: WholeNumber = 10,
    mode: ModeName = "human",
    stores: StoreNames | None = None,
    session_id: str | None = None,
    source: str | None = None,
    tag: Texts | None = None,
    metadata: MemberTexts | None = None,
    options: Common,
) -> None:
    """Find memories; without a query, the newest.

    Args:
        query: Words, or a question.
        limit: How many to show at most.
        mode: Human shows faded memories with holes, perfect as they were stored.
        stores: Only those of these stores, as episodic,semantic.
        session_id: Only those of this session.
        source: Only those from this source.
        tag: Only those with this tag; may be given again, and then with all of them.
        metadata: Only those with this in their metadata, as NAME=VALUE, JSON where it is any; may be given again.
    """
    kept_to = scope(session_id, source, tag, metadata)
    body = {
        "cue": given({"text": query}),
        "stores": stores,
        "limit": limit,
        "recall_mode": mode,
        "scope": kept_to,
    }
    with connect(options) as memory:
        recalled = memory.call("recall.query", given(body))
    _note_if_behind(recalled["query_metadata"])
    _note_if_cut(recalled)
    show(recalled, options, _recalled_text, _recalled_table)


def _note_if_behind(searched: Any) -> None:
    if not searched.get("index_complete", True):
        note("the search index is still catching up, there may be more to find")


def _note_if_cut(recalled: Any) -> None:
    if recalled.get("truncated"):
        note("what was found is more than one answer has room for; the first of it is shown")


def _recalled_text(recalled: Any) -> str:
    found = f"Found {len(recalled['memories'])} memories (total candidates: {recalled['total_candidates']})"
    return "\n".join([found, *(_hit(rank, hit) for rank, hit in enumerate(recalled["memories"], 1))])


def _hit(rank: int, hit: Any) -> str:
    record = hit["record"]
    score, fidelity = hit["relevance_score"], record["fidelity"]["score"]
    return (
        f"{rank}. [{record['store']}] score={score:.4f} fidelity={fidelity:.4f}\n"
        f"   ID: {record['id']}\n"
        f"{indented(text_of(hit['rendered_content']))}"
    )


def _recalled_table(recalled: Any) -> Table:
    rows = [
        (
            text_of(hit["rendered_content"]),
            hit["record"]["id"],
            hit["record"]["store"],
            f"{hit['relevance_score']:.4f}",
            f"{hit['record']['fidelity']['score']:.4f}",
        )
        for hit in recalled["memories"]
    ]
    return _found_table(("store", "score", "fidelity"), rows, recalled["total_candidates"])


def _found_table(
    names: tuple[str, ...], rows: Sequence[tuple[str, ...]], candidates: int, *, folded: str | None = None
) -> Table:
    """Each row: the text, what is known of it below, then the values of `names`; those of `folded` may be long."""
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=f"{len(rows)} of {candidates} found", caption_justify="left")
    table.add_column("#", justify="right")
    table.add_column("memory", overflow="fold", min_width=36, ratio=1)
    for name in names:
        table.add_column(name, overflow="fold", max_width=FOLDED_WIDTH if name == folded else None)
    for rank, (text, below, *values) in enumerate(rows, 1):
        cell = Text(f"{text}\n").append(below, style="dim")
        table.add_row(str(rank), cell, *(Text(value) for value in values))
    return table


def associate(
    record_id: RecordIdText,
    /,
    *,
    depth: WholeNumber = 2,
    limit: WholeNumber = 10,
    min_weight: UnitNumber = 0.1,
    association_types: AssociationNames | None = None,
    options: Common,
) -> None:
    """Find what a memory is linked to, the strongest first; the score is its activation.

    Args:
        record_id: The memory's id.
        depth: How many links away at most, up to 8.
        limit: How many to show at most, up to 256.
        min_weight: Links that weigh less, from 0 to 1, aren't followed.
        association_types: Follow links of these types alone, with commas between.
    """
    body = {
        "depth": depth,
        "limit": limit,
        "min_weight": min_weight,
        "association_types": association_types,
    }
    with connect(options) as memory:
        found = memory.call("recall.associate", given(body), path_params={"record_id": record_id})
    _note_if_cut(found)
    show(found, options, _recalled_text, _recalled_table)


def recall_raw(
    query: str | None = None,
    /,
    *,
    session_id: str | None = None,
    limit: WholeNumber = 10,
    include_private_scratch: bool = False,
    include_sealed: bool = False,
    secrecy_levels: SecrecyNames | None = None,
    options: Common,
) -> None:
    """Find entries of the raw journal, the oldest first.

    Args:
        query: Words that an entry must all have.
        session_id: Of this session alone.
        limit: How many to show at most.
        include_private_scratch: Show private scratch too.
        include_sealed: Show what is sealed too.
        secrecy_levels: The levels to show, with commas between; public and sensitive without this.
    """
    body = {
        "query": query,
        "session_id": session_id,
        "limit": limit,
        "include_private_scratch": include_private_scratch,
        "include_sealed": include_sealed,
        "secrecy_levels": secrecy_levels,
    }
    with connect(options) as memory:
        recalled = memory.call("recall.raw_query", given(body))
    _note_if_behind(recalled)
    _note_if_cut(recalled)
    show(recalled, options, pretty, _raw_table)


def _raw_table(recalled: Any) -> Table:
    rows = [
        (
            text_of(record["content"]),
            f"{record['id']}\n{record['created_at'][:19]}Z",  # in a column of its own it has no room in 80
            visible(record["session_id"]),
            record["speaker"],
        )
        for record in recalled["records"]
    ]
    return _found_table(("session", "speaker"), rows, recalled["total_candidates"], folded="session")


def inspect(record_id: RecordIdText, /, *, options: Common) -> None:
    """Show one memory with all that is known of it.

    Args:
        record_id: The memory's id.
    """
    with connect(options) as memory:
        record = memory.call("introspect.record", path_params={"record_id": record_id})
    show(record, options, pretty, _record_table)


def _record_table(record: Any) -> Table:
    """The text first, then everything else that says something."""
    content, emotion = record["content"], record["emotion"]
    felt = {name: strength for name, strength in emotion.items() if strength}
    rest = {name: value for name, value in record.items() if name not in ("content", "emotion")}
    return rows_table(
        [("text", text_of(content)), *leaves({"summary": content.get("summary"), "emotion": felt, **rest})]
    )
