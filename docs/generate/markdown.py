"""Tables, and what stands in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

BREAK = "<br>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a table, which end with a newline; no cell may have several lines."""
    lines = [_line(heads), "|" + "---|" * len(heads), *(_line(row) for row in rows)]
    return "".join(f"{line}\n" for line in lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def code(text: str) -> str:
    return f"`{text}`"


def codes(texts: Iterable[str]) -> str:
    return ", ".join(code(text) for text in texts)


def sentence(text: str) -> str:
    """`text` in one line."""
    return " ".join(text.split())
