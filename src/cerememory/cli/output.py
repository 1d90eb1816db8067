"""How an answer is shown: JSON when asked for, a table on a terminal, else the fixed text that scripts read."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from cerememory.cli.options import Options
from cerememory.domain.visible import visible, visible_json

if TYPE_CHECKING:
    from rich.table import Table

NO_TEXT = "[non-text content]"
_NUMBERS = re.compile(r"\[\s+(-?\d[-+.\deE]*(?:,\s+-?\d[-+.\deE]*)*)\s+\]")


def show(
    answer: Any,
    options: Options,
    text: Callable[[Any], str],
    table: Callable[[Any], Table] | None = None,
) -> None:
    """Print `answer`; a terminal gets the text too when there is no `table`, or no room for all of it."""
    if options.json:
        print(pretty(answer))
    elif table is None or not sys.stdout.isatty() or not print_table(table(answer)):
        print(text(answer))


def print_table(table: Table) -> bool:
    """Whether it was printed: it isn't when the terminal is too narrow, and would cut it off."""
    from rich.console import Console  # here, for a pipe does without
    from rich.segment import Segment

    console = Console(highlight=False)
    if any(Segment.get_line_length(line) > console.width for line in Segment.split_lines(console.render(table))):
        return False
    console.print(table)
    return True


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def note(message: str) -> None:
    print(f"note: {message}", file=sys.stderr)


def pretty(answer: Any) -> str:
    """Indented JSON; an array of numbers, such as the bytes of a content, stays on one line.

    What would steer a terminal is escaped, and decodes to what it was.
    """
    indented = visible_json(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    return _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", indented)


def text_of(content: dict[str, Any]) -> str:
    """The first text block, fit to be shown."""
    for block in content["blocks"]:
        if block["modality"] == "text":
            return visible(bytes(block["data"]).decode(errors="replace"))
    return NO_TEXT


def indented(text: str) -> str:
    """Every line three columns in, so that no text can pass for a line of ours."""
    return "\n".join(f"   {line}" for line in text.split("\n"))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of all that says something, an inner name behind those of its outers."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path} {visible(name).replace('_', ' ')}".lstrip())
    elif isinstance(value, str):
        yield path, visible(value)
    elif isinstance(value, float):
        yield path, f"{value:.4f}"
    elif value is not None and value != []:
        yield path, pretty(value)


def rows_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values, one pair a row."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table
