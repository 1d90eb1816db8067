"""The command that shows memories by the time they were made: `timeline`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cerememory.cli.arguments import Common, GranularityName, TimeText, UnitNumber
from cerememory.cli.bodies import emotion as emotion_vector
from cerememory.cli.bodies import given
from cerememory.cli.memory import connect
from cerememory.cli.output import indented, note, show, text_of
from cerememory.protocol.values import NANOS, format_timestamp

if TYPE_CHECKING:
    from rich.table import Table

WEEK_NS = 7 * 86_400 * NANOS


def timeline(
    *,
    start: TimeText | None = None,
    end: TimeText | None = None,
    granularity: GranularityName = "day",
    min_fidelity: UnitNumber | None = None,
    emotion: str | None = None,
    options: Common,
) -> None:
    """Show memories by the time they were made, in buckets; working memory isn't among them.

    Args:
        start: The first moment, as 2026-01-31T08:00:00Z; a week ago without this.
        end: The last moment; now without this.
        granularity: How long a bucket is.
        min_fidelity: Only memories that are at least as clear, from 0 to 1.
        emotion: Only what felt like joy, trust, fear, surprise, sadness, disgust, anger or anticipation.
    """
    now = time.time_ns()
    span = {"start": start or format_timestamp(now - WEEK_NS), "end": end or format_timestamp(now)}
    body = {
        "range": span,
        "granularity": granularity,
        "min_fidelity": min_fidelity,
        "emotion_filter": emotion_vector(emotion),
    }
    with connect(options) as memory:
        found = memory.call("recall.timeline", given(body))
    if found.get("truncated"):
        note("there are more memories than one answer has; take a shorter range to see the others")
    show(found, options, _text, _table)


def _text(found: Any) -> str:
    buckets = found["buckets"]
    lines = [f"Found {sum(bucket['count'] for bucket in buckets)} memories in {len(buckets)} buckets"]
    for bucket in buckets:
        lines.append(f"{bucket['start']} {bucket['count']}")
        lines += [_memory(hit) for hit in bucket["memories"]]
    return "\n".join(lines)


def _memory(hit: Any) -> str:
    record, text = hit["record"], text_of(hit["rendered_content"])
    return f"   {record['created_at']} [{record['store']}] {record['id']}\n{indented(indented(text))}"


def _table(found: Any) -> Table:
    from rich.table import Table
    from rich.text import Text

    buckets = found["buckets"]
    count = sum(bucket["count"] for bucket in buckets)
    table = Table(caption=f"{count} memories in {len(buckets)} buckets", caption_justify="left")
    table.add_column("from")
    table.add_column("memory", overflow="fold", min_width=36, ratio=1)
    table.add_column("store")
    for bucket in buckets:
        for i, hit in enumerate(bucket["memories"]):
            record = hit["record"]
            cell = Text(f"{text_of(hit['rendered_content'])}\n").append(record["id"], style="dim")
            table.add_row("" if i else bucket["start"], cell, record["store"])
    return table
