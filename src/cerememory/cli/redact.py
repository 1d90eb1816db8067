"""`cerememory redact --rescan`: the recorder's redaction over what is stored, piece by piece."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cerememory.cli.arguments import Common
from cerememory.cli.memory import Memory, connect
from cerememory.cli.options import UsageError
from cerememory.cli.output import note, show
from cerememory.cli.progress import counting

SHOWN_IDS = 20


@dataclass(slots=True)
class _Total:
    """What the pieces add up to."""

    counts: Counter[str] = field(default_factory=Counter)
    secrets: Counter[str] = field(default_factory=Counter)
    dreamt_ids: dict[str, None] = field(default_factory=dict)  # one may be kept to undo an import, too

    def add(self, piece: dict[str, Any]) -> None:
        self.counts.update({name: piece[name] for name in COUNTS})
        self.secrets.update(piece["secrets"])
        self.dreamt_ids |= dict.fromkeys(piece["dreamt_ids"])

    def answer(self) -> dict[str, Any]:
        return {
            **{name: self.counts[name] for name in COUNTS},
            "secrets": dict(sorted(self.secrets.items())),
            "dreamt_ids": [*self.dreamt_ids],
        }


COUNTS = ("records_scanned", "entries_redacted", "memories_redacted", "kept_redacted")


def redact(
    *,
    rescan: bool = False,
    include_dreamt: bool = False,
    dry_run: bool = False,
    compact: bool = False,
    options: Common,
) -> None:
    """Take passwords, keys and tokens out of the entries of the raw journal: texts, metadata and meta.

    Entries keep their ids, times and order. It can be broken off, and run again.

    Args:
        rescan: Look at everything that is stored, by the rules that the recorder has now.
        include_dreamt: Also at the memories that were dreamt of entries; without this, they are only named.
        dry_run: Only count what would be taken out.
        compact: Rid the disk of every trace of it at once, as the command compact does.
    """
    if not rescan:
        raise UsageError("what is to be redacted? Give --rescan, for all that is stored")
    if dry_run and compact:
        raise UsageError("--dry-run and --compact exclude each other")
    with connect(options) as memory:
        answer = _scanned(memory, include_dreamt=include_dreamt, dry_run=dry_run)
        if compact:
            answer |= memory.call("lifecycle.compact", {})
    show(answer, options, lambda answer: _told(answer, dry_run=dry_run))
    if not (options.json or dry_run or compact) and any(answer[name] for name in COUNTS[1:]):
        note("what was taken out is on the disk until cerememory compact")


def _scanned(memory: Memory, *, include_dreamt: bool, dry_run: bool) -> dict[str, Any]:
    total = _Total()
    asked: dict[str, Any] = {"include_dreamt": include_dreamt, "dry_run": dry_run}
    cursor: str | None = None
    with counting("Redacting", "records", lambda: _records(memory)) as advance:
        while True:
            piece = memory.call("lifecycle.redact", {**asked, "cursor": cursor})
            total.add(piece)
            advance(piece["records_scanned"])
            cursor = piece["next_cursor"]
            if cursor is None:
                return total.answer()


def _records(memory: Memory) -> int:
    stats = memory.call("introspect.stats")
    return int(stats["raw_journal_records"]) + int(stats["total_records"])


def _told(answer: dict[str, Any], *, dry_run: bool) -> str:
    verb = "Would redact" if dry_run else "Redacted"
    kinds = ", ".join(f"{kind}={count}" for kind, count in answer["secrets"].items())
    lines = [
        f"{verb}: entries={answer['entries_redacted']}, memories={answer['memories_redacted']},"
        f" kept={answer['kept_redacted']}" + (f" ({kinds})" if kinds else "")
    ]
    if answer["dreamt_ids"]:
        lines += _left(answer["dreamt_ids"], dry_run=dry_run)
    if "bytes_before" in answer:
        before, after = answer["bytes_before"], answer["bytes_after"]
        lines.append(f"Compacted: bytes_before={before}, bytes_after={after}, gained={before - after}")
    return "\n".join(lines)


def _left(dreamt_ids: list[str], *, dry_run: bool) -> list[str]:
    """The entries, once redacted, don't tell any more which of a memory's words were a secret."""
    what = (
        "(--include-dreamt redacts them):"
        if dry_run
        else "(--include-dreamt redacts what looks like a secret; what doesn't goes with forget):"
    )
    named = [f"  {record_id}" for record_id in dreamt_ids[:SHOWN_IDS]]
    if len(dreamt_ids) > SHOWN_IDS:
        named.append(f"  and {len(dreamt_ids) - SHOWN_IDS} more")
    count = len(dreamt_ids)
    return [f"Left {count} memories that were dreamt of entries {what}", *named]
