"""`cerememory decay-tick`, `set-mode`, `forget`, `restore` and `compact`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from cerememory.cli.arguments import (
    Common,
    ModeName,
    RecordIdText,
    RecordIdTexts,
    StoreName,
    StoreNames,
    WholeNumber,
)
from cerememory.cli.bodies import given
from cerememory.cli.memory import connect
from cerememory.cli.options import Options, UsageError
from cerememory.cli.output import indented, leaves, note, rows_table, show
from cerememory.domain.visible import visible
from cerememory.errors import ForgetUnconfirmed
from cerememory.protocol.values import UINT32_MAX

if TYPE_CHECKING:
    from rich.table import Table


def decay_tick(
    *, duration: Annotated[WholeNumber, Parameter(validator=Number(gte=0, lte=UINT32_MAX))] = 0, options: Common
) -> None:
    """Bring what is written down of every memory's fidelity up to date.

    Args:
        duration: As if that many more seconds had passed.
    """
    with connect(options) as memory:
        ticked = memory.call("lifecycle.decay_tick", given({"tick_duration_seconds": duration or None}))
    show(ticked, options, _ticked, lambda answer: rows_table(leaves(answer)))


def _ticked(answer: dict[str, Any]) -> str:
    return (
        "Decay tick completed:\n"
        f"  Records updated: {answer['records_updated']}\n"
        f"  Records below threshold: {answer['records_below_threshold']}\n"
        f"  Records pruned: {answer['records_pruned']}"
    )


def set_mode(mode: ModeName, /, *, scope: StoreNames | None = None, options: Common) -> None:
    """Show memories as they were stored (perfect), or as they are remembered (human).

    Args:
        mode: human or perfect.
        scope: Only of these stores, as episodic,semantic.
    """
    with connect(options) as memory:
        memory.call("lifecycle.set_mode", given({"mode": mode, "scope": scope}))
    show({"mode": mode}, options, lambda answer: f"Recall mode updated to {answer['mode'].capitalize()}")


def forget(
    *record_id: RecordIdText,
    cascade: bool = False,
    store: StoreName | None = None,
    session: str | None = None,
    raw: RecordIdTexts | None = None,
    dry_run: bool = False,
    confirm: bool = False,
    compact: bool = False,
    options: Common,
) -> None:
    """Delete memories and raw entries; they can't be brought back.

    Args:
        record_id: The memories' ids.
        cascade: Also the memories that these point to, and what was dreamt of these raw entries alone.
        store: All memories of this store.
        session: All raw entries of this session.
        raw: The id of a raw entry; may be given again.
        dry_run: Only count what would go.
        confirm: Don't ask.
        compact: Rid the disk of every trace of them at once, as the command compact does.
    """
    ids = {"record_ids": record_id or None, "raw_record_ids": raw}
    body = given({**ids, "store": store, "session_id": session})
    if not body:
        raise UsageError("what is to be forgotten? Give ids, --store, --session or --raw")
    if dry_run and compact:
        raise UsageError("--dry-run and --compact exclude each other")
    asked = {**body, "cascade": cascade, "confirm": True}
    if not (dry_run or confirm):
        _ask(_counted(asked, options))
    with connect(options) as memory:
        answer = memory.call("lifecycle.forget", {**asked, "dry_run": dry_run})
        if compact:
            answer |= memory.call("lifecycle.compact", {})
    lines = [_would_delete if dry_run else _deleted, *([_compacted] if compact else [])]
    show(answer, options, lambda answer: "\n".join(line(answer) for line in lines))


def _would_delete(answer: dict[str, Any]) -> str:
    return f"Would delete {answer['records_deleted']} record(s)"


def _deleted(answer: dict[str, Any]) -> str:
    return f"Deleted {answer['records_deleted']} record(s)"


def _compacted(answer: dict[str, Any]) -> str:
    before, after = answer["bytes_before"], answer["bytes_after"]
    return f"Compacted: bytes_before={before}, bytes_after={after}, gained={before - after}"


def _counted(asked: dict[str, Any], options: Options) -> int:
    """How many records would go. The memory is let go of: whoever is asked may take their time to think."""
    with connect(options) as memory:
        return int(memory.call("lifecycle.forget", {**asked, "dry_run": True})["records_deleted"])


def _ask(count: int) -> None:
    """Raises `ForgetUnconfirmed` unless somebody at a terminal says yes."""
    if not sys.stdin.isatty():
        raise ForgetUnconfirmed("confirm: what is forgotten can't be brought back; give --confirm")
    print(f"Delete {count} record(s)? They can't be brought back. [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ForgetUnconfirmed("nothing was deleted")


def restore(*record_id: RecordIdText, options: Common) -> None:
    """Bring back memories that decay has archived; without ids, list those that can be.

    Args:
        record_id: The memories' ids.
    """
    if not record_id:
        _list_archived(options)
        return
    with connect(options) as memory:
        answer = memory.call("lifecycle.restore", {"record_ids": record_id})
    show(answer, options, lambda answer: f"Restored {answer['records_restored']} record(s)")


def _list_archived(options: Options) -> None:
    with connect(options) as memory:
        answer = memory.call("lifecycle.restore", {"dry_run": True})
    if (shown := len(answer["archived"])) < answer["records_restored"]:
        note(f"there are more: the list ends at {shown}, those that go for good first come first")
    show(answer, options, _archived_text, _archived_table)


def _archived_text(answer: dict[str, Any]) -> str:
    lines = [f"Found {answer['records_restored']} memories that can be restored"]
    for each in answer["archived"]:
        lines.append(f"{each['record_id']} [{each['store']}] until {each['kept_until']}")
        lines.append(f"   {each['created_at']}\n{indented(visible(each['summary']))}")
    return "\n".join(lines)


def _archived_table(answer: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=f"{answer['records_restored']} can be restored", caption_justify="left")
    table.add_column("memory", overflow="fold", min_width=36, ratio=1)
    for name in ("store", "made", "kept until"):
        table.add_column(name)
    for each in answer["archived"]:
        cell = Text(f"{visible(each['summary'])}\n").append(each["record_id"], style="dim")
        times = (f"{each[name][:10]}" for name in ("created_at", "kept_until"))
        table.add_row(cell, each["store"], *times)
    return table


def compact(*, options: Common) -> None:
    """Rid the disk of every trace of what was deleted or replaced, in all namespaces, and give back its room.

    Whatever is to be written waits meanwhile.
    """
    with connect(options) as memory:
        show(memory.call("lifecycle.compact", {}), options, _compacted)
